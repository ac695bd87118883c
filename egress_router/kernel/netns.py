"""Sockets of another network namespace, without moving this process there.

A socket belongs to the namespace in which it was opened, for its whole life (network_namespaces(7)), and
setns(2) moves only the calling thread; so a short-lived thread opens the socket.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from egress_router.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

OWN = Path("/proc/self/ns/net")
_NAME_ANOTHER = (
    "set EGRESS_PARENT_NETNS to one that is there, such as /node-ns/net with the node's /proc/1/ns there"
)
_GRANT = "run the container privileged, with the node's /proc/1/ns as a hostPath volume, or with hostPID"
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def is_own(netns: Path) -> bool:
    """Say whether `netns` is the namespace of this process; False also if it cannot be read."""
    try:
        return netns.samefile(OWN)
    except OSError:
        return False


def within(netns: Path, function: Callable[[], T]) -> T:
    """Call `function` in a thread inside `netns` and return what it returns.

    Raises:
        RefusedError: the namespace is not there or may not be entered.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _enter(netns)
            results.append(function())
        except BaseException as error:  # noqa: BLE001 (raised again, in the caller's thread)
            errors.append(error)

    thread = threading.Thread(target=run, name=f"inside {netns}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(netns: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(netns, error.errno or 0) from None
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise _refusal(netns, ctypes.get_errno())
    finally:
        os.close(descriptor)


def _refusal(netns: Path, code: int) -> RefusedError:
    if code == errno.EINVAL:  # setns(2): the file is not a network namespace
        return RefusedError(f"{netns} is no network namespace", _NAME_ANOTHER)
    what = f"cannot enter the network namespace {netns} ({os.strerror(code)})"
    if code in {errno.ENOENT, errno.ENOTDIR}:
        return RefusedError(what, _NAME_ANOTHER)
    return RefusedError(what, _GRANT)


def open_socket(netns: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Return a socket that belongs to `netns`.

    Raises:
        RefusedError: the namespace is not there or may not be entered.
        OSError: the kernel refuses the socket.
    """
    return within(netns, lambda: socket.socket(family, kind, protocol))
