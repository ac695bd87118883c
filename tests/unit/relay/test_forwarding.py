"""What the data plane does by itself for a listening port: admit, choose, connect, and tell."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from array import array
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress_router.relay.dataplane import OWN_BYTES, DataPlane, Limits
from egress_router.relay.own_connections import save_first_packets
from tests.serving import LOOPS, listening
from tests.unit.relay.lines import CLIENT_FULL, CUT, FORBIDDEN, FULL, LOOP, NO_ADDRESS, REFUSED, Line, Router
from tests.unit.relay.relay_thread import RelayThread
from tests.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from egress_router.grammar.address import Target


@pytest.fixture
def router(relay_thread: RelayThread) -> Iterator[Router]:
    with contextlib.closing(Router(relay_thread)) as made:
        yield made


def test_connections_take_turns(router: Router) -> None:
    line = Line()
    router.listen(line, "127.0.0.1", "127.0.0.2", "127.0.0.3")
    first = [router.served_by() for _ in range(6)]
    assert sorted(first[:3]) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert first[3:] == first[:3]
    assert line.hits == 6
    until(lambda: [str(target[0]) for _, target, _ in line.heard] == first)
    assert {client for client, _, _ in line.heard} == {"127.0.0.1"}


def test_what_is_down_is_tried_last(router: Router) -> None:
    line = Line()
    router.listen(line, "127.0.0.1", "127.0.0.2", "127.0.0.3", good=1)
    assert {router.served_by() for _ in range(4)} == {"127.0.0.1"}
    router.servers.pop("127.0.0.1").close()
    assert router.served_by() == "127.0.0.2"
    until(lambda: len(line.heard) == 5)
    assert line.heard[4][2] == (((ip_address("127.0.0.1"), router.port), REFUSED),)


def test_when_all_are_down_all_are_tried_in_turn(router: Router) -> None:
    router.listen(Line(), "127.0.0.1", "127.0.0.2", good=0)
    assert {router.served_by(), router.served_by()} == {"127.0.0.1", "127.0.0.2"}


def test_nobody_answers(router: Router) -> None:
    line = Line()
    router.listen(line, "127.0.0.1", "127.0.0.2")
    for server in router.servers.values():
        server.close()
    assert router.client().recv(1) == b""
    until(lambda: line.ends)
    assert (line.ends[0].reason, line.ends[0].target) == (REFUSED, None)
    assert [reason for _, reason in line.ends[0].failures] == [REFUSED, REFUSED]


def test_who_waits_for_a_name_goes_on_with_its_addresses(router: Router) -> None:
    line = Line()
    router.listen(line)
    client = router.client()
    client.sendall(b"early")
    until(lambda: line.asked == 1)
    router.relay_thread.call(lambda: router.plane.aim(line, router.targets("127.0.0.2"), 1))
    server, _ = router.servers["127.0.0.2"].accept()
    with server:
        assert server.recv(5) == b"early"


def test_who_waits_in_vain_is_closed(router: Router) -> None:
    line = Line()
    router.listen(line)
    client = router.client()
    until(lambda: line.asked == 1)
    router.relay_thread.call(lambda: router.plane.aim(line, (), 0))
    assert client.recv(1) == b""
    until(lambda: [end.reason for end in line.ends] == [NO_ADDRESS])


def test_nobody_waits_longer_than_the_time_to_connect(router: Router) -> None:
    line = Line(connect_seconds=0.2)
    router.listen(line)
    assert router.client().recv(1) == b""
    until(lambda: [end.reason for end in line.ends] == [NO_ADDRESS])
    assert line.ends[0].seconds >= 0.2


def test_a_line_that_refuses_asks_nobody(router: Router) -> None:
    line = Line()
    router.relay_thread.call(lambda: router.plane.aim(line, (), 0, FORBIDDEN))
    router.relay_thread.call(lambda: router.plane.listen(router.listener, line))
    assert router.client().recv(1) == b""
    until(lambda: [end.reason for end in line.ends] == [FORBIDDEN])
    assert line.asked == 0


def test_a_socket_changes_its_line_and_the_old_ones_connections_end_when_told(router: Router) -> None:
    old, new = Line(), Line()
    router.listen(old, "127.0.0.1")
    before = router.client()
    with router.servers["127.0.0.1"].accept()[0]:
        router.listen(new, "127.0.0.2")
        # The data plane goes over to the new line in its own time.
        until(lambda: router.served_by() == "127.0.0.2")
        assert new.hits == 1
        before.sendall(b"still there")
        router.relay_thread.call(lambda: router.plane.end_line(old))
        router.relay_thread.call(lambda: router.plane.release_line(old))
        with pytest.raises(ConnectionResetError):
            before.recv(1)
    until(lambda: len(old.ends) == old.hits)


def test_limits_hold_over_processes_and_for_one_client(relay_thread: RelayThread) -> None:
    counts = memoryview(array("i", [0, 2]))
    limits = Limits(maximum=5, possible=10, maximum_per_client=2, counts=counts, slot=0)
    with contextlib.closing(Router(relay_thread, limits)) as router:
        line = Line()
        router.listen(line, "127.0.0.1")
        inside = [router.client(), router.client()]
        assert router.client().recv(1) == b""
        inside.append(router.client("127.0.0.9"))
        until(lambda: counts[0] == 3)
        assert router.client("127.0.0.10").recv(1) == b""
        until(lambda: [end.reason for end in line.ends] == [CLIENT_FULL, FULL])
        assert [end.client for end in line.ends] == ["127.0.0.1", "127.0.0.10"]
        inside[0].close()
        router.servers["127.0.0.1"].accept()[0].close()
        until(lambda: counts[0] == 2)
        again = router.client()
        until(lambda: counts[0] == 3)
        again.sendall(b"x")


def test_what_one_process_can_hold_is_a_limit_too(relay_thread: RelayThread) -> None:
    limits = Limits(5, possible=1, maximum_per_client=None, counts=memoryview(array("i", [0])), slot=0)
    with contextlib.closing(Router(relay_thread, limits)) as router:
        line = Line()
        router.listen(line, "127.0.0.1")
        first = router.client()
        assert router.client().recv(1) == b""
        until(lambda: [end.reason for end in line.ends] == [FULL])
        first.close()


def test_the_accept_queue_is_taken_in_before_the_socket_closes(router: Router) -> None:
    line = Line()
    router.relay_thread.call(lambda: router.plane.aim(line, router.targets("127.0.0.1"), 1))
    waiting = [router.client() for _ in range(20)]

    def begin_and_end() -> int:
        router.plane.listen(router.listener, line)
        router.plane.stop_listening(router.listener)
        return router.plane.open_connections()

    assert router.relay_thread.call(begin_and_end) == len(waiting)


def test_a_socket_that_the_kernel_does_not_watch_yet_is_listened_on_later(
    router: Router, tmp_path: Path
) -> None:
    """As it is without memory for one more (epoll_ctl(2)); here because a file cannot be waited for."""
    line, pauses, late = Line(), list[int](), socket.socket()
    with (tmp_path / "file").open("wb") as file:
        os.dup2(file.fileno(), late.fileno())
    router.relay_thread.call(lambda: router.plane.tell_pauses(pauses.append))
    router.relay_thread.call(lambda: router.plane.aim(line, router.targets("127.0.0.1"), 1))
    router.relay_thread.call(lambda: router.plane.listen(late, line))
    until(lambda: pauses == [errno.EPERM])
    os.dup2(router.listener.fileno(), late.fileno())
    router.listener.close()
    assert router.served_by() == "127.0.0.1"
    until(lambda: pauses == [errno.EPERM, 0])
    router.relay_thread.call(lambda: router.plane.stop_listening(late))


def descriptor_of(client: socket.socket) -> int:
    """Return the descriptor of the data plane's end of a client's connection."""
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=int(each.name))
            try:
                if sock.getpeername()[1:2] == client.getsockname()[1:2]:
                    return int(each.name)
            finally:
                sock.detach()
    raise AssertionError("it is not accepted")


def test_a_client_that_the_kernel_does_not_watch_is_closed_as_one_that_was_connected(
    router: Router, tmp_path: Path
) -> None:
    """As it is without memory for one more (epoll_ctl(2)); here because a file cannot be waited for."""
    line = Line()
    router.listen(line)
    client = router.client()
    until(lambda: line.asked == 1)
    with (tmp_path / "file").open("wb") as file:
        os.dup2(file.fileno(), descriptor_of(client))
    targets = router.targets("127.0.0.1")
    router.relay_thread.call(lambda: router.plane.aim(line, targets, 1))
    until(lambda: line.ends)
    assert [target for _, target, _ in line.heard] == [targets[0]]
    assert (line.ends[0].reason, line.ends[0].target) == (CUT, targets[0])


def test_a_known_line_has_one_target(router: Router) -> None:
    """The data plane has no turns for it, and no second attempt."""
    acceptor, line = Line(), Line(tells=False)
    one, two = router.targets("127.0.0.1"), router.targets("127.0.0.1", "127.0.0.2")

    def know() -> None:
        router.plane.know(acceptor, line, b"head", 60.0)

    def aim(targets: tuple[Target, ...]) -> None:
        router.plane.aim(line, targets, len(targets))

    with pytest.raises(ValueError, match="one target, not 0"):
        router.relay_thread.call(know)
    router.relay_thread.call(lambda: aim(two))
    with pytest.raises(ValueError, match="one target, not 2"):
        router.relay_thread.call(know)
    router.relay_thread.call(lambda: aim(one))
    router.relay_thread.call(know)
    for targets in (two, ()):
        with pytest.raises(ValueError, match="one target"):
            router.relay_thread.call(partial(aim, targets))
    router.relay_thread.call(lambda: aim(one))
    for each in (acceptor, line):
        router.relay_thread.call(partial(router.plane.release_line, each))


def test_lines_and_targets_are_let_go() -> None:
    """What the data plane holds of Python's comes back when nothing leads there any more."""
    with contextlib.closing(RelayThread(*LOOPS["own"]())) as relay_thread:
        line = Line()
        relay_thread.call(lambda: relay_thread.plane.aim(line, ((ip_address("127.0.0.1"), 9),), 1))
        relay_thread.call(lambda: relay_thread.plane.release_line(line))
        relay_thread.call(relay_thread.plane.catch_up)
        with pytest.raises(TypeError):
            relay_thread.call(lambda: relay_thread.plane.end_line(line))


def test_a_line_that_was_released_takes_no_targets() -> None:
    """It may ask for some just before; the data plane would keep them in memory that is free by then."""
    with contextlib.closing(RelayThread(*LOOPS["own"]())) as relay_thread:
        line, targets = Line(), ((ip_address("127.0.0.1"), 9),)
        before = sys.getrefcount(targets)

        def release_and_aim() -> None:
            relay_thread.plane.release_line(line)
            relay_thread.plane.aim(line, targets, 1)

        relay_thread.call(release_and_aim)
        relay_thread.call(relay_thread.plane.catch_up)
        assert sys.getrefcount(targets) == before


def test_news_beyond_what_one_turn_reads_are_read_in_the_next(relay_thread: RelayThread) -> None:
    """Also where some of them only free something: lines and targets that are let go."""
    with contextlib.closing(Router(relay_thread, max_news=4)) as few:
        line = Line()
        few.listen(line, "127.0.0.1")

        def burst() -> None:
            for _ in range(10):
                few.plane.aim(line, few.targets("127.0.0.1"), 1)  # the targets before are let go
            few.plane.aim(line, (), 0, FORBIDDEN)
            for client in [few.client() for _ in range(10)]:
                client.close()
            few.plane.settle()
            few.plane.settle()

        relay_thread.call(burst)
        until(lambda: len(line.ends) == 10)


@pytest.mark.parametrize("tells", [True, False])
def test_a_connection_that_comes_back_is_closed_as_a_loop(router: Router, *, tells: bool) -> None:
    save_first_packets(router.listener)
    line = Line(tells=tells)
    itself: Target = (ip_address("127.0.0.1"), router.address[1])
    router.relay_thread.call(lambda: router.plane.aim(line, (itself,), 1, near=(itself,)))
    router.relay_thread.call(lambda: router.plane.listen(router.listener, line))
    with router.client() as client:
        client.sendall(b"x")
        assert client.recv(1) == b""
    until(lambda: router.plane.open_connections() == 0)
    if tells:
        until(lambda: len(line.ends) == len(line.heard) + 1)
        assert [end.reason for end in line.ends if end.target is None] == [LOOP]
        # One is the client's own. On a busy machine a loop may be missed, and is found one turn later.
        assert len(line.heard) < 10


def test_what_another_worker_has_made_comes_back_as_well(relay_thread: RelayThread) -> None:
    """Two data planes, as two workers have them: each accepts what the other one makes."""
    counts, own = memoryview(array("i", [0, 0])), memoryview(bytearray(OWN_BYTES))
    limits = [Limits(400, 400, None, counts, slot) for slot in (0, 1)]
    planes = [relay_thread.call(partial(DataPlane, relay_thread.loop, each, own=own)) for each in limits]
    lines, listeners = [Line(), Line()], [listening(), listening()]
    ports = [listener.getsockname()[1] for listener in listeners]
    for plane, listener, line, port in zip(planes, listeners, lines, reversed(ports), strict=True):
        save_first_packets(listener)
        other: Target = (ip_address("127.0.0.1"), port)
        relay_thread.call(partial(plane.aim, line, (other,), 1, near=(other,)))
        relay_thread.call(partial(plane.listen, listener, line))
    with socket.create_connection(("127.0.0.1", ports[0]), WAIT_SECONDS) as client:
        assert client.recv(1) == b""
    until(lambda: all(plane.open_connections() == 0 for plane in planes))
    until(lambda: any(end.target is None for line in lines for end in line.ends))
    # The loop is found where a connection is made or accepted, for the connection before it.
    assert {end.reason for line in lines for end in line.ends if end.target is None} == {LOOP}
    # The second one that comes back is the loop. On a busy machine it may be found later.
    assert len(lines[0].heard) + len(lines[1].heard) < 10
    for plane, listener, line in zip(planes, listeners, lines, strict=True):
        relay_thread.call(partial(plane.stop_listening, listener))
        relay_thread.call(partial(plane.close, [line]))


def test_what_is_near_and_no_loop_is_served_like_all_else(router: Router) -> None:
    save_first_packets(router.listener)
    line = Line()
    targets = router.targets("127.0.0.1")
    router.relay_thread.call(lambda: router.plane.aim(line, targets, 1, near=targets))
    router.relay_thread.call(lambda: router.plane.listen(router.listener, line))
    # While connections of ours are remembered, those of others are told from them.
    assert [router.served_by() for _ in range(50)] == ["127.0.0.1"] * 50
