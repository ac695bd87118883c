"""The value of a small file, which is read again when the file changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from egress_router import log
from egress_router.files import signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from egress_router.files import Signature

T = TypeVar("T")

_INTERVAL = 1.0  # seconds between two checks of the file
_LOG = log.get("names")


class WatchedFile(Generic[T]):
    """Parses a file again when it changed. A missing file is empty; if it is unreadable, the value stays."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._next_look = 0.0
        self._signature: Signature | None = None
        self._readable = True
        self._value = parse("")

    def value(self, now: float) -> T:
        """Return what the file says; it is checked at most once a second, by the monotonic clock `now`."""
        if now >= self._next_look:
            self._next_look = now + _INTERVAL
            self._look()
        return self._value

    def _look(self) -> None:
        seen = signature(self._path)
        if seen != self._signature and self._read():
            # The signature is taken before the text: a change while reading is noticed at the next check.
            self._signature = seen

    def _read(self) -> bool:
        try:
            text = self._path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        except OSError as error:
            if self._readable:
                _LOG.warning(
                    "file cannot be read, what it said stays", file=self._path, reason=error.strerror
                )
            self._readable = False
            return False
        self._readable = True
        self._value = self._parse(text)
        return True
