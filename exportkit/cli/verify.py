"""``exportkit verify VERSION_DIR``: a published version checked again, anywhere, whoever made it.

Its files against its manifest, its weights against their checksums, its graph against what servers demand; then it is loaded
and asked in a process of its own. TensorFlow is not imported.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from exportkit.cli.tables import line
from exportkit.verifying.audit import Finding, verify_version


def main(arguments: Sequence[str]) -> int:
    """Check the version among `arguments`; 1 where a check failed."""
    options = _options(arguments)
    found = verify_version(
        options.version,
        options.against,
        public_key=options.public_key,
        atol=options.atol,
        rtol=options.rtol,
        run=not options.no_run,
    )
    for finding in found:
        line(str(finding))
    line(f"{options.version}: {_summary(found)}")
    return int(any(finding.passed is False for finding in found))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="exportkit verify", description=(__doc__ or "").splitlines()[0].split(": ")[1])
    parser.add_argument("version", metavar="VERSION_DIR", type=Path, help="a SavedModel, such as exports/mnist/3")
    parser.add_argument(
        "--against", metavar="CHECKPOINT", help="a checkpoint's prefix or directory: compare the weights with it"
    )
    parser.add_argument("--public-key", metavar="PEM", type=Path, help="the key that the version must be signed with")
    parser.add_argument("--atol", type=float, help="how far recorded outputs may be from today's (default: as exported)")
    parser.add_argument("--rtol", type=float, help="the same, relative to their size")
    parser.add_argument("--no-run", action="store_true", help="do not load it: a graph can read and write files")
    return parser.parse_args(arguments)


def _summary(found: Sequence[Finding]) -> str:
    counts = {True: "passed", False: "failed", None: "to know"}
    numbers = {name: sum(finding.passed is mark for finding in found) for mark, name in counts.items()}
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number)
