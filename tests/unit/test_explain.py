from __future__ import annotations

import json
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from egress_router.errors import ConfigError, RefusedError
from egress_router.explain import Explainer, Outcome
from egress_router.manifests import egress_policy
from egress_router.names.answer import Answer, Failure, ResolveError

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress_router.grammar.egress_policy import EgressPolicy

LIST = "!10.0.0.0/8\n!*.bad.example\nexact.example:443\n192.0.2.0/24\n*\n"


explain = Explainer().explain


def said(text: str, target: str, *, resolve: bool = False) -> list[str]:
    return list(explain("LIST", text, target, resolve=resolve).lines)


@pytest.mark.parametrize(
    ("text", "target", "first"),
    [
        (LIST, "x.bad.example", "x.bad.example:443 is denied: line 2 (!*.bad.example) denies it"),
        (LIST, "http://10.1.2.3/path", "10.1.2.3:80 is denied: line 1 (!10.0.0.0/8) denies it"),
        (LIST, "https://192.0.2.1", "192.0.2.1:443 is allowed: line 4 (192.0.2.0/24) allows it"),
        (LIST, "[2001:db8::1]:8443", "[2001:db8::1]:8443 is allowed: line 5 (*) allows it"),
        (LIST, "exact.example", "exact.example:443: its addresses decide (--resolve looks them up)"),
        ("a.example", "a.example", "a.example:443 is allowed: line 1 (a.example) allows it"),
        ("a.example", "B.example.", "b.example:443 is denied: no rule allows it"),
        ("!a.example", "a.example:80", "a.example:80 is denied: line 1 (!a.example) denies it"),
        ("*", "169.254.169.254", "169.254.169.254:443 is denied: `*` covers remote addresses only"),
    ],
)
def test_the_line_that_decides(text: str, target: str, first: str) -> None:
    assert said(text, target)[0].startswith(first)


def test_what_the_addresses_would_meet() -> None:
    assert said(LIST, "www.example:80")[1:] == [
        "line 1 (!10.0.0.0/8): it is denied if it has an address of 10.0.0.0/8",
        "line 4 (192.0.2.0/24): it may be connected to at an address of 192.0.2.0/24",
        "line 5 (*) allows every remote address",
    ]
    many = "\n".join(f"10.0.{number}.0/24" for number in range(9))
    lines = said(many, "www.example")
    assert lines[-2:] == ["and 4 more rules by address", "no rule allows any other address"]


def test_resolved_names_are_judged_by_their_addresses() -> None:
    lines = said("!::1\n127.0.0.0/8", "http://localhost", resolve=True)
    assert lines[0].startswith("localhost has the addresses ")
    lines = said("localhost", "localhost", resolve=True)
    assert lines[1] == "localhost:443 is allowed: line 1 (localhost) allows it"
    assert "127.0.0.1" in lines[2]


def test_what_cannot_be_asked_is_an_error() -> None:
    for target in ("ftp://a.example", "a.example:0", "127.1", "", "http://", "a b"):
        with pytest.raises(ConfigError, match="target"):
            explain("LIST", "*", target, resolve=False)
    with pytest.raises(ConfigError, match="LIST line 1"):
        explain("LIST", "a b", "a.example", resolve=False)


@dataclass
class Scripted:
    """Names with answers that a test chooses; `asked` is what was looked up."""

    answer: Callable[[str], Answer]
    tried: Callable[[str], tuple[str, ...]] = lambda name: (name,)
    asked: list[str] = field(default_factory=list)

    def candidates(self, name: str) -> tuple[str, ...]:
        return self.tried(name)

    async def resolve(self, name: str) -> Answer:
        self.asked.append(name)
        return self.answer(name)

    def close(self) -> None:
        pass


def missing(name: str) -> Answer:
    raise ResolveError(Failure.NO_SUCH_NAME, f"{name} does not exist")


def test_a_name_without_addresses_cannot_be_judged() -> None:
    with pytest.raises(RefusedError, match=r"a\.example does not exist: .*unknown"):
        Explainer(names=lambda: Scripted(missing)).explain("LIST", "*", "a.example", resolve=True)


@pytest.mark.parametrize(
    ("target", "asked"),
    [("db", "db"), ("db.", "db."), ("http://db.:80/", "db."), ("a.example.", "a.example")],
)
def test_a_short_name_with_a_dot_is_asked_for_as_the_proxy_does(target: str, asked: str) -> None:
    names = Scripted(missing)
    with pytest.raises(RefusedError):
        Explainer(names=lambda: names).explain("LIST", "127.0.0.0/8", target, resolve=True)
    assert names.asked == [asked]


def test_a_short_name_is_explained_candidate_by_candidate() -> None:
    def corporate(name: str) -> Answer:
        return Answer((ip_address("192.0.2.1"),), 0.0, stale=False, name=f"{name}.corp.example.com")

    def tried(name: str) -> tuple[str, ...]:
        return (f"{name}.svc.cluster.local", f"{name}.corp.example.com", name)

    def names() -> Scripted:
        return Scripted(corporate, tried)

    text = "!*.corp.example.com\n*\n"
    lines = Explainer(names=names).explain("LIST", text, "http://intranet/", resolve=False).lines
    denied = "  intranet.corp.example.com:80 is denied: line 1 (!*.corp.example.com) denies it"
    assert denied in "\n".join(lines)
    assert any(line.startswith("  intranet.svc.cluster.local:80: its addresses decide") for line in lines)
    assert Explainer(names=names).explain("LIST", text, "http://intranet/", resolve=True).lines == (
        "intranet stands for intranet.corp.example.com, which has the addresses 192.0.2.1",
        "intranet:80 is denied: line 1 (!*.corp.example.com) denies it as intranet.corp.example.com",
    )
    assert Explainer(names=names).explain("LIST", "b.example", "intranet", resolve=False).lines == (
        "intranet:443 is denied: no rule allows it",
    )


@pytest.mark.parametrize("text", ["!*.secret.example\n*", "a.example"])
def test_what_is_denied_by_name_is_not_looked_up(text: str) -> None:
    names = Scripted(missing)
    found = Explainer(names=lambda: names).explain("LIST", text, "x.secret.example", resolve=True)
    assert list(found.lines) == said(text, "x.secret.example")
    assert names.asked == []


def test_credentials_in_a_url_are_named_and_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"holds a user name or password, .*400") as caught:
        explain("LIST", "*", "http://user:secret@a.example/", resolve=False)
    assert "secret" not in str(caught.value)


def test_a_range_of_addresses_is_named_as_one() -> None:
    with pytest.raises(
        ConfigError, match=r"is a range; one address is judged at a time: ask about 10\.0\.0\.1,"
    ):
        explain("LIST", "*", "10.0.0.1-10.0.0.5", resolve=False)
    with pytest.raises(
        ConfigError, match=r"is a range; expected networks, one each: 10\.0\.0\.1, 10\.0\.0\.2/31,"
    ):
        explain("LIST", "10.0.0.1-10.0.0.5", "a.example", resolve=False)
    with pytest.raises(ConfigError, match=r"/123 and 40 more"):
        explain("LIST", "2001:db8::1-2001:db8::ff:fffe", "a.example", resolve=False)


POD = """\
kind: Pod
metadata: {name: proxy}
spec:
  containers:
    - name: c
      env:
        - name: EGRESS_HTTP_PROXY_DESTINATION%s
          value: %s
      volumeMounts: [{name: v, mountPath: /rules}]
  volumes: [{name: v, configMap: {name: m}}]
---
kind: ConfigMap
metadata: {name: m}
data: {list: "a.example"}
"""


def test_the_list_of_a_manifest_is_explained() -> None:
    for suffix, value in (("", '"a.example"'), ("_FILE", "/rules/list")):
        (line,) = said(POD % (suffix, value), "http://a.example")
        assert line == "a.example:80 is allowed: line 1 (a.example) allows it"


def test_a_manifest_without_a_list_or_with_several_is_told() -> None:
    with pytest.raises(ConfigError, match="is a manifest without EGRESS_HTTP_PROXY_DESTINATION"):
        explain("pod.yaml", POD.replace("HTTP", "DNS") % ("", "x"), "a.example", resolve=False)
    pod = POD % ("", '"a.example"')
    with pytest.raises(ConfigError, match=r"holds several lists; .*Pod proxy.*Pod other"):
        explain("x", f"{pod}---\n{pod.replace('name: proxy', 'name: other')}", "a.example", resolve=False)
    with pytest.raises(ConfigError, match=r"Pod proxy.* 'b c': expected NAME"):
        explain("pod.yaml", POD % ("", '"b c"'), "a.example", resolve=False)


def policy_of(*entries: tuple[str, str, str]) -> EgressPolicy:
    egress = [{"type": effect, "to": {selector: value}} for effect, selector, value in entries]
    document = {"kind": "EgressNetworkPolicy", "apiVersion": "v1", "spec": {"egress": egress}}
    return egress_policy.parse("P", json.dumps(document))


DENY_ALL = [("Deny", "cidrSelector", "0.0.0.0/0"), ("Deny", "cidrSelector", "::/0")]


def test_a_policy_judges_what_the_list_allows() -> None:
    policy = policy_of(("Allow", "cidrSelector", "192.0.2.0/24"), *DENY_ALL)
    found = Explainer(policy).explain("LIST", "*", "192.0.2.1:80", resolve=False)
    assert found.outcome is Outcome.ALLOWED
    assert "192.0.2.1:80: policy entry 1 (Allow 192.0.2.0/24) allows it" in found.lines
    found = Explainer(policy).explain("LIST", "*", "198.51.100.1:80", resolve=False)
    assert found.outcome is Outcome.DENIED
    assert found.lines[0] == "198.51.100.1:80 is denied: policy entry 2 (Deny 0.0.0.0/0) denies it"
    found = Explainer(policy).explain("LIST", "!*.a.example\n*", "a.example", resolve=False)
    assert found.lines == ("a.example:443 is denied: line 1 (!*.a.example) denies it",)


def test_without_addresses_a_policy_leaves_the_answer_open() -> None:
    found = Explainer(policy_of(*DENY_ALL)).explain("LIST", "a.example", "a.example", resolve=False)
    assert found.outcome is Outcome.UNDECIDED
    assert found.lines[-1] == "the egress policy judges each of its addresses (--resolve looks them up)"


def test_names_of_a_policy_are_looked_up() -> None:
    policy = policy_of(("Allow", "dnsName", "localhost"), *DENY_ALL)
    found = Explainer(policy).explain("LIST", "localhost", "localhost", resolve=True)
    assert found.outcome is Outcome.ALLOWED
    assert "127.0.0.1:443: policy entry 1 (Allow localhost) allows it" in found.lines
    found = Explainer(policy_of(*DENY_ALL)).explain("LIST", "localhost", "localhost", resolve=True)
    assert found.lines[0].startswith("localhost:443 is denied: policy entry ")


@pytest.mark.parametrize(
    ("target", "sni", "outcome", "last"),
    [
        ("a.example", "A.Example", Outcome.ALLOWED, "the SNI A.Example passes: the SNI is the host of the CONNECT"),
        ("a.example", "", Outcome.ALLOWED, "it passes: no SNI: nothing to compare"),
        ("a.example", "b.example", Outcome.DENIED, "EGRESS_HTTP_PROXY_SNI=enforce closes the tunnel; report, "),
        ("a.example", "192.0.2.1", Outcome.DENIED, "EGRESS_HTTP_PROXY_SNI=enforce closes the tunnel; report, "),
        ("192.0.2.1", "b.example", Outcome.ALLOWED, "the SNI b.example passes: b.example at 192.0.2.1: line 2 "),
        ("192.0.2.1", "c.example", Outcome.DENIED, "EGRESS_HTTP_PROXY_SNI=enforce closes the tunnel; report, "),
        ("c.example", "c.example", Outcome.DENIED, "c.example:443 is denied: line 3 (!c.example) denies it"),
    ],
)  # fmt: skip
def test_the_name_in_the_tunnel_of_a_connect(target: str, sni: str, outcome: Outcome, last: str) -> None:
    found = explain("LIST", "a.example\nb.example\n!c.example\n192.0.2.1", target, resolve=False, sni=sni)
    assert found.outcome is outcome
    assert found.lines[-1].startswith(last), found.lines


def test_a_short_name_may_be_asked_for_by_what_it_stands_for() -> None:
    def corporate(name: str) -> Answer:
        return Answer((ip_address("192.0.2.1"),), 0.0, stale=False, name=f"{name}.corp.example")

    explain = Explainer(names=lambda: Scripted(corporate)).explain
    found = explain("LIST", "*", "intranet", resolve=True, sni="intranet.corp.example")
    assert found.outcome is Outcome.ALLOWED
    assert found.lines[-1] == "the SNI intranet.corp.example passes: intranet stands for it"
