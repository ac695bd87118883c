"""`check` on Kubernetes manifests: those of OKD's documentation, and planted errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_router.check import manifests
from egress_router.errors import ConfigError

FOLDER = Path(__file__).with_name("manifests")

RIGHT = {
    "redirect.yaml": [["1", "Pod", "egress-1", "egress-router", "setup", "4", "1", "line"]],
    "redirect-multiple.yaml": [["1", "Pod", "egress-multi", "egress-router", "setup", "4", "4", "lines"]],
    "redirect-configmap-here.yaml": [
        ["2", "Pod", "egress-multi", "egress-router", "setup", "4", "4", "lines"]
    ],
    "http-proxy.yaml": [
        ["1", "Pod", "egress-http-proxy", "egress-router-setup", "setup", "3", "-"],
        ["1", "Pod", "egress-http-proxy", "egress-router-proxy", "http-proxy", "1", "3", "lines"],
    ],
    "dns-proxy.yaml": [
        ["1", "Pod", "egress-dns-proxy", "egress-router-setup", "setup", "3", "-"],
        ["1", "Pod", "egress-dns-proxy", "egress-dns-proxy", "dns-proxy", "2", "4", "lines"],
    ],
    "failover.yaml": [
        [
            "1",
            "ReplicationController",
            "egress-demo-controller",
            "egress-demo-init",
            "setup",
            "4",
            "1",
            "line",
        ]
    ],
}


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        manifests(("pod.yaml", text))
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_manifests_of_the_documentation_are_right(name: str) -> None:
    table = manifests((name, text_of(name))).text.splitlines()
    assert table[0].split() == ["DOCUMENT", "CONTAINER", "COMMAND", "VARIABLES", "RULES"]
    assert [line.split() for line in table[1:]] == RIGHT[name]


def test_a_configmap_that_is_made_elsewhere_is_said_to_be_unchecked() -> None:
    table = manifests(("pod.yaml", text_of("redirect-configmap.yaml"))).text
    assert "not checked: ConfigMap egress-routes, which is in none of the given files" in table


def test_every_fixture_is_checked() -> None:
    others = {"redirect-configmap.yaml", "openshift-egress-router.yaml"}
    assert {path.name for path in FOLDER.glob("*.yaml")} == RIGHT.keys() | others


def line_with(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "expected"),
    [
        (
            "redirect-multiple.yaml",
            "8443 tcp",
            "8443 tpc",
            "document 1 (Pod egress-multi) container egress-router EGRESS_DESTINATION line {}:"
            " '8443 tpc 203.0.113.26 443': unknown protocol 'tpc'",
        ),
        (
            "redirect-configmap-here.yaml",
            "8443 tcp",
            "70000 tcp",
            "document 1 (ConfigMap egress-routes) key destination line {}: '70000 tcp 203.0.113.26 443':",
        ),
        (
            "redirect.yaml",
            "value: 192.168.12.1\n",
            "value: 192.168.13.1\n",
            "document 1 (Pod egress-1) container egress-router EGRESS_GATEWAY line {}:"
            " '192.168.13.1': is not on the subnet",
        ),
        (
            "failover.yaml",
            "name: EGRESS_SOURCE",
            "name: EGRESS_SOURSE",
            "(ReplicationController egress-demo-controller) container egress-demo-init EGRESS_SOURSE line {+1}:"
            " is not a variable of setup; did you mean EGRESS_SOURCE?",
        ),
        (
            "http-proxy.yaml",
            "!192.168.1.0/24",
            "!192.168.1.0/33",
            "document 1 (Pod egress-http-proxy) container egress-router-proxy EGRESS_HTTP_PROXY_DESTINATION"
            " line {}: '!192.168.1.0/33':",
        ),
        (
            "http-proxy.yaml",
            "value: http-proxy\n",
            "value: http\n",
            "document 1 (Pod egress-http-proxy) container egress-router-setup EGRESS_ROUTER_MODE line {}:"
            " 'http': expected one of",
        ),
        (
            "dns-proxy.yaml",
            "100 example.com",
            "100 example",
            "container egress-dns-proxy EGRESS_DNS_PROXY_DESTINATION line {}: '100 example':",
        ),
        (
            "dns-proxy.yaml",
            'value: "1"',
            "value: 1",
            "container egress-dns-proxy EGRESS_DNS_PROXY_DEBUG line {}: expected a string;"
            ' write it in quotation marks: "1"',
        ),
        (
            "dns-proxy.yaml",
            "EGRESS_DNS_PROXY_DEBUG",
            "EGRESS_GATEWAY",
            "container egress-dns-proxy EGRESS_GATEWAY line {+1}: is not read by dns-proxy, which runs here,"
            " but by setup",
        ),
    ],
)
def test_a_planted_error_is_found_where_it_is(name: str, right: str, wrong: str, expected: str) -> None:
    text = text_of(name)
    assert right in text
    broken = text.replace(right, wrong, 1)
    line = text[: text.index(right)].count("\n") + 1
    found = problems(broken)
    wanted = expected.replace("{}", str(line)).replace("{+1}", str(line + 1))
    assert any(wanted in each for each in found), found
    assert all(each.startswith("pod.yaml document ") for each in found)


def test_all_errors_of_all_documents_come_at_once() -> None:
    broken = text_of("redirect-multiple.yaml").replace("80   tcp", "0 tcp").replace("8443 tcp", "x")
    found = problems(broken + "---\n" + text_of("dns-proxy.yaml").replace("80  203", "80 80 203"))
    assert len(found) == 3
    assert "document 2 (Pod egress-dns-proxy)" in found[2]


def test_a_missing_variable_is_said_on_the_container() -> None:
    text = text_of("redirect.yaml").replace("    - name: EGRESS_GATEWAY\n      value: 192.168.12.1\n", "")
    (found,) = problems(text)
    line = line_with(text, "- name: egress-router")
    assert found.startswith(
        f"pod.yaml document 1 (Pod egress-1) container egress-router EGRESS_GATEWAY line {line}: is not set"
    )


@pytest.mark.parametrize(("name", "line"), [("http-proxy.yaml", "*"), ("dns-proxy.yaml", "100 example.com")])
def test_from_needs_the_sources_in_the_proxys_own_container(name: str, line: str) -> None:
    text = text_of(name).replace(f" {line}\n", f" {line} from 192.168.12.99\n")
    assert text != text_of(name)
    (found,) = problems(text)
    assert f"'{line} from 192.168.12.99': `from` needs EGRESS_SOURCE in the environment" in found
    container = text.rindex("    env:\n") + len("    env:\n")
    for source in ("value: 192.168.12.99/24", "valueFrom: {secretKeyRef: {name: s, key: k}}"):
        given = f"{text[:container]}    - name: EGRESS_SOURCE\n      {source}\n{text[container:]}"
        assert "lines" in manifests(("pod.yaml", given)).text


def test_a_key_that_the_configmap_lacks_is_an_error() -> None:
    text = text_of("redirect-configmap-here.yaml").replace("key: destination", "key: destinations")
    found = problems(text)
    assert "EGRESS_DESTINATION" in found[0]
    assert "ConfigMap egress-routes has no key 'destinations'" in found[0]


MOUNTED = """\
apiVersion: v1
kind: List
items:
- kind: ConfigMap
  metadata: {name: rules}
  data:
    list: |
      *.example.com
      %s
- kind: Deployment
  metadata: {name: proxy}
  spec:
    template:
      spec:
        containers:
        - name: proxy
          image: registry.example:5000/team/egress-http-proxy:1.0@sha256:0
          env:
          - {name: EGRESS_HTTP_PROXY_DESTINATION_FILE, value: /etc/egress/%s}
          volumeMounts:
          - {name: rules, mountPath: /etc/egress}
        volumes:
        - name: rules
          configMap: {name: rules%s}
"""


@pytest.mark.parametrize(("file", "more"), [("list", ""), ("here", ", items: [{key: list, path: here}]")])
def test_a_mounted_configmap_is_followed(file: str, more: str) -> None:
    assert "2 lines" in manifests(("all.yaml", MOUNTED % ("www.example.org", file, more))).text
    (found,) = problems(MOUNTED % ("bad..name", file, more))
    assert "document 1 (ConfigMap rules) key list line 9: 'bad..name'" in found


def test_a_file_that_no_configmap_makes_is_unchecked() -> None:
    assert (
        "not checked: /etc/egress/other comes from no ConfigMap"
        in manifests(("all.yaml", MOUNTED % ("*", "other", ""))).text
    )


def test_variables_of_a_whole_configmap_count() -> None:
    text = """\
kind: ConfigMap
metadata: {name: env}
data: {EGRESS_DNS_PROXY_DESTINATION: 80 example.com, EGRESS_WORKERS: '0', OTHER: x}
---
kind: DaemonSet
metadata: {name: forwarder}
spec: {template: {spec: {containers: [{name: a, image: x, envFrom: [{configMapRef: {name: env}}]}]}}}
"""
    (found,) = problems(text)
    assert "document 1 (ConfigMap env) key EGRESS_WORKERS line 3: '0': expected a whole number" in found
    assert " 2 " in manifests(("x", text.replace("'0'", "'1'"))).text
    assert (
        "document 1 (ConfigMap env) key EGRESS_WORKERS line 3: expected a string"
        in problems(text.replace("'0'", "1"))[0]
    )


def test_what_comes_from_elsewhere_is_not_missing() -> None:
    text = """\
kind: StatefulSet
metadata: {name: s}
spec: {template: {spec: {containers: [{name: a, image: egress-dns-proxy,
  env: [{name: EGRESS_DNS_PROXY_DESTINATION, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]}}}
"""
    assert "not checked: secretKeyRef" in manifests(("x", text)).text


def test_variables_in_a_configmap_that_no_container_here_takes_are_checked() -> None:
    text = "kind: ConfigMap\nmetadata: {name: env}\ndata:\n  EGRESS_DESTINATION: |\n    80 tcp 203.0.113.25\n    80 x\n"
    (found,) = problems(text)
    assert found.startswith("pod.yaml document 1 (ConfigMap env) key EGRESS_DESTINATION line 6: '80 x'")
    assert "setup" in manifests(("x", text.replace("80 x", "9797 tcp 203.0.113.25"))).text
    (found,) = problems(text.replace("80 x", "9797 tcp 203.0.113.25") + '  EGRESS_ADMIN_PORT: "9797"\n')
    assert "is the administration port" in found
    (found,) = problems("kind: ConfigMap\nmetadata: {name: env}\ndata: {EGRESS_DRAIN_SECONDS: 5}")
    assert 'write it in quotation marks: "5"' in found


@pytest.mark.parametrize("mode", ["init", "legacy"])
def test_lines_that_can_never_work_with_the_settings_beside_them(mode: str) -> None:
    text = text_of("redirect-multiple.yaml").replace("value: init", f"value: {mode}")
    rules = text.replace("8443 tcp 203.0.113.26 443", "9000-9999 tcp 203.0.113.26")
    (found,) = problems(rules)
    line = line_with(rules, "9000-9999")
    assert f"EGRESS_DESTINATION line {line}: '9000-9999 tcp 203.0.113.26': tcp port 9797 is the adm" in found
    other = "- name: EGRESS_ADMIN_PORT\n      value: '%s'\n    - name: EGRESS_SOURCE"
    assert "4 lines" in manifests(("x", rules.replace("- name: EGRESS_SOURCE", other % "0"))).text
    (found,) = problems(text.replace("203.0.113.26 443", "2001:db8::26 443"))
    assert "'8443 tcp 2001:db8::26 443': 2001:db8::26 needs an IPv6 address" in found


def test_lines_are_not_judged_by_settings_that_are_not_known() -> None:
    text = text_of("redirect-multiple.yaml")
    text = text.replace("8443 tcp 203.0.113.26 443", "9797 tcp 2001:db8::26")
    hidden = "valueFrom: {secretKeyRef: {name: s, key: k}}"
    text = text.replace("value: 192.168.12.99/24", hidden)
    port = f"- name: EGRESS_ADMIN_PORT\n      {hidden}\n    - name: EGRESS_SOURCE"
    assert "4 lines" in manifests(("x", text.replace("- name: EGRESS_SOURCE", port))).text


def test_a_port_of_the_forwarder_may_not_be_that_of_the_administration() -> None:
    (found,) = problems(text_of("dns-proxy.yaml").replace("100 example.com", "9797 example.com"))
    assert "'9797 example.com': port 9797 is the administration port" in found


def test_a_setting_of_all_that_stay_is_no_error_in_setup() -> None:
    drain = "- name: EGRESS_DRAIN_SECONDS\n      value: '5'\n    - name: EGRESS_SOURCE"
    assert " 5 " in manifests(("x", text_of("redirect.yaml").replace("- name: EGRESS_SOURCE", drain))).text
