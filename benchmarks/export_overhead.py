"""Measure the cost of exporting a small model beside a hand-written script: whole processes, in rounds.

``python benchmarks/export_overhead.py [--rounds N]`` trains the digits example into a temporary directory and exports it N
times by by_hand_digits.py, which verifies nothing, and by exportkit: from its .meta with the default steps, from its .meta
without steps, and from the function that builds its graph with the default steps. Each round does all four in turn, every
other round backwards.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import harness
from harness import Run

BY_HAND = "by hand"
META, BARE, CODE = "mnist_meta", "mnist_meta, post=[]", "mnist_mlp"
GOALS = {META: 0.35, BARE: 0.25, CODE: 0.75}  # of the script's wall time
MEMORY = 450e6  # bytes of the largest process, mnist_meta


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="exportkit against a hand-written script, on a small model.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        harness.digits(cwd)
        rounds = [measure(cwd, i) for i in range(chosen.rounds)]
        versions = ["by_hand/0", *(f"exports/{_directory(way)}/0" for way in GOALS)]
        compared = harness.run([sys.executable, harness.HERE / "same_digits.py", *versions, "data/digits.npz"], cwd)
        for way, line in zip(GOALS, compared.output.splitlines()[-len(GOALS) :], strict=True):
            harness.show(f"{way}: {line}")
        show(rounds)
        harness.show(harness.setting(cwd))


def measure(cwd: Path, number: int) -> dict[str, Run]:
    """Measure each way once; every other round goes through them backwards."""
    ways: dict[str, Callable[[], Run]] = {
        BY_HAND: lambda: harness.script("by_hand_digits.py", "runs/mnist_mlp", "data/labels.txt", f"by_hand/{number}", cwd=cwd),
        META: lambda: by_exportkit(cwd, number, META, "model=mnist_meta"),
        BARE: lambda: by_exportkit(cwd, number, BARE, "model=mnist_meta", "post=[]"),
        CODE: lambda: by_exportkit(cwd, number, CODE, "model=mnist_mlp"),
    }
    order = list(ways) if number % 2 == 0 else list(reversed(ways))
    done = {way: ways[way]() for way in order}
    return {way: done[way] for way in ways}


def by_exportkit(cwd: Path, number: int, way: str, *overrides: str) -> Run:
    return harness.exportkit(*overrides, f"export_dir=exports/{_directory(way)}", f"version={number}", cwd=cwd)


def _directory(way: str) -> str:
    return f"way_{[*GOALS].index(way)}"


def show(rounds: Sequence[Mapping[str, Run]]) -> None:
    """Print the times of each way, their ratios within a round beside the goals, and the time of exportkit's stages."""
    rows = [[way, *(f"{x:.2f}" for x in harness.spread([one[way].seconds for one in rounds]))] for way in rounds[0]]
    columns = ("seconds", "lower quartile", "median", "upper quartile")
    harness.table(f"Export of the digits example, {len(rounds)} rounds", columns, rows)
    ratios = [_ratio(way, goal, rounds) for way, goal in GOALS.items()]
    peak = harness.middle([one[META] for one in rounds], lambda run: run.peak)
    memory = [f"{META}: largest process, MB", f"{peak / 1e6:.0f}", f"<= {MEMORY / 1e6:.0f}"]
    harness.table("Goals", ("", "measured", "goal"), [*ratios, memory])
    harness.show_stages([one[META] for one in rounds])


def _ratio(way: str, goal: float, rounds: Sequence[Mapping[str, Run]]) -> list[str]:
    _, ratio, _ = harness.spread([one[way].seconds / one[BY_HAND].seconds for one in rounds])
    return [f"{way} / {BY_HAND}", f"{ratio:.2f}", f"<= {goal}"]


if __name__ == "__main__":
    main()
