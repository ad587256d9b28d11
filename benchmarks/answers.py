"""Measure how soon the commands answer that export nothing: help, plan, inspect, the listing of plugins, errors of a config.

``python benchmarks/answers.py [--times 10]`` runs each command in turn, as often, beside ``python -c pass`` and
``python -c "import hydra"``. Run it with the Python of an environment where exportkit is installed from its wheel: an editable
install adds a tenth to each start.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import harness

MODEL = """\
# @package _global_
defaults: [override /source: meta_graph, override /signature: digits]
name: digits
source: {checkpoint: runs/mnist_mlp}
"""
OURS = [sys.executable, "-m", "exportkit"]
COMMANDS = {  # name → the command, and its exit code
    "python -c pass": ([sys.executable, "-c", "pass"], 0),
    'python -c "import hydra"': ([sys.executable, "-c", "import hydra"], 0),
    "--help": ([*OURS, "--help"], 0),
    "plugins": ([*OURS, "plugins"], 0),
    "inspect": ([*OURS, "inspect", "runs/mnist_mlp"], 0),
    "plan": ([*OURS, "plan", "model=digits"], 0),
    "a model that there is not": ([*OURS, "model=digit"], 2),
    "a key that there is not": ([*OURS, "plan", "model=digits", "post.verify.atoll=1"], 2),
}
SIGNATURE = Path(__file__).parents[1] / "conf" / "signature" / "digits.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answers: seconds of the commands that export nothing.")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        harness.digits(cwd)
        for name, text in {"model": MODEL, "signature": SIGNATURE.read_text()}.items():
            (cwd / "conf" / name).mkdir(parents=True)
            (cwd / "conf" / name / "digits.yaml").write_text(text)
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
        for _ in range(chosen.times):  # in turn, so that all meet the same machine
            for name, (command, code) in COMMANDS.items():
                runs[name].append(answer(command, code, cwd))
        harness.table(
            "Answers, seconds", ("", "wall, median", "wall, best", "CPU, median", "CPU, best"), list(map(row, runs.items()))
        )
        harness.show(harness.setting(cwd))


def answer(command: Sequence[str], code: int, cwd: Path) -> tuple[float, float]:
    """Run a command that ends with `code`; return its wall and its processor seconds."""
    started = perf_counter()
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != code:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}, not {code}")
    return seconds, usage.ru_utime + usage.ru_stime


def row(measured: tuple[str, list[tuple[float, float]]]) -> list[str]:
    name, pairs = measured
    walls, busy = zip(*pairs, strict=True)
    return [name, *(f"{number:.3f}" for number in (median(walls), min(walls), median(busy), min(busy)))]


if __name__ == "__main__":
    main()
