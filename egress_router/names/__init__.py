"""Names to addresses, asynchronously, also while name servers fail or lie."""
