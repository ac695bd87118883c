"""Two routers, one source address: exactly one of them sends. docs/decisions/standby.md has the reasoning."""
