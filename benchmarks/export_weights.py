"""Measure the export of big weights: by a hand-written script, by exportkit, and by copying the serving bytes as files.

``python benchmarks/export_weights.py [--gigabytes 3 30] [--repeats N]``: for each size of a checkpoint with Adam's slots, of
which a third is served, all ways in turn, each in a fresh process with its input in the page cache. The script is left
out where memory does not suffice for it. exportkit syncs what it writes; the others are followed by ``sync``, timed apart.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import harness
from harness import Run

from exportkit.checkpoint import Bundle

CONFIG = """\
# @package _global_
defaults: [override /source: meta_graph]
name: dense
source: {{checkpoint: {checkpoint}}}
bindings: {{x: x:0, scores: scores:0}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{scores: scores}}}}}}
export_dir: exports
version: 1
"""
BY_HAND, EXPORTKIT, PROVED, COPY = "by hand", "exportkit", "exportkit, default steps", "cp"


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint, and the keys of its trainable variables."""

    prefix: str
    trainable: list[str]

    @property
    def served(self) -> int:
        """The size of the trainable variables in bytes."""
        entries = Bundle(self.prefix).entries
        return sum(entries[key].size for key in self.trainable)

    @property
    def total(self) -> int:
        return sum(entry.size for entry in Bundle(self.prefix).entries.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Big weights: a hand-written script, exportkit, and cp.")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[3], help="sizes of the checkpoints (default: 3)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    peaks: list[float] = []
    for gigabytes in chosen.gigabytes:
        with harness.workplace(chosen.directory) as cwd:
            harness.show(harness.setting(cwd))
            checkpoint = make(cwd, gigabytes)
            rounds = [measure(cwd, checkpoint) for _ in range(chosen.repeats)]
            show(checkpoint, rounds)
            peaks.append(harness.middle([r[EXPORTKIT] for r in rounds], lambda run: run.peak))
            harness.show(harness.setting(cwd))
    sizes = ", ".join(f"{peak / 1e6:.0f} MB at {size:g} GB" for size, peak in zip(chosen.gigabytes, peaks, strict=True))
    harness.show(f"exportkit's peak memory: {sizes}")


def make(cwd: Path, gigabytes: float) -> Checkpoint:
    prefix = str(cwd / "runs" / "model.ckpt-1")
    command = [sys.executable, harness.HERE / "dense_checkpoint.py", prefix, int(gigabytes * 1e9)]
    trainable = json.loads(harness.run(command, cwd).output.splitlines()[-1])
    config = cwd / "conf" / "model" / "dense.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG.format(checkpoint=prefix))
    return Checkpoint(prefix, trainable)


def measure(cwd: Path, checkpoint: Checkpoint) -> dict[str, Run]:
    """Measure each way once; the results are compared and deleted."""
    done = {}
    if 1.5 * checkpoint.total < _free_memory():
        _warm(checkpoint.prefix)
        done[BY_HAND] = _left(harness.script("by_hand_dense.py", checkpoint.prefix, "by_hand", cwd=cwd), cwd / "by_hand")
        _same_values(checkpoint, cwd / "by_hand")
        shutil.rmtree(cwd / "by_hand")
    if checkpoint.total < _free_memory():
        done[PROVED] = _exported(cwd, checkpoint, "proved")
        shutil.rmtree(cwd / "proved")
    done[EXPORTKIT] = _exported(cwd, checkpoint, "exports", "post=[]")
    _forget(cwd)
    _warm(cwd / "exports" / "1" / "variables" / "variables")
    done[COPY] = _left(harness.run(["cp", "-r", "exports/1", "copy"], cwd), cwd / "copy")
    shutil.rmtree(cwd / "exports")
    shutil.rmtree(cwd / "copy")
    return done


def _exported(cwd: Path, checkpoint: Checkpoint, directory: str, *overrides: str) -> Run:
    _forget(cwd / "runs")
    _warm(checkpoint.prefix, checkpoint.trainable)
    run = harness.exportkit("model=dense", f"export_dir={directory}", *overrides, cwd=cwd)
    _same_values(checkpoint, cwd / directory / "1")
    return _left(run, cwd / directory)


def _forget(path: Path) -> None:
    """Remove the files below `path` from the page cache, so that each way finds as much free memory as the others."""
    os.sync()
    for file in filter(Path.is_file, path.rglob("*")):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _warm(prefix: str | Path, keys: Sequence[str] = ()) -> None:
    """Read the bytes of `keys`, or of all tensors, into the page cache, after all pending writes are done."""
    os.sync()
    bundle = Bundle(prefix)
    for key in keys or bundle.entries:
        bundle.verify(key)


def _left(run: Run, path: Path) -> Run:
    return replace(run, synced=harness.sync(path), written=harness.size(path))


def _free_memory() -> int:
    """Return how many bytes a process can allocate without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))


def _same_values(checkpoint: Checkpoint, version: Path) -> None:
    """Raise AssertionError unless a version's trainable values have the checksums that the checkpoint's have."""
    source, written = Bundle(checkpoint.prefix), Bundle(version / "variables" / "variables")
    for key in checkpoint.trainable:
        assert written.entry(key).crc32c == source.entry(key).crc32c, key


def show(checkpoint: Checkpoint, rounds: Sequence[dict[str, Run]]) -> None:
    """Print the medians of each way, and the values that have goals."""
    ways = {name: [r[name] for r in rounds] for name in rounds[0]}
    title = f"Export of {checkpoint.served / 1e9:.3g} GB out of {checkpoint.total / 1e9:.3g} GB, medians of {len(rounds)}"
    columns = ("", "whole s", "beside import s", "after import s", "then sync s", "peak MB", "written / trainable")
    harness.table(title, columns, [[name, *_row(runs, checkpoint)] for name, runs in ways.items()])
    harness.table("exportkit against the goals", ("", "measured", "goal"), list(_goals(ways, checkpoint)))
    for name in (EXPORTKIT, PROVED):
        if name in ways:
            harness.show_stages(ways[name])


def _row(runs: Sequence[Run], checkpoint: Checkpoint) -> list[str]:
    numbers = (lambda r: r.seconds, lambda r: r.beside, _after, lambda r: r.synced)
    seconds = [f"{harness.middle(runs, number):.2f}" for number in numbers]
    peak, written = harness.middle(runs, lambda r: r.peak) / 1e6, harness.middle(runs, lambda r: r.written) / checkpoint.served
    return [*seconds, f"{peak:.0f}", f"{written:.4f}"]


def _after(run: Run) -> float:
    """Return the seconds after TensorFlow's import; all seconds where nothing imports it, as in cp."""
    return run.after if run.stages else run.seconds


def _goals(ways: dict[str, list[Run]], checkpoint: Checkpoint) -> Iterator[list[str]]:
    """Return each goal with its measured value: seconds until everything is on the disk, unless the name says otherwise."""
    whole, after = (lambda run: run.seconds + run.synced), (lambda run: _after(run) + run.synced)
    ours, copied = (harness.middle(ways[name], after) for name in (EXPORTKIT, COPY))
    if BY_HAND in ways:
        for name, number, goal in (
            ("after the import", after, 10),
            ("after the import, the script's files not yet on disk", _after, 10),
            ("whole process", whole, 4),
            ("whole process, the script's files not yet on disk", lambda run: run.seconds, 4),
        ):
            times = harness.middle(ways[BY_HAND], number) / harness.middle(ways[EXPORTKIT], number)
            yield [f"times as fast as by hand: {name}", f"{times:.1f}", f">= {goal}"]
    yield [
        "seconds after the import, against cp and sync",
        f"{ours:.2f}",
        f"<= 1.5 x {copied:.2f} + 0.5 = {1.5 * copied + 0.5:.2f}",
    ]
    yield [
        "seconds of the whole process, against cp and sync",
        f"{harness.middle(ways[EXPORTKIT], whole):.2f}",
        f"<= 1.15 x {copied:.2f} + 2.5 = {1.15 * copied + 2.5:.2f}",
    ]
    if PROVED in ways:
        proved = harness.middle(ways[PROVED], whole)
        if BY_HAND in ways:
            yield ["times as fast as by hand: default steps", f"{harness.middle(ways[BY_HAND], whole) / proved:.1f}", ">= 10"]
        yield [
            "seconds of the whole process with default steps",
            f"{proved:.2f}",
            f"<= {copied:.2f} + 2.5 = {copied + 2.5:.2f}",
        ]
    yield ["peak memory MB", f"{harness.middle(ways[EXPORTKIT], lambda run: run.peak) / 1e6:.0f}", "<= 800"]
    written = harness.middle(ways[EXPORTKIT], lambda run: run.written) / checkpoint.served
    yield ["bytes written / trainable bytes", f"{written:.4f}", "<= 1.01"]


if __name__ == "__main__":
    main()
