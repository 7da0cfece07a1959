"""Masking of secrets in command lines: a message holds the whole command line of every exec.

The engine joins the arguments with blanks and quotes nothing, so the words are all there is to go
by: of a secret that holds a blank only the first word is masked. Text that cannot be distinguished
from a secret is masked too. The time is linear in the length, because anyone who may run a command
in a container writes this text.
"""

from __future__ import annotations

import re

MASK = "********"

_NAME = re.compile(
    r"pass(?:word|wd|phrase|code|in|out)?(?![a-z])|pwd|secret|tokens?(?![a-z])|credential"
    r"|(?:api|access|private)[-_]?key|authorization|auth(?!or)",
    re.IGNORECASE,
)
"""A part of a name that marks its value as a secret."""
_HARMLESS = re.compile(r"(?:-?file|stdin|^(?:OLD)?PWD)$", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"(?<![\w.-])([\w.-]+)([\"']?[=:][\"']?)([^\"'&;,|)}]+)")
_USERINFO = re.compile(r"(?<=://)([^/:@]*:)[^/@]+(?=@)")
_SCHEMES = {"bearer", "basic", "digest"}
"""The words before the secret in `Authorization: Bearer secret`."""

_PROGRAMS = re.compile(r"(?:.*/)?(mysql|mariadb|sshpass|redis-cli|valkey-cli|curl|wget)[\w-]*")
_ATTACHED = {"mysql": "-p", "mariadb": "-p", "sshpass": "-p"}
"""By program, the option that the secret follows at once: `mysql -psecret`."""
_SEPARATE = {
    "sshpass": ("-p",),
    "redis-cli": ("-a",),
    "valkey-cli": ("-a",),
    "curl": ("-u", "--user", "--proxy-user", "-U"),
    "wget": (),
}
"""By program, the options after which a secret follows as a word of its own."""


def mask(command: str) -> str:
    """Return `command` with its secrets masked: `mysql -p******** --token=********`."""
    parts = re.split(r"(\s+)", command)
    program, last_word = "", ""
    for at in range(0, len(parts), 2):
        word = parts[at].strip("\"'")
        if match := _PROGRAMS.fullmatch(word):
            program = match[1]
        if word and not word.startswith("-") and _announces_secret(last_word):
            parts[at] = MASK
        elif last_word in _SEPARATE.get(program, ()):
            # Of `user:secret` the user may stay.
            user, colon, _ = parts[at].rpartition(":")
            parts[at] = f"{user}{colon}{MASK}"
        elif (option := _ATTACHED.get(program)) and word.startswith(option) and word != option:
            parts[at] = option + MASK
        else:
            parts[at] = _mask_word(parts[at], program)
        last_word = word
    return "".join(parts)


def _announces_secret(word: str) -> bool:
    """Return whether the word after this one is a secret."""
    if word.lower() in _SCHEMES:
        return True
    name = word.rstrip("=:\"'")
    return (name != word or word.startswith("-")) and "=" not in name and _is_secret_name(name)


def _mask_word(word: str, program: str) -> str:
    """Return the word with the secrets that are named within it masked."""

    def replace(match: re.Match[str]) -> str:
        if _is_secret_name(match[1]):
            return f"{match[1]}{match[2]}{MASK}"
        if match[1] in _SEPARATE.get(program, ()) and ":" in match[3]:
            return f"{match[1]}{match[2]}{match[3].partition(':')[0]}:{MASK}"
        return match[0]

    return _ASSIGNMENT.sub(replace, _USERINFO.sub(rf"\1{MASK}", word))


def _is_secret_name(name: str) -> bool:
    return _NAME.search(name) is not None and _HARMLESS.search(name) is None
