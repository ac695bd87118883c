"""The images as an engine runs them: with as little privilege as promised, and when things end unexpectedly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from egress_router.lab.network import GATEWAY, SOURCE
from tests.images.asking import ask, await_readiness, get

if TYPE_CHECKING:
    from tests.images.node import Node, Object, Sandbox

ROOT = Path(__file__).parents[2]
NETWORK = {"EGRESS_SOURCE": f"{SOURCE}/24", "EGRESS_GATEWAY": GATEWAY}
WITHOUT_PRIVILEGE = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
ANY_USER = "--user=1000680000:0"  # as OpenShift's restricted SCC chooses one
# What setup needs where the pod has its interface already; forwarding is the pod's sysctl.
NETWORK_ADMINISTRATOR = ("--cap-drop=all", "--cap-add=net_admin", "--cap-add=net_raw", "--read-only")


def run(sandbox: Sandbox, image: str, environment: dict[str, str], *options: str) -> None:
    """Run a container in the pod's network until it ends, or in the background with --detach."""
    given = [f"--env={name}={value}" for name, value in environment.items()]
    # Resource limits cannot be raised inside some machines' own containers; the host's do.
    sandbox.podman("run", "--network=host", "--ulimit=host", *given, *options, image)


def setup(sandbox: Sandbox, mode: str) -> None:
    run(sandbox, sandbox.node.images.router, {**NETWORK, "EGRESS_ROUTER_MODE": mode}, "--rm", "--privileged")


@pytest.mark.parametrize(
    ("image", "title", "user", "command"),
    [
        ("router", "egress-router", "0:0", "setup"),
        ("http_proxy", "egress-http-proxy", "38080:0", "http-proxy"),
        ("dns_proxy", "egress-dns-proxy", "38053:0", "dns-proxy"),
    ],
)
def test_what_an_image_says_of_itself(
    bare_sandbox: Sandbox, image: str, title: str, user: str, command: str
) -> None:
    (told,) = json.loads(bare_sandbox.podman("image", "inspect", getattr(bare_sandbox.node.images, image)))
    assert told["Config"]["Entrypoint"] == ["egress-router", command]
    assert told["User"] == user
    assert told["Healthcheck"]["Test"] == ["CMD", "egress-router", "status", "--health"]
    assert told["Labels"]["org.opencontainers.image.title"] == title
    assert told["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize("image", ["router", "http_proxy", "dns_proxy"])
def test_every_image_runs_the_tools_too(bare_sandbox: Sandbox, image: str, tmp_path: Path) -> None:
    """`docker run IMAGE check …`: the entry point's own command makes way for the one that is asked for."""
    rules = tmp_path / "rules"
    rules.write_text("*.example.com\n")
    name = getattr(bare_sandbox.node.images, image)
    options = ("--rm", "--network=host", "--ulimit=host", f"--volume={rules}:/rules:ro")
    shown = bare_sandbox.podman("run", *options, name, "check", "http-proxy", "/rules")
    assert "example.com and all names below it" in shown
    with pytest.raises(RuntimeError, match="expected PORT"):
        bare_sandbox.podman("run", *options, name, "check", "redirect", "/rules")


def test_all_images_share_the_layers_of_one_first_stage() -> None:
    files = (ROOT / "images").glob("*/Dockerfile")
    stages = {path.read_text().split("\nFROM ${BASE}\n")[0] for path in files}
    assert len(stages) == 1


def test_nothing_of_the_build_is_left(bare_sandbox: Sandbox) -> None:
    image = bare_sandbox.node.images.router
    script = (
        "import importlib.util, shutil, sys; sys.exit(importlib.util.find_spec('pip') or shutil.which('gcc'))"
    )
    bare_sandbox.podman(
        "run", "--rm", "--network=host", "--ulimit=host", "--entrypoint=python3", image, "-c", script
    )


def test_http_proxy_needs_no_privilege(sandbox: Sandbox) -> None:
    setup(sandbox, "http-proxy")
    rules = {"EGRESS_HTTP_PROXY_DESTINATION": "*"}
    run(sandbox, sandbox.node.images.http_proxy, rules, "--detach", ANY_USER, *WITHOUT_PRIVILEGE)
    reply = get(sandbox, "http://www.example.org:8000/")
    assert (reply.status, reply.source) == (200, SOURCE)


def test_dns_proxy_needs_no_privilege_for_low_ports_either(sandbox: Sandbox) -> None:
    setup(sandbox, "dns-proxy")
    rules = {"EGRESS_DNS_PROXY_DESTINATION": "80 www.example.org"}
    run(sandbox, sandbox.node.images.dns_proxy, rules, "--detach", ANY_USER, *WITHOUT_PRIVILEGE)
    seen = ask(sandbox, 80)
    assert (seen.server, seen.source) == ("203.0.113.25", SOURCE)


def test_setup_needs_two_capabilities_where_the_interface_exists(sandbox: Sandbox) -> None:
    sandbox.host.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
    rules = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": "203.0.113.25"}
    run(sandbox, sandbox.node.images.router, {**NETWORK, **rules}, "--rm", *NETWORK_ADMINISTRATOR)
    assert ask(sandbox, 80).source == SOURCE


def test_setup_says_which_sysctl_it_lacks(sandbox: Sandbox) -> None:
    rules = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": "203.0.113.25"}
    with pytest.raises(RuntimeError, match=r"net\.ipv4\.ip_forward=1 in the pod's securityContext"):
        run(sandbox, sandbox.node.images.router, {**NETWORK, **rules}, "--rm", *NETWORK_ADMINISTRATOR)


def test_setup_works_without_nf_tables(sandbox: Sandbox) -> None:
    rules = {
        "EGRESS_ROUTER_MODE": "init",
        "EGRESS_DESTINATION": "203.0.113.25",
        "EGRESS_NAT_BACKEND": "iptables",
    }
    run(sandbox, sandbox.node.images.router, {**NETWORK, **rules}, "--rm", "--privileged")
    assert ask(sandbox, 80).source == SOURCE


def test_setup_makes_the_interface_out_of_the_nodes_network(bare_sandbox: Sandbox) -> None:
    """The node's namespaces are mounted into the container that ends; the one that stays has nothing of the node."""
    rules = {"EGRESS_ROUTER_MODE": "init", "EGRESS_DESTINATION": "203.0.113.25"}
    run(
        bare_sandbox,
        bare_sandbox.node.images.router,
        {**NETWORK, **rules, "EGRESS_PARENT_NETNS": "/node-ns/net"},
        "--rm",
        "--privileged",
        "--volume=/proc/1/ns:/node-ns:ro",
    )
    assert ask(bare_sandbox, 443).source == SOURCE
    # The router that stays needs less, as the chart gives it.
    rules = {"EGRESS_DESTINATION": "203.0.113.26"}
    image = bare_sandbox.node.images.router
    run(bare_sandbox, image, {**NETWORK, **rules}, "--detach", *NETWORK_ADMINISTRATOR)
    await_readiness(bare_sandbox)
    seen = ask(bare_sandbox, 443)
    assert (seen.server, seen.source) == ("203.0.113.26", SOURCE)


def test_a_restarted_proxy_serves_again(sandbox: Sandbox) -> None:
    setup(sandbox, "http-proxy")
    run(
        sandbox,
        sandbox.node.images.http_proxy,
        {"EGRESS_HTTP_PROXY_DESTINATION": "*"},
        "--detach",
        "--name=proxy",
        *WITHOUT_PRIVILEGE,
    )
    assert get(sandbox, "http://www.example.org:8000/").status == 200
    sandbox.podman("restart", "--time=10", "proxy")
    assert get(sandbox, "http://www.example.org:8000/").status == 200
    sandbox.podman("kill", "proxy")
    sandbox.podman("wait", "proxy")
    sandbox.podman("start", "proxy")
    assert get(sandbox, "http://www.example.org:8000/").source == SOURCE


def test_a_stopped_proxy_ends_in_order(sandbox: Sandbox) -> None:
    setup(sandbox, "dns-proxy")
    rules = {"EGRESS_DNS_PROXY_DESTINATION": "80 www.example.org"}
    options = ("--detach", "--name=proxy", *WITHOUT_PRIVILEGE)
    run(sandbox, sandbox.node.images.dns_proxy, rules, *options)
    assert ask(sandbox, 80).source == SOURCE
    sandbox.podman("stop", "--time=20", "proxy")
    assert sandbox.podman("inspect", "--format={{.State.ExitCode}}", "proxy").strip() == "0"


def test_setup_runs_again_in_the_same_pod(sandbox: Sandbox) -> None:
    for _ in range(2):
        setup(sandbox, "http-proxy")


@pytest.mark.parametrize("port", ["9797", "0"])
def test_the_node_says_so_when_the_proxy_is_well(sandbox: Sandbox, port: str) -> None:
    setup(sandbox, "http-proxy")
    rules = {"EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_ADMIN_PORT": port}
    run(sandbox, sandbox.node.images.http_proxy, rules, "--detach", "--name=proxy", *WITHOUT_PRIVILEGE)
    assert get(sandbox, "http://www.example.org:8000/").status == 200
    sandbox.podman("healthcheck", "run", "proxy")


def test_a_pod_takes_over_the_source_from_one_that_was_killed(node: Node) -> None:
    with node.sandbox(macvlan=True) as first:
        first.play(redirecting_pod("first"))
        assert ask(first, 80).source == SOURCE
        first.podman("kill", "first-wait")
    with node.sandbox(macvlan=True) as second:
        second.play(redirecting_pod("second"))
        assert ask(second, 80).source == SOURCE


def test_a_second_pod_is_refused_while_the_first_has_the_source(node: Node) -> None:
    with node.sandbox(macvlan=True) as first, node.sandbox(macvlan=True) as second:
        setup(first, "http-proxy")
        with pytest.raises(RuntimeError, match=f"{SOURCE}.*([0-9a-f]{{2}}:){{5}}"):
            run(
                second,
                node.images.router,
                {**NETWORK, "EGRESS_ROUTER_MODE": "http-proxy", "EGRESS_CLAIM_TIMEOUT": "2"},
                "--rm",
                "--privileged",
            )


def redirecting_pod(name: str) -> Object:
    """Return the document's pod under another name."""
    (pod,) = yaml.safe_load_all((Path(__file__).parent / "manifests" / "redirect.yaml").read_text())
    pod["metadata"]["name"] = name
    pod["spec"]["containers"][0]["name"] = "wait"
    result: Object = pod
    return result
