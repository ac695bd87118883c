"""`egress-router status`: what the administration endpoint of a running router knows, as tables."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, NoReturn, cast

from egress_router.errors import RefusedError
from egress_router.settings.common import ADMIN_PORT
from egress_router.settings.variables import Environment, required
from egress_router.terminal import say, table, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from egress_router.service.mode import Json

_INTERVAL = 2.0  # seconds
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 64_000_000
# xterm: enter and leave the alternate screen (1049); go to the first line and erase what is below.
_ENTER, _LEAVE, _CLEAR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[H\x1b[J"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through http_proxy
_OFF = "EGRESS_ADMIN_PORT is 0: the administration endpoint is off, so nothing is known of the router"
_DONE, _NOT_AS_IT_SHOULD_BE = 0, 3


def show(
    url: str | None,
    *,
    watch: bool,
    health_only: bool = False,
    as_json: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Print the status of the router at `url` (default: this machine's, at EGRESS_ADMIN_PORT).

    With `watch` print it every two seconds until interrupted, also while the router does not answer.
    Return the exit status: 3 if the router is not ready or not healthy; with `health_only` only if it is not
    healthy. That is for a container engine: a restart does not help a router that is not ready.
    `as_json` prints the endpoint's answer as it is, with a list `errors`; with `watch` one line each time.

    Raises:
        RefusedError: nothing answers there, or something that is no egress router.
    """
    address = _address(url)
    if address is None:
        if as_json:
            say(json.dumps({"errors": []}))
        say(_OFF, sys.stderr if as_json else sys.stdout)
        return _DONE
    if watch and as_json:
        _watch(lambda: say(_line(address)), sleep)
    if watch:
        with _screen() as clear:
            _watch(lambda: _draw(address, clear), sleep)
    status = _fetch(address)
    say(json.dumps({**status, "errors": []}, indent=2) if as_json else render(status).rstrip("\n"))
    problems = _list(status, "health") + ([] if health_only else _list(status, "ready"))
    return _NOT_AS_IT_SHOULD_BE if problems else _DONE


@contextlib.contextmanager
def _screen() -> Iterator[str]:
    """Use the terminal's alternate screen, so that the old text comes back; yield what clears it.

    A pipe or a file gets no escape sequences.
    """
    if not sys.stdout.isatty():
        yield ""
        return
    print(_ENTER, end="", flush=True)
    try:
        yield _CLEAR
    finally:
        print(_LEAVE, end="", flush=True)


def _watch(show_once: Callable[[], None], sleep: Callable[[float], None]) -> NoReturn:
    while True:
        show_once()
        sleep(_INTERVAL)


def _draw(address: str, clear: str) -> None:
    try:
        text = render(_fetch(address))
    except RefusedError as error:
        text = f"{error}\n"
    print(clear, end="")
    say(text)


def _line(address: str) -> str:
    """Return what is known as one line of JSON."""
    try:
        return json.dumps({**_fetch(address), "errors": []})
    except RefusedError as error:
        problem = {"source": error.what, "line": None, "text": None, "message": error.remedy}
        return json.dumps({"errors": [problem]})


def _address(url: str | None) -> str | None:
    """Return the address to ask; None if the endpoint of this machine's router is turned off."""
    if url is None:
        environment = Environment(os.environ)
        read = environment.read(ADMIN_PORT)
        port = environment.finish(lambda: required(read))
        return f"http://127.0.0.1:{port}/status" if port else None
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise RefusedError(f"cannot ask {url}", "expected an address such as http://127.0.0.1:9797")
    return url.rstrip("/").removesuffix("/status") + "/status"


def _fetch(address: str) -> dict[str, Json]:
    try:
        with _DIRECT.open(address, timeout=_TIMEOUT_SECONDS) as answer:
            found = json.loads(answer.read(_MAX_BYTES))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise RefusedError(f"cannot ask {address}", text) from None
    if not isinstance(found, dict) or "mode" not in found:
        raise RefusedError(f"cannot ask {address}", "what answers there is not an egress router")
    return found


def render(status: dict[str, Json]) -> str:
    """Return a status as text; what clients chose in it cannot control the terminal."""
    problems = _problems(status)
    parts = [f"egress router {status['mode']} {status.get('version', '')}: {_verdict(status)}\n"]
    parts += [f"  {each}\n" for each in problems]
    parts.append("\n" + table(_facts(status)))
    errors = _list(_dict(status, "reload"), "errors")
    if errors:
        parts.append("\nthe changed rules are refused, the old ones stay in force:\n")
        parts += [f"  {_printable(each)}\n" for each in errors]
    standby, busiest = _dict(status, "standby"), _dict(status, "busiest")
    tables: dict[str, Json] = {
        **status,
        "admin_rules": _list(_dict(status, "admin_rules"), "rules"),
        "standby": [standby] if standby else [],
        "peers": _list(standby, "peers"),
        "busiest clients": _list(busiest, "clients"),
        "busiest destinations": _list(busiest, "destinations"),
        "recent errors": _list(status, "recent_errors"),
    }
    for title, known in _TABLES.items():
        entries = [cast("dict[str, Json]", each) for each in _list(tables, title)]
        if entries:
            columns = [column for column in known if any(column in entry for entry in entries)]
            rows = [tuple(_cell(entry, column) for column in columns) for entry in entries]
            parts.append(f"\n{title}\n" + _indented(table([tuple(map(str.upper, columns)), *rows])))
    return "".join(parts)


_TABLES: dict[str, tuple[str, ...]] = {
    "standby": ("role", "since", "holder", "take_overs", "losses", "took"),
    "peers": ("address", "mac", "role"),
    "rules": ("line", "hits", "packets", "sent_bytes", "received_bytes", "text"),
    "policy": ("entry", "denied", "text"),
    "admin_rules": ("from", "packets", "bytes", "text"),
    "source_ports": ("source", "destination", "in_use"),
    "upstreams": ("destination", "address", "up"),
    "busiest clients": ("client", "open"),
    "busiest destinations": ("destination", "open"),
    "denied": ("time", "client", "target", "reason", "rule"),
    "recent errors": ("time", "level", "text"),
}


def _verdict(status: dict[str, Json]) -> str:
    if _list(status, "health"):
        return "not healthy"
    if _list(status, "ready"):
        return "not ready"
    return "ready, with problems" if _list(status, "problems") else "ready"


def _problems(status: dict[str, Json]) -> list[str]:
    """Return what is wrong, what blocks clients first, each with the time since when, if that is known."""
    known = [cast("dict[str, Json]", each) for each in _list(status, "problems")]
    texts = {each["text"] for each in known}
    reasons = [*_list(status, "health"), *_list(status, "ready")]
    found = [_printable(each) for each in reasons if each not in texts]
    return found + [f"{_printable(each['text'])} (since {_cell(each, 'since')})" for each in known]


def _facts(status: dict[str, Json]) -> list[tuple[str, str]]:
    interface, now = _dict(status, "interface"), _dict(status, "now")
    gateways = [cast("dict[str, Json]", each) for each in _list(interface, "gateways")]
    workers = [cast("dict[str, Json]", each) for each in _list(status, "workers")]
    facts = [
        ("source address", ", ".join(map(_printable, _list(interface, "addresses"))) or "that of the pod"),
        ("gateway", ", ".join(_printable(each["address"]) for each in gateways) or "-"),
        ("ports", ", ".join(map(_printable, _list(status, "ports"))) or "-"),
        ("workers", f"{sum(bool(each['serves']) for each in workers)} of {len(workers)}" if workers else "-"),
        ("open connections", _printable(now.get("open", "-"))),
        ("requests a second", _printable(now.get("requests", "-"))),
        ("bytes a second", f"{now.get('sent_bytes', '-')} sent, {now.get('received_bytes', '-')} received"),
    ]
    return [(f"  {name}", value) for name, value in facts]


def _cell(entry: dict[str, Json], column: str) -> str:
    value = entry.get(column)
    if column in {"time", "since"} and isinstance(value, (int, float)):
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(value))
    if column == "up":
        return "up" if value else _printable(entry.get("reason") or "down")
    return "-" if value is None else _printable(value)


def _printable(value: Json) -> str:
    return visible(str(value))


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _dict(entry: dict[str, Json], key: str) -> dict[str, Json]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _list(entry: dict[str, Json], key: str) -> list[Json]:
    value = entry.get(key)
    return value if isinstance(value, list) else []
