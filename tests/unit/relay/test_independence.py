"""Bytes move while Python does something else: the data plane never needs the interpreter's lock."""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
import time

from tests.serving import LOOPS
from tests.unit.relay.relay_thread import RelayThread

# In a process of its own, with an interpreter of its own.
PEERS = """
import select, socket, sys, time
client, server = (socket.socket(fileno=int(each)) for each in sys.argv[1:3])
for each in (client, server):
    each.setblocking(True)
trips = []
while not select.select([sys.stdin], [], [], 0)[0]:
    began = time.monotonic()
    client.sendall(b"x")
    server.recv(1)
    trips.append((began, time.monotonic()))
    if len(trips) == 1:
        print("begun", flush=True)
for trip in trips:
    print(*trip)
"""


def test_bytes_move_while_the_interpreter_is_held() -> None:
    holding = ctypes.PyDLL(None)  # calls into it keep the interpreter's lock
    with contextlib.closing(RelayThread(*LOOPS["own"]())) as relay_thread:
        client, server, _ = relay_thread.tunnel()
        descriptors = [client.fileno(), server.fileno()]
        command = [sys.executable, "-c", PEERS, *map(str, descriptors)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors, text=True
        ) as peers:
            assert peers.stdin is not None
            assert peers.stdout is not None
            assert peers.stdout.readline()
            held = time.monotonic()
            holding.usleep(1_000_000)
            released = time.monotonic()
            peers.stdin.close()
            trips = [[float(each) for each in line.split()] for line in peers.stdout]
    assert released - held >= 1
    assert any(held < began and ended < released for began, ended in trips)
