"""A small network made of network namespaces: the demo and the network tests stand on it."""
