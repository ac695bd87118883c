"""What the first bytes of a TLS connection say, without ending TLS. Pure: no socket, no clock."""
