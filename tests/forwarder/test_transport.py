"""POSTs against a receiver that misbehaves: every fault is described, none is an error."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from broker import free_port
from receiver import TOKEN, Receiver, Reply

from sematext_agent.forwarder.destination import Answer
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.transport import Transport
from sematext_agent.shared.settings import Duration, Secret, SettingsError

BODY = b'{"event.id": "1", "message": "m", "type": "infra"}'


class Poster:
    """A transport whose answers can be awaited."""

    def __init__(self, settings: ForwarderSettings) -> None:
        self._transport = Transport(settings)
        self.close = self._transport.close

    async def post(self, document: bytes) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._transport.post(document, answer.set_result)
        return await answer


class Posting:
    """Transports of one test, closed at its end."""

    def __init__(self) -> None:
        self.transports: list[Poster] = []

    def to(self, url: str, **settings: Any) -> Poster:
        chosen: dict[str, Any] = {
            "infra_token": Secret(TOKEN),
            "events_receiver_url": url,
            "connect_timeout": Duration(1),
            "request_timeout": Duration(1),
            **settings,
        }
        self.transports.append(Poster(ForwarderSettings(**chosen)))
        return self.transports[-1]


@pytest.fixture
async def posting() -> AsyncIterator[Posting]:
    transports = Posting()
    yield transports
    for transport in transports.transports:
        transport.close()


async def test_a_post_carries_the_document_and_no_cookie_or_expect_header(
    posting: Posting, receiver: Receiver
) -> None:
    assert await posting.to(receiver.url).post(BODY) == Answer(200)
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", f"/{TOKEN}/event")
    assert request.body == BODY
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("sematext-agent/")
    assert "cookie" not in request.headers
    assert "expect" not in request.headers


async def test_posts_at_once_reuse_at_most_one_connection_each(
    posting: Posting, receiver: Receiver
) -> None:
    transport = posting.to(receiver.url)
    for _ in range(3):
        answers = await asyncio.gather(*(transport.post(BODY) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
    assert len(receiver.requests) == 150
    assert len(receiver._connections) <= 50


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(how="hang"), "timed out"),
        (Reply(how="cut"), "Empty reply from server"),
        (Reply(how="reset"), "reset"),
        (Reply(how="garbage"), "HTTP/0.9"),
        (Reply(how="drip"), "timed out"),
    ],
)
async def test_without_an_answer_there_is_a_problem_and_the_next_post_succeeds(
    posting: Posting, receiver: Receiver, reply: Reply, words: str
) -> None:
    transport = posting.to(receiver.url, request_timeout=Duration(0.3))
    receiver.replies.append(reply)
    answer = await transport.post(BODY)
    assert (answer.status, answer.timed_out) == (0, words == "timed out")
    assert words in answer.problem
    assert await transport.post(BODY) == Answer(200)


async def test_refused_connection_and_unknown_host(posting: Posting) -> None:
    answer = await posting.to(f"http://127.0.0.1:{free_port()}").post(BODY)
    assert answer.status == 0
    assert "connect" in answer.problem
    answer = await posting.to("https://receiver.invalid").post(BODY)
    assert answer.status == 0
    assert "resolve" in answer.problem


@pytest.mark.parametrize("how", ["truncate", "close"])
async def test_a_2xx_counts_although_its_body_is_cut(
    posting: Posting, receiver: Receiver, how: Any
) -> None:
    receiver.reply = Reply(how=how, body=b"{" + b" " * 1000 + b"}")
    transport = posting.to(receiver.url)
    assert [await transport.post(BODY) for _ in range(3)] == [Answer(200)] * 3


async def test_an_endless_answer_is_not_read_for_long(posting: Posting, receiver: Receiver) -> None:
    receiver.reply = Reply(400, how="flood")
    began = time.monotonic()
    answer = await posting.to(receiver.url, request_timeout=Duration(10)).post(BODY)
    assert (answer.status, len(answer.body)) == (400, 2048)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_read_as_seconds_and_as_a_date(
    posting: Posting, receiver: Receiver, form: str
) -> None:
    at = email.utils.formatdate(time.time() + 20, usegmt=True)
    header = {"Retry-After": "20" if form == "seconds" else at}
    receiver.replies.append(Reply(429, headers=header))
    transport = posting.to(receiver.url)
    assert 18 <= (await transport.post(BODY)).retry_after <= 21
    receiver.replies.append(Reply(429, headers={"Retry-After": "soon"}))
    assert (await transport.post(BODY)).retry_after == 0
    receiver.replies.append(Reply(503))
    assert (await transport.post(BODY)).retry_after == 0


async def test_redirect_is_not_followed(posting: Posting, receiver: Receiver) -> None:
    async with Receiver() as elsewhere:
        receiver.reply = Reply(302, headers={"Location": f"{elsewhere.url}/elsewhere"})
        assert (await posting.to(receiver.url).post(BODY)).status == 302
        assert not elsewhere.requests


async def test_cookies_are_not_kept(posting: Posting, receiver: Receiver) -> None:
    receiver.reply = Reply(headers={"Set-Cookie": "a=b; Path=/"})
    transport = posting.to(receiver.url)
    for _ in range(2):
        await transport.post(BODY)
    assert all("cookie" not in request.headers for request in receiver.requests)


async def test_closing_ends_what_is_in_flight(posting: Posting, receiver: Receiver) -> None:
    receiver.reply = Reply(how="hang")
    transport = posting.to(receiver.url)
    posts = [asyncio.create_task(transport.post(BODY)) for _ in range(3)]
    while len(receiver.requests) < 3:
        await asyncio.sleep(0.01)
    transport.close()
    posting.transports.clear()
    await asyncio.sleep(0.1)
    assert not any(post.done() for post in posts)
    for post in posts:
        post.cancel()


async def test_proxy_of_the_settings_and_none_of_the_environment(
    posting: Posting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain request through the proxy names the whole address; its credentials stay with it."""
    async with Receiver() as proxy, Receiver() as wrong:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, wrong.url)
        monkeypatch.setenv("no_proxy", "*")
        await posting.to(receiver.url).post(BODY)
        assert len(receiver.requests) == 1
        through = posting.to(
            receiver.url,
            proxy_host="127.0.0.1",
            proxy_port=proxy.port,
            proxy_username="me",
            proxy_password=Secret("pass:word"),
        )
        await through.post(BODY)
        assert not wrong.requests
        (request,) = proxy.requests
        assert request.path == f"{receiver.url}/{TOKEN}/event"
        credentials = base64.b64encode(b"me:pass:word").decode()
        assert request.headers["proxy-authorization"] == f"Basic {credentials}"


async def test_a_proxy_that_wants_credentials_for_a_tunnel(posting: Posting) -> None:
    async with Receiver() as proxy:
        proxy.reply = Reply(407, headers={"Proxy-Authenticate": "Basic realm=x"})
        transport = posting.to(
            "https://receiver.invalid", proxy_host="127.0.0.1", proxy_port=proxy.port
        )
        assert (await transport.post(BODY)).status == 407
        assert TOKEN not in proxy.requests[0].path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for 127.0.0.1 and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "receiver.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=receiver",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            path,
            "-out",
            f"{path}.crt",
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


async def test_tls_is_verified(posting: Posting, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Receiver(tls=context) as receiver:
        answer = await posting.to(receiver.url).post(BODY)
        assert answer.status == 0
        assert "certificate" in answer.problem
        assert not receiver.requests
        trusting = posting.to(receiver.url, events_receiver_ca=f"{certificate}.crt")
        assert await trusting.post(BODY) == Answer(200)
        other_name = posting.to(
            f"https://localhost:{receiver.port}", events_receiver_ca=f"{certificate}.crt"
        )
        answer = await other_name.post(BODY)
        assert answer.status == 0
        assert "localhost" in answer.problem


async def test_authority_that_cannot_be_used(posting: Posting, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"EVENTS_RECEIVER_CA=.*: cannot be used"):
        posting.to("https://example.org", events_receiver_ca=str(tmp_path / "none"))


async def test_an_answer_is_shown_without_the_token(posting: Posting, receiver: Receiver) -> None:
    receiver.reply = Reply(
        403, body=f'{{"error": "Application not found for token {TOKEN}, sorry"}}'.encode()
    )
    answer = await posting.to(receiver.url).post(BODY)
    assert TOKEN not in answer.body
    assert "Application not found for token ********, sorry" in answer.body
