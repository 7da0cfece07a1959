"""The settings of the Kubernetes collector; the Sematext Agent's own names where it has one."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

import msgspec

from sematext_agent.shared.settings import Duration, ServiceSettings, SettingsError

NAMESPACES_MAX = 20
"""The most namespaces watched one by one, as each costs the API server a watch."""
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class KubernetesSettings(ServiceSettings, frozen=True, kw_only=True):
    """The settings of the watched cluster and of the events that are published."""

    variable_pattern: ClassVar[str] = (
        "KUBERNETES_(?!SERVICE_|PORT)"  # those a cluster sets in every pod
    )

    kubernetes_enabled: bool = True
    kubernetes_events_enabled: bool = True
    """Both must be true, or the collector idles."""
    kubernetes_cluster_id: str = ""
    """The cluster's name, as events carry it; the uid of its namespace kube-system by default."""
    kubeconfig: str = ""
    """The kubeconfig file, or several as kubectl takes them. By default the pod's own service
    account, or outside a cluster `~/.kube/config`."""
    kubernetes_context: str = ""
    """The context of the kubeconfig; its current one by default."""

    kubernetes_events_namespace: tuple[str, ...] = ()
    """Watch this namespace, or these, each with a watch of its own; all by default. A Role in each
    is then permission enough."""
    kubernetes_events_namespaces_included: tuple[str, ...] = ()
    """Patterns (`prod-*`) of the namespaces of the objects that events are about. What belongs to
    no namespace, such as a node, has the empty name, which only `*` matches."""
    kubernetes_events_namespaces_excluded: tuple[str, ...] = ()
    """The same, to leave out; it wins."""
    kubernetes_events_excluded: tuple[str, ...] = ()
    """Kinds of objects whose events are left out: `Pod`, `Job` …"""
    kubernetes_events_types: tuple[str, ...] = ()
    """Only these types, such as `Warning`; all by default."""
    kubernetes_events_reasons_included: tuple[str, ...] = ()
    """Patterns of reasons: `Failed*`; all by default."""
    kubernetes_events_reasons_excluded: tuple[str, ...] = ()
    """The same, to leave out; it wins."""
    kubernetes_events_min_count: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Leave out what has happened less often than this."""
    kubernetes_events_interval: Duration = Duration(0)
    """Publish the repeats of one event at most this often, and always the last one. 0: each."""
    kubernetes_events_lookback: Duration = Duration(600)
    """The greatest age of an event published at the first start. A cluster keeps events for an
    hour: `3h` takes all there are, `0` only what happens from now on."""

    kubernetes_events_enrichment: bool = False
    """Ask the API for the owner and the labels of the objects that events are about. Needs the
    rights in `deploy/kubernetes/enrichment.yaml`."""

    kubernetes_lease: str = ""
    """`namespace/name` of the Lease that keeps one of several replicas active; none by default."""

    def __post_init__(self) -> None:
        """Raise SettingsError for what is no namespace, for too many, and for a bad lease."""
        for name in self.kubernetes_events_namespace:
            if not _NAMESPACE.fullmatch(name):
                raise SettingsError(
                    f"KUBERNETES_EVENTS_NAMESPACE={name}",
                    "is not the name of a namespace",
                    "patterns go into KUBERNETES_EVENTS_NAMESPACES_INCLUDED",
                )
        if len(self.kubernetes_events_namespace) > NAMESPACES_MAX:
            raise SettingsError(
                "KUBERNETES_EVENTS_NAMESPACE",
                f"names more than {NAMESPACES_MAX} namespaces",
                "watch all, and choose with KUBERNETES_EVENTS_NAMESPACES_INCLUDED",
            )
        if self.kubernetes_lease and len(self.lease) != 2:
            raise SettingsError(
                f"KUBERNETES_LEASE={self.kubernetes_lease}",
                "is not a namespace and a name",
                "write it like sematext/kubernetes-collector",
            )

    @property
    def lease(self) -> list[str]:
        """The lease's namespace and name; empty for none."""
        return [part for part in self.kubernetes_lease.split("/") if part]
