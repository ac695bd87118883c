"""What a look-up gives: addresses for a while, or the reason why there are none."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_router.errors import EgressRouterError

if TYPE_CHECKING:
    from egress_router.grammar.address import IPAddress

MAX_ADDRESSES = 64  # of one name; if a hostile name server sends more, the rest is dropped


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name, at least one, none twice.

    `expires` is when to ask again, on the clock of the resolver; `stale`: the name servers fail, and these
    are the last addresses they gave. `name` is the absolute name that has them: the one that was asked for,
    or the one that the search list made of it.
    """

    addresses: tuple[IPAddress, ...]
    expires: float
    stale: bool
    name: str


class Failure(enum.Enum):
    """Why a name has no addresses.

    The first two are about the name, the last one about this router's limits, the others about the servers.
    """

    NO_SUCH_NAME = "no_such_name"
    NO_ADDRESS = "no_address"
    SERVER_FAILURE = "server_failure"
    TIMEOUT = "timeout"
    OVER_LIMIT = "over_limit"


class ResolveError(EgressRouterError):
    """A name could not be resolved; `failure` says why for programs, the message for people."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure
