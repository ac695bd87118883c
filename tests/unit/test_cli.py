from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from egress_router.cli import main
from egress_router.manual import pages
from egress_router.settings.catalogue import VARIABLES, names
from egress_router.settings.variables import RulesVariable
from tests.measured import measured

ROOT = Path(__file__).parents[2]


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
    assert "required in modes init and legacy EGRESS_POLICY" in text


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
    known = {name for group in VARIABLES.values() for name in names(group)}
    assert set(re.findall(r"^\| `(EGRESS_\w+)`", text, re.MULTILINE)) <= known, "a row that nothing reads"


def test_a_wrong_command_line_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("sutep") == 2
    assert outcome() == 2
    assert outcome("check", "redirect") == 2
    assert "FILE" in capsys.readouterr().err


def check(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `check` in this process, with this on its standard input."""
    with (
        tempfile.TemporaryFile() as file,
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        file.write(given)
        file.seek(0)
        kept = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            status = outcome("check", *words)
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    return subprocess.CompletedProcess(words, status, said.getvalue().encode(), errors.getvalue().encode())


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


def test_help_of_check_names_kinds_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("check", "--help") == 0
    text = capsys.readouterr().out
    assert "[{redirect,http-proxy,dns-proxy}] FILE" in text
    assert "egress-router check redirect destinations.txt" in text


def errors_of(command: str, environ: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", command],
        env={**measured(), **environ},
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
                "EGRESS_SOURCE: 'x'",
                "EGRESS_ROUTER_MODE: 'x'",
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
    shown = capsys.readouterr().out
    assert "EGRESS_DRAIN_SECONDS" in shown
    assert "EGRESS_WORKERS" not in shown
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


def test_explain_exits_as_asked_and_answers_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, policy = tmp_path / "list", tmp_path / "policy.json"
    path.write_text("192.0.2.0/24\nb.example\n10.0.0.0/8:1\n")
    policy.write_text(
        '{"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": ['
        '{"type": "Deny", "to": {"cidrSelector": "192.0.2.128/25"}}]}}'
    )
    asked = ["explain", str(path)]
    assert outcome(*asked, "192.0.2.200", "--exit-code") == 0
    assert outcome(*asked, "198.51.100.1") == 0
    assert outcome(*asked, "198.51.100.1", "--exit-code") == 1
    assert outcome(*asked, "a.example:1", "--exit-code") == 1  # nobody knows: its addresses decide
    assert outcome(*asked, "192.0.2.200", "--exit-code", "--policy", str(policy)) == 1
    capsys.readouterr()
    assert outcome(*asked, "192.0.2.200", "--policy", str(policy), "--output=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["outcome"], found["addresses"]) == ("192.0.2.200:443", "denied", [])
    assert found["explanation"][0] == (
        "192.0.2.200:443 is denied: policy entry 1 (Deny 192.0.2.128/25) denies it"
    )


def test_errors_of_all_tools_begin_with_file_and_line_and_are_json_where_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, policy, text = tmp_path / "list", tmp_path / "policy.yaml", tmp_path / "text"
    right = tmp_path / "right"
    right.write_text("a.example\n")
    rules.write_text("a.example\nb c\n")
    policy.write_text("kind: EgressNetworkPolicy\nspec: {egress: []}\n")
    text.write_text("a: b\nx\n")
    nobody = "http://127.0.0.1:1"
    for words, status, place in (
        (["explain", str(rules), "a.example"], 1, f"{rules}:2: 'b c': expected NAME"),
        (["explain", str(right), "a:b:c"], 1, "target: 'a:b:c': "),
        (["explain", str(tmp_path / "none"), "a.example"], 1, f"{tmp_path}/none: cannot be read"),
        (["explain", str(right), "a.example", "--policy", str(policy)], 1, f"{policy}:1: "),
        (["status", "--url", nobody], 3, f"cannot ask {nobody}/status: "),
        (["check", str(text)], 1, f"{text}:3: is not YAML: "),
    ):
        assert outcome(*words) == status
        said = capsys.readouterr()
        assert (said.out, said.err.startswith(place)) == ("", True), said.err
        assert outcome(*words, "--output=json") == status
        said = capsys.readouterr()
        assert said.err.startswith(place)
        error = json.loads(said.out)["errors"][0]
        assert set(error) == {"file", "source", "line", "text", "message"}
        assert error["message"] in said.err
    assert outcome("convert", str(text)) == 1
    assert capsys.readouterr().err.startswith(f"{text}:3: is not YAML: ")


@pytest.mark.parametrize(
    ("command", "environ"),
    [
        ("dns-proxy", {"EGRESS_DNS_PROXY_DESTINATION": "8000 203.0.113.25"}),
        ("http-proxy", {"EGRESS_HTTP_PROXY_DESTINATION": "*"}),
        (
            "setup",
            {
                "EGRESS_SOURCE": "192.0.2.9/24",
                "EGRESS_GATEWAY": "192.0.2.1",
                "EGRESS_DESTINATION": "203.0.113.1",
            },
        ),
    ],
)
def test_errors_of_a_policy_are_told_with_all_others(command: str, environ: dict[str, str]) -> None:
    given = {
        **environ,
        "EGRESS_POLICY": "kind: EgressNetworkPolicy\napiVersion: v2\n",
        "EGRESS_ADMIN_PORT": "x",
    }
    run = [sys.executable, "-m", "egress_router", command]
    done = subprocess.run(run, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EGRESS_ADMIN_PORT: 'x'" in done.stderr
    assert (
        "EGRESS_POLICY line 2: has the apiVersion 'v2'; expected v1 or network.openshift.io/v1" in done.stderr
    )


def test_a_converted_router_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "tests/unit/manifests/openshift-egress-router.yaml"
    assert outcome("check", str(path)) == 0
    assert "EGRESS_DESTINATION       8080 tcp 203.0.113.26 80" in capsys.readouterr().out
    assert outcome("convert", str(path), "--to", "manifest") == 0
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(capsys.readouterr().out)
    assert outcome("check", "--strict", str(manifest)) == 0
    assert capsys.readouterr().out.count("setup") == 3  # two containers, one of them of that name
    assert outcome("convert", str(manifest)) == 1
    assert "holds no EgressRouter of OpenShift 4" in capsys.readouterr().err


def test_a_policy_that_would_not_be_enforced_is_refused(tmp_path: Path) -> None:
    """In a proxy's pod it is the proxy that decides what is reached, not `setup`."""
    policy = tmp_path / "policy.json"
    policy.write_text('{"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": []}}')
    given = {
        "EGRESS_SOURCE": "192.0.2.9/24",
        "EGRESS_GATEWAY": "192.0.2.1",
        "EGRESS_ROUTER_MODE": "http-proxy",
        "EGRESS_POLICY_FILE": str(policy),
    }
    run = [sys.executable, "-m", "egress_router", "setup"]
    done = subprocess.run(run, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith(
        "EGRESS_POLICY_FILE is set, and setup in mode http-proxy does not enforce an egress policy"
    )


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
    # Where no line says it, there is nothing to tell.
    assert b"LEAVES WITH" not in check("dns-proxy", "-", given=b"80 db.example.com\n").stdout


@pytest.mark.parametrize("service", ["setup", "http-proxy", "dns-proxy"])
def test_a_tool_may_follow_the_service_that_an_image_names(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "egress_router", service, "check", "redirect", "-"],
        input=b"80 tcp 203.0.113.25\n",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"LOCAL PORT")


def completed(*words: str, folder: Path | None = None) -> set[str]:
    """What bash offers for the last of these words, in a folder."""
    script = subprocess.run(
        [sys.executable, "-m", "egress_router", "completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = " ".join(f"'{each}'" for each in ("egress-router", *words))
    asked = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _egress_router; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "-c", script + asked], capture_output=True, text=True, check=True, cwd=folder
    )
    return set(filter(None, done.stdout.split("\n")))


def test_bash_completes_files_where_one_is_expected(tmp_path: Path) -> None:
    (tmp_path / "my rules.txt").touch()
    assert "my rules.txt" in completed("check", "redirect", "", folder=tmp_path)
    assert completed("explain", "", folder=tmp_path) == {"my rules.txt"}
    assert completed("explain", "--policy", "m", folder=tmp_path) == {"my rules.txt"}
    assert completed("setup", "", folder=tmp_path) == set()


def test_bash_completes_commands_options_and_kinds() -> None:
    assert {"check", "explain", "setup"} <= completed("")
    assert completed("-") == {"--help", "--version"}
    assert completed("ex") == {"explain"}
    assert completed("explain", "--ex") == {"--exit-code"}
    assert {"redirect", "http-proxy"} <= completed("check", "")
    assert "--strict" in completed("check", "-")
    assert completed("check", "redi") == {"redirect"}
    assert completed("check", "--output", "") == {"text", "json"}
    assert completed("explain", "--sni", "") == set()
    assert "--worker" not in completed("http-proxy", "--")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_that_names_every_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome("completion", shell) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*VARIABLES, "check", "explain", "convert", "status"))


def test_manual_pages_hold_what_help_holds() -> None:
    found = pages()
    for command, group in VARIABLES.items():
        page = found[f"egress-router-{command}.1"]
        for variable in group:
            assert f"\\fB{variable.name}\\fR" in page
    assert "\\-\\-exit\\-code" in found["egress-router-explain.1"]
    assert "check redirect destinations.txt" in found["egress-router-check.1"]
    assert len(found) == 1 + len(VARIABLES) + 6
    for text in found.values():
        # No line begins as a request of roff does but those that are one.
        starts = {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))}
        assert starts <= {".TH", ".SH", ".TP", ".nf", ".fi"}
        assert text.isascii()
