"""A laboratory for faults: exports in processes of their own, each forked from one that has only imported TensorFlow.

What such an export changes below its base path can be made to fail, or be its last deed, at every point (`syscalls`); before each
point the base path is looked at as a model server would.
"""

import errno
import hashlib
import multiprocessing
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import syscalls
import tensorflow as tf
import toys
from syscalls import Point

from exportkit.errors import ExportKitError
from exportkit.plugin import Phase, PostStep, hookimpl
from exportkit.registry import load_plugins

v1 = tf.compat.v1
Digests = Mapping[str, str]
LABELS = 40


@dataclass(kw_only=True)
class Extra(PostStep):
    """Adds a file, as warmup and manifest do."""

    kind: str = "extra"
    phase = Phase.AUGMENT

    def run(self, export):
        directory = export.directory / "assets.extra"
        directory.mkdir()
        (directory / "note.txt").write_text("note\n" * 2000)


class Plugin:
    @hookimpl
    def exportkit_post_steps(self):
        return [Extra]


PLUGINS = load_plugins({"faults": Plugin()})


def build() -> None:
    """A model with variables, an asset and tf.Example parsing, each of more than a page."""
    toys.dense(inputs=64, outputs=LABELS)


def config(directory: Path, base: Path, **changes: Any) -> dict[str, Any]:
    """A config that exports to `base` the model that `Lab` saved in `directory`."""
    return {
        "name": "toy",
        "source": {"kind": "meta_graph", "checkpoint": str(directory / "run" / "model.ckpt-1")},
        "bindings": {
            "x": "x:0",
            "probs": "probs:0",
            "tf_example": {"parse_example": {"x": {"dtype": "float32", "shape": [64]}}},
            "top": {"top_k": "probs", "k": 3},
            "classes": {"lookup": "top.indices", "vocabulary": str(directory / "labels.txt"), "default": ""},
        },
        "signatures": {
            "serving_default": {
                "method": "classify",
                "inputs": {"inputs": "tf_example"},
                "outputs": {"classes": "classes", "scores": "top.values"},
            },
            "predict": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
        },
        "post": {"extra": {"kind": "extra"}},
        "export_dir": str(base),
        **changes,
    }


@dataclass
class Outcome:
    """What came of an export.

    Attributes:
        code: exit code, -9 where it was killed.
        text: the error's text, or a traceback where it was none of exportkit's.
        version: the number that it got.
        points: the changes that it was about to make, in order.
        partial: what a model server would have seen, before one of them, that was not whole.
    """

    code: int
    text: str = ""
    version: int | None = None
    points: list[Point] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)


@dataclass
class Lab:
    """A place for exports: a checkpoint and the digests of an export that nothing has disturbed."""

    directory: Path
    whole: Digests = field(default_factory=dict)

    def __post_init__(self):
        self.directory.mkdir(exist_ok=True)
        (self.directory / "labels.txt").write_text("".join(f"{'label ' * 40}{i}\n" for i in range(LABELS)))
        call(toys.saved, self.directory, build)
        base = self.directory / "reference"
        assert self.export(base).code == 0
        self.whole = digests(base / "1")

    def export(self, base: Path, **changes: Any) -> Outcome:
        """Export, undisturbed."""
        return finish(start(self.config(base, **changes)))

    def disturbed(self, base: Path, at: int | None, act: syscalls.Verdict, **changes: Any) -> Outcome:
        """Export, where `act` is the verdict on the point of number `at`; the base path is looked at before every point."""
        points: list[Point] = []
        partial: list[str] = []

        def verdict(pid: int, point: Point) -> int | None:
            partial.extend(f"{seen} before {point}" for seen in self.not_whole(base))
            points.append(point)
            return act(pid, point) if len(points) - 1 == at else None

        running = start(self.config(base, **changes), judged=True)
        syscalls.judge(running[1], (base.parent,), verdict)
        outcome = finish(running)
        outcome.points, outcome.partial = points, partial + self.not_whole(base)
        return outcome

    def points(self, base: Path, **changes: Any) -> list[Point]:
        """All points of an export."""
        outcome = self.disturbed(base, None, syscalls.kill, **changes)
        assert outcome.code == 0, outcome.text
        return outcome.points

    def config(self, base: Path, **changes: Any) -> dict[str, Any]:
        return config(self.directory, base, **changes)

    def not_whole(self, base: Path) -> list[str]:
        """The versions that a model server would see below `base` and that differ from an undisturbed export."""
        return [name for name in served(base) if digests(base / name) != self.whole]


def served(base: Path) -> list[str]:
    """What a model server takes for a version: each child whose name is an integer."""
    try:
        return sorted(name for name in os.listdir(base) if name.lstrip("+-").isdigit())
    except FileNotFoundError:
        return []


def left(base: Path) -> list[str]:
    """What else there is below `base`."""
    return sorted(set(os.listdir(base)) - set(served(base))) if base.exists() else []


def digests(directory: Path) -> Digests:
    """Relative path → SHA-256 of every file, and of every directory nothing; empty for what is not a directory."""
    return {
        str(path.relative_to(directory)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
    }


def full(_: int, point: Point) -> int | None:
    """The verdict of a full disk; where a call takes no space it goes on."""
    return errno.ENOSPC if point.call in syscalls.TAKES_SPACE else None


def context() -> Any:
    """Processes forked from one that has imported this module, and TensorFlow with it, and done nothing else."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__])
    with _environment(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])):
        forkserver.ensure_running()
    return made


def call(function: Callable, *arguments: Any) -> None:
    """Call a function in a process of its own."""
    process = context().Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def start(data: Mapping[str, Any], judged: bool = False) -> tuple[Any, Connection]:
    """Start an export; with `judged`, its changes wait for `syscalls.judge` at the connection."""
    made = context()
    ours, theirs = made.Pipe()
    process = made.Process(target=_work, args=(data, theirs, judged))
    process.start()
    theirs.close()
    return process, ours


def finish(running: tuple[Any, Connection]) -> Outcome:
    """Wait for an export's end."""
    process, connection = running
    try:
        outcome = Outcome(*connection.recv())
    except EOFError:
        outcome = Outcome(-9)
    process.join()
    connection.close()
    outcome.code = process.exitcode if outcome.code == -9 else outcome.code
    return outcome


def _work(data: Mapping[str, Any], connection: Connection, judged: bool) -> None:
    import exportkit

    if judged:
        syscalls.submit(connection)
    try:
        report = exportkit.run(exportkit.plan(data, PLUGINS), PLUGINS)
        connection.send((0, "", report.version))
    except ExportKitError as error:
        connection.send((error.exit_code, str(error)))
    except BaseException:
        connection.send((70, traceback.format_exc()))


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def shape(point: Point, base: Path) -> str:
    """A point without what changes from run to run."""
    return f"{point.call} {os.path.relpath(point.path, base)}"


def counted(items: list[str]) -> str:
    return ", ".join(f"{n} {item}" for item, n in Counter(items).most_common())
