"""Files of strangers: each one that floods, hangs or contradicts itself is refused in one line that says why.

Campaigns over drawn inputs are `benchmarks/fuzz.py`; here is one of each known class, and a few drawn ones.
"""

import contextlib
import io
import os
import pickle
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import fuzzlab
import google_crc32c
import numpy as np
import pytest

import exportkit
from exportkit import cli, files, metagraph, protos
from exportkit.checkpoint import Bundle, npy
from exportkit.checkpoint.sstable import Table, mask, table, varint
from exportkit.checkpoint.tensorproto import from_proto
from exportkit.errors import BindingError, ExportKitError, WeightsError
from exportkit.samples.arrays import Misfit, read
from exportkit.testing import toys

pytestmark = pytest.mark.quick(140)

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
COPY = "; the file is damaged or was made by hand: copy it again"
DAMAGED = "; copy the checkpoint again, or take another one"


@contextlib.contextmanager
def bounded():
    """Within five seconds of CPU time and 1 GB more than before."""
    before = time.process_time()
    with fuzzlab.bounded():
        yield
    assert time.process_time() - before < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10 < 4 << 30


# What a path may be instead of a file


def special(kind, path):
    """Put something in the place of a file, and return what the system says of it."""
    if kind == "fifo":
        os.mkfifo(path)
        return "it is a FIFO (named pipe), not a regular file"
    if kind == "device":
        path.symlink_to("/dev/zero")
        return "it is a device, not a regular file"
    if kind == "directory":
        path.mkdir()
        return "it is a directory"
    if kind == "loop":
        path.symlink_to(path.name)
        return "Too many levels of symbolic links"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(path.name)
    return "it is a socket, not a regular file"


SPECIAL = ("fifo", "device", "directory", "loop", "socket")


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_opened(kind, tmp_path):
    said = special(kind, tmp_path / "x")
    with bounded(), pytest.raises(OSError) as caught:
        files.read(tmp_path / "x", 10)
    assert caught.value.strerror == said


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    assert files.read(tmp_path / "x", 10) == b"0123456789"
    with pytest.raises(OSError, match=r"it has 10 bytes, and at most 9 are read"):
        files.read(tmp_path / "x", 9)


def test_a_file_that_is_mostly_holes_is_not_read(tmp_path):
    path = tmp_path / "saved_model.pb"
    path.write_bytes(b"graph")
    os.truncate(path, 256 * files.MIB)
    with files.opened(path) as file:
        assert file.read(6) == b"graph\0"
    os.truncate(path, files.PROTO)
    stored = os.stat(path).st_blocks * 512
    what = f"it has 2,147,483,647 bytes, of which the disk holds {stored:,}; the rest are holes"
    with pytest.raises(OSError, match=re.escape(what)):
        files.descriptor(path)
    os.close(files.descriptor(path, hollow=True))
    with pytest.raises(BindingError) as caught:
        metagraph.read_saved_model(tmp_path)
    assert str(caught.value) == f"{path}: cannot be read: {what}; hand in the saved_model.pb of a SavedModel version"


def test_a_file_whose_size_the_system_does_not_know_is_bounded_too():
    assert os.stat("/proc/self/status").st_size == 0
    with pytest.raises(OSError, match=r"it has more than the 9 bytes that are read at most"):
        files.read("/proc/self/status", 9)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("suffix", [".meta", ".index", ".data-00000-of-00001"])
def test_in_place_of_a_checkpoints_file(kind, suffix, copied, tmp_path, monkeypatch):
    prefix = copied("dense")
    place = Path(f"{prefix}{suffix}")
    place.unlink()
    monkeypatch.chdir(place.parent)
    said = special(kind, place)
    with bounded(), pytest.raises(ExportKitError) as caught:
        exportkit.plan(toys.config(str(prefix), tmp_path))
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "socket"])
def test_in_place_of_the_state_file(kind, copied, tmp_path, monkeypatch):
    directory = copied("dense").parent
    monkeypatch.chdir(directory)
    said = special(kind, directory / "checkpoint")
    with bounded(), pytest.raises(WeightsError) as caught:
        exportkit.checkpoint.resolve(directory)
    assert str(caught.value) == f"{directory}/checkpoint: cannot be read: {said}"


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "socket"])
@pytest.mark.parametrize("name", ["m.meta", "./saved_model.pb"])
def test_in_place_of_what_is_inspected(kind, name, tmp_path, capsys):
    said = special(kind, tmp_path / name)
    with bounded():
        assert cli.main(["inspect", name]) == 2
    assert capsys.readouterr().err.startswith(f"{name}: cannot be read: {said}; hand in the ")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tfrecord"])
def test_in_place_of_a_sample_or_a_vocabulary(kind, suffix, checkpoint, tmp_path):
    said = special(kind, tmp_path / f"d{suffix}")
    labels = {"lookup": "top.indices", "vocabulary": f"d{suffix}"}
    config = toys.config(checkpoint("softmax").prefix, tmp_path, samples={"serving_default": {"x": f"d{suffix}:x"}})
    config["bindings"] |= {"top": {"top_k": "probs", "k": 1}, "labels": labels}
    with bounded(), pytest.raises(ExportKitError) as caught:
        exportkit.plan(config)
    assert [str(problem) for problem in caught.value.problems] == [
        f"bindings.labels.vocabulary: {tmp_path}/d{suffix} cannot be read: {said}; name another file",
        f"samples.serving_default.x: {tmp_path}/d{suffix} cannot be read: {said}; name another file",
    ]


# The state file


@pytest.mark.parametrize(
    ("recorded", "text"),
    [
        (".", "names '.', which is not there; known: model.ckpt-3"),
        (
            "../elsewhere/model.ckpt-3",
            "names '../elsewhere/model.ckpt-4', which lies elsewhere; name that checkpoint: {0}/../elsewhere/model.ckpt-4",
        ),
        ("\\000", "names '\\x00', which is not there; known: model.ckpt-3"),
    ],
)
def test_a_state_file_that_leads_elsewhere(recorded, text, copied):
    prefix = copied("dense")
    directory = prefix.parent
    elsewhere = directory.parent / "elsewhere"
    elsewhere.mkdir()
    for file in directory.glob("model.ckpt-3*"):
        (elsewhere / file.name.replace("-3", "-4", 1)).write_bytes(file.read_bytes())
    recorded = recorded.replace("elsewhere/model.ckpt-3", "elsewhere/model.ckpt-4")
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{recorded}"\n')
    with pytest.raises(WeightsError) as caught:
        exportkit.checkpoint.resolve(directory)
    assert str(caught.value) == f"{directory}/checkpoint: {text.format(directory)}"


def test_a_state_file_without_end(copied):
    directory = copied("dense").parent
    (directory / "checkpoint").touch()
    os.truncate(directory / "checkpoint", 1 << 40)
    with bounded(), pytest.raises(WeightsError) as caught:
        exportkit.checkpoint.resolve(directory)
    bound = "it has 1,099,511,627,776 bytes, and at most 16,777,216 are read"
    assert str(caught.value) == f"{directory}/checkpoint: cannot be read: {bound}"


# Graphs


def node(meta, name, op="NoOp", inputs=(), **attributes):
    made = meta.graph_def.node.add(name=name, op=op, input=inputs)
    for key, value in attributes.items():
        made.attr[key].CopyFrom(value)


def attr(**value):
    return protos.AttrValue(**value)


def tensor(dtype=1, shape=(), **values):
    proto = protos.tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return attr(tensor=proto)


def function(meta, name, *calls):
    made = meta.graph_def.library.function.add()
    made.signature.name = name
    for number, called in enumerate(calls):
        made.node_def.add(name=f"n{number}", op="PartitionedCall").attr["f"].func.name = called


def listed(meta, **wrong):
    op = meta.meta_info_def.stripped_op_list.op.add(name="Custom")
    op.output_arg.add(name="y", **wrong)


def collected(meta, value):
    meta.collection_def["variables"].bytes_list.value.append(value)


def signed(meta, dtype):
    meta.signature_def["s"].inputs["x"].dtype = dtype


GRAPHS = {
    "a cycle of data": (
        lambda m: [node(m, "a", "Identity", ["c"]), node(m, "b", "Identity", ["a"]), node(m, "c", "Identity", ["b"])],
        "a (Identity) is computed from itself: a → b → c → a",
    ),
    "a cycle with a control edge": (
        lambda m: [node(m, "a", inputs=["^b"]), node(m, "b", inputs=["^a"])],
        "a (NoOp) is computed from itself: a → b → a",
    ),
    "a node that takes itself": (lambda m: node(m, "a", "Identity", ["a"]), "a (Identity) is computed from itself: a → a"),
    "a missing input": (
        lambda m: node(m, "a", "Identity", ["b"]),
        "a (Identity) takes b, which the graph does not have",
    ),
    "an input that is a caret": (lambda m: node(m, "a", inputs=["^"]), "a (NoOp) takes '^', which the graph does not have"),
    "an input that is a colon": (lambda m: node(m, "a", inputs=[":"]), "a (NoOp) takes ':', which the graph does not have"),
    "an input without a name": (
        lambda m: node(m, "a", inputs=[""]),
        "a (NoOp) takes an input without a name, which the graph does not have",
    ),
    "an output far beyond": (
        lambda m: node(m, "a", inputs=["x:999999999999"]),
        "a (NoOp) takes 'x:999999999999', and no node has so many outputs",
    ),
    "an output of thousands of digits": (
        lambda m: node(m, "a", inputs=["x:" + "9" * 5000]),
        f"a (NoOp) takes 'x:{'9' * 197}…', which the graph does not have",
    ),
    "a cycle of many": (
        lambda m: [node(m, f"n{i}", "Identity", [f"n{(i + 1) % 30_000}"]) for i in range(30_000)],
        "n0 (Identity) is computed from itself: n0 → n29999 → n29998 → n29997 → … → n0",
    ),
    "a dtype beside shapes": (
        lambda m: node(m, "a", T=attr(list=protos.AttrValue.ListValue(shape=[protos.TensorShapeProto()], type=[9999]))),
        "a (NoOp) has an attribute of dtype 9999, which is none",
    ),
    "a control input before data": (
        lambda m: node(m, "a", "Identity", ["^x", "x"]),
        "a (Identity) takes x behind a control input",
    ),
    "too few inputs": (lambda m: node(m, "a", "Switch", ["x"]), "a (Switch) has 1 inputs, and needs 2"),
    "a name twice": (lambda m: [node(m, "a"), node(m, "a")], "a (NoOp) has the name of another node"),
    "no name": (lambda m: node(m, ""), "a node (NoOp) has no name"),
    "a name with a line break": (lambda m: node(m, "a\nb"), "'a\\nb' (NoOp) has a name that no node can have"),
    "a name with an escape sequence": (
        lambda m: node(m, "\x1b[2J"),
        "'\\x1b[2J' (NoOp) has a name that no node can have",
    ),
    "a name without end": (
        lambda m: node(m, "a" * 5000),
        "a" * 199 + "… has a name that no node can have",
    ),
    "no op": (lambda m: node(m, "a", ""), "a (?) has no op"),
    "attributes without end": (
        lambda m: node(m, "a", **{f"k{number}": attr(i=1) for number in range(1001)}),
        "a (NoOp) has 1,001 attributes",
    ),
    "an op without end": (
        lambda m: node(m, "a", "Iterator" * 9999),
        f"a ({('Iterator' * 10)[:79]}…) is of an op whose name has no end",
    ),
    "dtype 9999": (lambda m: node(m, "a", T=attr(type=9999)), "a (NoOp) has an attribute of dtype 9999, which is none"),
    "dtype 9999 in a list": (
        lambda m: node(m, "a", T=attr(list=protos.AttrValue.ListValue(type=[1, 9999]))),
        "a (NoOp) has an attribute of dtype 9999, which is none",
    ),
    "a variable without dtype": (lambda m: node(m, "a", "VariableV2"), "a (VariableV2) has no dtype"),
    "a constant without value": (lambda m: node(m, "a", "Const"), "a (Const) has no value"),
    "a constant that expands": (
        lambda m: node(m, "a", "Const", value=tensor(1, (2**20, 2**20), float_val=[1])),
        "a (Const) declares a tensor of 1,099,511,627,776 elements, more than a file can hold",
    ),
    "a constant whose size overflows": (
        lambda m: node(m, "a", "Const", value=tensor(1, (2**62, 2**62), float_val=[1])),
        f"a (Const) declares a tensor of {2**124:,} elements, more than a file can hold",
    ),
    "a constant of negative size": (
        lambda m: node(m, "a", "Const", value=tensor(1, (-2,))),
        "a (Const) holds a tensor whose shape is not known",
    ),
    "a constant of dtype 9999": (
        lambda m: node(m, "a", "Const", value=tensor(9999)),
        "a (Const) holds a tensor of dtype 9999, which is none",
    ),
    "a constant of other bytes": (
        lambda m: node(m, "a", "Const", value=tensor(1, (2,), tensor_content=b"123")),
        "a (Const) holds 3 bytes for 2 elements of float32",
    ),
    "a constant of many dimensions": (
        lambda m: node(m, "a", "Const", value=tensor(1, [1] * 300)),
        "a (Const) holds a tensor of 300 dimensions",
    ),
    "a function that calls itself": (lambda m: function(m, "f", "f"), "the function f calls itself: f → f"),
    "functions that call each other": (
        lambda m: [function(m, "f", "g"), function(m, "g", "f")],
        "the function f calls itself: f → g → f",
    ),
    "a function twice": (lambda m: [function(m, "f"), function(m, "f")], "the function f has the name of another one"),
    "a function without name": (lambda m: function(m, ""), "the function has no name"),
    "a missing function": (
        lambda m: node(m, "a", f=attr(func={"name": "g"})),
        "a (NoOp) calls g, which is not in the function library",
    ),
    "a function missing in a function": (
        lambda m: function(m, "f", "g"),
        "n0 (PartitionedCall) in the function f calls g, which is not in the function library",
    ),
    "an op of dtype 9999": (lambda m: listed(m, type=9999), "the op Custom has y of dtype 9999, which is none"),
    "an op without its attribute": (
        lambda m: listed(m, type_attr="T"),
        "the op Custom has no attribute T, which y needs",
    ),
    "a collection of something else": (
        lambda m: collected(m, b"\xff\xff"),
        "the collection variables holds something else than a VariableDef (0)",
    ),
    "a signature of dtype 9999": (lambda m: signed(m, 9999), "signature s has x of dtype 9999, which is none"),
}


@pytest.mark.parametrize(("change", "text"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_cannot_be(change, text, tmp_path):
    meta = protos.MetaGraphDef()
    node(meta, "x", "Placeholder", dtype=attr(type=1))
    change(meta)
    (tmp_path / "m.meta").write_bytes(meta.SerializeToString())
    saved = protos.SavedModel(meta_graphs=[meta])
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())
    for read_graph, file in ((metagraph.read, "m.meta"), (metagraph.read_saved_model, "saved_model.pb")):
        with bounded(), pytest.raises(BindingError) as caught:
            read_graph(tmp_path / file)
        assert str(caught.value).splitlines()[0] == f"{tmp_path}/{file}: {text}{COPY}"


def test_the_first_of_many_problems_are_reported(tmp_path):
    meta = protos.MetaGraphDef()
    for number in range(1000):
        node(meta, f"n{number}", "")
    (tmp_path / "m.meta").write_bytes(meta.SerializeToString())
    with pytest.raises(BindingError) as caught:
        metagraph.read(tmp_path / "m.meta")
    assert [len(caught.value.problems), str(caught.value).splitlines()[-1]] == [
        21,
        f"{tmp_path}/m.meta: there are more such problems{COPY}",
    ]


def test_the_loop_of_a_while_is_no_cycle(tmp_path):
    meta = protos.MetaGraphDef()
    node(meta, "enter", "Enter", ["x"])
    node(meta, "merge", "Merge", ["enter", "next"])
    node(meta, "next", "NextIteration", ["merge"])
    node(meta, "x", "Placeholder", dtype=attr(type=1))
    (tmp_path / "m.meta").write_bytes(meta.SerializeToString())
    assert len(metagraph.read(tmp_path / "m.meta").graph_def.node) == 4


def test_loops_within_loops_without_end():
    meta = protos.MetaGraphDef()
    node(meta, "n0", "Placeholder", dtype=attr(type=1))
    for i in range(1, 3000):
        node(meta, f"n{i}", "Enter", [f"n{i - 1}"], frame_name=attr(s=b"frame%d" % i))
    with bounded(), pytest.raises(BindingError) as caught:
        _ = metagraph.Graph(meta).contexts
    assert str(caught.value) == "n65: lies in more than 64 nested loops and branches; export a part of it"


def test_an_input_thousands_of_times_is_followed_once():
    meta = protos.MetaGraphDef()
    node(meta, "n0", "Placeholder", dtype=attr(type=1))
    for i in range(1, 60):
        node(meta, f"n{i}", "Enter", [f"n{i - 1}"] * 3000, frame_name=attr(s=b"frame%d" % i))
    with bounded():
        assert len(metagraph.Graph(meta).contexts["n59"]) == 59


TEXTS = {
    "messages without end": (
        b"graph_def { node " + b"{ attr " * 5000 + b"}" * 5001,
        "nests messages 5001 deep, and 100 is protobuf's limit; it was made by hand: copy it again",
    ),
    "a text without end": (
        b"graph_def {} #" + b" " * (8 << 20),
        "is text of 8,388,622 bytes, and at most 8,388,608 are read; write it in binary",
    ),
    "a name that is not UTF-8": (b'graph_def { node { name: "\xff" op: "NoOp" } }', "is not a MetaGraphDef"),
    "binary messages without end": (None, "is not a MetaGraphDef"),
}


@pytest.mark.parametrize(("data", "text"), TEXTS.values(), ids=TEXTS)
def test_a_graph_without_end(data, text, tmp_path):
    if data is None:
        data = b""
        for _ in range(3000):
            data = b"\x12" + varint(len(data)) + data
    (tmp_path / "m.meta").write_bytes(data)
    with bounded(), pytest.raises(BindingError) as caught:
        metagraph.read(tmp_path / "m.meta")
    assert str(caught.value).startswith(f"{tmp_path}/m.meta: {text}")


def test_messages_of_two_bytes_that_become_a_hundred(tmp_path):
    nodes = b"\x0a\0" * 10_000_000
    (tmp_path / "m.meta").write_bytes(b"\x12" + varint(len(nodes)) + nodes)
    with bounded(), pytest.raises(BindingError) as caught:
        metagraph.read(tmp_path / "m.meta")
    why = "expands to far more memory than it has bytes; it was made by hand: copy it again"
    assert str(caught.value) == f"{tmp_path}/m.meta: {why}"


def test_a_large_constant_is_in_proportion(tmp_path):
    meta = protos.MetaGraphDef()
    node(meta, "a", "Const", value=tensor(1, (2**22,), tensor_content=bytes(2**24)))
    (tmp_path / "m.meta").write_bytes(meta.SerializeToString())
    assert metagraph.read(tmp_path / "m.meta").ByteSize() > 2**24


def test_more_than_a_message_can_have(tmp_path):
    (tmp_path / "m.meta").touch()
    os.truncate(tmp_path / "m.meta", 1 << 31)
    with bounded(), pytest.raises(BindingError) as caught:
        metagraph.read(tmp_path / "m.meta")
    bound = "it has 2,147,483,648 bytes, and at most 2,147,483,647 are read"
    assert str(caught.value).startswith(f"{tmp_path}/m.meta: cannot be read: {bound}; ")


# Indexes


HEADER = (b"", protos.BundleHeaderProto(num_shards=1).SerializeToString())


def entry(shape=(), **fields):
    proto = protos.BundleEntryProto(**{"dtype": 1, **fields})
    for size in shape:
        proto.shape.dim.add(size=size)
    return proto


def sliced(shape, *extents):
    """A tensor and its slices, each along all dimensions, as items of an index."""
    whole = entry(shape)
    items, offset = [], 0
    for extent in extents:
        one = whole.slices.add()
        for start, length in extent:
            one.extent.add(start=start, length=length)
        size = 4 * int(np.prod([length for _, length in extent]))
        items.append(
            (exportkit.checkpoint.index.slice_key("v", extent), entry([n for _, n in extent], size=size, offset=offset))
        )
        offset += size
    return table(
        sorted({HEADER[0]: HEADER[1], b"v": whole.SerializeToString(), **{k: p.SerializeToString() for k, p in items}}.items())
    )


def of(**fields):
    return table([HEADER, (b"v", entry(**fields).SerializeToString())])


def checked(block, kind=0):
    body = block + bytes([kind])
    return body + struct.pack("<I", mask(google_crc32c.value(body)))


def pointing(block, handles, kind=0):
    """A table with one block of data, and an index that points to `handles`."""
    body = checked(block, kind)
    entries = b"".join(b"\0\x01" + varint(len(h)) + bytes([97 + i]) + h for i, h in enumerate(handles))
    index = checked(entries + struct.pack("<2I", 0, 1))
    footer = varint(0) + varint(0) + varint(len(body)) + varint(len(index) - 5)
    return body + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


PLAIN = b"\0\0\0" + struct.pack("<2I", 0, 1)
WHOLE = varint(0) + varint(len(PLAIN))


def prefixes(count, length=60_000):
    """A block whose keys share a long prefix, so that they take far more than the block."""
    block = b"\0" + varint(length) + b"\0" + b"k" * length
    keys = (b"%06d" % i for i in range(count))
    return block + b"".join(varint(length) + b"\6\0" + key for key in keys) + struct.pack("<2I", 0, 1)


INDEXES = {
    "shared prefixes": (
        lambda: pointing(block := prefixes(20_000), [varint(0) + varint(len(block))]),
        "a block has more than 400,000 entries, or names of more than 67,108,864 bytes",
    ),
    "many entries": (
        lambda: table([HEADER, *((b"%07d" % i, b"") for i in range(400_001))]),
        "it has more than 400,000 entries, or names of more than 67,108,864 bytes",
    ),
    "a block twice": (lambda: pointing(PLAIN, [WHOLE, WHOLE]), "the block at byte 0 overlaps the one at byte 0"),
    "a block outside": (
        lambda: pointing(PLAIN, [varint(10**6) + varint(5)]),
        "the block at byte 1000000 overlaps the one at byte 16",
    ),
    "a block without end": (
        lambda: pointing(PLAIN, [varint(0) + varint(2**63)]),
        "the block at byte 0 overlaps the one at byte 16",
    ),
    "a handle without end": (lambda: pointing(PLAIN, [b"\x80" * 20]), "a number has more than 64 bits"),
    "a Snappy bomb": (
        lambda: pointing(bomb := varint(2**32 - 1) + b"\0a" + b"\xfe\1\0" * 50, [varint(0) + varint(len(bomb))], kind=1),
        "a compressed block expands to 4,294,967,295 bytes, more than the 67,108,864 of any writer",
    ),
    "a key that is not UTF-8": (
        lambda: table([HEADER, (b"\xff", entry(size=4).SerializeToString())]),
        "a name in it is not UTF-8",
    ),
    "keys twice": (lambda: table([HEADER, (b"v", b""), (b"v", b"")]), "its keys are not in order"),
    "keys in disorder": (lambda: table([HEADER, (b"w", b""), (b"v", b"")]), "its keys are not in order"),
    "a shape that overflows": (lambda: of(shape=(2**62, 2**62), size=4), f"'v' has the shape [{2**62}, {2**62}]"),
    "a negative shape": (lambda: of(shape=(-1,), size=4), "'v' has the shape [-1]"),
    "a shape of many dimensions": (lambda: of(shape=[1] * 300, size=4), "'v' has 300 dimensions"),
    "a negative size": (lambda: of(size=-4), "'v' lies outside of its 1 data files"),
    "a negative offset": (lambda: of(size=4, offset=-4), "'v' lies outside of its 1 data files"),
    "a shard that is not there": (lambda: of(size=4, shard_id=7), "'v' lies outside of its 1 data files"),
    "a size of other shape": (lambda: of(shape=(3,), size=4), "'v' is float32 [3] and has 4 bytes"),
    "strings without end": (
        lambda: of(shape=(2**40,), size=2**41, dtype=7),
        "'v' has 1,099,511,627,776 strings in 2,199,023,255,552 bytes, too many to be read",
    ),
    "slices that overlap": (
        lambda: sliced((4,), [(0, 2)], [(1, 1)], [(1, 1)]),
        "the slices of 'v' do not make up the whole",
    ),
    "slices that overlap in a plane": (
        lambda: sliced((2, 2), [(0, 1), (0, 2)], [(0, 2), (0, 1)]),
        "the slices of 'v' do not make up the whole",
    ),
    "a slice beyond": (lambda: sliced((4,), [(0, 2)], [(3, 2)]), "a slice of 'v' goes beyond its shape [4]"),
    "no header": (lambda: table([(b"v", entry(size=4).SerializeToString())]), "it does not begin with a header"),
}


@pytest.mark.parametrize(("data", "text"), INDEXES.values(), ids=INDEXES)
def test_an_index_that_cannot_be(data, text, tmp_path):
    (tmp_path / "m.index").write_bytes(data())
    with bounded(), pytest.raises(WeightsError) as caught:
        Bundle(tmp_path / "m")
    assert str(caught.value) == f"{tmp_path}/m.index: is damaged: {text}{DAMAGED}"


def test_slices_of_a_plane_are_read(tmp_path):
    corners = [[(row, 1), (column, 2)] for row in range(2) for column in (0, 2)]
    (tmp_path / "m.index").write_bytes(sliced((2, 4), *corners))
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(64))
    assert [part.extents for part in Bundle(tmp_path / "m").entries["v"].parts] == [tuple(corner) for corner in corners]


def test_missing_data_files_are_counted(tmp_path):
    items = [(b"v%04d" % i, entry(size=4, shard_id=i).SerializeToString()) for i in range(500)]
    header = protos.BundleHeaderProto(num_shards=500).SerializeToString()
    (tmp_path / "m.index").write_bytes(table([(b"", header), *items]))
    with pytest.raises(WeightsError) as caught:
        Bundle(tmp_path / "m")
    assert len(caught.value.problems) == 21
    assert str(caught.value.problems[-1]) == "480 more files of the checkpoint have such problems"


def test_an_index_has_a_bound(tmp_path):
    (tmp_path / "m.index").touch()
    os.truncate(tmp_path / "m.index", 1 << 40)
    with bounded(), pytest.raises(WeightsError) as caught:
        Bundle(tmp_path / "m")
    bound = "it has 1,099,511,627,776 bytes, and an index has 268,435,456 at most"
    assert str(caught.value) == f"{tmp_path}/m.index: is damaged: {bound}{DAMAGED}"


@pytest.mark.parametrize("count", [3, 1000])
def test_blocks_are_read_once_for_many_keys(count):
    read_table = Table(table([(b"%06d" % i, b"x") for i in range(count)]))
    with bounded():
        assert {read_table.get(b"%06d" % i) for i in range(count)} == {b"x"}


# Samples


def array(shape=(2,), descr="<f4", data=b"", fortran=False, version=b"\1\0"):
    return raw(repr({"descr": descr, "fortran_order": fortran, "shape": shape}), data, version)


def raw(header, data=b"", version=b"\1\0", length=None):
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", length or len(text)) + text + data


def archive(content, compression=zipfile.ZIP_STORED, name="x.npy"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as made:
        made.writestr(name, content)
    return out.getvalue()


def declared(size):
    """An archive that declares another size of its member, in both of its headers."""
    data = archive(array(data=bytes(8)))
    held = struct.pack("<L", len(array(data=bytes(8))))
    return data.replace(held + held, held + struct.pack("<L", size))


def record(data, length=None):
    size = struct.pack("<Q", len(data) if length is None else length)
    return size + crc(size) + data + crc(data)


def crc(data):
    return struct.pack("<I", mask(google_crc32c.value(data)))


def example(**features):
    proto = protos.example_pb2.Example()
    for name, values in features.items():
        proto.features.feature[name].float_list.value.extend(values)
    return proto.SerializeToString()


OBJECTS = "holds pickled objects, which are never loaded; save numbers or bytes"
NO_NPY, NO_NPZ = "is not a .npy file of numbers or bytes", "is not a .npz file of numbers or bytes"
MANY = "has more arrays than are read from one file"
UNUSUAL = "is encrypted or compressed in an unusual way; write it with numpy.savez"
SAMPLES = {
    "npy: empty": ("d.npy", b"", NO_NPY),
    "npy: something else": ("d.npy", b"hello", NO_NPY),
    "npy: no header": ("d.npy", b"\x93NUMPY\1\0", NO_NPY),
    "npy: unknown version": ("d.npy", b"\x93NUMPY\x09\0" + bytes(50), NO_NPY),
    "npy: header cut off": ("d.npy", raw("{", length=500), NO_NPY),
    "npy: header of nothing": ("d.npy", raw("{}"), NO_NPY),
    "npy: header of parentheses": ("d.npy", raw("(" * 9000), NO_NPY),
    "npy: header of code": ("d.npy", raw("__import__('os')"), NO_NPY),
    "npy: header of quotes": ("d.npy", raw("'''"), NO_NPY),
    "npy: header without end": ("d.npy", raw("{'descr': '<f4'," + " " * 60_000 + "}"), NO_NPY),
    "npy: header of 4 GB": ("d.npy", raw("{}", version=b"\2\0", length=2**32 - 1), NO_NPY),
    "npy: no dtype": ("d.npy", array(descr="nothing"), NO_NPY),
    "npy: dtype of a list": ("d.npy", array(descr=[("a",)]), NO_NPY),
    "npy: shape of texts": ("d.npy", array(shape=("a",)), NO_NPY),
    "npy: shape of booleans and none": ("d.npy", array(shape=(None,)), NO_NPY),
    "npy: 2^60 elements": ("d.npy", array((2**60,)), f"declares {2**62:,} bytes of values and holds 0"),
    "npy: 2^120 elements": ("d.npy", array((2**60, 2**60)), f"declares {2**122:,} bytes of values and holds 0"),
    "npy: 8 GB in Fortran order": (
        "d.npy",
        array((2**16, 2**15), fortran=True, data=bytes(8)),
        "declares 8,589,934,592 bytes of values and holds 8",
    ),
    "npy: cut short": ("d.npy", array((4,), data=bytes(12)), "declares 16 bytes of values and holds 12"),
    "npy: negative shape": ("d.npy", array((-1,)), "is not a file of numbers or bytes: it declares float32 [-1]"),
    "npy: objects": (
        "d.npy",
        array(descr="|O", data=b"cos\nsystem\n"),
        OBJECTS,
    ),
    "npy: fields": (
        "d.npy",
        array(descr=[("a", "<f4")], data=bytes(8)),
        "is not a file of numbers or bytes: it declares [('a', '<f4')] [2]",
    ),
    "npy: texts of no size": ("d.npy", array((2**40,), "|S0"), f"holds {2**40:,} texts, and at most 1,048,576 are read"),
    "npy: many texts": ("d.npy", array((2**21,), "|S1", bytes(2**21)), "holds 2,097,152 texts, and at most 1,048,576 are read"),
    "npy: a dimension of none beside a huge one": ("d.npy", array((0, 2**70)), NO_NPY),
    "npz: empty": ("d.npz", b"", NO_NPZ),
    "npz: cut short": ("d.npz", archive(array(data=bytes(8)))[:-10], NO_NPZ),
    "npz: no array": ("d.npz", archive(b"hello"), NO_NPZ),
    "npz: another checksum": ("d.npz", archive(array(data=bytes(8))).replace(bytes(8), bytes(7) + b"\1"), NO_NPZ),
    "npz: objects": (
        "d.npz",
        archive(array(descr="|O", data=b"cos\n")),
        OBJECTS,
    ),
    "npz: a bomb of 300 MB": (
        "d.npz",
        lambda: archive(bytes(300 << 20), zipfile.ZIP_DEFLATED),
        "expands to 314,572,800 bytes, and at most 268,435,456 are read",
    ),
    "npz: declares 3 GB": ("d.npz", declared(3 << 30), "expands to 3,221,225,472 bytes, and at most 268,435,456 are read"),
    "npz: array of 2^60 elements": ("d.npz", archive(array((2**60,))), f"declares {2**62:,} bytes of values and holds 0"),
    "npz: compressed by bzip2": ("d.npz", archive(array(data=bytes(8)), zipfile.ZIP_BZIP2), UNUSUAL),
    "npz: encrypted": (
        "d.npz",
        archive(array(data=bytes(8))).replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
        UNUSUAL,
    ),
    "npz: a directory without end": (
        "d.npz",
        archive(array(data=bytes(8)))[:-22] + b"PK\5\6" + bytes(8) + struct.pack("<LLH", 2**31, 0, 0),
        MANY,
    ),
    "npz: a second end": (
        "d.npz",
        archive(array(data=bytes(8)))[:-22] + b"PK\6\7" + bytes(16) + archive(b"")[-22:],
        MANY,
    ),
    "tfrecord: 2^60 bytes": ("d.tfrecord", record(b"hello", 2**60), "is cut short"),
    "tfrecord: 2^63 bytes": ("d.tfrecord", record(b"hello", 2**63), "is cut short"),
    "tfrecord: cut short": ("d.tfrecord", record(b"hello")[:-3], "is cut short"),
    "tfrecord: header cut off": ("d.tfrecord", record(b"hello")[:7], "is cut short"),
    "tfrecord: another checksum": (
        "d.tfrecord",
        record(b"hello")[:-1] + b"\0",
        "is damaged: a checksum does not hold, or it is no TFRecord file",
    ),
    "tfrecord: gzip": ("d.tfrecord", b"\x1f\x8b\x08" + bytes(20), "is compressed with gzip: decompress it"),
    "tfrecord: no examples": ("d.tfrecord:x", record(b"\xff"), "row 0 is not a tf.Example"),
    "tfrecord: ragged": (
        "d.tfrecord:x",
        record(example(x=[1, 2])) + record(example(x=[1])),
        "row 1: feature 'x' has 1 values, not 2",
    ),
    "tfrecord: many records": (
        "d.tfrecord",
        record(b"") * ((1 << 20) + 1),
        "has more than the 1,048,576 records that are read at most",
    ),
}


@pytest.mark.parametrize(("name", "data", "text"), SAMPLES.values(), ids=SAMPLES)
def test_a_file_of_samples_that_cannot_be(name, data, text, tmp_path):
    name, _, inner = name.partition(":")
    path = tmp_path / name
    path.write_bytes(data() if callable(data) else data)
    with bounded(), pytest.raises(Misfit) as caught:
        read(path, inner or ("x" if path.suffix == ".npz" else None))
    assert caught.value.what == f"{path} {text}"


@pytest.mark.parametrize(
    ("values", "fortran"), [(np.arange(6.0).reshape(2, 3), False), (np.asfortranarray(np.arange(6.0).reshape(2, 3)), True)]
)
@pytest.mark.parametrize(
    "save", [np.save, lambda path, values: np.savez(path, x=values), lambda path, values: np.savez_compressed(path, x=values)]
)
def test_what_numpy_writes_is_read(values, fortran, save, tmp_path):
    save(tmp_path / "d", values)
    (path,) = tmp_path.glob("d.*")
    found = npy.read(path, "x")
    assert (found.tolist(), found.dtype, npy.header(path, "x")) == (values.tolist(), values.dtype, (values.dtype, (2, 3)))
    assert found.flags.f_contiguous is fortran


@pytest.mark.parametrize("values", [np.float32(3), np.zeros((0, 4)), np.array(["a", "bc"]), np.array([b"a\0b"])])
def test_small_and_empty_arrays_and_texts_are_read(values, tmp_path):
    np.save(tmp_path / "d.npy", values)
    assert np.array_equal(npy.read(tmp_path / "d.npy", None), values)


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        (1, (2**20, 2**20), "is a TensorProto that declares 1,099,511,627,776 elements, too many to be read"),
        (7, (2**21,), "is a TensorProto that declares 2,097,152 elements, too many to be read"),
        (9999, (), "there is no dtype 9999"),
        (20, (), "is a TensorProto of dtype resource and shape []"),
    ],
)
def test_a_logged_tensor_that_expands(dtype, shape, text):
    with bounded(), pytest.raises(ValueError) as caught:
        from_proto(tensor(dtype, shape).tensor.SerializeToString())
    assert str(caught.value) == text


# YAML


def laughs(levels):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "vars:\n" + "".join(f"  {line}\n" for line in lines)


DEEP = "m.yaml:2: is nested more than 40 deep; write it flatter"
PLAIN_VALUES = "and only plain values are read; remove it"
ARRAY = "write large values to a .npy or .npz file and name that"
LARGE = f"the file holds more than 25,000 values, its aliases counted in full; {ARRAY}"
YAMLS = {
    "billion laughs": (laughs(10), f"m.yaml:7: {LARGE}"),
    "laughs in keys": ("vars: {a: &a {p: 1, q: 2}, b: &b [*a, *a], c: [" + "*b, " * 9000 + "1]}\n", f"m.yaml:2: {LARGE}"),
    "many values": ("vars: [" + "1, " * 30_000 + "1]\n", f"m.yaml:2: {LARGE}"),
    "an alias of itself": ("vars: {a: &a [1, *a]}\n", "m.yaml:2: *a refers to what it is part of; write the value"),
    "an alias of a mapping around": ("vars: &v {a: {b: *v}}\n", "m.yaml:2: *v refers to what it is part of; write the value"),
    "an alias of nothing": ("vars: {a: *b}\n", "m.yaml:2: is not YAML: found undefined alias 'b'"),
    "lists without end": (
        "vars: {a: " + "[" * 5000 + "]" * 5000 + "}\n",
        DEEP,
    ),
    "mappings without end": (
        "vars: " + "{a: " * 5000 + "}" * 5000 + "\n",
        DEEP,
    ),
    "lines without end": (
        "".join(" " * i + "a:\n" for i in range(60)),
        "m.yaml:42: is nested more than 40 deep; write it flatter",
    ),
    "a bracket without end": (
        "vars: " + "[" * 30 + "\n",
        "m.yaml:3: is not YAML: expected the node content, but found '<stream end>'",
    ),
    "an object of Python": (
        "vars: {a: !!python/object/apply:os.system ['touch x']}\n",
        f"m.yaml:2: has the tag !!python/object/apply:os.system, {PLAIN_VALUES}",
    ),
    "a name of Python": (
        "name: !!python/name:os.system ''\n",
        f"m.yaml:2: has the tag !!python/name:os.system, {PLAIN_VALUES}",
    ),
    "a module of Python": ("name: !!python/module:os ''\n", f"m.yaml:2: has the tag !!python/module:os, {PLAIN_VALUES}"),
    "a tag of one's own": ("name: !mine x\n", f"m.yaml:2: has the tag !mine, {PLAIN_VALUES}"),
    "a tag with an address": ("name: !<http://x/y> z\n", f"m.yaml:2: has the tag http://x/y, {PLAIN_VALUES}"),
    "bytes": ("name: !!binary aGVsbG8=\n", f"m.yaml:2: has the tag !!binary, {PLAIN_VALUES}"),
    "a set": ("vars: {a: !!set {x, y}}\n", f"m.yaml:2: has the tag !!set, {PLAIN_VALUES}"),
    "a time": ("vars: {a: !!timestamp 2024-99-99}\n", f"m.yaml:2: has the tag !!timestamp, {PLAIN_VALUES}"),
    "a key twice": ("name: a\nname: b\n", "m.yaml:3: is not YAML: found duplicate key name"),
    "a list as key": ("vars: {[1, 2]: 3}\n", "m.yaml:2: is not YAML: found unhashable key"),
    "two documents": ("name: a\n---\nname: b\n", "m.yaml:3: is not YAML: but found another document"),
    "a tab": ("vars:\n\ta: 1\n", "m.yaml:3: is not YAML: found character '\\t' that cannot start any token"),
    "a zero byte": (
        "name: a\0b\n",
        "m.yaml: is not YAML: unacceptable character #x0000: control characters are not allowed in "
        '"<unicode string>", position 27',
    ),
    "Latin-1": (b"# @package _global_\nname: \xe9\n", "m.yaml:2: is not UTF-8 (byte 0xe9); save the file as UTF-8"),
    "UTF-16": ("name: a\n".encode("utf-16"), "m.yaml:1: is not UTF-8 (byte 0xff); save the file as UTF-8"),
    "a number without end": ("vars: {a: " + "9" * 5000 + "}\n", "m.yaml:2: is a number of 5,000 digits; put a text in quotes"),
    "a key without end": ("k" * 5000 + ": 1\n", "m.yaml: is a single value, not a mapping; write key: value lines"),
    "a list": (b"- a\n", "m.yaml: is a list, not a mapping; write key: value lines, without leading dashes"),
    "one value": (b"3.5\n", "m.yaml: is a single value, not a mapping; write key: value lines"),
    "4 MiB and more": (
        b"#" * (5 << 20),
        "m.yaml: cannot be read: it has 5,242,880 bytes, and at most 4,194,304 are read; "
        "write large values to a .npy or .npz file and name that",
    ),
    "a file that includes itself": (
        "defaults: [m]\n",
        "defaults: a file of the config includes itself, or nests too deep; see its defaults list",
    ),
    "values that refer to each other": (
        "name: ${export_dir}\nexport_dir: ${name}\n",
        "name: Recursive interpolation detected; correct the interpolation",
    ),
}


def planned(capfd, *arguments):
    """The exit code and the problems of `exportkit plan`."""
    with bounded():
        code = cli.main(["plan", *arguments])
    return code, capfd.readouterr().err.strip().splitlines()


@pytest.mark.parametrize(("content", "text"), YAMLS.values(), ids=YAMLS)
def test_a_config_file_that_cannot_be(content, text, tmp_path, capfd):
    file = tmp_path / "conf" / "model" / "m.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content if isinstance(content, bytes) else f"# @package _global_\n{content}".encode())
    code, lines = planned(capfd, "model=m")
    assert (code, lines[0]) == (2, f"conf/model/{text}" if text.startswith("m.yaml") else text)


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "socket"])
def test_in_place_of_a_config_file(kind, tmp_path, capfd, monkeypatch):
    place = tmp_path / "conf" / "model"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    said = special(kind, place / "m.yaml")
    monkeypatch.chdir(tmp_path)
    assert planned(capfd, "model=m") == (2, [f"conf/model/m.yaml: cannot be read: {said}"])


# Drawn


@pytest.fixture(scope="module")
def sound(shared):
    """The directory of the sound models, made once: here, where TensorFlow is imported already."""

    def make(directory):
        (directory / "models.pickle").write_bytes(pickle.dumps(fuzzlab.models(directory)))

    return shared("fuzzed", make)


@pytest.mark.slow
def test_drawn_inputs_are_answered_or_refused(breadth, sound):
    inputs = breadth(30, 2000)
    command = [sys.executable, CAMPAIGN, "--inputs", str(inputs), "--seed", str(inputs), "--models", str(sound)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == f"{inputs} inputs, 0 failures", ended.stdout + ended.stderr[-2000:]


@pytest.mark.slow
def test_drawn_inputs_that_are_exported_answer_as_tensorflow_does(breadth, sound):
    inputs = breadth(3, 60)
    command = [
        sys.executable,
        CAMPAIGN,
        "--export",
        "--inputs",
        str(inputs),
        "--seed",
        "600001",
        "--models",
        str(sound),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == f"{inputs} inputs, 0 failures", ended.stdout + ended.stderr[-2000:]
    assert "): equal: " in ended.stdout


def test_the_laboratory_repeats_a_case(checkpoint, plugins, tmp_path):
    models = {"softmax": fuzzlab.Model(checkpoint("softmax").prefix, toys.config(checkpoint("softmax").prefix, tmp_path))}
    written = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        fuzzlab.write(models, 1, tmp_path / name, plugins)
        written.append({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()})
    assert written[0] == written[1]
    assert written[0]


def test_the_laboratory_keeps_an_index_whole(checkpoint):
    data = Path(f"{checkpoint('dense').prefix}.index").read_bytes()
    changed = [fuzzlab.mutate_index(data, random.Random(seed)) for seed in range(50)]
    assert all(Table(one).data == one for one in changed)
    assert sum(one != data for one in changed) == 45
