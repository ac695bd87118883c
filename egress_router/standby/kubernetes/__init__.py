"""The Lease and the EndpointSlice, which are objects of the API server."""
