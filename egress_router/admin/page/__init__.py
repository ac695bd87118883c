"""The status page: three files, which load nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

# Nothing from another host, no inline code: even text that a bug puts into the page as HTML cannot run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _load() -> dict[str, tuple[str, bytes]]:
    kinds = {
        "/": ("page.html", "text/html"),
        "/page.css": ("page.css", "text/css"),
        "/page.js": ("page.js", "text/javascript"),
    }
    return {
        path: (f"{kind}; charset=utf-8", Path(__file__).with_name(name).read_bytes())
        for path, (name, kind) in kinds.items()
    }


FILES = _load()
