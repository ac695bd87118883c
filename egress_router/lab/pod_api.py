"""The API server on the pod network of a pair, and the service accounts of its pods."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from egress_router.lab.host import Host
    from egress_router.lab.side import Side

ADDRESS, PORT = "10.128.0.1", "6443"
_TOKEN = "secret"  # noqa: S105 - valid in the laboratory only


class PodApi:
    """A process on the pod network's host; its objects are empty at the start, and it ends with the host."""

    def __init__(self, host: Host, folder: Path) -> None:
        """Start it, with a new key and certificate in this folder."""
        key, self._ca = folder / "key.pem", folder / "ca.pem"
        words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api -addext subjectAltName=IP:{ADDRESS}"
        subprocess.run(
            ["openssl", *words.split(), "-keyout", str(key), "-out", str(self._ca)],
            check=True,
            capture_output=True,
        )
        module = "egress_router.lab.api_server"
        self._process = host.serve(
            [sys.executable, "-m", module, ADDRESS, PORT, _TOKEN, str(self._ca), str(key)]
        )

    @staticmethod
    def environment() -> dict[str, str]:
        """Return the variables that a router needs to use it."""
        return {
            "KUBERNETES_SERVICE_HOST": ADDRESS,
            "KUBERNETES_SERVICE_PORT": PORT,
            "EGRESS_STANDBY_LEASE": "egress/router",
            "EGRESS_STANDBY_SERVICE": "egress/router",
        }

    def pause(self) -> None:
        """Stop its process until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue its process."""
        self._process.send_signal(signal.SIGCONT)

    def give_account(self, side: Side) -> None:
        """Give a pod its service account, in a /run of its own, unless it has one."""
        if side.has_account:
            return
        folder = "/run/secrets/kubernetes.io/serviceaccount"
        script = f"mount -t tmpfs none /run && mkdir -p {folder} && echo {_TOKEN} >{folder}/token"
        side.pod.run("sh", "-c", f"{script} && cp {self._ca} {folder}/ca.crt")
        side.has_account = True
