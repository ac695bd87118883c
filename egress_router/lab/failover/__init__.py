"""Fail-over trials on real kernels: what a client misses, and whether two routers ever sent at once.

`python -m egress_router.lab.failover 1000` runs that many, the kinds in turn, and prints percentiles.
"""
