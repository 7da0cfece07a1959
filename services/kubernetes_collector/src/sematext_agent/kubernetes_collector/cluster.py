"""The identity of the cluster, in the ids of its events and the keys of its cursors."""

from __future__ import annotations

import msgspec

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.settings import SettingsError


class _NamespaceMetadata(msgspec.Struct):
    uid: str


class _NamespaceObject(msgspec.Struct):
    metadata: _NamespaceMetadata


async def identify(api: Api, settings: KubernetesSettings) -> Cluster:
    """Return the cluster, identified by the uid of its namespace kube-system.

    The uid of that namespace is the customary identity: it lives as long as the cluster.

    Raises:
        ApiError: the namespace cannot be read now.
        SettingsError: it may not be read, and no name is set that could stand in for the uid.
    """
    name = settings.kubernetes_cluster_id
    try:
        body = await api.request("GET", "/api/v1/namespaces/kube-system")
        uid = msgspec.json.decode(body, type=_NamespaceObject).metadata.uid
    except DECODE_ERRORS as error:
        raise ApiError(0, f"not a namespace: {error}") from error
    except ApiError as error:
        if error.status == 404:
            # A new API server answers a moment before it has made its namespaces.
            raise ApiError(503, "the cluster has no namespace kube-system yet") from error
        if error.status != 403:
            raise
        if not name:
            raise SettingsError(
                "KUBERNETES_CLUSTER_ID",
                "not set, and the namespace kube-system may not be read",
                "set it, or grant `get` on that one namespace",
            ) from None
        uid = name
    return Cluster(uid=uid, name=name or uid)
