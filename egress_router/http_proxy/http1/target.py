"""Request targets: the authority of CONNECT, the absolute form, and the origin form with its Host. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from egress_router.grammar.address import AddressError, parse_host, parse_port, printed, split_port
from egress_router.http_proxy.http1.errors import Fault, MessageError

if TYPE_CHECKING:
    from egress_router.grammar.address import Host

# A name has at most 253 characters; brackets, a port and a trailing dot add to that.
_AUTHORITY_LIMIT = 270
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_HTTP_PORT = 80
_MAX_KNOWN = 256  # bytes of a target that is cached


class RequestTarget(NamedTuple):
    """Where a request goes: host and port, and the target in origin form (empty for CONNECT: a `tunnel`).

    `asked` is the host as name servers are asked for it: a short name that was sent with a trailing dot keeps
    the dot. `authority` is host and port as in a Host field, normalised: equal for equal destinations.
    """

    host: Host
    port: int
    origin_form: bytes
    asked: Host
    authority: bytes
    tunnel: bool


# Clients repeat the same targets: to parse them each time costs 13 % of a GET, 10 % of a CONNECT
# (Python 3.11, docs/decisions/performance.md).
@lru_cache(maxsize=1024)
def connect_target(target: bytes) -> RequestTarget:
    """Read the target of CONNECT, `host:port`; there is no default port (RFC 9110 9.3.6).

    Raises:
        MessageError: it is anything else.
    """
    host, port = parse_authority(target)
    if port is None:
        raise MessageError(400, "the target of CONNECT is host:port; the port is missing")
    return RequestTarget(host, port, b"", as_asked(host, target), _authority(host, port), tunnel=True)


def absolute_target(method: bytes, target: bytes) -> RequestTarget:
    """Read a target in absolute form, `http://host[:port]/path?query`.

    Raises:
        MessageError: it has another form or another scheme, or its authority is not a host with a port.
    """
    if len(target) > _MAX_KNOWN or b"?" in target:  # queries differ, and may hold secrets
        return _absolute(method, target)
    return _known_absolute(method, target)


def _absolute(method: bytes, target: bytes) -> RequestTarget:
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise _other_form(target)
    scheme, authority, rest = match.groups()
    if scheme != b"http" and scheme.lower() != b"http":
        raise _other_scheme(scheme)
    _refuse_fragment(rest)
    host, port, asked, normalised = _place(authority)
    return RequestTarget(host, port, _origin_form(method, rest), asked, normalised, False)


# Clients that poll repeat the same target: to parse it each time costs 6 % of a GET (Python 3.11,
# docs/decisions/performance.md).
_known_absolute = lru_cache(maxsize=1024)(_absolute)


def origin_target(method: bytes, target: bytes, host_field: bytes, origin_port: int) -> RequestTarget:
    """Read a target as an origin server gets it, `/path?query` with a Host field, or in absolute form.

    Its port is ignored: the connection goes to `origin_port`.

    Raises:
        MessageError: it has another form, or the host is missing or an address.
    """
    if method == b"CONNECT":
        raise MessageError(400, "CONNECT goes to the port of the proxy, not to this one", Fault.UNSUPPORTED)
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        if not host_field:
            raise MessageError(400, "the Host field names no host", Fault.NO_HOST)
        _refuse_fragment(target)
        host, _, asked, _ = _place(host_field)
        origin_form = target
    else:  # RFC 9112 3.2.2: a server accepts the absolute form, too; its host replaces the Host field
        absolute = absolute_target(method, target)
        host, asked, origin_form = absolute.host, absolute.asked, absolute.origin_form
    if not isinstance(host, str):
        raise MessageError(400, "the host is an address; this port accepts names only", Fault.HOST_IS_ADDRESS)
    return RequestTarget(host, origin_port, origin_form, asked, _authority(host, origin_port), tunnel=False)


def tls_target(name: str, origin_port: int) -> RequestTarget:
    """Return where a TLS connection goes whose ClientHello has this server name."""
    return RequestTarget(name, origin_port, b"", name, _authority(name, origin_port), tunnel=False)


@lru_cache(maxsize=1024)
def _place(authority: bytes) -> tuple[Host, int, Host, bytes]:
    """Return host, port, `asked` and `authority` of a target, from the authority of an http URL."""
    host, port = parse_authority(authority)
    port = port or _HTTP_PORT
    return host, port, as_asked(host, authority), _authority(host, port)


def _authority(host: Host, port: int) -> bytes:
    return printed(host, port).removesuffix(f":{_HTTP_PORT}").encode("ascii")


def as_asked(host: Host, authority: bytes) -> Host:
    """Return a host; a short name keeps the dot that makes it absolute, which turns off the search list."""
    if isinstance(host, str) and "." not in host and b"." in authority:
        return f"{host}."
    return host


def _refuse_fragment(target: bytes) -> None:
    """Refuse a `#`, which RFC 9112 3.2 does not let in: readers disagree on the path of `/a#b`."""
    if b"#" in target:
        raise MessageError(400, "the target has a fragment, which never leaves a client")


def _origin_form(method: bytes, rest: bytes) -> bytes:
    if rest[:1] == b"/":
        return rest
    # RFC 9112 3.2.4: OPTIONS without path and query concerns the server as a whole.
    return b"*" if method == b"OPTIONS" and not rest else b"/" + rest


def _other_form(target: bytes) -> MessageError:
    if target[:1] == b"/" or target == b"*":
        return MessageError(
            400, "this is a forward proxy: the target of a request is a whole URL, http://host/path"
        )
    scheme = _SCHEME.match(target)
    if scheme is not None and scheme[1].lower() not in {b"http", b"https"}:
        return _other_scheme(scheme[1])
    return MessageError(400, "the request target is not a URL")


def _other_scheme(scheme: bytes) -> MessageError:
    if scheme.lower() == b"https":
        sentence = "https goes through this proxy as a tunnel: use CONNECT host:443"
    else:
        sentence = "only http URLs and CONNECT go through this proxy"
    return MessageError(400, sentence, Fault.UNSUPPORTED)


@lru_cache(maxsize=1024)
def parse_authority(authority: bytes) -> tuple[Host, int | None]:
    """Return the host of `host[:port]`, and the port or None.

    Raises:
        MessageError: the host is invalid, has credentials (`user@`) before it, or the port is invalid.
    """
    if len(authority) > _AUTHORITY_LIMIT:
        raise MessageError(400, "the host is longer than a host name can be")
    if b"@" in authority:
        raise MessageError(400, "the target has credentials before the host, which RFC 9110 4.2.4 forbids")
    if not authority.isascii():
        raise MessageError(400, "the host is not ASCII; internationalised names are sent as A-labels")
    host_text, port_text = split_port(authority.decode("ascii"))
    if ":" in host_text and not host_text.startswith("["):
        raise MessageError(400, "an IPv6 address in a target must be in brackets")
    try:
        port = None if port_text is None else parse_port(port_text)
    except AddressError:
        raise MessageError(400, "the port is not a number from 1 to 65535") from None
    try:
        return parse_host(host_text), port
    except AddressError:
        raise MessageError(400, "the host is neither a host name nor an unambiguous address") from None
