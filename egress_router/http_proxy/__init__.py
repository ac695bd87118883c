"""The HTTP proxy: HTTP/1 without I/O in http1/, and around it a thin layer of connections."""
