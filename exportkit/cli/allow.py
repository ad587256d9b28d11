"""The option ``--allow`` of commands that run a version's graphs."""

from argparse import ArgumentParser

from exportkit.capabilities import ALLOWANCES

RUN_IT = "run it though it can do that: host_files, network, python … (exportkit audit shows what it can do)"


def add_allow(parser: ArgumentParser, help: str = RUN_IT) -> None:
    """Add ``--allow CAPABILITY``, which may be repeated: the entries of `allow.ops`, as a list."""
    parser.add_argument("--allow", metavar="CAPABILITY", action="append", default=[], choices=list(ALLOWANCES), help=help)
