"""The metadata services of three clouds, as a local HTTP server simulates their documentation."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sematext_agent.lifecycle_collector import cloud

AWS_TOKEN = "AQAEAB=="  # a token as the service hands out


def aws(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Answer as IMDSv2 with version 1 turned off: only with the token of a PUT."""
    if (method, path) == ("PUT", "/latest/api/token"):
        lifetime = int(headers["X-aws-ec2-metadata-token-ttl-seconds"])
        return (200, AWS_TOKEN) if 0 < lifetime <= 21600 else (400, "")
    if headers.get("X-aws-ec2-metadata-token") != AWS_TOKEN:
        return 401, "Unauthorized"
    if path != "/latest/dynamic/instance-identity/document":
        return 404, "Not Found"
    return 200, json.dumps(
        {
            "accountId": "123456789012",
            "architecture": "x86_64",
            "availabilityZone": "eu-west-1b",
            "instanceId": "i-1234567890abcdef0",
            "instanceType": "m5.large",
            "kernelId": None,
            "region": "eu-west-1",
            "version": "2017-09-30",
        }
    )


def google(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    if headers.get("Metadata-Flavor") != "Google":
        return 403, "Missing Metadata-Flavor:Google header"
    instance = {
        "id": "5432109876543210987",
        "zone": "projects/123456/zones/us-central1-a",
        "machine-type": "projects/123456/machineTypes/e2-medium",
    }
    value = instance.get(path.removeprefix("/computeMetadata/v1/instance/"))
    return (200, value) if value else (404, "")


def azure(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    if headers.get("Metadata") != "true":
        return 400, '{"error": "Bad request. Required metadata header not specified"}'
    if path.partition("?")[0] != "/metadata/instance/compute":
        return 404, ""
    return 200, json.dumps(
        {
            "location": "westeurope",
            "name": "web",
            "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
            "vmSize": "Standard_A3",
            "zone": "1",
            "osType": "Linux",
            "tagsList": [],
        }
    )


def nonsense(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Answer as a captive portal, which has an answer to everything."""
    return 200, "<html>Welcome!</html>"


def google_in_part(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    if path.endswith("machine-type"):
        return 404, "there is none here"
    return google(method, path, headers)


def redirect(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    return 302, ""


class MetadataService:
    """A simulation of one cloud, with the requests that it received."""

    def __init__(self) -> None:
        self.answer = nonsense
        self.requests: list[str] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                service.requests.append(f"{self.command} {self.path}")
                status, body = service.answer(self.command, self.path, dict(self.headers))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", service.url + "/elsewhere")
                with suppress(BrokenPipeError):  # the client has given up
                    self.end_headers()
                    self.wfile.write(body.encode())

            do_GET = do_PUT = respond  # noqa: N815 - the names http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[MetadataService]:
    service = MetadataService()
    yield service
    service.close()


CLOUDS = {
    "aws": (
        aws,
        {
            "cloud_provider": "aws",
            "cloud_region": "eu-west-1",
            "cloud_zone": "eu-west-1b",
            "cloud_instance_id": "i-1234567890abcdef0",
            "cloud_instance_type": "m5.large",
        },
    ),
    "google": (
        google,
        {
            "cloud_provider": "gcp",
            "cloud_region": "us-central1",
            "cloud_zone": "us-central1-a",
            "cloud_instance_id": "5432109876543210987",
            "cloud_instance_type": "e2-medium",
        },
    ),
    "azure": (
        azure,
        {
            "cloud_provider": "azure",
            "cloud_region": "westeurope",
            "cloud_zone": "1",
            "cloud_instance_id": "02aab8a4-74ef-476e-8182-f6d2ba4166a6",
            "cloud_instance_type": "Standard_A3",
        },
    ),
}


@pytest.mark.parametrize("name", CLOUDS)
async def test_each_cloud_describes_the_machine(service: MetadataService, name: str) -> None:
    service.answer, expected = CLOUDS[name]
    assert await cloud.read_cloud_facts(service.url) == expected


@pytest.mark.parametrize("answer", [nonsense, redirect, google_in_part])
async def test_an_answer_of_another_form_counts_as_none(
    service: MetadataService, answer: object
) -> None:
    service.answer = answer  # type: ignore[assignment]
    assert await cloud.read_cloud_facts(service.url) == {}
    assert not any("elsewhere" in request for request in service.requests)


async def test_a_proxy_is_never_asked(
    service: MetadataService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy, the answer would describe the machine of the proxy."""
    monkeypatch.setenv("http_proxy", service.url)
    service.answer = aws
    assert await cloud.read_cloud_facts("http://127.0.0.1:9") == {}
    assert service.requests == []


async def test_a_service_that_never_answers_costs_one_timeout(
    service: MetadataService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "TIMEOUT_SECONDS", 0.1)
    hanging = threading.Event()

    def hang(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        hanging.wait(5)
        return 200, ""

    service.answer = hang
    begin = time.monotonic()
    assert await cloud.read_cloud_facts(service.url) == {}
    hanging.set()
    assert time.monotonic() - begin < 2
