from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from egress_router.cli import main
from egress_router.settings import dns_proxy, http_proxy, setup
from egress_router.settings.variables import RulesVariable

ROOT = Path(__file__).parents[2]
VARIABLES = {
    "setup": setup.VARIABLES,
    "http-proxy": http_proxy.VARIABLES,
    "dns-proxy": dns_proxy.VARIABLES,
}


def outcome(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return int(str(caught.value.code or 0))


@pytest.mark.parametrize("command", sorted(VARIABLES))
def test_help_lists_every_variable_of_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(command, "--help") == 0
    text = capsys.readouterr().out
    for variable in VARIABLES[command]:
        assert variable.name in text
        if isinstance(variable, RulesVariable):
            assert variable.file_name in text
        else:
            assert variable.meaning.split()[0] in text


def test_help_of_the_program_lists_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("--help") == 0
    text = capsys.readouterr().out
    assert all(variable.name in text for group in VARIABLES.values() for variable in group)


def test_help_says_what_no_value_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("setup", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "separated by commas (default: none)" in text
    assert "say every step and every rule (default: off)" in text
    assert "required in modes init and legacy EGRESS_INTERFACE" in text


def test_every_variable_that_the_package_names_is_described() -> None:
    described = {variable.name for group in VARIABLES.values() for variable in group}
    described |= {f"{name}_FILE" for name in described}
    for path in (ROOT / "egress_router").rglob("*.py"):
        if path.is_relative_to(ROOT / "egress_router/kernel"):
            continue  # it reads no environment, and its chains have names of their own
        for name in set(re.findall(r"\bEGRESS_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))):
            assert name in described, f"{path.name} names {name}, which no --help describes"


def test_every_variable_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    for variable in {variable.name: variable for group in VARIABLES.values() for variable in group}.values():
        row = re.search(rf"^\| `{variable.name}`.*$", text, re.MULTILINE)
        assert row is not None, f"docs/operating.md does not know {variable.name}"
        assert variable.meaning in row[0]
        if not isinstance(variable, RulesVariable) and variable.default:
            assert row[0].endswith(f"| `{variable.default}` |")


def test_a_wrong_command_line_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("sutep") == 2
    assert outcome() == 2
    assert outcome("check", "redirect") == 2
    assert "FILE" in capsys.readouterr().err


def check(*words: str, given: bytes | None = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `check` with this on its standard input; None: without one."""
    command = [sys.executable, "-m", "egress_router", "check", *words]
    if given is None:
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    return subprocess.run(command, input=given, capture_output=True, check=False)


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
        (None, "-", "standard input: cannot be read: Bad file descriptor"),
    ):
        done = check(*kind, path, given=given)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode() == f"{said}\n"


def test_check_of_rules_without_their_kind_says_how(tmp_path: Path) -> None:
    path = tmp_path / "rules.txt"
    path.write_text("80 tcp 203.0.113.25\n")
    done = check(str(path))
    assert done.returncode == 1
    assert "rules alone: egress-router check redirect|http-proxy|dns-proxy FILE" in done.stderr.decode()


def test_help_of_check_names_kinds_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("check", "--help") == 0
    text = capsys.readouterr().out
    assert "[{redirect,http-proxy,dns-proxy}] FILE" in text
    assert "egress-router check redirect destinations.txt" in text


def errors_of(command: str, environ: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", command],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


def test_a_configuration_error_of_a_service_needs_no_traceback() -> None:
    text = "\n".join(errors_of("setup", {}))
    assert "EGRESS_SOURCE" in text
    assert "EGRESS_GATEWAY" in text


SETUP = {"EGRESS_SOURCE": "192.168.12.99/24", "EGRESS_GATEWAY": "10.9.9.9"}


@pytest.mark.parametrize(
    ("command", "variable", "rules", "others", "expected"),
    [
        (
            "setup",
            "EGRESS_DESTINATION",
            "80 sctpp 10.4.5.6\n443 tcp 2001:db8::25\n9797 tcp 10.4.5.6",
            SETUP,
            [
                "EGRESS_GATEWAY: '10.9.9.9': is not on the subnet",
                "{} line 1: '80 sctpp 10.4.5.6': unknown protocol 'sctpp'",
                "{} line 2: '443 tcp 2001:db8::25': EGRESS_SOURCE has no IPv6 address",
                "{} line 3: '9797 tcp 10.4.5.6': tcp port 9797 is the administration port",
            ],
        ),
        (
            "setup",
            "EGRESS_DESTINATION",
            "443 tcp 2001:db8::25\nx",
            {**SETUP, "EGRESS_SOURCE": "x", "EGRESS_ADMIN_PORT": "x", "EGRESS_ROUTER_MODE": "x"},
            [
                "EGRESS_ROUTER_MODE: 'x'",
                "EGRESS_SOURCE: 'x'",
                "EGRESS_ADMIN_PORT: 'x'",
                "{} line 2: 'x'",
            ],
        ),
        (
            "http-proxy",
            "EGRESS_HTTP_PROXY_DESTINATION",
            "*\nexample.com",
            {"EGRESS_WORKERS": "0"},
            ["EGRESS_WORKERS: '0'", "{} line 1: '*': Wildcard must be last rule"],
        ),
        (
            "dns-proxy",
            "EGRESS_DNS_PROXY_DESTINATION",
            "80 intranet\n9797 example.com",
            {"EGRESS_WORKERS": "0"},
            [
                "EGRESS_WORKERS: '0'",
                "{} line 1: '80 intranet'",
                "{} line 2: '9797 example.com': port 9797 is the",
            ],
        ),
    ],
)
def test_errors_of_settings_and_rules_come_together(
    tmp_path: Path, command: str, variable: str, rules: str, others: dict[str, str], expected: list[str]
) -> None:
    path = tmp_path / "rules"
    path.write_text(rules)
    for name, environ in (
        (variable, {variable: rules}),
        (f"{variable}_FILE {path}", {f"{variable}_FILE": str(path)}),
    ):
        found = errors_of(command, {**others, **environ})
        assert len(found) == len(expected), found
        for error, start in zip(found, expected, strict=True):
            assert error.startswith(start.replace("{}", name))


def test_a_file_that_cannot_be_read_is_said_with_the_rest() -> None:
    found = errors_of("setup", {**SETUP, "EGRESS_DESTINATION_FILE": "/nowhere/rules"})
    assert found[1:] == [
        "EGRESS_DESTINATION_FILE: '/nowhere/rules': cannot be read: No such file or directory"
    ]


def test_setup_for_a_proxy_reads_no_rules() -> None:
    environ = {**SETUP, "EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_DESTINATION_FILE": "/nowhere/rules"}
    assert len(errors_of("setup", environ)) == 1


def test_setup_lists_no_variable_that_it_has_no_use_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("setup", "--help") == 0
    assert "EGRESS_DRAIN_SECONDS" not in capsys.readouterr().out
    for proxy in ("http-proxy", "dns-proxy"):
        assert outcome(proxy, "--help") == 0
        assert "EGRESS_DRAIN_SECONDS" in capsys.readouterr().out


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == version


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
        b"warning: EGRESS_HTTP_PROXY_DESTINATION line 2: 'www.example.com': never acts"
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
