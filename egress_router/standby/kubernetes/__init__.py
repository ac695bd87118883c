"""The Lease and the EndpointSlice at the API server."""
