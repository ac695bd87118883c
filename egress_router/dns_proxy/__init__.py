"""The TCP forwarder: one port for each line, names resolved at run time."""
