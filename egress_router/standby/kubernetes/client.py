"""A client of the API server: two named objects, read and patched. A thin shell.

No client library: a GET and a merge patch with resourceVersion are enough. No watch: a router needs the Lease
when it no longer hears its peer, and reads it then.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from egress_router.errors import RefusedError
from egress_router.service.aiohttp_loading import aiohttp

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT = 1.0  # seconds; see `Timing.ask`
_MAX_BYTES = 65536
_SO_MARK = 36
_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The address and the credentials for the API server; both files may change at any time."""

    url: str
    token: Path
    ca: Path
    mark: int

    @classmethod
    def of_this_pod(cls, environ: Mapping[str, str], mark: int) -> Cluster:
        """Find the API server as every pod does.

        Raises:
            RefusedError: this is not a pod, or it has no service account.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise RefusedError(
                "EGRESS_STANDBY_LEASE and EGRESS_STANDBY_SERVICE need a cluster, but this is not a pod",
                "remove both settings",
            )
        token = SERVICE_ACCOUNT / "token"
        if not token.exists():
            raise RefusedError(
                f"there is no {token}", "set automountServiceAccountToken: true in the pod's specification"
            )
        bracketed = f"[{host}]" if ":" in host else host
        return cls(f"https://{bracketed}:{port}", token, SERVICE_ACCOUNT / "ca.crt", mark)


class ApiError(OSError):
    """The API server did not do what was asked; the text says why. `status` is 0 without an HTTP answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """Requests to the API server, each with a timeout and a limit for the answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._context: tuple[int, ssl.SSLContext] | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=self._socket, limit=4),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
            trust_env=False,
        )

    def _socket(self, address_info: tuple[object, ...]) -> socket.socket:
        family, kind, protocol = cast("tuple[int, int, int]", address_info[:3])
        sock = socket.socket(family, kind, protocol)
        if self._cluster.mark:
            # Use the routes of the pod's first interface, wherever the default route leads now.
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._cluster.mark)
        sock.setblocking(False)
        return sock

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def get(self, path: str) -> object:
        """Read an object.

        Raises:
            ApiError: it cannot be read.
        """
        return await self._request("GET", path, None)

    async def patch(self, path: str, body: object) -> object:
        """Apply a merge patch to an object, and return the object.

        Raises:
            ApiError: it cannot be changed; status 409 if it has changed since it was read.
        """
        return await self._request("PATCH", path, body)

    async def _request(self, method: str, path: str, body: object) -> object:
        try:
            # The kubelet renews the token from time to time.
            token = self._cluster.token.read_text(encoding="ascii").strip()
            headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
            data = None
            if body is not None:
                headers["Content-Type"], data = _PATCH, json.dumps(body)
            async with self._session.request(
                method,
                self._cluster.url + path,
                headers=headers,
                data=data,
                ssl=self._tls(),
                allow_redirects=False,
            ) as response:
                raw = await response.content.read(_MAX_BYTES)
                if response.status != 200:
                    raise ApiError(response.status, f"{response.status} {_message(raw)}")
                return cast("object", json.loads(raw))
        except TimeoutError:
            raise ApiError(0, f"no answer within {_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, ApiError):
                raise
            raise ApiError(0, str(error) or type(error).__name__) from None

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._cluster.url.startswith("https:"):
            return True
        changed = self._cluster.ca.stat().st_mtime_ns
        if self._context is None or self._context[0] != changed:
            self._context = (changed, ssl.create_default_context(cafile=str(self._cluster.ca)))
        return self._context[1]


def _message(raw: bytes) -> str:
    """Return the message of a Status object, or the beginning of what came instead."""
    with contextlib.suppress(ValueError, AttributeError):
        message = json.loads(raw).get("message")
        if isinstance(message, str):
            return message[:300]
    return raw[:200].decode("utf-8", "replace")
