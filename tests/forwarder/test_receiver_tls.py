"""A receiver with wrong TLS: one log line, no event lost, nothing sent until it is corrected."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from broker import wait_until
from certificates import Authority
from forwarding import Oracle, Publisher, Start
from receiver import TOKEN, Receiver

from sematext_agent.shared.settings import Duration


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


def expired(authority: Authority, folder: Path) -> ssl.SSLContext:
    return showing(authority.issue("expired", days=-1))


def wrong_name(authority: Authority, folder: Path) -> ssl.SSLContext:
    return showing(authority.issue("elsewhere", "DNS:elsewhere.example"))


def untrusted(authority: Authority, folder: Path) -> ssl.SSLContext:
    return showing(Authority(folder, "other").issue("untrusted"))


def below_1_2(authority: Authority, folder: Path) -> ssl.SSLContext:
    context = showing(authority.issue("old"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def showing(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (expired, "certificate has expired"),
        (wrong_name, "no alternative certificate subject name matches"),
        (untrusted, "unable to get local issuer certificate"),
        (below_1_2, "TLS connect error"),
        (None, "timed out"),
    ],
    ids=["expired", "wrong name", "untrusted", "below TLS 1.2", "no TLS at all"],
)
async def test_events_wait_until_tls_is_corrected(
    fault: object,
    words: str,
    authority: Authority,
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    await receiver.close()
    receiver.tls = fault(authority, tmp_path) if callable(fault) else None
    await receiver.open()
    forwarder = await start(
        events_receiver_url=f"https://127.0.0.1:{receiver.port}",
        events_receiver_ca=str(authority.certificate),
        connect_timeout=Duration(1),
    )
    await publisher.publish(20)
    await wait_until(lambda: not forwarder.receiver_condition[0])
    await wait_until(lambda: words in forwarder.receiver_condition[1])
    detail = forwarder.receiver_condition[1]
    assert "\n" not in detail
    assert TOKEN not in detail
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1, warnings
    assert TOKEN not in caplog.text
    assert receiver.requests == []

    await receiver.close()
    receiver.tls = authority.server("right")
    receiver.tls.maximum_version = ssl.TLSVersion.TLSv1_2  # the oldest that is enough
    await receiver.open()
    await verify()
    await wait_until(lambda: forwarder.receiver_condition[0])
