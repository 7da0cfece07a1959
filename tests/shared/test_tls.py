"""TLS to the broker, with real certificates: what is not right is one line, and costs no event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import NatsServer, eventually
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


def settings(server: NatsServer, **more: str) -> ServiceSettings:
    return ServiceSettings(
        nats_url=(server.url,), nats_user="docker", nats_password=Secret(SECRET), **more
    )  # type: ignore[arg-type]


async def trouble(
    settings: ServiceSettings, caplog: pytest.LogCaptureFixture, seconds: float = 1.2
) -> str:
    """The one line that is said while nothing but waiting is left."""
    caplog.set_level("INFO")
    connecting = asyncio.create_task(bus.connect(settings, "test"))

    def said() -> set[str]:
        return {
            r.getMessage() for r in caplog.records if r.name.startswith("sematext_agent.shared.bus")
        }

    await eventually(lambda: bool(said()), seconds=20)
    await asyncio.sleep(seconds)
    assert not connecting.done()
    connecting.cancel()
    (line,) = said()
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
async def test_a_certificate_that_is_not_right_is_one_line_and_mending_it_is_enough(
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
    line = await trouble(settings(server, nats_ca=str(authority.certificate)), caplog)
    assert words in line
    assert "NATS_CA" in line


async def test_events_wait_for_a_certificate_that_is_right_again(
    server: TlsServer, authority: Authority
) -> None:
    server.show(authority.issue("right"))
    server.start()
    connection = await bus.connect(settings(server, nats_ca=str(authority.certificate)), "test")
    troubles: list[str] = []
    connection.on_problem = troubles.append
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    server.stop()
    server.show(authority.issue("expired", days=-1))
    server.start()
    await eventually(lambda: bool(troubles), seconds=20)
    publishing = asyncio.create_task(connection.publish("events.docker.a.b.c", b"{}", "1"))
    server.stop()
    server.show(authority.issue("right-again"))
    server.start()
    async with asyncio.timeout(30):
        assert (await publishing).seq == 1
    assert len(troubles) == 1
    assert "certificate has expired" in troubles[0]
    await connection.close()


async def test_a_broker_may_ask_for_a_certificate(
    server: TlsServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server.show(authority.issue("server"), authority.certificate)
    server.start()
    mine = authority.issue("client")
    known = {"nats_ca": str(authority.certificate)}
    shown = settings(server, **known, nats_cert=str(mine[0]), nats_key=str(mine[1]))
    connection = await bus.connect(shown, "test")
    await connection.close()
    assert "NATS_CERT" in await trouble(settings(server, **known), caplog)


@pytest.mark.parametrize("asked", ["tls://", "NATS_CA"])
async def test_no_password_is_shown_to_a_broker_without_tls(
    asked: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """As one in the middle would answer, who strips TLS off."""
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.15.0", "headers": true, "max_payload": 1048576}\r\n')
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        wanted = ServiceSettings(
            nats_url=(f"tls://{address}" if asked == "tls://" else f"nats://{address}",),
            nats_user="docker",
            nats_password=Secret(SECRET),
            nats_ca=str(authority.certificate),
        )
        assert "TLS" in await trouble(wanted, caplog)
    assert heard == b""


async def test_files_that_are_none_are_bad_settings(
    authority: Authority, tmp_path: Path, server: TlsServer
) -> None:
    none = tmp_path / "none.pem"
    none.write_text("nothing")
    with pytest.raises(SettingsError, match="NATS_CA="):
        await bus.connect(settings(server, nats_ca=str(none)), "test")
    certificate, _ = authority.issue("client")
    with pytest.raises(SettingsError, match="NATS_CERT="):
        await bus.connect(settings(server, nats_cert=str(certificate), nats_key=str(none)), "test")
