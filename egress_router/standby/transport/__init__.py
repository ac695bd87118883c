"""The two channels to the other routers: the wire and the pod network."""
