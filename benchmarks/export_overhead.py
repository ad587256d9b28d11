"""Measure the cost of exporting a small model beyond a hand-written script: whole processes, in pairs.

``python benchmarks/export_overhead.py [--pairs N]`` trains the digits example into a temporary directory and exports it N
times by exportkit (``model=mnist_meta``) and N times by by_hand_digits.py, in pairs; each goes first in every other pair.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
from harness import Run

GOAL = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="exportkit against a hand-written script, on a small model.")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        harness.run([sys.executable, "-m", "exportkit.examples.mnist_mlp"], cwd)
        pairs = [measure(cwd, i) for i in range(chosen.pairs)]
        same = harness.run([sys.executable, harness.HERE / "same_digits.py", "by_hand/0", "exports/0", "data/digits.npz"], cwd)
        show(pairs)
        harness.show(f"{same.output.splitlines()[-1]}; {harness.setting(cwd)}")


def measure(cwd: Path, number: int) -> tuple[Run, Run]:
    """Measure one pair, by hand and by exportkit; which of them goes first changes from pair to pair."""
    if number % 2:
        done = by_exportkit(cwd, number)
        return by_hand(cwd, number), done
    return by_hand(cwd, number), by_exportkit(cwd, number)


def by_hand(cwd: Path, number: int) -> Run:
    return harness.script("by_hand_digits.py", "runs/mnist_mlp", "data/labels.txt", f"by_hand/{number}", cwd=cwd)


def by_exportkit(cwd: Path, number: int) -> Run:
    return harness.exportkit("model=mnist_meta", "export_dir=exports", f"version={number}", cwd=cwd)


def show(pairs: Sequence[tuple[Run, Run]]) -> None:
    """Print both measures of both, the ratio within a pair, and the time of exportkit's stages."""
    measures = {
        "whole process": lambda run: run.seconds,
        "beside the import": lambda run: run.beside,
        "processor time": lambda run: run.busy,
    }
    rows = [row for what, number in measures.items() for row in _rows(what, pairs, number)]
    title = f"Export of mnist_meta, {len(pairs)} pairs; goal: whole process, ratio at most {GOAL}"
    harness.table(title, ("seconds", "lower quartile", "median", "upper quartile"), rows)
    harness.show_stages([run for _, run in pairs])


def _rows(what: str, pairs: Sequence[tuple[Run, Run]], number: Callable[[Run], float]) -> list[list[str]]:
    script, ours = [[number(pair[i]) for pair in pairs] for i in (0, 1)]
    ratios = [b / a for a, b in zip(script, ours, strict=True)]
    named = {"by hand": script, "exportkit": ours, "ratio": ratios}
    return [[f"{what}: {name}", *(f"{x:.3f}" for x in harness.spread(values))] for name, values in named.items()]


if __name__ == "__main__":
    main()
