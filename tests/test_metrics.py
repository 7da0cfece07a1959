"""The metrics in docs/metrics.md, the alert rules and the dashboard: all of them exist."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import metric_table
import pytest
import yaml
from broker import NatsServer, free_port
from kubernetes_api import api_server, kubeconfig
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sematext_agent.shared.health import METRICS_PREFIX, Health

DEPLOY = metric_table.ROOT / "deploy"
RULES = DEPLOY / "prometheus/sematext-agent.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/sematext-agent.json").read_text())
_named = re.compile(rf"\b(?:{METRICS_PREFIX}|process_)\w+")


@cache
def series() -> set[str]:
    """Return every name for a query: of the services, and of the Prometheus client."""
    every_process = Health("test", "test").registry.collect()
    client = {sample.name for metric in every_process for sample in metric.samples}
    return {name for metric in metric_table.metrics() for name in metric.series} | client


def test_the_table_has_every_metric_of_every_service() -> None:
    remedy = "run .venv/bin/python tests/metric_table.py"
    assert metric_table.documented_table() == metric_table.table(), remedy


def test_names_follow_prometheus_rules() -> None:
    """https://prometheus.io/docs/practices/naming/: base units, and `_total` of counters."""
    for metric in metric_table.metrics():
        assert re.fullmatch(r"[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)\b", metric.name)
        assert metric.text.endswith("."), metric.name


async def test_running_services_have_the_metrics_of_the_table(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """They show that the table is read from the sources correctly."""
    async with api_server() as cluster:
        environ = os.environ | {
            "NATS_URL": nats_server.url,
            "DOCKER_TRANSPORT": f"unix://{tmp_path}/none",
            "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", cluster.url)),
            "PKG_KINDS": "deb",
            "PKG_CONTAINER_ENABLED": "false",
            "CLOUD_METADATA_ENABLED": "false",
            "KUBERNETES_EVENTS_ENRICHMENT": "true",
        }
        ports, processes = {}, []
        for owner in sorted({metric.owner for metric in metric_table.metrics()}):
            if " " not in owner:
                ports[owner] = free_port()
                own = environ | {"API_SERVER_PORT": str(ports[owner])}
                processes.append(
                    subprocess.Popen([sys.executable, "-m", f"sematext_agent.{owner}"], env=own)
                )
        try:
            async with asyncio.timeout(60):
                for owner, port in ports.items():
                    wanted = metrics_of(owner)
                    while await asyncio.to_thread(scrape, port) != wanted:
                        await asyncio.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def metrics_of(owner: str) -> dict[str, str]:
    """Return the names and types of a service's metrics in the table, as families are named."""
    owners = {owner, "every service", "every collector" if owner.endswith("_collector") else ""}
    return {
        metric.name.removesuffix("_total"): metric.kind
        for metric in metric_table.metrics()
        if metric.owner in owners
    }


def scrape(port: int) -> dict[str, str]:
    """Return the names and types of a service's metrics, none while it does not answer."""
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return {}
    families = [*text_string_to_metric_families(text)]
    for family in families:
        assert len({sample.labels["service"] for sample in family.samples}) <= 1
    return {f.name: f.type for f in families if f.name.startswith(METRICS_PREFIX)}


def rules() -> list[dict[str, Any]]:
    return [r for group in yaml.safe_load(RULES.read_text())["groups"] for r in group["rules"]]


def test_every_metric_of_the_rules_exists() -> None:
    for rule in rules():
        named = set(_named.findall(rule["expr"]))
        assert named or rule["expr"].startswith("up{")
        assert named <= series(), rule["alert"]


def test_every_rule_has_a_test_a_description_and_an_action() -> None:
    alerts = {rule["alert"] for rule in rules()}
    tested = RULES.with_name("sematext-agent.rules.test.yml").read_text()
    assert {alert for alert in alerts if alert.removeprefix("SematextAgent") not in tested} == set()
    text = metric_table.DOCUMENT.read_text()
    assert set(re.findall(r"`(SematextAgent\w+)`", text)) == alerts
    assert all({"summary", "action"} <= rule["annotations"].keys() for rule in rules())


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian's prometheus has it)")
@pytest.mark.parametrize("command", ["check", "test"])
def test_promtool_accepts_the_rules_and_their_tests_pass(command: str) -> None:
    file = RULES if command == "check" else RULES.with_name("sematext-agent.rules.test.yml")
    done = subprocess.run(["promtool", command, "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian's prometheus has it)")
def test_promtool_finds_no_fault_in_the_metrics_of_a_service() -> None:
    health = Health("test", "test")
    health.add_counter("events_published", "Events safe in the stream.", "kind").labels("Gap")
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(health.registry),
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    """Return the queries of the dashboard with values for its variables."""
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def test_every_metric_of_the_dashboard_exists_and_its_panels_do_not_overlap() -> None:
    for expression in expressions():
        assert set(_named.findall(expression)), expression
        assert set(_named.findall(expression)) <= series(), expression
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool (Debian's prometheus has it)")
def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [
        {"record": f"query:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_scrapes_every_service_of_the_compose_file() -> None:
    example = yaml.safe_load(RULES.with_name("prometheus.example.yml").read_text())
    (static,) = example["scrape_configs"][0]["static_configs"]
    compose = yaml.safe_load((metric_table.ROOT / "docker-compose.yml").read_text())["services"]
    services = {
        name
        for name, service in compose.items()
        if "profiles" not in service
        and (metric_table.ROOT / "services" / name.replace("-", "_")).is_dir()
    }
    assert {target.removesuffix(":8675") for target in static["targets"]} == services
