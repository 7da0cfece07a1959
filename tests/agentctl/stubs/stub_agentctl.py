"""`agentctl up` with the stubs beside this file, and the real lifecycle collector."""

import os
import signal
import sys
from pathlib import Path

from sematext_agent.agentctl.services import AgentService, StopOrder
from sematext_agent.agentctl.state import CommandError, StateDirectory
from sematext_agent.agentctl.up import up

SERVICES = (
    AgentService("lifecycle", "sematext_agent.lifecycle_collector", StopOrder.FIRST),
    AgentService("docker", "stub_collector"),
    AgentService("absent", "not_installed_here"),
    AgentService("forwarder", "stub_forwarder", StopOrder.LAST, needs_secrets=True),
)

if os.environ.get("NOHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    sys.exit(up(StateDirectory(Path(sys.argv[1])), os.environ, SERVICES))
except CommandError as error:
    sys.exit(f"agentctl: {error}")
