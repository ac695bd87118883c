"""`egress-router setup`: claims the source address, sets routes and NAT rules."""
