"""One fixed source address for the pods of a cluster: NAT redirect, HTTP proxy and TCP forwarder."""
