"""`egress-router demo`: each mode in the laboratory for real, and what each external server saw."""
