"""A stand-in for the API server: named objects, merge patches with compare-and-swap, tokens, and failures.

It follows the Kubernetes API conventions ("Concurrency control and consistency"): every change gives an
object a new resourceVersion. A patch that names another resourceVersion than the object has is refused (409).
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.service.aiohttp_loading import web

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATCH = "application/merge-patch+json"


class ApiServer:
    """Serves `objects`, by their path, to requests with one of `tokens`; attributes make it fail or wait."""

    def __init__(self, objects: Mapping[str, dict[str, object]], tokens: set[str]) -> None:
        self.objects: dict[str, dict[str, object]] = copy.deepcopy(dict(objects))
        self.tokens = tokens
        self.failing = 0  # the status of every answer; 0: none fails
        self.delay = 0.0  # seconds before each answer
        self.lose_answers = False  # do what is asked, then close without an answer
        self.seen: list[tuple[str, str]] = []  # method and path of each request
        self._version = 1
        for each in self.objects.values():
            self._stamp(each)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    def _stamp(self, found: dict[str, object]) -> None:
        self._version += 1
        metadata = found.setdefault("metadata", {})
        if isinstance(metadata, dict):
            metadata["resourceVersion"] = str(self._version)

    async def _answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path))
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _status(401, "Unauthorized")
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.failing:
            return _status(self.failing, "the server is currently unable to handle the request")
        found = self.objects.get(request.path)
        if found is None:
            return _status(403, f"cannot {request.method.lower()} resource {request.path!r}")
        if request.method == "PATCH":
            refusal = self._patch(found, request.content_type, await request.json())
            if refusal is not None:
                return refusal
        elif request.method != "GET":
            return _status(405, "only GET and PATCH")
        if self.lose_answers and request.transport is not None:
            request.transport.close()
        return web.json_response(found)

    def _patch(self, found: dict[str, object], kind: str, patch: dict[str, object]) -> web.Response | None:
        if kind != _PATCH:
            return _status(415, f"the body of the request was in an unknown format: {kind}")
        metadata, wanted = found["metadata"], patch.get("metadata")
        version = wanted.get("resourceVersion") if isinstance(wanted, dict) else None
        if isinstance(metadata, dict) and version not in {None, metadata["resourceVersion"]}:
            return _status(
                409, "the object has been modified; please apply your changes to the latest version"
            )
        before = json.dumps(found)
        _merge(found, patch)
        if json.dumps(found) != before:
            self._stamp(found)
        return None


def _merge(found: dict[str, object], patch: dict[str, object]) -> None:
    """Apply a merge patch (RFC 7396)."""
    for name, value in patch.items():
        known = found.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            _merge(known, value)
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code)


def lease(namespace: str, name: str) -> tuple[str, dict[str, object]]:
    """Return path and body of an empty Lease, as the chart creates it."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
    return path, {"kind": "Lease", "metadata": {"name": name, "namespace": namespace}, "spec": {}}


def endpoint_slice(namespace: str, name: str) -> tuple[str, dict[str, object]]:
    """Return path and body of an EndpointSlice without endpoints, as the chart creates it."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"
    metadata = {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}}
    ports = [{"name": "port-80", "port": 80, "protocol": "TCP"}]
    return path, {"addressType": "IPv4", "metadata": metadata, "ports": ports, "endpoints": []}


async def _serve(arguments: argparse.Namespace) -> None:
    server = ApiServer(
        dict([lease("egress", "router"), endpoint_slice("egress", "router")]), {arguments.token}
    )
    runner = web.AppRunner(server.application())
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    await web.TCPSite(runner, arguments.host, arguments.port, ssl_context=context).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("token")
    parser.add_argument("certificate", type=Path)
    parser.add_argument("key", type=Path)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
