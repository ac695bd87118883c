"""Groups of routers in a made-up world: loss, delay, freezes, cuts, restarts, an arbiter that fails.

The world keeps true time; each router has its own clock, its own kernel and nothing else in common with the
others than what travels. A gate is open while the timer of the approved request runs in that router's kernel.
Frozen routers stop between any two actions, and after having decided, too. Run as a program:
`python -m tests.unit.standby.simulation 1000000`.
"""
