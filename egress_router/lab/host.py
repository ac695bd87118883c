"""A host of the laboratory: a network and a mount namespace, held by one sleeping process.

No name under /run/netns is needed, so the laboratory works without root in a user namespace. Nothing is left
when its process ends: the kernel kills the holder with its parent, and a namespace ends with the last process
and socket in it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from egress_router.errors import RefusedError
from egress_router.kernel import netns
from egress_router.kernel.pyroute2_loading import IPRoute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The kernel sends this when the thread that started the process ends, for whatever reason (prctl(2)).
_DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")

# Set before any interface is up. The kernel uses the higher of the values of `all` and of the interface, and
# that starts as `default` (Documentation/networking/ip-sysctl). So no link-local address is ever tentative.
_NO_DUPLICATE_DETECTION = "; ".join(
    f"echo 0 >/proc/sys/net/ipv6/conf/{each}/accept_dad" for each in ("all", "default")
)

_RUN_SECONDS = 60
_UP, _RUNNING = 0x1, 0x40  # IFF_UP, IFF_RUNNING (linux/if.h)
_TENTATIVE, _SCOPE_LINK, _LOOPBACK = 0x40, 253, 1  # IFA_F_TENTATIVE, RT_SCOPE_LINK, the index of lo


def is_allowed() -> bool:
    """Return whether this process may create network namespaces."""
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return probe.returncode == 0


def reenter(module: str, *arguments: str) -> None:
    """Replace this process with the same program as root of a new user namespace.

    Raises:
        RefusedError: this machine does not let users create user namespaces.
    """
    probe = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        raise RefusedError(
            "cannot build network namespaces", "run as root, or allow unprivileged user namespaces"
        )
    command = ["unshare", "-Urnm", sys.executable, "-m", module, *arguments]
    os.execvp(command[0], command)


class Host:
    """One host; `close` ends everything that was started in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[str]] = []
        self._written: set[str] = set()
        self._holder = self._start_holder()
        self.path = Path(f"/proc/{self._holder.pid}/ns/net")
        self.pid = self._holder.pid
        self.indexes: dict[str, int] = {}  # of the interfaces that `wiring` created, by their names
        # DGRAM, because asyncio inside pyroute2 accepts no RAW socket; for netlink both are the same.
        sock = self.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
        self.ipr = IPRoute(fileno=sock.detach())
        self.ipr.link("set", index=1, state="up")

    def _start_holder(self) -> subprocess.Popen[str]:
        # It prints `ready` once it is in the namespaces: until then /proc/PID/ns shows those of its parent.
        prepare = f"mount -t sysfs none /sys 2>/dev/null; {_NO_DUPLICATE_DETECTION}"
        script = f"{prepare}; echo ready; exec sleep infinity"
        command = [*_DIE_WITH_PARENT, "unshare", "--net", "--mount", "sh", "-c", script]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if holder.stdout is None or holder.stdout.readline() != "ready\n":
            holder.kill()
            holder.wait()
            raise RefusedError("cannot build a network namespace", "run as root, or in a user namespace")
        holder.stdout.close()
        return holder

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs `words` in this host."""
        inside = f"/proc/{self._holder.pid}/ns"
        enter = ["nsenter", f"--net={inside}/net", f"--mount={inside}/mnt", f"--wdns={Path.cwd()}", "--"]
        return [*_DIE_WITH_PARENT, *enter, *words]

    def run(self, *words: str, check: bool = True, **keywords: object) -> subprocess.CompletedProcess[str]:
        """Run a command in this host to its end. With `check`, RuntimeError with its stderr if it fails."""
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_SECONDS,
            **keywords,  # type: ignore[call-overload]
        )
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {done.stderr.strip() or done.returncode}")
        result: subprocess.CompletedProcess[str] = done
        return result

    def start(
        self, words: Sequence[str], environment: Mapping[str, str] | None = None, stdin: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in this host; `close` ends it at the latest."""
        process = subprocess.Popen(
            self.command(*words),
            env=None if environment is None else {**os.environ, **environment},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def serve(self, words: Sequence[str]) -> subprocess.Popen[str]:
        """Start a server that prints `ready` once it listens. RuntimeError if it does not."""
        process = self.start(words)
        if process.stdout is None or process.stdout.readline() != "ready\n":
            process.kill()
            errors = "" if process.stderr is None else process.stderr.read().strip()
            raise RuntimeError(f"{self.name}: {' '.join(words)} did not start: {errors}")
        return process

    def write(self, path: str, text: str) -> None:
        """Give this host its own version of a file that the machine has, by a bind mount."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            Path(file.name).chmod(0o644)
            if path in self._written:
                self.run("umount", path)
            self.run("mount", "--bind", file.name, path)
            self._written.add(path)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket of this host."""
        return netns.open_socket(self.path, family, kind, protocol)

    def ip(self, words: str) -> None:
        """Run `ip` with these words."""
        self.run("ip", *words.split())

    def sysctl(self, name: str, value: object) -> None:
        """Set a sysctl, named by its path below /proc/sys."""
        # The value is that of the opening thread's network namespace (net/sysctl_net.c).
        netns.within(self.path, lambda: Path("/proc/sys", name).write_text(f"{value}\n", encoding="ascii"))

    def forward(self) -> None:
        """Turn on forwarding, for IPv4 and IPv6."""
        self.sysctl("net/ipv4/ip_forward", 1)
        self.sysctl("net/ipv6/conf/all/forwarding", 1)

    def is_settled(self) -> bool:
        """Return whether the kernel has finished what was asked of it.

        Then every interface that is up has its carrier (the link watch reports it a moment later) and its
        link-local address, and no address is still checked for duplicates.
        """
        links = [link for link in self.ipr.get_links() if link["index"] != _LOOPBACK]
        up = {link["index"] for link in links if link["flags"] & _UP}
        running = {link["index"] for link in links if link["flags"] & _RUNNING}
        # Ports of a switch have no address of their own.
        ports = {link["index"] for link in links if link.get_attr("IFLA_MASTER")}
        addresses = list(self.ipr.get_addr(family=socket.AF_INET6))
        local = {each["index"] for each in addresses if each["scope"] == _SCOPE_LINK}
        tentative = any(each.get_attr("IFA_FLAGS") & _TENTATIVE for each in addresses)
        return up <= running & (local | ports) and not tentative

    def close(self) -> None:
        """End everything in this host, and the host itself."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._holder.kill()
        self._holder.wait()
        self.ipr.close()
