"""What a proof does while the version is written, and how often it asks each side."""

import subprocess
from contextlib import contextmanager

import pytest
import toys

from exportkit.errors import EnvironmentFailed
from exportkit.exporting import savedmodel
from exportkit.serving.native import Running
from exportkit.verifying.parity import reference

POST = {"verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


@pytest.fixture
def events(monkeypatch):
    """What happens, in order, and the training graphs that were started."""
    found, graphs = [], []
    write, started = savedmodel.write, reference.started

    def writing(*arguments):
        found.append("write")
        return write(*arguments)

    @contextmanager
    def starting(*arguments):
        with started(*arguments) as running:
            found.append("start")
            graphs.append(running)
            yield running
        found.append("end")

    monkeypatch.setattr(savedmodel, "write", writing)
    monkeypatch.setattr(reference, "started", starting)
    return found, graphs


def test_the_training_graph_starts_before_the_version_is_written(toy, tmp_path, events):
    assert toys.export(toys.config(toy, tmp_path, post=POST)).status == "exported"
    assert events[0] == ["start", "write", "end"]


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
    assert events[0] == ["write", "start", "end"]


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
