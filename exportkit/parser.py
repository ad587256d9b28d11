"""Arguments of commands: argparse, whose errors say on one line what was meant."""

import argparse
import re
from typing import NoReturn

from exportkit.errors import did_you_mean, nearest

_UNKNOWN = re.compile(r"(invalid choice|unrecognized arguments): '?([^\s'=]+)")


class ArgumentParser(argparse.ArgumentParser):
    """A parser of a command's arguments. It shows the usage only to those who left arguments out."""

    def error(self, message: str) -> NoReturn:
        """Print an error with the nearest right name, and exit with 2."""
        if message.startswith("the following arguments are required"):
            super().error(message)
        if "; " not in message:  # else it says what to write
            found = self._misspelt(message)
            message += f"; {did_you_mean(*found) if found else f'{self.prog} --help shows what there is'}"
        self.exit(2, f"{self.prog}: error: {message}\n")

    def _misspelt(self, message: str) -> tuple[str, list[str]] | None:
        """Return an unknown flag or value, and those that there are; None where none of them is spelt nearly the same."""
        if (found := _UNKNOWN.search(message)) is None:
            return None
        flags = [flag for action in self._actions for flag in action.option_strings]
        values = [str(choice) for action in self._actions for choice in action.choices or ()]
        known = flags if found[1].startswith("unrecognized") else values
        return (found[2], known) if nearest(found[2], known) else None
