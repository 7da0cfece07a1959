"""The collector's stages in a row: watch, observe, merge the namespaces, enrich.

watch.py  ->  observations.py  ->  shared.merge  ->  enrichment.py  ->  shared.collector
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sematext_agent.kubernetes_collector.api import Api
from sematext_agent.kubernetes_collector.enrichment import ObjectLookups, enrich
from sematext_agent.kubernetes_collector.events_resource import EventsResource
from sematext_agent.kubernetes_collector.metrics import WatchMetrics
from sematext_agent.kubernetes_collector.observations import EventObserver
from sematext_agent.kubernetes_collector.repeats import RepeatLimiter
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster
from sematext_agent.kubernetes_collector.watch import EventWatcher
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.merge import merge
from sematext_agent.shared.service import Runtime


def watch_cluster(
    api: Api,
    retries: RetryPolicy,
    cluster: Cluster,
    runtime: Runtime[KubernetesSettings],
    _cursor: bytes | None,
) -> AsyncGenerator[Observation, None]:
    """Return every event of the cluster, from the stored cursors on, until the service stops.

    Cursors are stored by cluster and namespace. The one cursor that every collector is handed is
    not used: after a change of either it would be a revision of another history.

    Raises:
        ClusterReplaced: another cluster answers at the same address.
    """
    metrics = WatchMetrics(runtime.health, runtime.clock)
    namespaces = list(dict.fromkeys(runtime.settings.kubernetes_events_namespace)) or [""]
    sources = []
    for namespace in namespaces:
        policy = retries.for_namespace(namespace) if len(namespaces) > 1 else retries
        sources.append(_observe_namespace(api, policy, cluster, runtime, metrics, namespace))
    merged = merge(sources, runtime.stopping)
    if not runtime.settings.kubernetes_events_enrichment:
        return merged
    return enrich(merged, ObjectLookups(api, runtime.health, runtime.clock))


def _observe_namespace(
    api: Api,
    retries: RetryPolicy,
    cluster: Cluster,
    runtime: Runtime[KubernetesSettings],
    metrics: WatchMetrics,
    namespace: str,
) -> AsyncGenerator[Observation, None]:
    """Return the observations of one namespace, or of all for "", from its stored cursor on."""
    scope = f"{cluster.uid}_{namespace}" if namespace else cluster.uid
    limiter = RepeatLimiter(runtime.settings.kubernetes_events_interval, runtime.clock)
    resource = EventsResource(api, retries, runtime, namespace, limiter.seconds_to_next)
    watcher = EventWatcher(api, resource, retries, cluster, runtime, metrics)
    observer = EventObserver(cluster, scope, runtime, limiter, metrics)
    return observer.observe(watcher.watch_forever)
