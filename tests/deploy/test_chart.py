"""The Helm chart: rendered for several sets of values, and checked by Kubernetes' rules and ours.

helm and kubernetes-validate come from `tests/chart_tools.sh .venv/chart-tools`, or from the PATH.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from broker import NATS_SERVER

from sematext_agent.shared.health import Health
from sematext_agent.shared.http_server import build_health_app
from sematext_agent.shared.settings import Secret, ServiceSettings, load_settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm"
_PATH = f"{ROOT}/.venv/chart-tools:{os.environ.get('PATH', '')}"
HELM = shutil.which("helm", path=_PATH) or ""
VALIDATE = shutil.which("kubernetes-validate", path=_PATH) or ""
_FETCH = "run tests/chart_tools.sh .venv/chart-tools"
pytestmark = pytest.mark.skipif(not HELM, reason=f"no helm: {_FETCH}")

OLDEST, NEWEST = "1.25.0", "1.37.0"
"""Of Kubernetes: the `kubeVersion` of Chart.yaml, and the newest whose schemas are at hand."""

SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "all": {
        "infraToken": "a-token",
        "clusterName": "prod",
        "settings": {"LOGGING_LEVEL": "debug", "DRAIN_SECONDS": 5},
        "image": {"repository": "registry.example/a", "tag": "2", "pullSecrets": [{"name": "p"}]},
        "node": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "priorityClassName": "system-node-critical",
        },
        "dockerCollector": {"settings": {"CONTAINER_EVENTS_EXCLUDED": "volume,network"}},
        "hostCollector": {"settings": {"OOM_ENABLED": False}},
        "kubernetesCollector": {"replicas": 3, "tolerations": [{"operator": "Exists"}]},
        "forwarder": {
            "replicas": 2,
            "settings": {"REGION": "EU", "STREAM_BYTES_MAX": 2147483648, "PKG_ENABLED": True},
        },
        "nats": {"storage": {"className": "fast"}, "affinity": {"nodeAffinity": {}}},
        "networkPolicy": {
            "natsClients": [{"namespaceSelector": {}}],
            "metricsClients": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "a broker of one's own": {
        "existingSecret": "sematext",
        "nats": {
            "url": "tls://one.example:4222,tls://two.example:4222",
            "user": "me",
            "existingSecret": "broker",
            "ca": True,
        },
        "forwarder": {"settings": {"STREAM_REPLICAS": 3}},
        "networkPolicy": {"natsPorts": [4222, 4223]},
    },
    "the least": {
        "dockerCollector": {"enabled": False},
        "lifecycleCollector": {"enabled": False},
        "hostCollector": {"privileged": False},
        "nats": {"url": "nats://broker:4222"},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    "some namespaces": {
        "clusterName": "prod",
        "dockerCollector": {"enabled": False},
        "hostCollector": {"enabled": False},
        "lifecycleCollector": {"enabled": False},
        "kubernetesCollector": {"settings": {"KUBERNETES_EVENTS_NAMESPACE": "shop, back,shop,"}},
    },
    "nodes alone": {
        "kubernetesCollector": {"enabled": False},
        "forwarder": {"enabled": False},
        "nats": {"url": "nats://hub:4222"},
    },
}
Manifest = dict[str, Any]


def helm(*arguments: object) -> str:
    done = subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(folder: Path, values: dict[str, Any], version: str = NEWEST) -> str:
    """Return the manifests that `helm install` would apply with `values`, as text."""
    values_file = folder / "values.yaml"
    values_file.write_text(yaml.safe_dump(values))
    return helm(
        "template",
        "agent",
        CHART,
        "--namespace",
        "sematext",
        "--values",
        values_file,
        "--kube-version",
        version,
    )


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """Manifests by the name of a set of values."""
    folder = tmp_path_factory.mktemp("values")
    return {name: parse(render(folder, values)) for name, values in SETS.items()}


def parse(text: str) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the pod of each workload, with its component."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template")
        if template:
            labels = template["metadata"]["labels"]
            assert labels == manifest["spec"]["selector"]["matchLabels"]
            yield labels["app.kubernetes.io/component"], template["spec"]


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for _, pod in pods(manifests):
        for container in pod["containers"]:
            yield container["name"], container


def environment(container: Manifest) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def settings_of(service: str) -> type[ServiceSettings]:
    """Return the settings class of a service by its name in the chart, `docker-collector`."""
    module = importlib.import_module(f"sematext_agent.{service.replace('-', '_')}.settings")
    (settings,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServiceSettings)
        and value is not ServiceSettings
    )
    return settings


@pytest.mark.parametrize("name", SETS)
def test_lint_finds_nothing(name: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(SETS[name]))
    assert "WARNING" not in helm("lint", "--strict", CHART, "--values", values)


@pytest.mark.skipif(not VALIDATE, reason=f"no kubernetes-validate: {_FETCH}")
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_schemas_of_kubernetes_hold(version: str, tmp_path: Path) -> None:
    sets = SETS if version == NEWEST else {"all": SETS["all"]}
    for number, values in enumerate(sets.values()):
        manifests = parse(render(tmp_path, values, version))
        of_kubernetes = [m for m in manifests if m["kind"] != "ServiceMonitor"]
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump_all(of_kubernetes))
    files = sorted(tmp_path.glob("[0-9].yaml"))
    done = subprocess.run(
        [VALIDATE, "--strict", "-k", version, *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") >= len(files)


@pytest.mark.parametrize("name", SETS)
def test_names_are_unique_and_references_resolve(
    name: str, rendered: dict[str, list[Manifest]]
) -> None:
    manifests = rendered[name]
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    paths = [
        (kind, name, m["metadata"].get("namespace"))
        for (kind, name), m in zip(names, manifests, strict=True)
    ]
    assert len(set(paths)) == len(paths)
    existing = {SETS[name].get("existingSecret"), SETS[name].get("nats", {}).get("existingSecret")}
    for _, pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", ())}
        assert mounted - {"data"} == volumes.keys()
        for volume in volumes.values():
            if "secret" in volume and (secret := volume["secret"]["secretName"]) not in existing:
                assert ("Secret", secret) in names
        assert ("ServiceAccount", pod.get("serviceAccountName")) in names or (
            "serviceAccountName" not in pod and not pod["automountServiceAccountToken"]
        )


def test_the_collector_may_read_the_configured_namespaces_only(
    rendered: dict[str, list[Manifest]],
) -> None:
    manifests = rendered["some namespaces"]
    assert "ClusterRole" not in [m["kind"] for m in manifests]
    granted = [
        m["metadata"]["namespace"]
        for m in manifests
        if m["kind"] == "Role" and m["rules"][0]["resources"] == ["events"]
    ]
    assert granted == ["shop", "back"]


@pytest.mark.parametrize("name", SETS)
def test_no_container_has_more_rights_than_it_needs(
    name: str, rendered: dict[str, list[Manifest]]
) -> None:
    for service, container in containers(rendered[name]):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        if service == "host-collector" and security.get("privileged"):
            # Kubernetes has no other way to let a container read the kernel's log.
            assert name != "the least"
            continue
        assert "privileged" not in security
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        # The engine's socket, and much of what is installed, belongs to root.
        root = service in ("docker-collector", "host-collector")
        assert security["runAsNonRoot"] is not root
        assert (security["runAsUser"] == 0) is root
    for _, pod in pods(rendered[name]):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", ()):
                assert mount.get("readOnly") or mount["name"] == "data"


@pytest.mark.parametrize("name", SETS)
def test_only_the_kubernetes_collector_has_an_account_and_only_the_forwarder_the_token(
    name: str, rendered: dict[str, list[Manifest]]
) -> None:
    for component, pod in pods(rendered[name]):
        assert pod["automountServiceAccountToken"] is (component == "kubernetes-collector")
        if component != "forwarder":
            assert "infra-token" not in str(pod)
    forwarder = dict(containers(rendered[name])).get("forwarder", {"env": []})
    has_token = bool(SETS[name].get("infraToken") or SETS[name].get("existingSecret"))
    assert ("INFRA_TOKEN_FILE" in environment(forwarder)) is has_token


@pytest.mark.parametrize("name", SETS)
def test_probes_use_existing_pages_on_a_port_of_the_service(
    name: str, rendered: dict[str, list[Manifest]]
) -> None:
    pages = {getattr(route, "path", "") for route in build_health_app(Health("x", "y")).routes}
    for _, pod in pods(rendered[name]):
        ports = [port["containerPort"] for c in pod["containers"] for port in c["ports"]]
        assert len(set(ports)) == len(ports)
        for container in pod["containers"]:
            assert container["resources"]["requests"]["memory"]
            assert container["resources"]["limits"]["memory"]
            if container["name"] == "nats":
                continue
            probes = [container[kind]["httpGet"] for kind in ("livenessProbe", "readinessProbe")]
            (port,) = (entry["containerPort"] for entry in container["ports"])
            assert [probe["path"] for probe in probes] == ["/healthz", "/readyz"]
            assert {probe["path"] for probe in probes} <= pages
            assert {probe["port"] for probe in probes} == {port}
            assert environment(container)["API_SERVER_PORT"] == str(port)


@pytest.mark.parametrize("name", SETS)
def test_the_services_accept_the_settings_of_the_chart(
    name: str, rendered: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-secret")
    from_values = {
        variable
        for values in (SETS[name], *SETS[name].values())
        if isinstance(values, dict)
        for variable in values.get("settings", {})
    }
    for service, container in containers(rendered[name]):
        if service == "nats":
            continue
        assert (ROOT / "services" / service.replace("-", "_")).is_dir()
        environ = environment(container)
        fields = {f.name.upper(): f for f in msgspec.structs.fields(settings_of(service))}
        for variable in environ.keys() - from_values:
            secrets = {f"{n}_FILE" for n, f in fields.items() if isinstance(f.default, Secret)}
            assert variable in fields.keys() | secrets
        files = {n: str(secret) for n in environ if n.endswith("_FILE")}
        load_settings(settings_of(service), environ | files)


def test_settings_of_a_service_take_precedence_and_keep_numbers_and_booleans(
    rendered: dict[str, list[Manifest]],
) -> None:
    services = dict(containers(rendered["all"]))
    assert environment(services["forwarder"]) | {
        "DRAIN_SECONDS": "5",
        "STREAM_BYTES_MAX": "2147483648",
        "PKG_ENABLED": "true",
        "REGION": "EU",
        "LOGGING_LEVEL": "debug",
    } == environment(services["forwarder"])
    assert environment(services["host-collector"])["OOM_ENABLED"] == "false"
    unprivileged = dict(containers(rendered["the least"]))["host-collector"]
    assert environment(unprivileged)["PKG_CONTAINER_ENABLED"] == "false"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"forwarder": {"replica": 2}}, "replica"),
        ({"settings": {"logging.level": "debug"}}, "logging.level"),
        ({"infraToken": "two words"}, "infraToken"),
        ({"nats": {"url": "broker:4222"}}, "/nats/url"),
        ({"forwarder": {"port": 80}}, "/forwarder/port"),
    ],
)
def test_a_mistake_in_the_values_is_refused(
    values: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        render(tmp_path, values)


def test_policies_and_budgets_select_existing_pods(
    rendered: dict[str, list[Manifest]],
) -> None:
    for manifests in rendered.values():
        components = {component for component, _ in pods(manifests)}
        for manifest in manifests:
            spec = manifest.get("spec", {})
            selector = spec.get("podSelector") or spec.get("selector")
            if manifest["kind"] in ("PodDisruptionBudget", "Service", "NetworkPolicy"):
                labels = selector.get("matchLabels", selector)
                assert labels.get("app.kubernetes.io/component") in components | {None}
    kinds = [m["kind"] for m in rendered["the least"]]
    assert not {"NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Secret"} & set(kinds)
    assert "DaemonSet" not in [m["kind"] for m in rendered["some namespaces"]]


async def test_the_brokers_configuration_is_valid_and_requires_the_password(
    rendered: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    (config,) = (m for m in rendered["defaults"] if m["kind"] == "ConfigMap")
    text = config["data"]["nats.conf"].replace("/data", str(tmp_path)).replace("http: 8222", "")
    configuration = tmp_path / "nats.conf"
    configuration.write_text(text)
    command = (NATS_SERVER, "-t", "-c", configuration)
    environ = {**os.environ, "NATS_PASSWORD": "p4ssword"}
    tested = await asyncio.create_subprocess_exec(*command, env=environ)
    assert await tested.wait() == 0
    del environ["NATS_PASSWORD"]
    refused = await asyncio.create_subprocess_exec(*command, env=environ)
    assert await refused.wait() != 0
