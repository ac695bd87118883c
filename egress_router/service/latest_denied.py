"""The last connections or requests that were denied, for people: `/status` and the page show them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from egress_router.clock import Clock
    from egress_router.service.mode import Json

MAX_DENIED: Final = 50


class LatestDenied:
    """Keeps a bounded number of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: deque[dict[str, Json]] = deque(maxlen=MAX_DENIED)

    def note(self, client: str, target: str, rule: str | None, reason: str) -> None:
        """Note one; `rule` is the rule that decided, None if no rule allows it."""
        self._kept.append(
            {"time": self._clock.time(), "client": client, "target": target, "rule": rule, "reason": reason}
        )

    def shown(self) -> list[Json]:
        """Return them as `/status` shows them, oldest first."""
        return list(self._kept)
