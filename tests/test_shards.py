"""Data files and object graphs of strangers: what is read and held is bounded by what the disk really has."""

import os

import numpy as np
import pytest
from fuzzlab import bounded

from exportkit import files, protos
from exportkit.checkpoint import Bundle, BundleWriter
from exportkit.checkpoint.sstable import table
from exportkit.errors import WeightsError

DAMAGED = "; copy the checkpoint again, or take another one"
TERABYTE = 1 << 40


def index(path, **tensors):
    """Write an index whose entries are float32 vectors: name → (offset, elements)."""
    header = protos.BundleHeaderProto(num_shards=1)
    items = [(b"", header.SerializeToString())]
    for name, (offset, elements) in sorted(tensors.items()):
        entry = protos.BundleEntryProto(dtype=1, offset=offset, size=4 * elements)
        entry.shape.dim.add(size=elements)
        items.append((name.encode(), entry.SerializeToString()))
    path.with_name(f"{path.name}.index").write_bytes(table(items))


def holes(path):
    with path.open("rb") as file:
        return files.holes(file.fileno())


@pytest.fixture
def data(tmp_path):
    return tmp_path / "m.data-00000-of-00001"


@pytest.mark.parametrize("offset", [0, 4, 12])
def test_tensors_with_bytes_in_common(data, offset, tmp_path):
    index(tmp_path / "m", a=(0, 4), b=(offset, 4))
    data.write_bytes(bytes(64))
    with pytest.raises(WeightsError) as caught:
        Bundle(tmp_path / "m")
    assert str(caught.value) == f"{tmp_path}/m.index: is damaged: 'a' and 'b' have bytes in common{DAMAGED}"


def test_a_long_tensor_that_covers_several(data, tmp_path):
    index(tmp_path / "m", a=(0, 16), b=(4, 0), c=(60, 1))
    data.write_bytes(bytes(64))
    with pytest.raises(WeightsError, match="'a' and 'c' have bytes in common"):
        Bundle(tmp_path / "m")


def test_tensors_side_by_side_and_empty_ones(data, tmp_path):
    index(tmp_path / "m", a=(0, 4), b=(16, 4), c=(16, 0), d=(40, 2))
    data.write_bytes(bytes(48))
    assert list(Bundle(tmp_path / "m").entries) == ["a", "b", "c", "d"]


def test_a_terabyte_of_holes(data, tmp_path):
    index(tmp_path / "m", a=(0, TERABYTE // 4))
    data.write_bytes(b"data")
    os.truncate(data, TERABYTE)
    with bounded(5), pytest.raises(WeightsError) as caught:
        Bundle(tmp_path / "m")
    stored = os.stat(data).st_blocks * 512
    assert str(caught.value) == (
        f"{data}: has 1,099,511,627,776 bytes, of which the disk holds {stored:,}; the rest are holes; "
        "copy it again; if it is whole, cp --sparse=never fills its holes with zeros"
    )


def test_more_holes_than_are_counted(data, tmp_path, monkeypatch):
    monkeypatch.setattr("exportkit.files._MOST_RUNS", 3)
    with data.open("wb") as file:
        for number in range(8):
            file.seek(number << 20)
            file.write(b"data")
        file.truncate(TERABYTE)
    assert holes(data) == TERABYTE - os.stat(data).st_blocks * 512


def test_a_copy_without_its_zeros_is_read(data, tmp_path):
    index(tmp_path / "m", a=(0, 1 << 18), b=(1 << 20, 1 << 10))
    with data.open("wb") as file:
        file.seek(1 << 20)
        file.write(np.ones(1 << 10, np.float32).tobytes())
    assert holes(data) == 1 << 20
    assert list(Bundle(tmp_path / "m").entries) == ["a", "b"]


def test_a_whole_file_has_no_holes(data):
    data.write_bytes(bytes(1 << 16))
    assert holes(data) == 0


# The graph of objects


def objects(path, content):
    with BundleWriter(path) as writer:
        writer.add("_CHECKPOINTABLE_OBJECT_GRAPH", content)
    return Bundle(path)


def test_the_names_of_objects(tmp_path):
    graph = protos.TrackableObjectGraph()
    for name in ("kernel", "bias", "twice", "twice"):
        graph.nodes.add().attributes.add(name="VARIABLE_VALUE", full_name=name, checkpoint_key=f"{name}/.VALUE")
    assert objects(tmp_path / "m", graph.SerializeToString()).aliases == {"kernel": "kernel/.VALUE", "bias": "bias/.VALUE"}


REFUSED = {
    "two strings": (lambda: np.array([b"a", b"b"], object), "string [2] of 8 bytes"),
    "a number": (lambda: np.float32(1), "float32 [] of 4 bytes"),
    "too long": (lambda: bytes((64 << 20) + 1), f"string [] of {(64 << 20) + 9:,} bytes"),
}


@pytest.mark.parametrize(("content", "found"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_graph_of_objects(content, found, tmp_path):
    bundle = objects(tmp_path / "m", content())
    with bounded(), pytest.raises(WeightsError) as caught:
        _ = bundle.aliases
    what = f"its object graph is {found}; it has to be one string, of 67,108,864 bytes at most"
    assert str(caught.value) == f"{tmp_path}/m.index: is damaged: {what}{DAMAGED}"


def test_a_graph_of_objects_that_expands(tmp_path):
    bundle = objects(tmp_path / "m", b"\x0a\x00" * (20 << 20))  # nodes without anything
    with bounded(), pytest.raises(WeightsError, match="is damaged: its object graph expands to far more memory"):
        _ = bundle.aliases
