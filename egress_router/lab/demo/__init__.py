"""`egress-router demo`: runs each mode in the laboratory, and shows what each external server saw."""
