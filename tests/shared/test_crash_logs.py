"""The log of a service that ends by a fault holds no secret, and no forged entry."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from broker import NatsServer

TOKEN, PROXY, BUS = "canary-of-the-token", "canary/of the proxy", "canary-of-the-bus"
FORGED = "\n2026-11-23T00:00:00.000Z INFO forwarder: forged \x1b[31m \x9b \u202e \x00\r"
DYING = """if True:
    from sematext_agent.forwarder.settings import ForwarderSettings
    from sematext_agent.shared.service import run
    from urllib.parse import quote

    async def work(runtime):
        s = runtime.settings
        secrets = [s.address.reveal(), s.proxy_password.reveal(), s.nats_password.reveal()]
        words = f"{secrets} {quote(s.proxy_password.reveal(), safe='')} {s} " + FORGED
        FAULT

    run("forwarder", work, ForwarderSettings)
"""
FAULTS = {
    "in the work": "raise RuntimeError(words)",
    "with a cause": """try:
            raise ValueError(words)
        except ValueError as cause:
            raise RuntimeError("and then") from cause""",
    "in a group": 'raise ExceptionGroup(words, [OSError(words), KeyError("x")])',
    "with a note": """error = RuntimeError("x")
        error.add_note(words)
        raise error""",
    "before the work": "pass",
    "in a callback": """import asyncio
        def fail():
            raise RuntimeError(words)
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.05)
        raise RuntimeError("and then")""",
}


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_logs_no_secret_and_no_forged_entry(
    where: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(BUS)
    code = DYING.replace("FAULT", FAULTS[where]).replace("FORGED", repr(FORGED))
    if where == "before the work":  # no group of tasks is around it
        code = code.replace(
            "    run(",
            f"""
    import sematext_agent.shared.service as service
    def listen(host, port):
        raise RuntimeError("canary-of-the-token" + {FORGED!r})
    service.listener.listen = listen
    run(""",
        )
    environ = {
        "NATS_URL": nats_server.url.replace("//", f"//agent:{BUS}-2@"),
        "INFRA_TOKEN": TOKEN,
        "PROXY_HOST": "127.0.0.1",
        "PROXY_PORT": "1",
        "PROXY_USERNAME": "agent",
        "PROXY_PASSWORD": PROXY,
        "NATS_USER": "agent",
        "NATS_PASSWORD_FILE": str(tmp_path / "password"),
    }
    if where != "before the work":
        environ["NATS_URL"] = nats_server.url
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, timeout=60, check=False
    )
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 1, text
    assert "Traceback" in text
    assert "forged" in text
    assert not [secret for secret in (TOKEN, PROXY, "canary%2Fof", BUS) if secret in text], text
    assert "********" in text
    lines = text.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines), text
    entry = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ forwarder: ")
    assert all(entry.match(line) or line.startswith("    ") for line in lines), text
    assert not any("forged" in line and line.startswith("2026-11-23") for line in lines)
