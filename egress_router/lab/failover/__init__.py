"""Fail-over trials on real kernels: how long a client gets no answer, and whether two routers sent at once.

`python -m egress_router.lab.failover 1000` runs 1,000 trials, all faults in turn, and prints percentiles.
"""
