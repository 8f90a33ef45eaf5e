"""What a command says, in one line, when its input is wrong or its work breaks off."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

_LONGEST = 1_000  # characters of an error that is passed on


def for_a_shell(path: Path) -> str:
    """A path as part of a command that can be pasted."""
    return subprocess.list2cmdline([str(path)]) if os.name == "nt" else shlex.quote(str(path))


def one_line(text: str) -> str:
    """A text in which line breaks, and commands for the terminal, are shown and not carried out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _OneLine(Exception):  # noqa: N818
    def __str__(self) -> str:
        return one_line(super().__str__())  # what was received may hold anything


class UserError(_OneLine, ValueError):
    """Bad input. The message is one line: what is wrong, what was received, what is allowed. Commands exit with code 2."""


def message_of(error: Exception) -> str:
    """What an error says, in one line; of what is long, such as a printed array, the beginning."""
    words = " ".join(str(error).split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]} …"


def in_words(error: Exception) -> str:
    """An error of somebody else's code, in one line."""
    return f"{type(error).__name__}: {message_of(error)}".removesuffix(": ")


class RunError(_OneLine):
    """Work that broke off. The message is one line: what happened, what is kept, how to go on. Commands exit with code 1."""


def unknown(kind: str, received: object, known: Iterable[str], *, listed: bool = True) -> UserError:
    """The error for a name that is none of the known ones, with the closest as a suggestion.

    Args:
        kind: What the name was to be, such as ``"method"``.
        received: The name.
        known: The names that exist.
        listed: Whether the message lists them all.
    """
    names = list(known)
    by_lower_case = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(received).lower(), by_lower_case, n=1)
    hint = f"; did you mean '{by_lower_case[close[0]]}'?" if close else ""
    all_names = f"; known: {', '.join(names)}" if listed else ""
    return UserError(f"unknown {kind} '{received}'{hint}{all_names}")
