"""Tab completion: the shell runs ``exportkit -sc query=SHELL`` with the command line in ``COMP_LINE``, and reads the answer."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from exportkit.cli import hydra_app
from exportkit.commands import COMMANDS, DEFAULT, load
from exportkit.contract import Command


def answer(arguments: Sequence[str]) -> None:
    """Print what the last word of ``COMP_LINE`` may become: fish reads one a line, the other shells read words."""
    words = filter(str.isprintable, completions(os.environ.get("COMP_LINE", "")))
    print(*words, sep="\n" if "query=fish" in arguments else " ")


def completions(line: str) -> list[str]:
    """Return what the last word of a command line may become: the first one a command, those behind it what that completes."""
    words = line.split()[1:] + [""] * line[-1:].isspace() or [""]
    plugins = hydra_app.plugins()
    name, *rest = words
    if name in COMMANDS and rest:
        return list(load(name).complete(rest))
    if name in plugins.commands and rest:
        return _of_plugin(plugins.commands[name], rest)
    names = [] if rest or name.startswith("-") else [n for n in (*COMMANDS, *plugins.commands) if n.startswith(name)]
    return [*names, *load(DEFAULT).complete(words)]


def _of_plugin(command: type[Command], words: Sequence[str]) -> list[str]:
    """Return what a plugin's command completes; nothing if it fails, for the user is in the middle of typing."""
    try:
        with redirect_stdout(sys.stderr):
            return list(map(str, command().complete(words)))
    except Exception:
        return []
