"""A node of a cluster: the laboratory's node, with a container engine inside its namespaces.

podman runs in a process and a mount namespace of its own on the laboratory's node. So a pod that mounts the node's
/proc/1/ns finds the node's network in it, as in a cluster; and when the namespace's first process ends, for whatever
reason, the kernel ends every container with it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import yaml

from egress_router.lab import wiring
from egress_router.lab.host import Host
from egress_router.lab.network import NAME_SERVER, Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Object = dict[str, object]

ZONE = {
    "example.com": {"addresses": ["203.0.113.26"]},
    "foobar.com": {"addresses": ["203.0.113.28"]},
    "www.example.com": {"addresses": ["203.0.113.26"]},
    "www.example.org": {"addresses": ["203.0.113.25"]},
}
PORTS = ("80", "100", "443", "53", "7777", "http:8000")
_ENGINE = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")


@dataclass(frozen=True, slots=True)
class Images:
    """Names of the images under test."""

    router: str
    http_proxy: str
    dns_proxy: str
    pause: str

    def in_place_of(self, name: str) -> str:
        """Return the image that takes the place of one that a manifest of the OKD document names."""
        return {
            "openshift/origin-egress-router": self.router,
            "openshift/origin-egress-http-proxy": self.http_proxy,
            "openshift/origin-egress-dns-proxy": self.dns_proxy,
            "openshift/origin-pod": self.pause,
        }.get(name, name)


class Node:
    """The laboratory and an engine on its node; `sandbox` makes the network of one pod after another."""

    def __init__(self, storage: Path, images: Images) -> None:
        self.images = images
        self._storage = storage
        # Beyond every address of the laboratory, the name server's too.
        self._numbers = itertools.count(100)
        self._stack = contextlib.ExitStack()
        try:
            self.lab = self._stack.enter_context(Laboratory())
            self.lab.serve(PORTS)
            self.lab.name(ZONE)
            self._files = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=storage)))
            self._inside = self._start_namespaces()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every container, and the network."""
        self._stack.close()

    def _start_namespaces(self) -> str:
        resolv_conf = self.write("resolv.conf", f"nameserver {NAME_SERVER}\n")
        # `wait` also collects the orphans that a namespace's first process inherits.
        first = f"mount --bind {resolv_conf} /etc/resolv.conf && echo ready; sleep infinity & wait"
        enter = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.lab.node.path}", "unshare"]
        unshare = subprocess.Popen(
            [*enter, "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", first],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(_end, unshare)
        if unshare.stdout is None or unshare.stdout.readline() != "ready\n":
            raise RuntimeError("cannot build the node's namespaces")
        return Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0]

    @contextlib.contextmanager
    def sandbox(self, *, macvlan: bool, parent: str = "uplink0") -> Iterator[Sandbox]:
        """Make the network of a pod, as a network plug-in does; with the interface that OKD's annotation asks for.

        Pods on two parents stand for pods of two nodes: the kernel lets them have one hardware address.
        """
        number = next(self._numbers)
        host = Host(f"pod{number}")
        node = self.lab.node
        try:
            address = f"10.128.0.{number}"
            wiring.join(host, "eth0", (node, "cni0", f"pod{number}"), f"{address}/24")
            wiring.default_route(host, "10.128.0.1")
            if macvlan:
                wiring.macvlan(host, node, parent)
            sandbox = Sandbox(self, host, address)
            try:
                yield sandbox
            finally:
                sandbox.remove_pods()
        finally:
            host.close()

    def engine(self, host: Host, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run podman on the node with a pod's network, which takes the place of the host's."""
        storage = [f"--root={self._storage}/root", f"--runroot={self._storage}/run"]
        enter = ["nsenter", f"--target={self._inside}", "--mount", "--pid", f"--net={host.path}", "--"]
        return subprocess.run(
            [*enter, *_ENGINE, *storage, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
            env={**os.environ, "XDG_RUNTIME_DIR": str(self._storage)},
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file that the engine can read."""
        path = self._files / name
        path.write_text(text)
        return path


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The network of one pod, and the engine with that network."""

    node: Node
    host: Host
    address: str

    def podman(self, *words: str) -> str:
        """Run podman; return what it printed. RuntimeError if it fails."""
        done = self.node.engine(self.host, words)
        if done.returncode:
            raise RuntimeError(f"podman {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def play(self, *objects: Object) -> None:
        """Run what `kubectl apply` would run. RuntimeError if a pod does not start."""
        things = [prepared(each, self.node.images) for each in objects]
        for thing in things:
            self._set_sysctls(thing)
        text = yaml.safe_dump_all(things)
        path = self.node.write(f"{self.host.name}.yaml", text)
        # The engine's "host" network is this pod's: podman 4.3 can put pods into no other existing network.
        self.podman("kube", "play", "--network", "host", str(path))

    def _set_sysctls(self, thing: Object) -> None:
        """Set a pod's sysctls as a kubelet does; to the engine this is the host's network, so it refuses."""
        spec = cast("dict[str, dict[str, list[dict[str, str]]]]", thing.get("spec", {}))
        for each in spec.pop("securityContext", {}).get("sysctls", ()):
            self.host.sysctl(each["name"].replace(".", "/"), each["value"])

    def change_config_map(self, key: str, text: str) -> None:
        """Change the one ConfigMap that is mounted, as a kubelet does some time after it was applied."""
        (volume,) = self.podman("volume", "ls", "--quiet").split()
        folder = Path(self.podman("volume", "inspect", "--format={{.Mountpoint}}", volume).strip())
        (folder / f"{key}.new").write_text(text)
        (folder / f"{key}.new").rename(folder / key)

    def logs(self) -> str:
        """What every container said, for a test that failed."""
        names = self.podman("ps", "--all", "--format={{.Names}}").split()
        done = [(name, self.node.engine(self.host, ["logs", name])) for name in names]
        network = [("nft", "list", "ruleset"), ("ip", "address"), ("ip", "route"), ("conntrack", "-L")]
        found = [f"{' '.join(words)}:\n{self.host.run(*words, check=False).stdout}" for words in network]
        return "\n".join([*(f"{name}: {each.stdout}{each.stderr}" for name, each in done), *found])

    def remove_pods(self) -> None:
        """Remove every pod and container, and what was mounted."""
        self.podman("pod", "rm", "--all", "--force", "--time", "2")
        self.podman("rm", "--all", "--force", "--time", "2")
        self.podman("volume", "rm", "--all", "--force")


def prepared(thing: Object, images: Images) -> Object:
    """Return an object with the images under test; a controller becomes the pod of its template."""
    if thing["kind"] == "ConfigMap":
        return thing
    copy = json.loads(json.dumps(thing))
    if copy["kind"] in {"Deployment", "ReplicationController", "Job"}:
        template = copy["spec"]["template"]
        name = copy["metadata"]["name"]
        copy = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}}
        copy["spec"] = template["spec"]
    # podman 4.3 starts a finished init container again with Always, the default.
    copy["spec"]["restartPolicy"] = "Never"
    # Nor does it know init containers that stay beside the others.
    early = copy["spec"].get("initContainers", [])
    copy["spec"]["initContainers"] = [each for each in early if each.get("restartPolicy") != "Always"]
    copy["spec"]["containers"] += [each for each in early if each.get("restartPolicy") == "Always"]
    for container in (*copy["spec"].get("initContainers", ()), *copy["spec"]["containers"]):
        container["image"] = images.in_place_of(container["image"])
        container["imagePullPolicy"] = "Never"
        # The engine publishes ports on bridges only, and probes with a curl that the images do not have.
        for field in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(field, None)
    result: Object = copy
    return result


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
