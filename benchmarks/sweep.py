"""Measure one sweep over a fleet of small models against a hand-written script for each: wall time, cost per job, memory.

``python benchmarks/sweep.py [--models 50] [--scripts 50]`` trains the digits example, makes a fleet of copies of its
checkpoint, each a model of its own, and exports it: by by_hand_digits.py, a process per model one after the other; by
``exportkit -m`` without post steps; by ``exportkit -m`` with those that are on by default; and by that sweep once more, with
nothing changed. Afterwards the fleet's first and last models must answer as the scripts' exports do.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import Run

FASTER, PER_JOB, AGAIN = 20.0, 0.2, 4.0
MODEL = """\
# @package _global_
defaults: [override /source: meta_graph, override /signature: digits]
name: {name}
source: {{checkpoint: runs/{name}}}
"""


@dataclass(frozen=True)
class Measured:
    """One way to export the whole fleet: wall seconds, and the peak memory of all its processes together, in bytes."""

    seconds: float
    peak: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A sweep against a script per model, on small models.")
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--scripts", type=int, help="how many of the scripts to run (default: all); the rest is extrapolated")
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    scripts = min(chosen.scripts or chosen.models, chosen.models)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        names = fleet(cwd, chosen.models)
        measured = {
            "a script per model": by_hand(cwd, names[:scripts], len(names) / scripts),
            "sweep, post=[]": by_sweep(cwd, names, "bare", "post=[]"),
            "sweep": by_sweep(cwd, names, "exports"),
            "the same sweep again": by_sweep(cwd, names, "exports"),
        }
        show(measured, len(names), scripts)
        for name in {names[0], names[scripts - 1]}:
            same = [harness.HERE / "same_digits.py", f"by_hand/{name}", f"exports/{name}/1", "data/digits.npz"]
            harness.show(f"{name}: {harness.run([sys.executable, *same], cwd).output.splitlines()[-1]}")
        versions = sorted(path.name for path in (cwd / "exports").glob("*/*") if path.name.isdecimal())
        harness.show(f"versions after both sweeps: {len(versions)} of {len(names)} models; {harness.setting(cwd)}")


def fleet(cwd: Path, models: int) -> list[str]:
    """Train the digits example, and write models that differ only in their names and checkpoint files."""
    harness.digits(cwd)
    names = [f"digits_{number:03}" for number in range(models)]
    (cwd / "conf" / "model").mkdir(parents=True)
    for name in names:
        shutil.copytree(cwd / "runs" / "mnist_mlp", cwd / "runs" / name)
        (cwd / "conf" / "model" / f"{name}.yaml").write_text(MODEL.format(name=name))
    return names


def by_hand(cwd: Path, names: Sequence[str], share: float) -> Measured:
    """Run the scripts one after the other; `share` is the number of models for each script that is run."""
    runs = [
        harness.script("by_hand_digits.py", f"runs/{name}", "data/labels.txt", f"by_hand/{name}", cwd=cwd) for name in names
    ]
    return Measured(share * sum(r.seconds for r in runs), max(r.peak for r in runs))


def by_sweep(cwd: Path, names: Sequence[str], exports: str, *overrides: str) -> Measured:
    command = ["-m", "exportkit", "-m", f"model={','.join(names)}", f"export_dir={exports}/${{name}}", *overrides]
    done: Run = harness.run_tree([sys.executable, *command], cwd)
    return Measured(done.seconds, done.peak)


def show(measured: dict[str, Measured], models: int, scripts: int) -> None:
    """Print the cost of each way beside the goals."""
    script = measured["a script per model"].seconds
    rows = [
        [
            way,
            f"{one.seconds:.1f}",
            f"{one.seconds / models:.3f}",
            f"{script / one.seconds:.1f}",
            f"{one.peak / 1e6:.0f}",
        ]
        for way, one in measured.items()
    ]
    title = f"{models} small models" + (f"; of the scripts {scripts} were run" if scripts < models else "")
    columns = ("", "seconds", "per model", "times as fast", "peak MB")
    harness.table(title, columns, rows)
    proved, again = measured["sweep"], measured["the same sweep again"]
    goals = [
        [f"a script each / sweep (goal {FASTER:.0f})", f"{script / proved.seconds:.1f}"],
        [f"seconds per job (goal {PER_JOB})", f"{proved.seconds / models:.3f}"],
        [f"seconds with nothing changed (goal {AGAIN:.0f} for 50)", f"{again.seconds:.1f}"],
    ]
    harness.table("Goals", ("", "measured"), goals)


if __name__ == "__main__":
    main()
