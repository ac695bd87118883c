"""aiohttp, imported without the certificate authorities of the machine.

aiohttp makes TLS contexts for its client as it is imported (aiohttp/connector.py), for which OpenSSL reads
all authorities that the machine trusts: a fourth of the time that the import takes. Nothing here would use
them: the administration endpoint is a server, and who asks the API server brings the cluster's own authority.
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
