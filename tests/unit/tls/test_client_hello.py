from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_router.tls.client_hello import MAX_HELLO, ClientHello, ClientHelloReader
from egress_router.tls.errors import TlsError, TlsFault
from tests.unit.tls import hellos
from tests.unit.tls.hellos import NAME, RECORDED, body, extension, hello, message, names, records, sni

CLIENTS = ("chromium", "curl", "firefox", "go", "java", "openssl", "openssl-tls12")


def read(data: bytes, size: int = 1 << 20) -> ClientHello | None:
    """Feed `data` in pieces of `size`; what comes behind a complete ClientHello is not fed."""
    reader = ClientHelloReader()
    for at in range(0, len(data), size):
        found = reader.feed(data[at : at + size])
        if found is not None:
            return found
    return None


def refused(data: bytes) -> TlsError:
    """Fed whole and byte by byte, the same bytes are refused for the same kind of fault."""
    with pytest.raises(TlsError) as whole:
        read(data)
    with pytest.raises(TlsError) as bytewise:
        read(data, 1)
    assert whole.value.fault is bytewise.value.fault
    return whole.value


def test_every_client_that_was_promised_is_recorded() -> None:
    assert {*CLIENTS, "openssl-no-name"} == set(RECORDED)


@pytest.mark.parametrize("client", CLIENTS)
def test_real_clients_split_at_every_byte(client: str) -> None:
    data = RECORDED[client]
    for at in range(1, len(data)):
        reader = ClientHelloReader()
        assert reader.feed(data[:at]) is None
        found = reader.feed(data[at:])
        assert found is not None
        assert found.server_name == NAME
        assert reader.held == data


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1000])
def test_real_clients_in_any_number_of_records(client: str, size: int) -> None:
    handshake = RECORDED[client][5:]
    data = records(handshake, size)
    if len(data) > MAX_HELLO:
        assert refused(data).fault is TlsFault.TOO_LARGE
        return
    for pieces in (1, 5, 1 << 20):
        found = read(data, pieces)
        assert found is not None
        assert found.server_name == NAME


def test_browsers_send_an_encrypted_hello_or_its_imitation() -> None:
    encrypted = {client: read(RECORDED[client]) for client in CLIENTS}
    assert {client for client, found in encrypted.items() if found and found.encrypted} == {
        "chromium",
        "firefox",
    }


def test_a_hello_without_a_name() -> None:
    assert read(RECORDED["openssl-no-name"]) == ClientHello(None, encrypted=False)
    assert read(hello()) == ClientHello(None, encrypted=False)
    assert read(hello(extension(43, b"\x02\x03\x04"))) == ClientHello(None, encrypted=False)


def test_what_follows_a_complete_hello_is_kept_and_not_read() -> None:
    reader = ClientHelloReader()
    data = hello(sni(b"a.example")) + b"\x14\x03\x03\x00\x01\x01" + b"early"
    assert reader.feed(data) == ClientHello("a.example", encrypted=False)
    assert reader.held == data


def test_a_pre_shared_key_may_be_there_as_the_last_extension() -> None:
    assert read(hello(sni(b"a.example"), extension(41, b"key"))) == ClientHello("a.example", encrypted=False)
    assert "pre-shared" in str(refused(hello(extension(41, b"key"), sni(b"a.example"))))


def test_name_types_without_a_meaning_are_passed_over() -> None:
    both = extension(0, names((7, b"other"), (0, b"a.example")))
    assert read(hello(both)) == ClientHello("a.example", encrypted=False)
    assert read(hello(extension(0, names((7, b"other"))))) == ClientHello(None, encrypted=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "0x47"),
        (b"SSH-2.0-OpenSSH\r\n", "0x53"),
        (b"\x80\x2e\x01\x03\x01", "0x80"),  # SSL 2
        (b"\x00", "0x00"),
        (b"\x16\x02\x00", "major version is 2"),
        (b"\x16\x03\x09", "3.9"),
    ],
)
def test_what_is_not_tls_is_said_at_the_first_byte_that_shows_it(data: bytes, words: str) -> None:
    error = refused(data)
    assert error.fault is TlsFault.NOT_TLS
    assert words in str(error)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x16\x03\x01\x00\x00", "record has 0 bytes"),
        (b"\x16\x03\x01\x40\x01", "record has 16385 bytes"),
        (records(message(b"", kind=2)), "type 2"),
        (records(message(body()) + b"x"), "follow the ClientHello"),
        (records(message(body())[:9]) + b"\x15\x03\x01\x00\x02\x02\x28", "type 21"),
        (records(message(body())[:9]) + records(message(body())[9:], version=b"\x02\x00"), "version 2.0"),
        (records(message(b"\x03\x03")), "random is cut short"),
        (records(message(body(session=b"s" * 33))), "session id"),
        (records(message(body(suites=b""))), "cipher suites"),
        (records(message(body(suites=b"\x13"))), "cipher suites"),
        (records(message(body(compression=b""))), "compression"),
        (records(message(body(sni(b"a")) + b"x")), "follow the extensions"),
        (records(message(body(sni(b"a"))[:-1])), "cut short"),
        (hello(sni(b"a.example"), sni(b"a.example")), "extension 0 appears twice"),
        (hello(extension(0, names((0, b"a.example"), (0, b"b.example")))), "two server names"),
        (hello(extension(0, b"")), "cut short"),
        (hello(extension(0, names())), "empty"),
        (hello(extension(0, names((0, b"")))), "empty or not printable"),
        (hello(extension(0, names((0, b"a\0.example")))), "not printable"),
        (hello(extension(0, names((0, b"a.example")) + b"x")), "bytes follow"),
        (hello(b"\x00\x00\xff\xff"), "cut short"),
    ],
)  # fmt: skip
def test_what_two_readers_could_take_for_different_things_is_refused(data: bytes, words: str) -> None:
    error = refused(data)
    assert error.fault is TlsFault.MALFORMED
    assert words in str(error)


def test_a_hello_is_bounded_however_it_is_cut() -> None:
    large = extension(21, b"\0" * MAX_HELLO)
    assert refused(records(message(body(large)))).fault is TlsFault.TOO_LARGE
    assert refused(records(message(body(large)), 100)).fault is TlsFault.TOO_LARGE
    # A record header alone may promise no more than there may be.
    assert refused(b"\x16\x03\x01\x40\x00").fault is TlsFault.TOO_LARGE
    # One-byte records: the records' headers count, too.
    assert refused(records(message(body(extension(21, b"\0" * 4000))), 1)).fault is TlsFault.TOO_LARGE


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=400), start=st.sampled_from([b"", b"\x16\x03\x01", hello(sni(b"a.example"))[:60]])
)
def test_any_bytes_give_a_hello_or_a_documented_error(data: bytes, start: bytes) -> None:
    whole, bytewise = _outcome(start + data, 1 << 20), _outcome(start + data, 1)
    assert whole == bytewise


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_hellos_read_the_same_whole_and_byte_by_byte(data: st.DataObject) -> None:
    client = data.draw(st.sampled_from(sorted(hellos.RECORDED)))
    mutated = bytearray(hellos.RECORDED[client])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    assert _outcome(bytes(mutated), 1 << 20) == _outcome(bytes(mutated), 1)


def _outcome(data: bytes, size: int) -> object:
    try:
        return read(data, size)
    except TlsError as error:
        return error.fault
