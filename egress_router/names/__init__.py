"""Names to addresses, asynchronously, living through name servers that fail or lie."""
