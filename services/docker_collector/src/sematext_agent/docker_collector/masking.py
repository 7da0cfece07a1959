"""Takes secrets out of command lines: the engine tells the whole command line of every exec.

The engine joins the arguments with blanks and quotes nothing, so the words are all there is to go
by: of a secret that holds a blank only the first word is known for one. What cannot be told from a
secret is masked. The time taken is in proportion to the length, because anyone who may run a
command in a container writes this text.
"""

from __future__ import annotations

import re

MASK = "********"

_NAME = re.compile(
    r"pass(?:word|wd|phrase|code|in|out)?(?![a-z])|pwd|secret|tokens?(?![a-z])|credential"
    r"|(?:api|access|private)[-_]?key|authorization|auth(?!or)",
    re.IGNORECASE,
)
"""What the name of a secret holds."""
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
    """`mysql -pS3cret --token=x` as `mysql -p******** --token=********`."""
    parts = re.split(r"(\s+)", command)
    program, before = "", ""
    for at in range(0, len(parts), 2):
        word = parts[at].strip("\"'")
        if found := _PROGRAMS.fullmatch(word):
            program = found[1]
        if word and not word.startswith("-") and _announces(before):
            parts[at] = MASK
        elif before in _SEPARATE.get(program, ()):
            # Of `user:secret` the user may stay.
            user, colon, _ = parts[at].rpartition(":")
            parts[at] = f"{user}{colon}{MASK}"
        elif (option := _ATTACHED.get(program)) and word.startswith(option) and word != option:
            parts[at] = option + MASK
        else:
            parts[at] = _mask_word(parts[at], program)
        before = word
    return "".join(parts)


def _announces(word: str) -> bool:
    """Whether the word after this one is a secret."""
    if word.lower() in _SCHEMES:
        return True
    name = word.rstrip("=:\"'")
    return (name != word or word.startswith("-")) and "=" not in name and _is_name(name)


def _mask_word(word: str, program: str) -> str:
    """The word with the secrets that are named within it masked."""

    def replace(found: re.Match[str]) -> str:
        if _is_name(found[1]):
            return f"{found[1]}{found[2]}{MASK}"
        if found[1] in _SEPARATE.get(program, ()) and ":" in found[3]:
            return f"{found[1]}{found[2]}{found[3].partition(':')[0]}:{MASK}"
        return found[0]

    return _ASSIGNMENT.sub(replace, _USERINFO.sub(rf"\1{MASK}", word))


def _is_name(name: str) -> bool:
    return _NAME.search(name) is not None and _HARMLESS.search(name) is None
