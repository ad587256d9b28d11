"""``exportkit client VERSION --lang LANGUAGE --out DIR`` writes clients for exactly the model of a version.

Only the version's manifest is read: nothing is run, and TensorFlow is not imported.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from exportkit.cli.tables import line
from exportkit.clients.languages import LANGUAGES
from exportkit.contract import Command


class ClientCommand(Command):
    """Write a client for exactly this model: contract.json with its signatures and examples, and code that is made from it."""

    name = "client"
    help = "write a client for exactly one model"
    usage = "VERSION --lang NAME --out DIR"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("version", metavar="VERSION", type=Path, help="a version's directory, or a base path: its newest version")
        add(
            "--lang",
            metavar="NAME",
            action="append",
            required=True,
            choices=list(LANGUAGES),
            help=f"{', '.join(LANGUAGES)}; may be repeated",
        )
        add("--out", metavar="DIR", type=Path, required=True, help="the directory that the files are written into")

    def run(self, arguments: Sequence[str]) -> int:
        """Write the files, and print a line for each."""
        options = self.parse(arguments)

        from exportkit.clients.contract import read_contract  # with NumPy, which help does not need
        from exportkit.clients.languages import generate, write

        made = generate(read_contract(options.version), list(dict.fromkeys(options.lang)))
        write(options.out, made)
        for name in made:
            line(str(options.out / name))
        return 0
