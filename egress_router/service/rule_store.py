"""The rules in force: read, validated whole, and replaced only by other valid rules."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from egress_router import log
from egress_router.clock import SYSTEM
from egress_router.errors import ConfigError, EgressRouterError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from egress_router.clock import Clock
    from egress_router.metrics import Registry
    from egress_router.service.mode import Json
    from egress_router.settings.variables import Source

Rules = TypeVar("Rules")
if TYPE_CHECKING:
    PutInForce = Callable[[Rules, frozenset[int]], Awaitable[None]]
_MAX_LINES = 200  # of one difference in the log
_log = log.get("service")


class Reader(Protocol[Rules]):
    """How the rules of a mode are read; `Mode` is one."""

    @property
    def parse(self) -> Callable[[str, str], Rules]:
        """Read rules: source name and text; raises ConfigError."""

    @property
    def ports(self) -> Callable[[Rules], frozenset[int]]:
        """Return the ports that rules need."""

    @property
    def summary(self) -> Callable[[Rules], tuple[str, ...]]:
        """Render rules as lines for a readable difference."""


class RuleStore(Generic[Rules]):
    """Holds the rules of one source; `in_force` is their text if it was read already.

    Raises:
        ConfigError: the rules are wrong at the start.
    """

    def __init__(
        self,
        reader: Reader[Rules],
        source: Source,
        registry: Registry,
        in_force: str | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self._reader = reader
        self._source = source
        self._reloads = registry.counter("reloads_total", "Changed rules that were put in force.")
        self._refusals = registry.counter("reload_errors_total", "Changed rules that were refused.")
        self._loaded = registry.gauge(
            "rules_loaded_timestamp_seconds", "When the rules in force were loaded, as Unix time."
        )
        self._valid = registry.gauge(
            "rules_valid", "1 where the rules in force are what the source says now, 0 after a refusal."
        )
        self._text = source.read() if in_force is None else in_force
        self.rules = reader.parse(source.name, self._text)
        self.errors: tuple[str, ...] = ()
        self._refused_at: float | None = None
        self._may_pass = False  # the last refusal was not for the rules: something was not available
        self._loaded.value = self._clock.time()
        self._valid.value = 1

    @property
    def ports(self) -> frozenset[int]:
        """The ports that the rules in force need."""
        return self._reader.ports(self.rules)

    @property
    def text(self) -> str:
        """The text of the rules in force."""
        return self._text

    async def reload(self, put_in_force: PutInForce[Rules]) -> None:
        """Read the source again; if its rules have changed and are valid, put them in force.

        `put_in_force` gets the rules and their ports, and raises RefusedError if a port is not available.
        All errors are logged and counted, and the old rules stay.
        """
        await self._reload(put_in_force, known=())

    async def retry(self, put_in_force: PutInForce[Rules]) -> None:
        """Try refused rules again if what they need may be available now: a port, the source itself.

        The same refusal again is neither logged nor counted.
        """
        if self._may_pass:
            await self._reload(put_in_force, known=self.errors)

    async def _reload(self, put_in_force: PutInForce[Rules], known: tuple[str, ...]) -> None:
        text = None
        try:
            text = self._source.read()
            if text == self._text:
                self._accept()
                return
            rules = self._reader.parse(self._source.name, text)
            await put_in_force(rules, self._reader.ports(rules))
        except EgressRouterError as error:
            self._refuse(error, known)
            self._may_pass = text is None or isinstance(error, RefusedError)
            return
        before, self._text, self.rules = self.rules, text, rules
        self._reloads.value += 1
        self._loaded.value = self._clock.time()
        self._accept()
        self._log_difference(self._reader.summary(before), self._reader.summary(rules))

    def status(self) -> dict[str, Json]:
        """Return the state of the rules' source for `/status`."""
        return {
            "source": self._source.name,
            "loaded": self._loaded.value,
            "refused": self._refused_at,
            "errors": list(self.errors),
        }

    def _accept(self) -> None:
        self.errors, self._refused_at, self._may_pass = (), None, False
        self._valid.value = 1

    def _refuse(self, error: EgressRouterError, known: tuple[str, ...]) -> None:
        problems = error.problems if isinstance(error, ConfigError) else (error,)
        self.errors, self._refused_at = tuple(str(each) for each in problems), self._clock.time()
        if self.errors == known:
            return
        self._refusals.value += 1
        self._valid.value = 0
        _log.error("changed rules are refused, the old ones stay in force", problems=len(self.errors))
        for each in self.errors:
            _log.error("problem of the refused rules", problem=each)

    def _log_difference(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        removed, inserted = difference(before, after)
        _log.info("changed rules are in force", added=len(inserted), removed=len(removed))
        for word, lines in (("removed", removed), ("added", inserted)):
            for line in lines[:_MAX_LINES]:
                _log.info(f"rule {word}", rule=line)


def difference(before: tuple[str, ...], after: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the removed lines and the added lines; both are empty if only the order changed."""
    removed, added = Counter(before) - Counter(after), Counter(after) - Counter(before)
    return list(removed.elements()), list(added.elements())
