"""What is asked: the list in a file or a manifest, and the target."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from egress_router.errors import ConfigError, Problem
from egress_router.grammar.address import (
    AddressError,
    parse_address,
    parse_host,
    parse_port,
    split_port,
)
from egress_router.http_proxy.http1.target import as_asked
from egress_router.manifests import containers
from egress_router.settings.http_proxy import RULES

if TYPE_CHECKING:
    from egress_router.grammar.address import Host

_KIND = re.compile(r"""^\s*["']?kind["']?\s*:""", re.MULTILINE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PORT_WITHOUT_SCHEME = 443


def rules(path: str, text: str) -> tuple[str, str]:
    """Return the allow/deny list in a file, and its name: the file itself, or what manifests in it hold.

    A list has no line `kind: …`, which every object of Kubernetes has.
    """
    if not _KIND.search(text):
        return path, text
    found = {each.place: each.text for each in containers.rules(path, text, RULES.name)}
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        reason = f"holds several lists; put one of them into a file of its own: {', '.join(found)}"
    else:
        reason = f"is a manifest without {RULES.name}; expected an allow/deny list, or a manifest with one"
    raise ConfigError([Problem(path, None, None, reason)])


def target_of(text: str) -> tuple[Host, int, Host]:
    """Return host, port, and the host as name servers are asked for it."""
    scheme, mark, rest = text.partition("://")
    authority = rest.partition("/")[0].partition("?")[0].partition("#")[0] if mark else text
    if "@" in authority:
        # Not shown: it may be a password.
        reason = (
            "holds a user name or password, which the proxy answers with 400; leave out all up to the `@`"
        )
        raise ConfigError([Problem("target", None, None, reason)])
    default = _DEFAULT_PORTS.get(scheme.lower()) if mark else _PORT_WITHOUT_SCHEME
    if default is None:
        reason = "expected an http or https URL, or host[:port]"
        raise ConfigError([Problem("target", None, text, reason)])
    host_text, port_text = split_port(authority)
    first, dash, last = host_text.partition("-")
    if dash and _is_address(first) and _is_address(last):
        reason = f"is a range; one address is judged at a time: ask about {first}, then about {last}"
        raise ConfigError([Problem("target", None, text, reason)])
    try:
        host, port = parse_host(host_text), default if port_text is None else parse_port(port_text)
    except AddressError as error:
        raise ConfigError([Problem("target", None, text, str(error))]) from None
    return host, port, as_asked(host, host_text.encode())


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except AddressError:
        return False
    return True
