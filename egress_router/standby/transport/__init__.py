"""The two ways to the other routers: the wire and the pod network."""
