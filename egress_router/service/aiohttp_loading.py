"""Imports aiohttp without loading the machine's certificate authorities.

On import, aiohttp creates TLS contexts for its client (aiohttp/connector.py). For them OpenSSL reads all
authorities that the machine trusts, which takes a quarter of the import time. Nothing here uses them: the
administration endpoint is a server, and the client of the API server has the cluster's own authority.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTHORITIES = "SSL_CERT_FILE"  # read by OpenSSL each time (SSL_CTX_set_default_verify_paths(3))


@contextlib.contextmanager
def _without_authorities() -> Iterator[None]:
    before = os.environ.get(_AUTHORITIES)
    os.environ[_AUTHORITIES] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[_AUTHORITIES]
        else:
            os.environ[_AUTHORITIES] = before


with _without_authorities():
    import aiohttp
    from aiohttp import web

__all__ = ["aiohttp", "web"]
