"""`agentctl up` with the stubs beside this file, and the real lifecycle collector."""

import os
import signal
import sys
from pathlib import Path

from sematext_agent.agentctl.parts import FIRST, LAST, Part
from sematext_agent.agentctl.state import CommandError, State
from sematext_agent.agentctl.up import up

PARTS = (
    Part("lifecycle", "sematext_agent.lifecycle_collector", FIRST),
    Part("docker", "stub_collector"),
    Part("absent", "not_installed_here"),
    Part("forwarder", "stub_forwarder", LAST, keeps_secrets=True),
)

if os.environ.get("NOHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    sys.exit(up(State(Path(sys.argv[1])), os.environ, PARTS))
except CommandError as error:
    sys.exit(f"agentctl: {error}")
