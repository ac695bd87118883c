"""Small networks made of network namespaces, for the demo, the network tests and the benchmarks."""
