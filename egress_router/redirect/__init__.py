"""The long-running process of redirect mode (EGRESS_ROUTER_MODE=legacy): reload, announcements, counters."""
