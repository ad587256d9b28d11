"""Export a directory in which training saves all the time, and check that each version records the save that it was made from.

``python benchmarks/export_while_saving.py [--exports 50] [--alone 4] [--every 0.2]`` starts a training run that saves every
0.2 s and keeps five checkpoints, so that each is gone after a second, while an export takes several. The directory is exported
through its .meta and from the code that builds the graph, in turn: a few times alone, then in one sweep. The trainer keeps a
ledger of what it saved; the bytes of each version must be those of one save, and its manifest must have that save's step and
index digest. After the last save a sweep exports just that, and the same sweep once more finds it unchanged.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import harness

from exportkit.checkpoint import Bundle
from exportkit.version.identity import digest
from exportkit.version.manifest import read_manifest

SOURCES = {"meta": "meta_graph", "code": "graph_builder"}
MODEL = """# @package _global_
defaults: [override /source: {source}]
name: {name}
source: {{checkpoint: runs{builder}}}
bindings: {{x: "x:0", y: "y:0"}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{y: y}}}}}}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Exports of a directory in which training saves.")
    parser.add_argument("--exports", type=int, default=50)
    parser.add_argument("--alone", type=int, default=4, help="how many of them are commands of their own")
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two saves")
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        models(cwd)
        names = list(SOURCES)
        with training(cwd, chosen.every):
            failed = [words for n in range(chosen.alone) for words in export(cwd, f"model={names[n % 2]}", f"+vars.n={-1 - n}")]
            each = (chosen.exports - chosen.alone) // len(names)
            swept = sweep(cwd, f"+vars.n=range({each})") if each else "none"
        saved = ledger(cwd)
        last = [sweep(cwd) for _ in range(2)]
        rows = [row(cwd, name, saved) for name in names]
        columns = ("", "versions", "distinct steps", "first", "last", "manifest of another save")
        harness.table(f"{len(saved)} saves, one every {chosen.every:g} s, 5 kept", columns, rows)
        for words in failed:
            harness.show(words)
        harness.show(f"alone: {chosen.alone - len(failed)} of {chosen.alone} exported; the sweep: {swept}")
        newest = {name: step_of(newest_version(cwd, name), saved) for name in SOURCES}
        harness.show(f"the last save: step {max(saved)}; exported by the sweep after it: {newest}")
        harness.show(f"that sweep: {last[0]}; the same sweep again: {last[1]}")
        harness.show(f"wrong manifests: {sum(int(row[5]) for row in rows)} of {sum(int(row[1]) for row in rows)}")


def models(cwd: Path) -> None:
    (cwd / "conf" / "model").mkdir(parents=True)
    (cwd / "saving_trainer.py").write_bytes((harness.HERE / "saving_trainer.py").read_bytes())
    for name, source in SOURCES.items():
        builder = ', builder: "saving_trainer:model"' if name == "code" else ""
        text = MODEL.format(name=name, source=source, builder=builder)
        (cwd / "conf" / "model" / f"{name}.yaml").write_text(text)


@contextmanager
def training(cwd: Path, every: float) -> Iterator[None]:
    """Run training that saves: from before its first save to the end of the context."""
    command = [sys.executable, "saving_trainer.py", cwd / "runs", cwd / "ledger", str(every)]
    with (cwd / "training.log").open("w") as log:
        trainer = subprocess.Popen([str(word) for word in command], cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
        try:
            while not ledger(cwd):
                if trainer.poll() is not None:
                    raise RuntimeError(f"training ended with {trainer.returncode}: {(cwd / 'training.log').read_text()}")
                time.sleep(0.1)
            yield
            (cwd / "ledger.stop").touch()
            trainer.wait(60)
        finally:
            trainer.kill()
            trainer.wait()


def ledger(cwd: Path) -> dict[int, dict[str, str]]:
    """Return step → the ledger's entry of the save at that step."""
    path = cwd / "ledger"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return {line["step"]: line for line in map(json.loads, (text for text in lines if text.endswith("\n")))}


def command(cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "exportkit", *arguments], cwd=cwd, capture_output=True, text=True)


def export(cwd: Path, *overrides: str) -> Iterator[str]:
    """Export once; yield its output if that failed."""
    done = command(cwd, *overrides)
    if done.returncode:
        yield f"{' '.join(overrides)} ended with {done.returncode}: {done.stdout}{done.stderr}"


def sweep(cwd: Path, *overrides: str) -> str:
    """Run a sweep over all models, and return its result."""
    done = command(cwd, "-m", f"model={','.join(SOURCES)}", *overrides)
    counts = [f"{done.stdout.count(f'  {status} ')} {status}" for status in ("exported", "unchanged", "failed")]
    return f"exit {done.returncode}, {', '.join(counts)}"


def versions(cwd: Path, name: str) -> list[Path]:
    found = [path for path in (cwd / "exports" / name).glob("*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def newest_version(cwd: Path, name: str) -> Path:
    return versions(cwd, name)[-1]


def step_of(version: Path, saved: dict[int, dict[str, str]]) -> int | None:
    """Return the step of the save whose bytes a version has, or None."""
    bundle = Bundle(version / "variables" / "variables")
    found = hashlib.sha256(bundle.read("kernel").tobytes() + bundle.read("bias").tobytes()).hexdigest()
    return next((step for step, line in saved.items() if line["served"] == found), None)


def is_true(version: Path, saved: dict[int, dict[str, str]]) -> bool:
    """Return whether a version's manifest names the save whose bytes the version has."""
    step, manifest = step_of(version, saved), read_manifest(version)
    if step is None or manifest is None:
        return False
    identity, checkpoint = manifest["identity"], manifest["checkpoint"]
    parts = {key: value for key, value in identity.items() if key != "sha256"}
    recorded = (checkpoint["step"], checkpoint["digest"], identity["checkpoints"], identity["sha256"])
    named = checkpoint["prefix"].endswith(f"model.ckpt-{step}")
    return named and recorded == (step, saved[step]["index"], [saved[step]["index"]], digest(parts))


def row(cwd: Path, name: str, saved: dict[int, dict[str, str]]) -> list[str]:
    made = versions(cwd, name)
    steps = [step_of(version, saved) for version in made]
    wrong = sum(not is_true(version, saved) for version in made)
    return [name, str(len(made)), str(len(set(steps))), str(steps[0]), str(steps[-1]), str(wrong)]


if __name__ == "__main__":
    main()
