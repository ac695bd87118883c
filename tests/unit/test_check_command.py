from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.command_line import check

if TYPE_CHECKING:
    from pathlib import Path


def test_check_says_all_errors_on_stderr_and_exits_with_1() -> None:
    done = check("redirect", "-", given=b"80 tcp 1.2.3.4\n\n80 sctpp 10.4.5.6\n0 tcp 1.2.3.4\n")
    assert done.returncode == 1
    errors = done.stderr.decode().splitlines()
    assert len(errors) == 2
    assert "line 3: '80 sctpp 10.4.5.6': unknown protocol 'sctpp' (tcp, udp or sctp)" in errors[0]


@pytest.mark.parametrize("kind", [[], ["redirect"]])
def test_check_of_what_cannot_be_read_is_one_line_and_exits_with_1(kind: list[str], tmp_path: Path) -> None:
    latin = tmp_path / "latin"
    latin.write_bytes(b"80 tcp \xe9")
    for given, path, said in (
        (b"", "/nowhere/rules", "/nowhere/rules: cannot be read: No such file or directory"),
        (b"", str(tmp_path), f"{tmp_path}: cannot be read: Is a directory"),
        (b"", str(latin), f"{latin}: is not UTF-8 text (byte 7)"),
        (b"\xff", "-", "standard input: is not UTF-8 text (byte 0)"),
    ):
        done = check(*kind, path, given=given)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode() == f"{said}\n"


@pytest.mark.parametrize("kind", [[], ["redirect"]])
def test_check_without_a_standard_input_says_so(kind: list[str]) -> None:
    command = [sys.executable, "-m", "egress_router", "check", *kind, "-"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"standard input: cannot be read: Bad file descriptor\n"


def test_check_of_rules_without_their_kind_says_how(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("80 tcp 203.0.113.25\n")
    done = check(str(path))
    assert done.returncode == 1
    assert "rules alone: egress-router check redirect|http-proxy|dns-proxy FILE" in done.stderr.decode()


def test_check_refuses_what_setup_refuses_of_the_administration_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGRESS_ADMIN_PORT", raising=False)
    for kind, line in (("redirect", b"9797 tcp 203.0.113.25"), ("dns-proxy", b"9797 203.0.113.25")):
        done = check(kind, "-", given=line)
        assert done.returncode == 1
        assert b"port 9797 is the administration port" in done.stderr
        monkeypatch.setenv("EGRESS_ADMIN_PORT", "0")
        assert check(kind, "-", given=line).returncode == 0
        monkeypatch.delenv("EGRESS_ADMIN_PORT")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["redirect"], b"80 tcp 203.0.113.25\n"),
        (["dns-proxy"], b"80 203.0.113.25\n"),
        (["http-proxy"], b"*.example.com\n"),
        (
            [],
            b"kind: Pod\nspec: {containers: [{name: c, env: [{name: EGRESS_DNS_PROXY_DESTINATION, value: '80 1.2.3.4'}]}]}\n",
        ),
    ],
)
def test_a_byte_order_mark_is_no_part_of_a_text(words: list[str], text: bytes) -> None:
    done = check(*words, "-", given=b"\xef\xbb\xbf" + text)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_never_acts_is_a_warning_and_with_strict_an_error() -> None:
    text = b"*.example.com\nwww.example.com\n"
    done = check("http-proxy", "-", given=text)
    assert done.returncode == 0
    assert done.stdout.startswith(b"LINE")
    assert done.stderr.startswith(
        b"stdin:2: warning: EGRESS_HTTP_PROXY_DESTINATION line 2: 'www.example.com': never acts"
    )
    assert check("--strict", "http-proxy", "-", given=text).returncode == 1
    assert check("--strict", "http-proxy", "-", given=b"*.example.com\n").returncode == 0


def test_no_input_steers_the_terminal() -> None:
    name = b'"\\e[2J\\e]0;x\\a"'
    pod = b"kind: Pod\nmetadata: {name: " + name + b"}\nspec: {containers: [{name: " + name + b", env: ["
    right = b"{name: EGRESS_DNS_PROXY_DESTINATION, value: '80 1.2.3.4'}]}]}\n"
    wrong = b'{name: EGRESS_DNS_PROXY_DESTINATION, value: "80 \\e[2J"}]}]}\n'
    for text in (pod + right, pod + wrong, b"kind: " + name + b"\nEGRESS_SOURCE: x\n"):
        done = check("-", given=text)
        assert b"x1b[2J" in done.stdout + done.stderr
        assert b"\x1b" not in done.stdout + done.stderr
    for kind in ("redirect", "http-proxy", "dns-proxy"):
        done = check(kind, "-", given=b"80 \x1b[2J\x9b 1.2.3.4\n")
        assert b"\x1b" not in done.stdout + done.stderr


def test_errors_begin_with_file_and_line_as_those_of_compilers_do(tmp_path: Path) -> None:
    rules, other, pod = tmp_path / "rules", tmp_path / "other", tmp_path / "pod.yaml"
    rules.write_text("80 tcp 1.2.3.4\n81 tcpp 1.2.3.4\n")
    other.write_text("x\n")
    pod.write_text(
        "kind: Pod\nspec:\n  containers:\n    - name: c\n      env:\n"
        "        - {name: EGRESS_DNS_PROXY_DESTINATION, value: '80 x'}\n"
    )
    done = check("redirect", str(rules), str(other), str(tmp_path / "none"))
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith(f"{tmp_path}/none: cannot be read")
    assert lines[1].startswith(f"{rules}:2: EGRESS_DESTINATION line 2: '81 tcpp 1.2.3.4': unknown protocol")
    assert lines[2].startswith(f"{other}:1: EGRESS_DESTINATION line 1: 'x': ")
    (line,) = check(str(pod)).stderr.decode().splitlines()
    assert line.startswith(
        f"{pod}:6: document 1 (Pod ) container c EGRESS_DNS_PROXY_DESTINATION line 6: '80 x'"
    )


def test_several_files_of_rules_are_tables_with_their_names(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("80 1.2.3.4\n")
    second.write_text("81 1.2.3.4\n")
    text = check("dns-proxy", str(first), str(second)).stdout.decode()
    assert f"{first}\nLOCAL PORT  DESTINATION\n80          1.2.3.4:80\n\n{second}\n" in text


def test_a_config_map_may_be_in_another_file(tmp_path: Path) -> None:
    pod, rules = tmp_path / "pod.yaml", tmp_path / "rules.yaml"
    pod.write_text(
        "kind: Pod\nspec: {containers: [{name: c, env: [{name: EGRESS_DNS_PROXY_DESTINATION,"
        " valueFrom: {configMapKeyRef: {name: m, key: k}}}]}]}\n"
    )
    rules.write_text("kind: ConfigMap\nmetadata: {name: m}\ndata:\n  k: |\n    80 1.2.3.4\n    81 x\n")
    assert b"not checked" in check(str(pod)).stdout
    done = check(str(pod), str(rules))
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"{rules}:6: document 1 (ConfigMap m) key k line 6: '81 x'")


def test_a_file_with_the_name_of_a_key_has_its_table_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rules", "warnings", "errors"):
        (tmp_path / name).write_text("80 tcp 203.0.113.25\n")
    found = json.loads(check("--output", "json", "redirect", "rules", "warnings", "errors").stdout)
    assert (found["warnings"], found["errors"]) == ([], [])
    assert found["./errors"] == found["./warnings"] == found["rules"] != []


def test_json_holds_results_warnings_and_errors() -> None:
    text = b"*.example.com\nwww.example.com:443\n"
    done = check("--output", "json", "http-proxy", "-", given=text)
    found = json.loads(done.stdout)
    assert found["rules"][1] == {
        "line": "2",
        "verdict": "allow",
        "destination": "www.example.com",
        "port": "443",
    }
    assert found["errors"] == []
    (warning,) = found["warnings"]
    assert (warning["source"], warning["line"]) == ("EGRESS_HTTP_PROXY_DESTINATION", 2)
    done = check("--output=json", "redirect", "-", given=b"80 tcpp 1.2.3.4\n")
    assert done.returncode == 1
    (error,) = json.loads(done.stdout)["errors"]
    assert error == {
        "file": "-",
        "source": "EGRESS_DESTINATION",
        "line": 1,
        "text": "80 tcpp 1.2.3.4",
        "message": "unknown protocol 'tcpp' (tcp, udp or sctp)",
    }
    assert b"unknown protocol" in done.stderr


def test_check_says_with_which_address_a_line_leaves() -> None:
    text = b"443 tcp db.example.com 8443 from 192.168.12.99\n80 tcp 203.0.113.25\n203.0.113.27 from *\n"
    shown = check("redirect", "-", given=text).stdout.decode().splitlines()
    assert [line.split("  ")[-1].strip() for line in shown[:4]] == [
        "LEAVES WITH",
        "192.168.12.99",
        "the first that is held",
        "every address in turn",
    ]
    assert "db.example.com:8443" in shown[1]
    assert shown[4].split()[-1] == "rejected"
    shown = check("http-proxy", "-", given=b"!a.example\nb.example\n* from *\n").stdout.decode().splitlines()
    assert [line.split("  ")[-1].strip() for line in shown[1:]] == [
        "any",
        "the first that is held",
        "every address in turn",
    ]
    # Without `from` in any line there is no such column.
    assert b"LEAVES WITH" not in check("dns-proxy", "-", given=b"80 db.example.com\n").stdout
