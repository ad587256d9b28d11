"""Measure the work of a large sweep before its first job starts: composing, planning, comparing with existing versions.

``python benchmarks/sweep_planned.py [--distinct 1000] [--versions 100]`` makes configs over one checkpoint and plans two
sweeps: 10 models with `--versions` versions each, and `--distinct` distinct models. Each is measured as ``exportkit plan -m``
as a whole, and by its parts in a process of its own (compose_parts.py), beside what Hydra takes to compose a sample of its
jobs, once each.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import harness

MODELS = 10
GOALS = {"versions": 10.0, "distinct": 90.0}
MODEL = """\
# @package _global_
defaults: [override /source: meta_graph, override /signature: digits]
name: {name}
source: {{checkpoint: runs/mnist_mlp}}
vars: {{sub: eu, number: {number}}}
export_dir: exports/${{vars.sub}}_${{name}}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Large sweeps, planned.")
    parser.add_argument("--distinct", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        harness.digits(cwd)
        names = models(cwd, chosen.distinct)
        few = f"model={','.join(names[:MODELS])}"
        sweeps = {
            f"{MODELS} models x {chosen.versions} versions": ("versions", [few, f"version=range(1,{chosen.versions + 1})"]),
            f"{chosen.distinct} distinct models": ("distinct", ["model=glob(m*,exclude=mnist*)"]),
        }
        rows = [row(title, GOALS[kind], words, cwd) for title, (kind, words) in sweeps.items()]
        columns = ("", "plan -m, s", "goal", "compose", "plan", "identity", "Hydra's own", "times", "MB")
        harness.table("A sweep before its first job; the parts in ms per job, on all CPUs", columns, rows)
        harness.show(harness.setting(cwd))


def models(cwd: Path, count: int) -> list[str]:
    """Write the models, each into a file of its own."""
    (cwd / "conf" / "model").mkdir(parents=True)
    names = [f"m{number:05}" for number in range(count)]
    for number, name in enumerate(names):
        (cwd / "conf" / "model" / f"{name}.yaml").write_text(MODEL.format(name=name, number=number))
    return names


def row(title: str, goal: float, words: Sequence[str], cwd: Path) -> list[str]:
    """Measure a sweep as a whole and by its parts, with the ratio to Hydra's own composition."""
    whole = harness.run_tree([sys.executable, "-m", "exportkit", "plan", "-m", *words], cwd)
    parts = harness.script("compose_parts.py", *words, cwd=cwd).stages
    jobs = parts.pop("jobs")
    each = {name: 1000 * seconds / jobs for name, seconds in parts.items() if name != "Hydra's own"}
    own = 1000 * parts["Hydra's own"]
    return [
        title,
        f"{whole.seconds:.1f}",
        f"{goal:.0f}",
        *(f"{each[name]:.1f}" for name in ("compose", "plan", "identity")),
        f"{own:.1f}",
        f"{own / each['compose']:.1f}",
        f"{whole.peak / 1e6:.0f}",
    ]


if __name__ == "__main__":
    main()
