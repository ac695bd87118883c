"""Redirect mode that stays (EGRESS_ROUTER_MODE=legacy): reload, announcements, counters."""
