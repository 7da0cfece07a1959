"""The command `agentctl`: it runs the whole agent on this machine, and shows its state."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import shtab

from sematext_agent.agentctl import dead, status, tap, users
from sematext_agent.agentctl.state import CommandError, StateDirectory, default_directory
from sematext_agent.agentctl.up import up
from sematext_agent.shared import AGENT_NAME, AGENT_VERSION, logs
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.service import EXIT_SETTINGS
from sematext_agent.shared.settings import Duration, SettingsError
from sematext_agent.shared.severity import SEVERITIES
from sematext_agent.shared.subjects import SOURCES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    logs.configure_logging("agentctl", "error")
    try:
        return int(options.command(options))
    except (CommandError, BusError) as error:
        return _print_error(error, 1)
    except SettingsError as error:
        return _print_error(error, EXIT_SETTINGS)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader closed the output. Python would report that again when it closes it itself.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _print_error(error: Exception, exit_status: int) -> int:
    print(logs.escape(f"agentctl: {error}"), file=sys.stderr)
    return exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("agentctl", description=__doc__)
    parser.add_argument("--version", action="version", version=f"{AGENT_NAME} {AGENT_VERSION}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    state = argparse.ArgumentParser(add_help=False)
    directory = state.add_argument(
        "--state",
        type=Path,
        default=default_directory(os.environ),
        metavar="DIR",
        help="where the agent keeps its events and its cursor at each source (%(default)s)",
    )
    directory.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    broker = argparse.ArgumentParser(add_help=False, parents=[state])
    broker.add_argument(
        "--nats",
        metavar="URL",
        help="the broker: by default NATS_URL, else the agent on this machine, else port 4222",
    )

    command = commands.add_parser("up", parents=[state], help="run the whole agent here")
    command.set_defaults(command=lambda options: up(StateDirectory(options.state), os.environ))
    _add_tap(commands.add_parser("tap", parents=[broker], help="show recent and live events"))
    command = commands.add_parser(
        "status", parents=[broker], help="show the state of every service"
    )
    command.set_defaults(command=lambda options: asyncio.run(status.show(options)))
    _add_dead(
        commands.add_parser(
            "dead",
            help="list and replay events that could not be delivered",
        ),
        broker,
    )
    _add_users(commands.add_parser("users", help="set up the users of a broker of your own"))
    command = commands.add_parser(
        "completion",
        help="print the completion script for a shell",
        description='In ~/.bashrc or ~/.zshrc: eval "$(agentctl completion bash)", or zsh. '
        "For fish: agentctl completion fish > ~/.config/fish/completions/agentctl.fish",
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"))
    command.set_defaults(command=lambda options: _print_completion(parser, options.shell))
    return parser


def _print_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    print(shtab.complete(parser, shell))
    return 0


def _parse_duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError:
        reason = f"{text!r} is no duration, such as 30s, 10m or 2h"
        raise argparse.ArgumentTypeError(reason) from None


def _add_tap(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "subject", nargs="?", metavar="SUBJECT", help="such as 'events.docker.>' (all events)"
    )
    command.add_argument("--json", action="store_true", help="print the events as they are stored")
    command.add_argument(
        "--since",
        type=_parse_duration,
        default=Duration(600),
        metavar="TIME",
        help="how far to go back, such as 30s, 10m or 2h (10m)",
    )
    command.add_argument("--source", choices=SOURCES, help="only events of this collector")
    command.add_argument("--origin", metavar="NAME", help="only of this host or cluster")
    command.add_argument(
        "--object", metavar="KIND", help="only of objects such as container, Pod or package"
    )
    command.add_argument(
        "--name", metavar="PATTERN", help="only of objects with such a name: 'shop-*'"
    )
    command.add_argument("--severity", choices=SEVERITIES, help="only of this severity or worse")
    command.add_argument("--grep", metavar="TEXT", default="", help="only lines that hold TEXT")
    command.set_defaults(command=lambda options: asyncio.run(tap.show(options)))


def _add_dead(command: argparse.ArgumentParser, broker: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(title="actions", required=True, metavar="ACTION")
    action = actions.add_parser("list", parents=[broker], help="one line each, with the reason")
    action.set_defaults(command=lambda options: asyncio.run(dead.show_list(options)))
    action = actions.add_parser("show", parents=[broker], help="one dead letter, whole")
    action.add_argument("number", type=int, help="its number in the list")
    action.set_defaults(command=lambda options: asyncio.run(dead.show_dead_letter(options)))
    action = actions.add_parser(
        "replay", parents=[broker], help="publish them again, to be delivered"
    )
    action.add_argument(
        "numbers", type=int, nargs="*", metavar="number", help="their numbers in the list"
    )
    action.add_argument("--all", action="store_true", help="all of them")
    action.set_defaults(command=lambda options: asyncio.run(dead.replay(options)))


def _add_users(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory",
        type=Path,
        metavar="DIR",
        help="gets `nats/accounts.conf` for the broker and `<user>/password` for each user",
    )
    command.add_argument(
        "--domain",
        action="append",
        default=[],
        help="domain of a leaf node whose streams the forwarder owns too; for either end's broker",
    )
    command.add_argument(
        "--open-tap", action="store_true", help="let clients without a password listen and read"
    )
    command.add_argument(
        "--shared",
        action="store_true",
        help="make the files readable for everybody: for volumes that one container mounts",
    )
    command.set_defaults(command=users.set_up)


if __name__ == "__main__":
    sys.exit(main())
