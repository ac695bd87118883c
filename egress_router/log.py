"""Events: one line each, stable field names, as text or JSON.

Every part of the program logs through `get(component)`: a short fixed sentence plus named fields. What varies
goes into fields, so that lines can be counted and searched.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

LogFormat = Literal["text", "json"]
Field = str | int | float | bool | None | object

_FIELDS = "egress_fields"
_ROOT = "egress_router"
_RECORDS = "egress_records"
_MARKS = frozenset(' "=')  # what would make a bare value ambiguous


class Log:
    """The events of one component."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    @property
    def tells_debug(self) -> bool:
        """Whether `debug` writes anything: to be asked before thousands of events are made."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def debug(self, event: str, **fields: Field) -> None:
        """A step that matters only to somebody who looks for a fault."""
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Field) -> None:
        """Something that changed and that an operator may want to know."""
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        """Something that works worse than it should; the program goes on."""
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """Something that does not work until somebody acts."""
        self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, error: BaseException, **fields: Field) -> None:
        """Log a bug of ours, with its traceback."""
        self._logger.error(event, exc_info=error, extra={_FIELDS: fields})

    def _emit(self, level: int, event: str, fields: Mapping[str, Field]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={_FIELDS: fields})


def get(component: str) -> Log:
    """Return the log of a component, named as its folder (`setup`, `http_proxy`)."""
    return Log(logging.getLogger(f"{_ROOT}.{component}"))


def records() -> Log:
    """Return what goes to stdout: the access log, and the connection lines of EGRESS_DNS_PROXY_DEBUG."""
    return Log(logging.getLogger(_RECORDS))


def identity(record: logging.LogRecord) -> tuple[str, str, str]:
    """Return a key that is the same for records that differ only in their time."""
    return record.name, record.getMessage(), repr(getattr(record, _FIELDS, None))


def add_field(record: logging.LogRecord, name: str, value: Field) -> None:
    """Give a record one more field."""
    setattr(record, _FIELDS, {**getattr(record, _FIELDS, {}), name: value})


class EventFormatter(logging.Formatter):
    """Render an event as one line; line breaks and control characters in fields cannot forge another."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Return the event as one line of text."""
        fields: Mapping[str, Field] = getattr(record, _FIELDS, {})
        component = record.name.removeprefix(_ROOT + ".").removeprefix("egress_")
        trace = self.formatException(record.exc_info) if record.exc_info else None
        if trace is not None:
            fields = {**fields, "traceback": trace}
        render = _as_json if self._json else _as_text
        return render(
            _timestamp(record.created), record.levelname.lower(), component, record.getMessage(), fields
        )


def without_time(record: logging.LogRecord) -> str:
    """Return an event as one line of text, without its time and level."""
    fields: Mapping[str, Field] = getattr(record, _FIELDS, {})
    component = record.name.removeprefix(_ROOT + ".")
    if record.exc_info and record.exc_info[1] is not None:
        fields = {**fields, "error": repr(record.exc_info[1])}
    return f"{component}: {record.getMessage()}{_pairs(fields)}"


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _as_json(when: str, level: str, component: str, event: str, fields: Mapping[str, Field]) -> str:
    head = {"time": when, "level": level, "component": component, "event": event}
    return json.dumps({**head, **fields}, default=str)


def _as_text(when: str, level: str, component: str, event: str, fields: Mapping[str, Field]) -> str:
    return f"{when} {level} {component}: {event}{_pairs(fields)}"


def _pairs(fields: Mapping[str, Field]) -> str:
    return "".join(f" {name}={_printable(value)}" for name, value in fields.items() if value is not None)


def _printable(value: Field) -> str:
    text = str(value)
    if text and text.isprintable() and _MARKS.isdisjoint(text):
        return text
    return json.dumps(text)


def configure(handler: logging.Handler, form: LogFormat, level: str) -> None:
    """Send every event from `level` up to `handler`, rendered as `form`, and to no other."""
    _attach(_ROOT, handler, form, level)


def configure_records(handler: logging.Handler, form: LogFormat) -> None:
    """Send every record to `handler`, rendered as `form`, and to no other."""
    _attach(_RECORDS, handler, form, "debug")


def flush() -> None:
    """Make every handler write what it still holds."""
    for name in (_ROOT, _RECORDS):
        for handler in logging.getLogger(name).handlers:
            handler.flush()


def _attach(name: str, handler: logging.Handler, form: LogFormat, level: str) -> None:
    handler.setFormatter(EventFormatter(form))
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
