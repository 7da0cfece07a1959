"""The facts of this machine from the metadata service of its cloud, if it runs in one.

AWS (IMDSv2), Google Cloud and Azure answer on the same link-local address, each to requests that
only its own kind of caller sends. No proxy is used, no redirect is followed, and an answer that
does not have the expected form counts as none.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
from urllib.parse import urlsplit

import msgspec

from sematext_agent.shared.decode_errors import DECODE_ERRORS

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0
"""Bound for connecting and for each answer; the service is on the same machine or next to it."""
_ANSWER_BYTES_MAX = 64 * 1024


class _AwsIdentity(msgspec.Struct, rename="camel"):
    region: str
    instance_id: str
    availability_zone: str = ""
    instance_type: str = ""


class _AzureCompute(msgspec.Struct, rename="camel"):
    location: str
    vm_id: str
    zone: str = ""
    vm_size: str = ""


async def read_cloud_facts(url: str) -> dict[str, str]:
    """Return the `cloud_…` fields of HostFacts; empty if no cloud answers.

    Each cloud is asked in a thread of its own, so that one without an answer delays no other.
    """
    answers = await asyncio.gather(*(asyncio.to_thread(_try, kind, url) for kind in _CLOUDS))
    return next((answer for answer in answers if answer), {})


def _try(kind: str, url: str) -> dict[str, str]:
    try:
        return _CLOUDS[kind](url)
    except (OSError, ValueError, http.client.HTTPException, *DECODE_ERRORS) as error:
        log.debug("not in the cloud %s: %s", kind, error)
        return {}


def _aws(url: str) -> dict[str, str]:
    """Return the facts of AWS, by its instance identity document.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html
    """
    token = _request(
        url, "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT"
    )
    document = _request(
        url,
        "/latest/dynamic/instance-identity/document",
        {"X-aws-ec2-metadata-token": token.decode("ascii")},
    )
    identity = msgspec.json.decode(document, type=_AwsIdentity)
    return {
        "cloud_provider": "aws",
        "cloud_region": identity.region,
        "cloud_zone": identity.availability_zone,
        "cloud_instance_id": identity.instance_id,
        "cloud_instance_type": identity.instance_type,
    }


def _google(url: str) -> dict[str, str]:
    """Return the facts of Google Cloud, by its metadata keys.

    https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys
    """

    def value(name: str) -> str:
        path = f"/computeMetadata/v1/instance/{name}"
        return _request(url, path, {"Metadata-Flavor": "Google"}).decode().strip()

    # `projects/<number>/zones/us-central1-a`; the type is written alike.
    projects, _, zone = value("zone").rpartition("/")
    if not projects.startswith("projects/"):
        raise ValueError("the zone is not written as Google Cloud writes it")
    return {
        "cloud_provider": "gcp",
        "cloud_region": zone.rpartition("-")[0],
        "cloud_zone": zone,
        "cloud_instance_id": value("id"),
        "cloud_instance_type": value("machine-type").rpartition("/")[2],
    }


def _azure(url: str) -> dict[str, str]:
    """Return the facts of Azure, by its instance metadata.

    https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service
    """
    path = "/metadata/instance/compute?api-version=2021-02-01&format=json"
    compute = msgspec.json.decode(_request(url, path, {"Metadata": "true"}), type=_AzureCompute)
    return {
        "cloud_provider": "azure",
        "cloud_region": compute.location,
        "cloud_zone": compute.zone,
        "cloud_instance_id": compute.vm_id,
        "cloud_instance_type": compute.vm_size,
    }


_CLOUDS = {"aws": _aws, "google": _google, "azure": _azure}


def _request(url: str, path: str, headers: dict[str, str], method: str = "GET") -> bytes:
    """Return the body of one answer.

    Raises:
        OSError: the service is away, or its status is not 200.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read(_ANSWER_BYTES_MAX)
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise OSError(f"{path} answered {response.status}")
    return body
