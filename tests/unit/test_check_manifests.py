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
        manifests(("pod.yaml", text))
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_manifests_of_the_documentation_are_right(name: str) -> None:
    table = manifests((name, text_of(name))).text.splitlines()
    assert table[0].split() == ["DOCUMENT", "CONTAINER", "COMMAND", "VARIABLES", "RULES"]
    assert [line.split() for line in table[1:]] == RIGHT[name]


def test_a_configmap_that_is_made_elsewhere_is_said_to_be_unchecked() -> None:
    table = manifests(("pod.yaml", text_of("redirect-configmap.yaml"))).text
    assert "not checked: ConfigMap egress-routes, which is not in this file" in table


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
    assert "not checked: /etc/egress/other" in manifests(("all.yaml", MOUNTED % ("*", "other", ""))).text


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


NOTHING = "nothing was checked: no container here has an EGRESS_* variable"


@pytest.mark.parametrize(
    "text", ["", "---\n---\n", "kind: Service\nmetadata: {name: s}", "kind: Pod", "kind: Pod\nspec: 7"]
)
def test_where_nothing_was_checked_it_is_said(text: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"pod.yaml: {NOTHING}")
    assert found.endswith("rules alone: egress-router check redirect|http-proxy|dns-proxy FILE")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("80 tcp 203.0.113.25", "document 1 line 1: '80 tcp 203.0.113.25': "),
        (
            "# comment\n80 tcp 203.0.113.25\n8080 tcp 203.0.113.26\n",
            "document 1 line 2: '80 tcp 203.0.113.25",
        ),
        ("kind: Service\n---\n42", "document 2 line 3: '42': "),
        ("[]", "document 1 line 1: "),
        ("- kind: Pod", "document 1 line 1: "),
        ("kind: [Pod]", "document 1 line 1: "),
        ("? [a]\n: b", "document 1 line 1: "),
        ("apiVersion: v1\nspec: {}", "document 1 line 1: "),
        ("kind: List\nitems:\n- 7", "document 1 line 3: '7': "),
    ],
)
def test_what_is_no_object_of_kubernetes_is_an_error(text: str, place: str) -> None:
    first, second = problems(text)
    assert first.startswith(f"pod.yaml {place}")
    assert first.endswith("is no object of Kubernetes (a mapping with `kind`)")
    assert NOTHING in second


def test_an_allow_list_that_is_no_yaml_is_told_how_to_be_checked() -> None:
    first, second = problems("*.example.com\n!*.bad.example.com\n")
    assert "is not YAML" in first
    assert "check redirect|http-proxy|dns-proxy FILE" in second


def test_what_is_no_object_beside_a_right_pod_is_an_error() -> None:
    (found,) = problems(text_of("redirect.yaml") + "---\n80 tcp 203.0.113.25\n")
    assert "'80 tcp 203.0.113.25': is no object of Kubernetes" in found


def test_an_unknown_kind_with_variables_is_an_error_where_it_is() -> None:
    first, second = problems("---\n" + text_of("redirect.yaml").replace("kind: Pod", "kind: Pdo"))
    assert first.startswith(
        "pod.yaml document 1 (Pdo egress-1) line 3: 'kind: Pdo': is not read, but has EGRESS_SOURCE; expected one of Pod,"
    )
    assert NOTHING in second


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("  initContainers:", "  initContainer:"),
        ("  initContainers:\n  - name", "  initContainers:\n    name"),
        ("    env:\n", "    envs:\n"),
        (
            "    - name: EGRESS_SOURCE\n      value: 192.168.12.99/24",
            "    - Name: EGRESS_SOURCE\n      value: x",
        ),
        ("    - name: EGRESS_SOURCE\n      value: 192.168.12.99/24", "    - EGRESS_SOURCE: 192.168.12.99/24"),
        ("    - name: EGRESS_SOURCE\n      value: 192.168.12.99/24", "    - EGRESS_SOURCE=192.168.12.99/24"),
    ],
)
def test_variables_where_nobody_reads_them_are_errors(right: str, wrong: str) -> None:
    text = text_of("redirect.yaml")
    assert right in text
    broken = text.replace(right, wrong, 1)
    line = line_with(broken, "EGRESS_SOURCE")
    assert (
        f"pod.yaml document 1 (Pod egress-1) EGRESS_SOURCE line {line}: is not where variables are read;"
        " expected a list `env` of `name` and `value`, in a list `containers` or `initContainers`"
    ) in problems(broken)


def test_variables_as_a_mapping_are_errors() -> None:
    found = problems("kind: Pod\nspec: {containers: [{name: a, env: {EGRESS_SOURCE: nonsense, OTHER: x}}]}")
    assert "EGRESS_SOURCE line 2: is not where variables are read" in found[0]
    assert len(found) == 2


def test_a_misspelt_field_of_a_variable_is_an_error() -> None:
    text = text_of("redirect.yaml").replace("value: init", "valu: init")
    (found,) = problems(text)
    assert found.endswith(
        f"EGRESS_ROUTER_MODE line {line_with(text, 'valu: init')}: has the field 'valu';"
        " expected one of name, value, valueFrom"
    )
    text = text_of("redirect-configmap-here.yaml").replace("configMapKeyRef", "configMapKeyref")
    found, *_ = (each for each in problems(text) if "configMapKeyref" in each)
    assert "EGRESS_DESTINATION" in found


def test_what_is_named_like_a_variable_elsewhere_is_no_error() -> None:
    text = """\
kind: Pod
metadata: {name: p, labels: {EGRESS_X: y}}
spec:
  containers:
  - name: a
    args: [printenv, EGRESS_WORKERS, "$(EGRESS_WORKERS)"]
    env:
    - {name: EGRESS_DNS_PROXY_DESTINATION, valueFrom: {secretKeyRef: {name: s, key: EGRESS_RULES}}}
---
kind: Secret
stringData: {EGRESS_RULES: 80 example.com}
---
kind: SealedSecret
spec: {encryptedData: {EGRESS_RULES: xxx}}
---
kind: ConfigMap
metadata: {name: other}
data: {text: EGRESS_X}
"""
    assert "not checked: secretKeyRef" in manifests(("x", text)).text


WRAPPED = {
    "DeploymentConfig": "spec: {template: {spec: %s}}",
    "Job": "spec: {template: {spec: %s}}",
    "CronJob": "spec: {jobTemplate: {spec: {template: {spec: %s}}}}",
}
NONSENSE = "{containers: [{name: a, image: egress-router, env: [{name: EGRESS_SOURCE, value: nonsense}]}]}"


@pytest.mark.parametrize("kind", sorted(WRAPPED))
def test_kinds_that_make_pods_are_read(kind: str) -> None:
    found = problems(f"kind: {kind}\nmetadata: {{name: x}}\n{WRAPPED[kind] % NONSENSE}")
    assert any(
        each.startswith(f"pod.yaml document 1 ({kind} x) container a EGRESS_SOURCE line 3: 'nonsense':")
        for each in found
    )


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
    assert "'8443 tcp 2001:db8::26 443': EGRESS_SOURCE has no IPv6 address" in found


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: Pod\n  bad: [", "x line 2: is not YAML"),
        ("{{ if .Values }}\nkind: Pod", "x line 2: is not YAML"),
        ("a: *unknown", "is not YAML: found undefined alias"),
        ("\x00", "x line 1: is not YAML: holds the character .+x00"),
        ("kind: Pod\na: \x1b[31m", "x line 2: is not YAML: holds the character .+x1b"),
        ("[" * 50_000, "nested too deeply"),
        ("a: &a [x]\nb: [" + "*a," * 5000 + "]", "has more than 100 aliases"),
    ],
)
def test_hostile_text_is_refused_in_short_time(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        manifests(("x", text))


def test_nested_aliases_and_tags_do_nothing() -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    tagged = "kind: !!python/object/apply:os.system ['false']\n"
    cycle = "kind: Pod\nspec: &s\n  <<: *s\n  containers: &c [*c]\n"
    started = time.process_time()
    for text in (laughs, tagged, cycle):
        assert any(NOTHING in each for each in problems(text))
    assert time.process_time() - started < 10


def test_nested_merge_keys_are_followed_once_each() -> None:
    """Ten mappings, each of which merges the one before it nine times: 9 ** 10 walks, were they repeated."""
    chain = "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 11))
    pod = "kind: Pod\nspec: {containers: [{name: c, env: [{name: EGRESS_SOURCE, value: x, <<: *a10}]}]}\n"
    text = "a0: &a0 {unknown: field}\n" + chain + pod
    started = time.process_time()
    assert any("has the field 'unknown'" in each for each in problems(text))
    assert time.process_time() - started < 10


def test_the_first_of_several_merged_mappings_wins() -> None:
    """As in https://yaml.org/type/merge.html, which Kubernetes' parser follows."""
    text = "a: &a {value: wrong/99}\nb: &b {value: 192.0.2.1}\nkind: Pod\n"
    env = "[{name: EGRESS_SOURCE, <<: [*a, *b]}]"
    found = problems(text + f"spec: {{containers: [{{name: c, env: {env}}}]}}\n")
    assert any("wrong/99" in each for each in found)


def test_many_mounts_of_many_volumes_take_no_longer_than_their_number() -> None:
    mounts = "".join(f"        - {{name: v{n}, mountPath: /v{n}}}\n" for n in range(5000))
    volumes = "".join(f"    - {{name: v{n}, configMap: {{name: m}}}}\n" for n in range(5000))
    config = "kind: ConfigMap\nmetadata: {name: m}\ndata: {k: v}\n---\n"
    head = "kind: Pod\nspec:\n  containers:\n    - name: c\n      volumeMounts:\n"
    started = time.process_time()
    assert any(NOTHING in each for each in problems(f"{config}{head}{mounts}  volumes:\n{volumes}"))
    assert time.process_time() - started < 10


def test_a_file_of_more_values_than_any_manifest_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="has more than 500000 values"):
        manifests(("x", "[" + "a," * 500_001 + "]"))
