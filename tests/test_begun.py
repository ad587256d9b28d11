"""What a proof does while the version is written, and how often it asks each side."""

import errno
import os
import subprocess
import time
from contextlib import contextmanager

import pytest
import toys

from exportkit.checkpoint import Bundle, Readback
from exportkit.core.host import Host
from exportkit.errors import EnvironmentFailed
from exportkit.exporting import savedmodel
from exportkit.processes import memory
from exportkit.serving.running import Running
from exportkit.verifying.parity import reference
from exportkit.verifying.parity.trials import MovedExport

POST = {"verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


@pytest.fixture
def events(monkeypatch):
    """What happens, in order, and the training graphs that were started."""
    found, graphs = [], []
    write, started, load = savedmodel.write, reference.started, Running.load

    @contextmanager
    def writing(*arguments):
        found.append("write")
        with write(*arguments) as written:
            yield written
        found.append("written")

    def loading(running):
        if running._first is None and running._host.holder is not running:
            found.append("load")
        load(running)

    @contextmanager
    def starting(*arguments):
        with started(*arguments) as running:
            found.append("start")
            graphs.append(running)
            yield running
        found.append("end")

    monkeypatch.setattr(savedmodel, "write", writing)
    monkeypatch.setattr(reference, "started", starting)
    monkeypatch.setattr(Running, "load", loading)
    return found, graphs


def test_the_training_graph_starts_before_the_version_is_written(toy, tmp_path, events):
    assert toys.export(toys.config(toy, tmp_path, post=POST)).status == "exported"
    assert without_loads(events) == ["start", "write", "written", "end"]


def without_loads(events):
    return [event for event in events[0] if event != "load"]


@pytest.fixture
def slow_sync(monkeypatch, events):
    """Have the data file wait, before it is synced, until the version was asked to be loaded."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs procfs")
    fsync, found = os.fsync, []

    def waiting(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        for _ in range(200 if name.endswith(".data-00000-of-00001") and not found else 0):
            if "load" in events[0]:
                found.append("loaded while it was written")
                break
            time.sleep(0.05)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", waiting)
    return found


def test_the_export_is_loaded_before_its_bytes_are_on_the_disk(toy, tmp_path, events, slow_sync):
    report = toys.export(toys.config(toy, tmp_path, post=POST))
    assert (report.status, slow_sync) == ("exported", ["loaded while it was written"])
    assert events[0].count("load") == 1


def test_what_was_loaded_too_early_is_loaded_again(toy, tmp_path, monkeypatch):
    """A file that is new in the version may be one that a loader reads."""
    loads, load = [], MovedExport._loaded
    monkeypatch.setattr(MovedExport, "_loaded", lambda self, config: loads.append(config) or load(self, config))
    real = savedmodel.write

    @contextmanager
    def adding(directory, *arguments):
        with real(directory, *arguments) as written:
            yield written
        (directory / "assets").mkdir()
        (directory / "assets" / "late").touch()

    monkeypatch.setattr(savedmodel, "write", adding)
    toys.export(toys.config(toy, tmp_path, post=POST))
    assert len(loads) == 2


@pytest.mark.parametrize("failure", ["fsync", "read back"])
def test_a_load_that_was_begun_ends_with_a_version_that_is_not_finished(failure, toy, tmp_path, monkeypatch):
    begun, begin = [], MovedExport.begin
    monkeypatch.setattr(MovedExport, "begin", lambda self: begin(self) or begun.append(self))
    if failure == "fsync":
        fsync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: full() if begun else fsync(file))
    else:
        monkeypatch.setattr(Readback, "close", full)
    with pytest.raises(EnvironmentFailed, match="no space left on device; free some space"):
        toys.export(toys.config(toy, tmp_path, post=POST))
    assert [moved._begun for moved in begun] == [None]
    assert begun[0]._host._worker is None
    assert not list((tmp_path / "exports").glob("toy/[0-9]*"))


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


def test_no_export_is_loaded_early_where_another_step_comes_first(toy, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(MovedExport, "begin", lambda *_: begun.append("begun"))
    post = {"warmup": {"kind": "warmup"}, **POST}
    assert toys.export(toys.config(toy, tmp_path, post=post)).status == "exported"
    assert begun == []


def test_where_memory_does_not_hold_both_sides_they_run_one_after_the_other(toy, tmp_path, events, monkeypatch):
    size = sum(Bundle(toy).entry(f"dense/{name}").size for name in ("kernel", "bias"))
    monkeypatch.setattr(memory, "available", lambda: size + size // 2)
    stop = Host.stop
    monkeypatch.setattr(Host, "stop", lambda self: events[0].append("stop") or stop(self))
    assert toys.export(toys.config(toy, tmp_path, post=POST)).status == "exported"
    sides = [event for event in events[0] if not event.startswith("writ")]
    assert sides[:4] == ["load", "stop", "start", "end"] and sides.count("load") == 1


def test_weights_that_memory_does_not_hold_are_refused_before_they_are_written(toy, tmp_path, events, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 20)
    with pytest.raises(EnvironmentFailed) as refused:
        toys.export(toys.config(toy, tmp_path, post=POST))
    (problem,) = refused.value.problems
    assert problem.where.startswith("post.verify (plugin verify of exportkit ")
    assert problem.what == "the weights of meta_graphs.serving take 0.0 GB of memory to run, and 0.0 GB are free"
    assert problem.do == "free some memory; ~post.verify exports it unverified"
    assert events[0] == []


def test_the_process_ends_where_the_version_cannot_be_written(toy, tmp_path, events, monkeypatch):
    def write(*_):
        raise OSError(28, "No space left on device", "variables")

    monkeypatch.setattr(savedmodel, "write", write)
    with pytest.raises(EnvironmentFailed):
        toys.export(toys.config(toy, tmp_path, post=POST))
    (found, (graph,)) = events
    assert found == ["start", "end"]
    try:
        assert graph._worker._process.wait(10) < 0
    except subprocess.TimeoutExpired:
        pytest.fail("its process lives on")


def test_a_graph_with_values_of_the_export_waits_for_them(toy, tmp_path, events):
    config = toys.config(toy, tmp_path, post=POST, weights={"initialize": ["dense/bias"]})
    assert toys.export(config).weights.proof == "1/2 variables equal to the checkpoint, 1 initialised"
    assert without_loads(events) == ["write", "written", "start", "end"]


def test_no_answer_is_asked_for_more_often_than_twice(toy, tmp_path, monkeypatch):
    """On random values: the sample twice, 1 row twice and 3 rows; optimised the sample twice, for the manifest, and 1 row."""
    asked = {
        side: count_rows(monkeypatch, side, feed) for side, feed in ((Running, "inputs/x:0"), (reference.Reference, "x:0"))
    }
    toys.export(toys.config(toy, tmp_path, post=POST))
    assert list(asked.values()) == [[2, 2, 1, 3, 1, 1, 2, 2], [2, 1, 1, 2]]


def count_rows(monkeypatch, side, feed):
    """Record how many rows each run of a side is fed."""
    rows, run = [], side.run

    def counting(self, feeds, fetches):
        rows.append(feeds[feed].shape[0])
        return run(self, feeds, fetches)

    monkeypatch.setattr(side, "run", counting)
    return rows
