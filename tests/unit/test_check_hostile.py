"""`check` on hostile YAML: bounded in time and memory."""

from __future__ import annotations

import time

import pytest

from egress_router.check import manifests
from egress_router.errors import ConfigError
from tests.unit.test_check_manifests import problems
from tests.unit.test_check_objects import NOTHING


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
