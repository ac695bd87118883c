"""`egress-router convert`: what an EgressRouter resource of OpenShift 4 becomes."""

from __future__ import annotations

import enum
from importlib.metadata import version
from typing import TYPE_CHECKING

import yaml

from egress_router.errors import ConfigError, Problem
from egress_router.manifests import egress_router
from egress_router.manifests.objects import objects

if TYPE_CHECKING:
    from egress_router.manifests.egress_router import EgressRouter

_REGISTRY = "localhost"  # as `make images` names them
_RULES = "destinations"
_FOLDER = "/etc/egress-router"


class Form(enum.Enum):
    """What is printed."""

    VALUES = "values"
    MANIFEST = "manifest"


def converted(path: str, text: str, form: Form) -> str:
    """Return what each EgressRouter in a file becomes, as YAML documents; `path` names the file in errors.

    Raises:
        ConfigError: with every error of the file, or there is no EgressRouter in it.
    """
    all_objects, problems = objects(path, text)
    found: list[EgressRouter] = []
    for each in all_objects:
        if each.kind == egress_router.KIND:
            try:
                found.append(egress_router.read(each.place, each.node))
            except ConfigError as error:
                problems += error.problems
    if not found and not problems:
        problems.append(Problem(path, None, None, f"holds no {egress_router.KIND} of OpenShift 4"))
    if problems:
        raise ConfigError(problems)
    write = _values if form is Form.VALUES else _manifest
    return "---\n".join(map(write, found))


def _values(router: EgressRouter) -> str:
    interface = {"provider": "create", "macvlanMode": router.macvlan_mode}
    if router.parent:
        interface["parent"] = router.parent
    values = {
        "mode": "redirect",
        "source": ",".join(router.sources),
        "gateway": ",".join(router.gateways),
        "interface": interface,
        "destinations": _lines(router),
    }
    head = f"# helm install {router.name or 'NAME'} charts/egress-router --values FILE\n"
    return head + _yaml(values)


def _lines(router: EgressRouter) -> str:
    return "".join(f"{line}\n" for line in router.lines)


def _manifest(router: EgressRouter) -> str:
    name = router.name or "egress-router"
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {_RULES: _lines(router)},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": _pod(router, name)},
        },
    }
    return f"{_yaml(config)}---\n{_yaml(deployment)}"


def _pod(router: EgressRouter, name: str) -> dict[str, object]:
    """Return a pod whose privileged init container makes the interface and ends."""
    mount = {"name": "rules", "mountPath": _FOLDER, "readOnly": True}
    node = {"name": "node-namespaces", "mountPath": "/node-ns", "readOnly": True}
    seccomp = {"type": "RuntimeDefault"}
    network_administrator = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        "seccompProfile": seccomp,
    }
    setup = {
        **_container(
            "setup", [*_environment(router, "network"), _variable("EGRESS_PARENT_NETNS", "/node-ns/net")]
        ),
        "securityContext": {"privileged": True, "seccompProfile": seccomp},
        "volumeMounts": [node],
    }
    router_container = {
        **_container("router", _environment(router, "legacy")),
        "securityContext": network_administrator,
        "ports": [{"name": "admin", "containerPort": 9797}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "admin"}, "failureThreshold": 6},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "admin"}, "periodSeconds": 1},
        "volumeMounts": [mount],
    }
    return {
        "automountServiceAccountToken": False,
        "initContainers": [setup],
        "containers": [router_container],
        "volumes": [
            {"name": "rules", "configMap": {"name": name}},
            {"name": "node-namespaces", "hostPath": {"path": "/proc/1/ns", "type": "Directory"}},
        ],
    }


def _container(name: str, environment: list[dict[str, str]]) -> dict[str, object]:
    return {
        "name": name,
        "image": f"{_REGISTRY}/egress-router:{version('egress-router')}",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": environment,
    }


def _environment(router: EgressRouter, mode: str) -> list[dict[str, str]]:
    found = {
        "EGRESS_SOURCE": ",".join(router.sources),
        "EGRESS_GATEWAY": ",".join(router.gateways),
        "EGRESS_ROUTER_MODE": mode,
        "EGRESS_MACVLAN_MODE": router.macvlan_mode,
        "EGRESS_PARENT_INTERFACE": router.parent,
        "EGRESS_DESTINATION_FILE": f"{_FOLDER}/{_RULES}" if mode == "legacy" else "",
    }
    return [_variable(name, value) for name, value in found.items() if value]


def _variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and uses no references."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 (PyYAML's signature)
        """See PyYAML."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(document: object) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)
    return text
