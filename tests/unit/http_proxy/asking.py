"""What many tests send to the proxy, and when it has read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from egress_router.grammar.acl import AccessList
    from egress_router.settings.policy import Guarded
    from tests.serving import Running
    from tests.unit.http_proxy.origin import Client, Origin


def get(server: Origin, *fields: str) -> str:
    """Return a GET for an origin, with these fields."""
    return (
        "".join(f"{line}\r\n" for line in (f"GET http://{server.authority}/ HTTP/1.1", "Host: x", *fields))
        + "\r\n"
    )


def request_to(
    server: Origin, path: str = "/", *fields: str, method: str = "GET", version: str = "1.1"
) -> str:
    """Return the head of a request for an origin, with its own Host."""
    lines = [f"{method} http://{server.authority}{path} HTTP/{version}", f"Host: {server.authority}", *fields]
    return "".join(f"{line}\r\n" for line in lines) + "\r\n"


def connect(authority: str, version: str = "1.1") -> str:
    """Return the head of a CONNECT."""
    return f"CONNECT {authority} HTTP/{version}\r\nHost: {authority}\r\n\r\n"


def has_read(running: Running[Guarded[AccessList]], client: Client) -> None:
    """Wait until the proxy has read what a client has sent."""
    client.delivered()
    for _ in range(2):  # what was ready before a call has been read before the next one
        running.call(lambda: None)
