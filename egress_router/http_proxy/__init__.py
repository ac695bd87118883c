"""The HTTP proxy: HTTP/1 without I/O in http1/, and a thin layer of connections around it."""
