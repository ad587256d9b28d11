"""A laboratory for faults: exports in processes of their own, each forked from one that has only imported modules.

Each change that such an export makes below its base path, or in its temporary directory, can be made to fail, or to be what it
was killed at (`syscalls`); before each one the base path is looked at as a model server would.
"""

import ctypes
import errno
import hashlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import syscalls
from syscalls import Point

import exportkit
from exportkit import cli, processes
from exportkit.errors import ConfigError, EnvironmentFailed, ExportKitError
from exportkit.plugin import Phase, PostStep, hookimpl
from exportkit.processes import spare
from exportkit.registry import load_plugins
from exportkit.testing import toys
from exportkit.verifying.audit import verify_version
from exportkit.version.claim import Claim, remove_stale

LABELS = 40
CONTEXT = multiprocessing.get_context("forkserver")
KILLED = -9
FORKED, ANEW = "forked", "anew"
PUBLISHED = ".published"
CRASHED = 70
_NEW_NAMESPACE, _PRIVATE, _REMOUNT = 0x20000, 0x44000, 0x20


@dataclass(kw_only=True)
class Extra(PostStep):
    """Adds a file, as warmup and manifest do."""

    kind: str = "extra"
    phase = Phase.AUGMENT

    def run(self, export):
        directory = export.directory / "assets.extra"
        directory.mkdir()
        (directory / "note.txt").write_text("note\n" * 2000)


@dataclass(kw_only=True)
class Send(PostStep):
    """Copies the version elsewhere, as uploads do."""

    kind: str = "send"
    phase = Phase.PUBLISH

    def run(self, export):
        shutil.copytree(export.directory, sent(export.plan.export_dir) / str(export.version))


class Plugin:
    @hookimpl
    def exportkit_post_steps(self):
        return [Extra, Send]


PLUGINS = load_plugins({"faults": Plugin()})


def model() -> None:
    from exportkit.testing.graphs import softmax

    softmax(inputs=64, outputs=LABELS)


def model_in_code(prefix: str) -> Callable[[Any], None]:
    """The same model as a source whose values are captured from a session."""
    import tensorflow as tf

    model()
    return partial(tf.compat.v1.train.Saver().restore, save_path=prefix)


def config(directory: Path, base: Path, **changes: Any) -> dict[str, Any]:
    """Exports to `base` what a `Lab` saved in `directory`: variables, an asset and a step's file, a page or more each."""
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
        code: exit code; KILLED, or CRASHED where an error was none of exportkit's.
        text: the error's text, or a traceback.
        version: the number that it got.
        points: the changes that it was about to make, in order.
        half: what a model server would have seen, before one of them or at the end, that was not whole.
    """

    code: int
    text: str = ""
    version: int | None = None
    points: list[Point] = field(default_factory=list)
    half: list[str] = field(default_factory=list)


@dataclass
class Case:
    """A disturbed export and one after it that nothing disturbs.

    Attributes:
        point: where it was disturbed; a size, where that was the disk.
        versions: what a model server saw between the two.
        left: what else lay below the base path between the two.
        left_after: what else lies there after the second.
        marked: the versions that are recorded as published, between the two, and were not sent whole.
    """

    point: Point | str
    outcome: Outcome
    versions: list[str]
    left: list[str]
    again: Outcome
    left_after: list[str]
    marked: list[str] = field(default_factory=list)

    @property
    def half(self) -> list[str]:
        return self.outcome.half + self.again.half

    @property
    def is_one_line(self) -> bool:
        return self.outcome.code in (1, 2) and bool(self.outcome.text) and "\n" not in self.outcome.text

    @property
    def completes(self) -> bool:
        """Whether the second export got the next number and left nothing but versions."""
        expected = max(map(int, self.versions), default=0) + 1
        return (self.again.code, self.again.version, self.left_after) == (0, expected, [])


@dataclass
class Lab:
    """A place for exports: a checkpoint, and the digests of a version that nothing disturbed.

    Attributes:
        in_code: the model is built by `model_in_code`.
        sends: the versions are sent elsewhere when they are visible (`Send`).
        starting: the points at which a worker starts, if it is not forked.
    """

    directory: Path
    in_code: bool = False
    sends: bool = False
    whole: Mapping[str, str] = field(default_factory=dict)
    usurper: Claim | None = None
    starting: Sequence[int] = ()

    def __post_init__(self):
        self.directory.mkdir(exist_ok=True)
        (self.directory / "labels.txt").write_text("".join(f"{'label ' * 40}{i}\n" for i in range(LABELS)))
        in_process(toys.save, model, self.directory / "run", step=1)
        reference = self.export(self.reference.parent)
        assert reference.code == 0, reference.text
        self.whole = digests(self.reference)

    @property
    def reference(self) -> Path:
        return self.directory / "reference" / "1"

    def fresh(self) -> Path:
        """A base path that is not there yet, in an empty directory."""
        parent = self.directory / "case"
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir()
        return parent / "base"

    def config(self, base: Path, **changes: Any) -> dict[str, Any]:
        data = config(self.directory, base, **changes)
        if self.in_code:
            params = {"prefix": data["source"]["checkpoint"]}
            data["source"] = {"kind": "graph_builder", "builder": f"{__name__}:model_in_code", "params": params}
        if self.sends:
            data["post"]["send"] = {"kind": "send"}
        return data

    def export(self, base: Path, **changes: Any) -> Outcome:
        """Export, undisturbed."""
        outcome = finish(start(self.config(base, **changes)))
        outcome.half = self.half(base)
        return outcome

    def disturbed(
        self, base: Path, act: syscalls.Verdict, at: int | None = None, onwards: bool = False, work=None, anew: bool = False
    ) -> Outcome:
        """Export, where `act` is the verdict on point number `at`, and on all behind it where `onwards`.

        With `anew` its worker is started, which has points more than one that is forked, and takes three times as long.
        """
        points: list[Point] = []
        half: list[str] = []

        def verdict(pid: int, point: Point) -> int | None:
            half.extend(f"{seen} before {point}" for seen in self.half(base))
            points.append(point)
            here = len(points) - 1
            return act(pid, point) if at is not None and (here == at or (onwards and here > at)) else None

        running = start(self.config(base), work, ANEW if anew else FORKED)
        syscalls.judge(running[1], (base.parent,), verdict)
        outcome = finish(running)
        outcome.points, outcome.half = points, half + self.half(base)
        return outcome

    def points(self) -> list[Point]:
        """All points of an export whose worker is started; if it is forked, there are all but those in `starting`."""
        forked, anew = (self.disturbed(self.fresh(), syscalls.kill, anew=anew) for anew in (False, True))
        assert (forked.code, anew.code) == (0, 0), (forked.text, anew.text)
        self.starting = [i for i, point in enumerate(anew.points) if self._is_of_start(point)]
        expected = [point.call for i, point in enumerate(anew.points) if i not in self.starting]
        assert [point.call for point in forked.points] == expected
        return anew.points

    def _is_of_start(self, point: Point) -> bool:
        """Return whether a worker that starts makes this change: it looks for a directory for temporary files, and logs."""
        place = Path(point.path).parent.parent
        return place == self.directory / "case" / "tmp" and point.call in ("openat", "write", "unlink")

    def case(self, act: "Act", at: int, onwards: bool = False) -> Case:
        """Disturb an export at one of `points`, and export again."""
        base = self.fresh()
        anew = at in self.starting
        if not anew:
            at -= sum(start < at for start in self.starting)
        outcome = self.disturbed(base, partial(act, self, base), at, onwards, anew=anew)
        self.let_usurper_finish()
        between, marked = (served(base), left(base)), self.marked(base)
        return Case(outcome.points[at], outcome, *between, self.export(base), left(base), marked)

    def marked(self, base: Path) -> list[str]:
        """The versions below `base` that are recorded as published and were not sent whole."""
        recorded = os.listdir(base / PUBLISHED) if (base / PUBLISHED).is_dir() else []
        return [name for name in recorded if digests(sent(base) / name) != self.whole]

    def let_usurper_finish(self) -> None:
        """The export that `usurp` began completes."""
        if self.usurper:
            shutil.copytree(self.reference, self.usurper.directory, dirs_exist_ok=True)
            self.usurper.commit()
            self.usurper = None

    def half(self, base: Path) -> list[str]:
        """The versions that a model server would see below `base` and that are not whole."""
        return [name for name in served(base) if digests(base / name) != self.whole]

    def small_disk(self, options: str) -> Case | None:
        """Export to a file system of limited size (tmpfs's options), and again when it was enlarged; None where not allowed."""
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_on_small_disk, args=(self, self.fresh(), options, theirs))
        process.start()
        theirs.close()
        case = ours.recv()
        process.join()
        return case


Act = Callable[[Lab, Path, int, Point], int | None]
"""What happens at a point, as a verdict."""


def kill(lab: Lab, base: Path, pid: int, point: Point) -> int:
    """The process is killed."""
    return syscalls.kill(pid, point)


def too_large(lab: Lab, base: Path, pid: int, point: Point) -> int | None:
    """A file may have no more bytes (RLIMIT_FSIZE)."""
    return errno.EFBIG if point.call in syscalls.GROWS else None


def full(lab: Lab, base: Path, pid: int, point: Point) -> int | None:
    """The disk is full."""
    return errno.ENOSPC if point.call in syscalls.TAKES_SPACE else None


def read_only(lab: Lab, base: Path, pid: int, point: Point) -> int | None:
    """The file system is read-only."""
    return errno.EROFS if point.call not in syscalls.SYNCS else None


def remove_staging(lab: Lab, base: Path, pid: int, point: Point) -> None:
    """Somebody removes the staging directory."""
    for path in base.glob(".*.staging"):
        shutil.rmtree(path)


def remove_base(lab: Lab, base: Path, pid: int, point: Point) -> None:
    """Somebody removes the base path."""
    shutil.rmtree(base, ignore_errors=True)


def sweep_without_lock(lab: Lab, base: Path, pid: int, point: Point) -> None:
    """Somebody removes the lock, and another export sweeps."""
    for path in base.glob(".*.staging/lock"):
        path.unlink()
    remove_stale(base)


def foreign_version(lab: Lab, base: Path, pid: int, point: Point) -> None:
    """Somebody makes the very version, by one rename, without asking anybody."""
    if base.exists() and not (base / "1").exists():
        copy = base.parent / "foreign"
        shutil.copytree(lab.reference, copy)
        copy.rename(base / "1")


def usurp(lab: Lab, base: Path, pid: int, point: Point) -> None:
    """Somebody removes the staging directory, and another export takes the number and starts to write."""
    if base.exists() and not served(base):
        remove_staging(lab, base, pid, point)
        lab.usurper = Claim(base, "auto")
        (lab.usurper.directory / "saved_model.pb").write_bytes(b"half")


ACTS: Mapping[str, tuple[Act, bool]] = {
    "killed": (kill, False),
    "disk full, once": (full, False),
    "disk full, from there on": (full, True),
    "file too large, once": (too_large, False),
    "read-only, from there on": (read_only, True),
    "staging directory removed": (remove_staging, False),
    "base path removed": (remove_base, False),
    "lock removed, swept by another": (sweep_without_lock, False),
    "version made by a stranger": (foreign_version, False),
    "number usurped by another": (usurp, False),
}


def served(base: Path) -> list[str]:
    """What a model server takes for a version: each child whose name is an integer."""
    try:
        return sorted(name for name in os.listdir(base) if name.lstrip("+-").isdigit())
    except FileNotFoundError:
        return []


def left(base: Path) -> list[str]:
    """What else there is below `base`."""
    return sorted(set(os.listdir(base)) - {*served(base), PUBLISHED}) if base.exists() else []


def sent(base: Path) -> Path:
    """Where `Send` puts the versions of a base path."""
    return base.parent / "sent"


def digests(directory: Path) -> Mapping[str, str]:
    """Relative path → SHA-256 of every file; of a directory, nothing."""
    return {
        str(path.relative_to(directory)): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
    }


def verified(base: Path, during: Callable[[], Any]) -> Counter[str]:
    """What `exportkit verify` said of every version below `base`, again and again, while something went on."""
    return _meanwhile(_verify, (base,), during)


def _verify(base: Path, connection: Connection) -> None:
    found: Counter[str] = Counter()
    connection.send("looking")
    while not connection.poll():
        for name in served(base):
            try:
                failed = [one for one in verify_version(base / name, run=False) if one.passed is False]
                found["files missing" if failed else "passed"] += 1
            except ConfigError:
                found["gone before"] += 1
            except EnvironmentFailed:
                found["gone meanwhile"] += 1
            except Exception as error:
                found[f"fault: {error!r}"] += 1
    connection.send(found)


def remove_slowly(version: Path) -> None:
    """Remove a version as ``rm -r`` does, file by file, where the disk is slow."""
    for path in sorted(version.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
        time.sleep(0.01)
    version.rmdir()


def observed(lab: Lab, base: Path, during: Callable[[], Any]) -> tuple[int, list[str]]:
    """How often another process looked while something went on, as fast as it could, and what it saw that was not whole."""
    return _meanwhile(_observe, (lab, base), during)


def _meanwhile(work: Callable, arguments: tuple, during: Callable[[], Any]) -> Any:
    """Call `during` while another process does `work`; return what that has found."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(*arguments, theirs))
    process.start()
    theirs.close()
    ours.recv()
    during()
    ours.send("stop")
    found = ours.recv()
    process.join()
    return found


def _observe(lab: Lab, base: Path, connection: Connection) -> None:
    looked, half = 0, []
    connection.send("looking")
    while not connection.poll():
        half += lab.half(base)
        looked += 1
    connection.send((looked, half))


@contextmanager
def forking(*preload: str) -> Iterator[None]:
    """While this lasts, processes are forked from one that has imported what exports do, and the modules `preload`.

    The workers of exports that nothing disturbs are forked too, from a copy of it.
    """
    forkserver._forkserver._stop()  # one that runs already has imported something else, and there is no public way to end it
    CONTEXT.set_forkserver_preload([*preload, __name__, "faultlab_spare"])
    with _environment(PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])):
        forkserver.ensure_running()
    try:
        with patch.object(sys.modules["__main__"], "__file__", None, create=True):  # each process would run that script again
            yield
    finally:
        forkserver._forkserver._stop()
        CONTEXT.set_forkserver_preload(["__main__"])


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables, TF_CPP_MIN_LOG_LEVEL="2")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_process(function: Callable, *arguments: Any, **options: Any) -> None:
    """Call a function in a process of its own."""
    process = CONTEXT.Process(target=function, args=arguments, kwargs=options)
    process.start()
    process.join()
    assert process.exitcode == 0


def start(data: Mapping[str, Any], work: Callable | None = None, judged: str | None = None) -> tuple[Any, Connection]:
    """Start an export; with `judged`, which says how its workers begin, its changes wait for `syscalls.judge`."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_work, args=(work or run, data, theirs, judged))
    process.start()
    theirs.close()
    return process, ours


def finish(running: tuple[Any, Connection]) -> Outcome:
    """Wait for an export's end."""
    process, connection = running
    try:
        outcome = connection.recv()
    except EOFError:
        process.join()
        outcome = Outcome(process.exitcode)
    process.join()
    connection.close()
    return outcome


def _work(work: Callable, data: Mapping[str, Any], connection: Connection, judged: str | None) -> None:
    parent = Path(data["export_dir"]).parent
    tempfile.tempdir = str(parent / "tmp")
    os.makedirs(tempfile.tempdir, exist_ok=True)
    if judged:
        syscalls.submit(connection)
        spare.share(None)  # a worker that is forked elsewhere would not be judged
        if judged == FORKED:
            processes.reserve()
    connection.send(work(data))


def run(data: Mapping[str, Any]) -> Outcome:
    """Export in this process."""
    try:
        return Outcome(0, version=exportkit.run(exportkit.plan(data, PLUGINS), PLUGINS).version)
    except ExportKitError as error:
        return Outcome(error.exit_code, str(error))
    except BaseException:
        return Outcome(CRASHED, traceback.format_exc())


def command(arguments: Sequence[str], data: Mapping[str, Any]) -> Outcome:
    """Run exportkit's command line in this process; `text` is what it prints to stderr."""
    with tempfile.TemporaryFile("w+", dir=Path(data["export_dir"]).parents[1]) as output:
        with redirect_stderr(output):
            code = cli.main(arguments)
        output.seek(0)
        return Outcome(code, output.read())


def _on_small_disk(lab: Lab, base: Path, options: str, connection: Connection) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(base.parent)
    if libc.unshare(_NEW_NAMESPACE) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        return connection.send(None)
    if libc.mount(b"none", place, b"tmpfs", 0, options.encode()):
        return connection.send(None)
    spare.share(None)  # a worker that is forked elsewhere would not see this disk
    processes.reserve()
    outcome = _forked(lab.config(base))
    outcome.half = lab.half(base)
    between = served(base), left(base)
    assert libc.mount(b"none", place, None, _REMOUNT, b"size=16m,nr_inodes=1000") == 0
    again = _forked(lab.config(base))
    again.half = lab.half(base)
    connection.send(Case(options, outcome, *between, again, left(base)))


def _forked(data: Mapping[str, Any]) -> Outcome:
    """Export in a child of this process, with its temporary directory elsewhere."""
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        theirs.send(run(data))
        os._exit(0)
    os.waitpid(pid, 0)
    return ours.recv()
