"""TLS to the broker, with real certificates: a wrong one is reported once and loses no event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import NatsServer, wait_until
from certificates import Authority

from sematext_agent.shared import bus
from sematext_agent.shared.bus import StreamConfig
from sematext_agent.shared.settings import Secret, ServiceSettings, SettingsError

SECRET = "not-to-be-seen"


class TlsServer(NatsServer):
    """A broker that shows a certificate, and may ask for one."""

    def show(self, certificate: tuple[Path, Path], client_authority: Path | None = None) -> None:
        verify = f'ca_file: "{client_authority}", verify: true' if client_authority else ""
        self.configure(
            f'tls {{ cert_file: "{certificate[0]}", key_file: "{certificate[1]}", {verify} }}'
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    server = TlsServer(tmp_path)
    yield server
    server.stop()


def settings_for(
    server: NatsServer, ca: str = "", cert: str = "", key: str = ""
) -> ServiceSettings:
    return ServiceSettings(
        nats_url=(server.url,),
        nats_user="docker",
        nats_password=Secret(SECRET),
        nats_ca=ca,
        nats_cert=cert,
        nats_key=key,
    )


def draw_short_delay(low: float, high: float) -> float:
    return 0.05


async def wait_for_problem(
    settings: ServiceSettings, caplog: pytest.LogCaptureFixture, seconds: float = 0.4
) -> str:
    """Return the one line that is logged while several tries fail."""
    caplog.set_level("INFO")
    connecting = asyncio.create_task(bus.connect(settings, "test", uniform=draw_short_delay))

    def lines() -> set[str]:
        return {
            r.getMessage() for r in caplog.records if r.name.startswith("sematext_agent.shared.bus")
        }

    await wait_until(lambda: bool(lines()), seconds=20)
    await asyncio.sleep(seconds)
    assert not connecting.done()
    connecting.cancel()
    (line,) = lines()
    assert SECRET not in caplog.text
    return line


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("expired", "certificate has expired"),
        ("wrong name", "not valid for '127.0.0.1'"),
        ("untrusted", "unable to get local issuer certificate"),
    ],
)
async def test_an_unacceptable_certificate_is_reported_in_one_line_with_the_remedy(
    fault: str,
    words: str,
    server: TlsServer,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = {
        "expired": lambda: authority.issue("expired", days=-1),
        "wrong name": lambda: authority.issue("elsewhere", "DNS:elsewhere.example"),
        "untrusted": lambda: Authority(tmp_path, "other").issue("untrusted"),
    }[fault]()
    server.show(shown)
    server.start()
    line = await wait_for_problem(settings_for(server, ca=str(authority.certificate)), caplog)
    assert words in line
    assert "NATS_CA" in line


async def test_a_publish_waits_until_the_certificate_is_right_again(
    server: TlsServer, authority: Authority
) -> None:
    server.show(authority.issue("right"))
    server.start()
    connection = await bus.connect(settings_for(server, ca=str(authority.certificate)), "test")
    problems: list[str] = []
    connection.on_problem = problems.append
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    server.stop()
    server.show(authority.issue("expired", days=-1))
    server.start()
    await wait_until(lambda: bool(problems), seconds=20)
    publishing = asyncio.create_task(connection.publish("events.docker.a.b.c", b"{}", "1"))
    server.stop()
    server.show(authority.issue("right-again"))
    server.start()
    async with asyncio.timeout(30):
        assert (await publishing).seq == 1
    assert len(problems) == 1
    assert "certificate has expired" in problems[0]
    await connection.close()


async def test_a_broker_that_verifies_its_clients_gets_the_certificate(
    server: TlsServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server.show(authority.issue("server"), authority.certificate)
    server.start()
    client = authority.issue("client")
    ca = str(authority.certificate)
    shown = settings_for(server, ca, cert=str(client[0]), key=str(client[1]))
    connection = await bus.connect(shown, "test")
    await connection.close()
    assert "NATS_CERT" in await wait_for_problem(settings_for(server, ca), caplog)


@pytest.mark.parametrize("setting", ["tls://", "NATS_CA"])
async def test_no_password_is_sent_to_a_broker_without_tls(
    setting: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """So would a man in the middle answer, who strips TLS off."""
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.15.0", "headers": true, "max_payload": 1048576}\r\n')
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        wanted = ServiceSettings(
            nats_url=(f"tls://{address}" if setting == "tls://" else f"nats://{address}",),
            nats_user="docker",
            nats_password=Secret(SECRET),
            nats_ca=str(authority.certificate),
        )
        assert "TLS" in await wait_for_problem(wanted, caplog)
    assert heard == b""


async def test_files_that_are_no_certificates_are_unusable_settings(
    authority: Authority, tmp_path: Path, server: TlsServer
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(SettingsError, match="NATS_CA="):
        await bus.connect(settings_for(server, ca=str(bad)), "test")
    certificate, _ = authority.issue("client")
    with pytest.raises(SettingsError, match="NATS_CERT="):
        await bus.connect(settings_for(server, cert=str(certificate), key=str(bad)), "test")
