"""``exportkit verify VERSION_DIR`` checks a published version again.

Its files are compared with its manifest, its weights with their checksums, its graph with what servers require; then it is
loaded and run in a process of its own. TensorFlow is not imported here.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exportkit.cli.allow import add_allow
from exportkit.cli.numbers import tolerance
from exportkit.cli.tables import line
from exportkit.contract import Command

if TYPE_CHECKING:
    from exportkit.verifying.audit import Finding


class VerifyCommand(Command):
    """Check a published version again, anywhere, whoever made it. Digests find damage and mistakes. Only a signature
    (--public-key) guards against somebody who can write to the version.
    """

    name = "verify"
    help = "check a published version again"
    usage = "VERSION_DIR"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("version", metavar="VERSION_DIR", type=Path, help="a SavedModel, such as exports/mnist/3")
        add("--against", metavar="CHECKPOINT", help="a checkpoint's prefix or directory: compare the weights with it")
        add("--public-key", metavar="PEM", type=Path, help="the key that the version must be signed with")
        add("--atol", type=tolerance, help="how far recorded outputs may be from today's (default: as exported)")
        add("--rtol", type=tolerance, help="the same, relative to their size")
        add_allow(parser)
        add("--no-run", action="store_true", help="do not load it: a graph can read and write files")

    def run(self, arguments: Sequence[str]) -> int:
        """Print a line for each check; 1 where one failed."""
        options = self.parse(arguments)

        from exportkit.verifying.audit import verify_version  # with NumPy, which help does not need

        found = verify_version(
            options.version,
            options.against,
            public_key=options.public_key,
            atol=options.atol,
            rtol=options.rtol,
            run=not options.no_run,
            allowed=options.allow,
        )
        for finding in found:
            line(str(finding))
        line(f"{options.version}: {_summary(found)}")
        return int(any(finding.passed is False for finding in found))


def _summary(found: Sequence["Finding"]) -> str:
    passed, failed, notes = (sum(finding.passed is mark for finding in found) for mark in (True, False, None))
    named = {"passed": passed, "failed": failed, "note" if notes == 1 else "notes": notes}
    return ", ".join(f"{number} {name}" for name, number in named.items() if number)
