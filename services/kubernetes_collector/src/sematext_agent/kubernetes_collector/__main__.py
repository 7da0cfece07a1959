"""The command `kubernetes-collector`, or `python -m sematext_agent.kubernetes_collector`."""

from __future__ import annotations

import asyncio
from functools import partial

from sematext_agent.kubernetes_collector.api import Api
from sematext_agent.kubernetes_collector.cluster import identify
from sematext_agent.kubernetes_collector.credentials import Credentials
from sematext_agent.kubernetes_collector.lease import lead
from sematext_agent.kubernetes_collector.pipeline import watch_cluster
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.collector import collect
from sematext_agent.shared.service import Runtime, run


async def work(runtime: Runtime[KubernetesSettings]) -> None:
    """Identify the cluster and collect its events, while this replica is the active one."""
    settings = runtime.settings
    if not (settings.kubernetes_enabled and settings.kubernetes_events_enabled):
        scope = "EVENTS_" if settings.kubernetes_enabled else ""
        runtime.health.set_condition("cluster", True, f"switched off by KUBERNETES_{scope}ENABLED")
        await runtime.stopping.wait()
        return
    # In a thread, because a kubeconfig's plugin may take its time.
    credentials = await asyncio.to_thread(Credentials, settings)
    async with Api(credentials) as api:
        retries = RetryPolicy(runtime.health, runtime.stopping, runtime.uniform)
        cluster = await retries.retry(partial(identify, api, settings))
        if cluster is not None:
            # The source is the cluster, on any host: replicas share its cursor.
            runtime.origin = cluster.name
            await lead(api, runtime, collect(partial(watch_cluster, api, retries, cluster)))


def main() -> None:
    """Run the collector until it is asked to stop."""
    run("kubernetes", work, KubernetesSettings)


if __name__ == "__main__":
    main()
