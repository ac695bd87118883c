"""The TCP forwarder: one port a line, names resolved at run time."""
