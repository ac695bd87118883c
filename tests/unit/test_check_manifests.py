"""`check` on Kubernetes manifests: those of the original's documentation, and planted errors."""

from __future__ import annotations

import time
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
        manifests("pod.yaml", text)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_manifests_of_the_documentation_are_right(name: str) -> None:
    table = manifests(name, text_of(name)).splitlines()
    assert table[0].split() == ["DOCUMENT", "CONTAINER", "COMMAND", "VARIABLES", "RULES"]
    assert [line.split() for line in table[1:]] == RIGHT[name]


def test_a_configmap_that_is_made_elsewhere_is_said_to_be_unchecked() -> None:
    table = manifests("pod.yaml", text_of("redirect-configmap.yaml"))
    assert "not checked: ConfigMap egress-routes, which is not in this file" in table


def test_every_fixture_is_checked() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*RIGHT, "redirect-configmap.yaml"}


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
            "EGRESS_SOURCE",
            "container egress-dns-proxy EGRESS_SOURCE line {+1}: is not read by dns-proxy, which runs here,"
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
    assert "2 lines" in manifests("all.yaml", MOUNTED % ("www.example.org", file, more))
    (found,) = problems(MOUNTED % ("bad..name", file, more))
    assert "document 1 (ConfigMap rules) key list line 9: 'bad..name'" in found


def test_a_file_that_no_configmap_makes_is_unchecked() -> None:
    assert "not checked: /etc/egress/other" in manifests("all.yaml", MOUNTED % ("*", "other", ""))


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
    assert " 2 " in manifests("x", text.replace("'0'", "'1'"))
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
    assert "not checked: secretKeyRef" in manifests("x", text)


def test_manifests_without_the_router_are_fine() -> None:
    assert manifests("x", "kind: Service\nmetadata: {name: s}\n---\n---\n") == (
        "no container with an EGRESS_* variable\n"
    )
    for odd in ("", "42", "[]", "kind: Pod", "kind: [Pod]", "kind: Pod\nspec: 7", "? [a]\n: b"):
        assert manifests("x", odd).startswith("no container")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: Pod\n  bad: [", "x line 2: is not YAML"),
        ("{{ if .Values }}\nkind: Pod", "x line 2: is not YAML"),
        ("a: *unknown", "is not YAML: found undefined alias"),
        ("\x00", "is not YAML"),
        ("[" * 50_000, "nested too deeply"),
        ("a: &a [x]\nb: [" + "*a," * 5000 + "]", "has more than 100 aliases"),
    ],
)
def test_hostile_text_is_refused_in_short_time(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        manifests("x", text)


def test_nested_aliases_and_tags_do_nothing() -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    tagged = "kind: !!python/object/apply:os.system ['false']\n"
    cycle = "kind: Pod\nspec: &s\n  <<: *s\n  containers: &c [*c]\n"
    started = time.process_time()
    for text in (laughs, tagged, cycle):
        assert manifests("x", text).startswith("no container")
    assert time.process_time() - started < 10
