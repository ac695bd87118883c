"""A name and port, or an address and port, that lines forward to, with the targets in use now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_router.grammar.address import Target, printed
from egress_router.net.route import has_route
from egress_router.upstreams.followed import FollowedName, Names
from egress_router.upstreams.pool import AddressPool

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from egress_router.grammar.address import Host, IPAddress
    from egress_router.names.answer import ResolveError
    from egress_router.upstreams.forbidden import ForbiddenReason


class Destination:
    """The targets of one host and port. `on_change` is called when they changed.

    `left_out` says why one of the name's addresses is not used; None: all of them may be used.
    """

    def __init__(
        self,
        host: Host,
        port: int,
        names: Names,
        is_up: Callable[[Target], bool],
        forbidden: Callable[[Host, Target], ForbiddenReason | None],
        on_change: Callable[[Destination], None],
    ) -> None:
        self.host = host
        self.port = port
        self.text = printed(host, port)
        self.left_out: ForbiddenReason | None = None
        self._is_up = is_up
        self._forbidden = forbidden
        self._on_change = on_change
        self._pool = AddressPool()
        self._name = FollowedName(host, names, self._answered) if isinstance(host, str) else None
        self._addresses: tuple[IPAddress, ...] = ()
        self._waiting: set[Callable[[], None]] = set()

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target in use, up or down."""
        return self._pool.targets

    @property
    def asked_for(self) -> tuple[Target, ...]:
        """All its addresses with the port, also those that are left out."""
        return tuple((address, self.port) for address in self._addresses)

    @property
    def failure(self) -> ResolveError | None:
        """Why the name has no addresses, or may have others by now."""
        return None if self._name is None else self._name.failure

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to follow the name; an address is used at once."""
        if self._name is not None:
            self._name.start(loop)
        elif not isinstance(self.host, str):
            self._serve((self.host,), news=True)

    def stop(self) -> None:
        """Stop following the name; who waits for it is called back, and finds no targets."""
        if self._name is not None:
            self._name.stop()
        self._addresses = ()
        self.arrange()
        self._release()

    @property
    def good(self) -> int:
        """How many of the targets are up; they come first."""
        return self._pool.good

    def wait(self, callback: Callable[[], None]) -> None:
        """Look the name up now, and call `callback` afterwards, whatever the result."""
        self._waiting.add(callback)
        if self._name is not None:
            self._name.want()

    def leave(self, callback: Callable[[], None]) -> None:
        """Stop waiting."""
        self._waiting.discard(callback)

    def arrange(self) -> None:
        """Sort the targets again: the health of one changed, or which of them may be used."""
        targets = [(address, self.port) for address in self._addresses]
        reasons = {target: self._forbidden(self.host, target) for target in targets}
        self.left_out = next((reason for reason in reasons.values() if reason is not None), None)
        self._pool.arrange([target for target in targets if reasons[target] is None], self._is_up, has_route)

    def _answered(self, news: bool) -> None:  # noqa: FBT001 - as `FollowedName` calls it
        if self._name is not None:
            self._serve(self._name.addresses, news=news)
        self._release()

    def _serve(self, addresses: tuple[IPAddress, ...], *, news: bool) -> None:
        before = set(self._pool.targets), self.left_out
        self._addresses = addresses
        self.arrange()
        # Name servers change the order of addresses; only a change of the set is reported.
        if news or before != (set(self._pool.targets), self.left_out):
            self._on_change(self)

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for callback in waiting:
            callback()
