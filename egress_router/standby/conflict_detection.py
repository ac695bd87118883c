"""Probes before the first claim (RFC 5227): does a station outside the group have the address? Pure."""

from __future__ import annotations

# The number of probes; seconds between two; seconds to the next after an owner was found.
_PROBES, _PROBE_INTERVAL, _PROBE_AGAIN = 3, 0.3, 1.0
_DEFEND_INTERVAL = 10.0  # RFC 5227 1.1


class ConflictDetection:
    """When to probe, what was answered, and how long to wait for an owner to go."""

    def __init__(self, now: float, timeout: float) -> None:
        self._deadline = now + timeout
        self._next = now + 0.1
        self._sent = 0
        self._is_over = False
        self._conflict: tuple[str, float] | None = None
        self._defended = -1.0

    def is_due(self, now: float) -> bool:
        """Return whether to probe now, and count it as a probe."""
        if self._is_over or now < self._next:
            return False
        self._sent += 1
        self._next = now + _PROBE_INTERVAL
        return True

    def is_over(self, now: float) -> bool:
        """Return True, once, when enough probes got no answer."""
        if self._is_over or self._sent < _PROBES or now < self._next:
            return False
        self._is_over = True
        return True

    def owner_found(self, owner: str, now: float) -> bool:
        """Record an owner, and start again after a while; return whether it is a new one."""
        is_new = self._conflict is None or self._conflict[0] != owner
        self._conflict = (owner, now)
        self._sent, self._next = 0, now + _PROBE_AGAIN
        return is_new

    def conflict(self, now: float) -> str | None:
        """Return the owner that was found in the last 3 s; None without one."""
        return (
            self._conflict[0]
            if self._conflict is not None and now - self._conflict[1] < 3 * _PROBE_AGAIN
            else None
        )

    def is_timed_out(self, now: float) -> bool:
        """Return whether the time to wait for an owner is over."""
        return now >= self._deadline

    def may_defend(self, now: float) -> bool:
        """Return whether to defend the address now: once in 10 s at most."""
        if now < self._defended + _DEFEND_INTERVAL:
            return False
        self._defended = now
        return True
