"""Check what a model server can see, and what is left, when exports are killed or meet full disks or races at every point.

``python benchmarks/faults.py [--every N]``: a point is a system call by which an export, its C++ code too, changes files.
Each disturbed export is followed by an undisturbed one. Needs Linux on x86_64; small disks need root.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import faultlab
import syscalls
from faultlab import ACTS, Case, Lab

COLUMNS = (
    "fault",
    "cases",
    "exported",
    "failed",
    "one line",
    "versions left",
    "staging left",
    "half seen",
    "marked, not sent",
    "next completes",
)
RACERS = 10
TENSORFLOW = "exportkit.cli.direct.preload_tensorflow"  # its Python, which models in code need


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Faults at every point of an export.")
    parser.add_argument("--every", type=int, default=1, help="only every N-th point")
    every = parser.parse_args(arguments).every
    console = Console()
    console.width = console.width if console.is_terminal else 140
    if not syscalls.available():
        console.print("this machine cannot stop a process at its system calls")
        return 1
    started = perf_counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as directory, faultlab.forking(TENSORFLOW):
        lab, in_code = Lab(Path(directory).resolve() / "lab"), Lab(Path(directory).resolve() / "in-code", in_code=True)
        sending = Lab(Path(directory).resolve() / "sending", sends=True)
        console.print(f"points: {_kinds(lab)}", highlight=False)
        rows = [
            *points(lab, "", every),
            *points(in_code, "model in code: ", every, ("killed", "disk full, once")),
            *points(sending, "published: ", every, ("killed", "disk full, once")),
            *disks(lab, every),
        ]
        races = [race(lab, "auto"), race(lab, 5), verify_meanwhile(lab)]
    console.print(_table(rows))
    console.print(*races, f"{perf_counter() - started:.0f} s", sep="\n", highlight=False)
    return int(any(case.half or case.marked or not case.completes for _, cases in rows for case in cases))


def points(lab: Lab, prefix: str, every: int, kinds: Sequence[str] = tuple(ACTS)) -> Iterator[tuple[str, list[Case]]]:
    """Yield each kind of fault with the results of trying it at each point."""
    count = len(lab.points())
    for kind in kinds:
        act, onwards = ACTS[kind]
        yield prefix + kind, [lab.case(act, at, onwards) for at in range(0, count, every)]


def disks(lab: Lab, every: int) -> Iterator[tuple[str, list[Case]]]:
    """Export to real file systems that are too small, each larger than the one before, until one is large enough."""
    for kind, option, step in (("disk of 4 KiB, 8 KiB …", "size={}k", 4), ("disk of 1, 2 … inodes", "nr_inodes={}", 1)):
        cases: list[Case] = []
        while not cases or cases[-1].outcome.code:
            case = lab.small_disk(option.format((1 + len(cases) * every) * step))
            if case is None:
                return
            cases.append(case)
        yield kind, cases


def race(lab: Lab, version: str | int) -> str:
    """Run exports at the same time, and a process that polls the directory as fast as it can."""
    base, outcomes = lab.fresh(), []

    def run() -> None:
        running = [faultlab.start(lab.config(base, version=version)) for _ in range(RACERS)]
        outcomes.extend(map(faultlab.finish, running))

    looked, half = faultlab.observed(lab, base, run)
    codes = Counter(outcome.code for outcome in outcomes)
    got = sorted(outcome.version for outcome in outcomes if outcome.version is not None)
    return (
        f"{RACERS} exports at once, version={version}: {codes[0]} exported as {got}, {codes[2]} refused, "
        f"{RACERS - codes[0] - codes[2]} failed otherwise; {looked} looks, {len(half)} half seen"
    )


def verify_meanwhile(lab: Lab) -> str:
    """Export, and remove the version before the last one, while another process verifies whatever is there."""
    base = lab.fresh()

    def run() -> None:
        for _ in range(RACERS):
            lab.export(base)
            for old in sorted(map(int, faultlab.served(base)))[:-1]:
                faultlab.remove_slowly(base / str(old))

    found = faultlab.verified(base, run)
    counts = ", ".join(f"{number} {what}" for what, number in found.most_common())
    return f"{RACERS} exports and {RACERS - 1} deletions, verified meanwhile {found.total()} times: {counts}"


def _kinds(lab: Lab) -> str:
    counted = Counter(point.call for point in lab.points())
    return f"{counted.total()} ({', '.join(f'{number} {call}' for call, number in counted.most_common())})"


def _table(rows: Sequence[tuple[str, list[Case]]]) -> Table:
    table = Table(title="Exports disturbed at every point; goal: half seen 0, next completes always", title_justify="left")
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if i else "left")
    for kind, cases in rows:
        table.add_row(kind, *_counts(cases))
    table.add_section()
    table.add_row("all", *_counts([case for _, cases in rows for case in cases]))
    return table


def _counts(cases: Sequence[Case]) -> list[str]:
    failed = [case for case in cases if case.outcome.code]
    reported = [case for case in failed if case.outcome.code != faultlab.KILLED]
    return [
        str(len(cases)),
        str(len(cases) - len(failed)),
        str(len(failed)),
        f"{sum(case.is_one_line for case in reported)} of {len(reported)}" if reported else "-",
        str(sum(bool(case.versions) for case in failed)),
        str(sum(bool(case.left) for case in cases)),
        str(sum(bool(case.half) for case in cases)),
        str(sum(bool(case.marked) for case in cases)),
        f"{sum(case.completes for case in cases)} of {len(cases)}",
    ]


if __name__ == "__main__":
    sys.exit(main())
