"""Health, readiness, metrics, status and the page, on a port of their own."""
