import errno
import hashlib
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exportkit import protos
from exportkit.checkpoint import (
    Bundle,
    BundleWriter,
    Copied,
    Entry,
    Part,
    check_copied,
    locate,
    reader,
    resolve,
    sstable,
)
from exportkit.checkpoint.locate import latest
from exportkit.errors import EnvironmentFailed, WeightsError

NUMBERS = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
OTHERS = ["bool", "complex64", "complex128", "bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"]
DAMAGED = "; copy the checkpoint again, or take another one"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def save(prefix, tensors, slices=None):
    """Writes tensors with TensorFlow; `slices`: name → its shape and slice, as SaveV2 takes it."""
    return save_pieces(prefix, [(name, value, (slices or {}).get(name, "")) for name, value in tensors.items()])


def save_pieces(prefix, pieces):
    """Writes (name, value, shape and slice) with TensorFlow."""
    names, values, specs = zip(*pieces, strict=True)
    values = [tensor(value) for value in values]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=specs, tensors=values)
    return str(prefix)


def tensor(value):
    return value if tf.is_tensor(value) else tf.constant(value, tf.string if value.dtype == object else value.dtype)


def load(prefix):
    """All values of a checkpoint, read by TensorFlow."""
    types = tf.train.load_checkpoint(str(prefix)).get_variable_to_dtype_map()
    slices = [""] * len(types)
    values = tf.raw_ops.RestoreV2(
        prefix=str(prefix), tensor_names=list(types), shape_and_slices=slices, dtypes=list(types.values())
    )
    return {
        name: np.array(value.numpy(), object if value.dtype == tf.string else None)
        for name, value in zip(types, values, strict=True)
    }


def same(one, other):
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


def same_all(ones, others):
    assert set(ones) == set(others)
    for name in ones:
        same(ones[name], others[name])


def copy_all(source, target, rename=lambda name: name):
    bundle = Bundle(source)
    with BundleWriter(target) as writer:
        for name in bundle.entries:
            writer.copy(rename(name), bundle, name)
    return {rename(name): (bundle, name) for name in bundle.entries}


def files(prefix):
    return {
        path.name.removeprefix(Path(prefix).name): path.read_bytes()
        for path in Path(prefix).parent.glob(f"{Path(prefix).name}.*")
    }


def example(dtype, shape=(2, 3)):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = np.arange(np.prod(shape, dtype=int)) % 2 if dtype.kind == "b" else np.arange(np.prod(shape, dtype=int)) % 7
    return values.astype(dtype).reshape(shape)


def everything():
    """A tensor of every dtype, and the awkward shapes."""
    tensors = {f"all/{dtype}": example(dtype) for dtype in NUMBERS + OTHERS}
    words = np.array([[b"", b"one"], ["zwei ü".encode(), b"\0" * 300]], object)
    more = {"text": words, "word": np.array(b"alone", object), "no/words": np.zeros((0, 2), object)}
    return tensors | more | {"scalar": np.float32(3.5), "empty": np.zeros((0, 5), np.float32), "größe/变量": example("int64")}


@pytest.fixture
def small(tmp_path):
    """A checkpoint of two numeric tensors and a string tensor."""
    tensors = {"dense/bias": np.arange(4, dtype=np.float32), "dense/kernel": example("float32", (4, 3))}
    return save(tmp_path / "model.ckpt-7", tensors | {"words": np.array([b"a", b"bc"], object)})


def refused(prefix):
    with pytest.raises(WeightsError) as caught:
        bundle = Bundle(prefix)
        for name in bundle.entries:
            bundle.verify(name)
    return str(caught.value)


# --- reading what TensorFlow wrote


def test_an_index_says_where_everything_is(small):
    bundle = Bundle(small)
    assert (bundle.prefix, bundle.format, bundle.aliases) == (small, "V2", {})
    assert list(bundle.entries) == ["dense/bias", "dense/kernel", "words"]
    part = Part(0, 16, 48, bundle.entries["dense/kernel"].crc32c)
    assert bundle.entries["dense/kernel"] == Entry("dense/kernel", "float32", (4, 3), 48, part.crc32c, (part,))
    assert bundle.entries["words"].dtype == "string"
    assert bundle.entries["words"].size == 2 + 4 + 3
    assert bundle.data_path(part) == small + ".data-00000-of-00001"


def test_values_of_every_dtype_are_those_that_tensorflow_reads(tmp_path):
    prefix = save(tmp_path / "all", everything())
    bundle, values = Bundle(prefix), load(prefix)
    assert list(bundle.entries) == sorted(everything(), key=str.encode)
    for name, entry in bundle.entries.items():
        bundle.verify(name)
        same(bundle.read(name), values[name])
        assert (entry.key, entry.shape) == (name, values[name].shape)
        assert tf.as_dtype(entry.dtype) == tf.train.load_checkpoint(prefix).get_variable_to_dtype_map()[name]


def test_quantized_and_variant_tensors(tmp_path):
    pair = tf.constant([3, -3], tf.int8)
    items = tf.raw_ops.TensorListFromTensor(tensor=tf.ones([2, 3]), element_shape=tf.constant([3]))
    prefix = save(tmp_path / "odd", {"q": tf.bitcast(pair, tf.qint8), "list": items})
    assert Bundle(prefix).entries["q"].dtype == "qint8"
    assert Bundle(prefix).read("q").tolist() == [3, -3]
    assert check_copied(tmp_path / "copy", copy_all(prefix, tmp_path / "copy")) == Copied(
        2, os.path.getsize(prefix + ".data-00000-of-00001")
    )
    with pytest.raises(WeightsError, match="is damaged: NumPy has no dtype variant"):
        Bundle(prefix).read("list")


def test_the_digest_is_that_of_the_index(small):
    assert Bundle(small).digest == hashlib.sha256(Path(small + ".index").read_bytes()).hexdigest()


def sharded(tmp_path, shards):
    """Writes each mapping as a shard, and merges them."""
    parts = [save(tmp_path / f"part-{number}", tensors) for number, tensors in enumerate(shards)]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "merged"))
    return str(tmp_path / "merged")


def test_several_shards(tmp_path):
    tensors = everything()
    names = list(tensors)
    prefix = sharded(tmp_path, [{name: tensors[name] for name in names[at::3]} for at in range(3)])
    assert {part.shard for entry in Bundle(prefix).entries.values() for part in entry.parts} == {0, 1, 2}
    proof = check_copied(tmp_path / "copy", copy_all(prefix, tmp_path / "copy"))
    assert proof == Copied(len(tensors), sum(entry.size for entry in Bundle(prefix).entries.values()))
    same_all(load(tmp_path / "copy"), load(prefix))


def test_objects_are_found_by_the_names_of_their_variables(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {
            "a": tf.compat.v1.get_variable("deep/a", initializer=1.0),
            "b": tf.compat.v1.get_variable("b", initializer=2.0),
        }
        checkpoint = tf.compat.v1.train.Checkpoint(**variables)
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = checkpoint.write(str(tmp_path / "objects"), session=session)
    bundle = Bundle(prefix)
    assert bundle.aliases == {"deep/a": "a/.ATTRIBUTES/VARIABLE_VALUE", "b": "b/.ATTRIBUTES/VARIABLE_VALUE"}
    assert bundle.read(bundle.aliases["b"]) == 2.0


def test_a_name_of_several_variables_is_no_alias(tmp_path):
    module = tf.Module()
    module.one, module.two, module.three = (tf.Variable(1.0, name=name) for name in ("same", "same", "other"))
    prefix = tf.train.Checkpoint(model=module).write(str(tmp_path / "objects"))
    assert Bundle(prefix).aliases == {"other": "model/three/.ATTRIBUTES/VARIABLE_VALUE"}


def test_an_unknown_tensor_has_neighbours(small):
    with pytest.raises(WeightsError) as caught:
        Bundle(small).read("dense/kernal")
    assert str(caught.value) == f"{small}: has no tensor 'dense/kernal'; did you mean dense/kernel?"


# --- partitioned variables


def test_keys_of_slices_are_those_of_tensorflow(tmp_path):
    ends = [1, 63, 64, 8191, 8192, 100_000, 2**31 - 2]
    for number, start in enumerate(ends):
        shape = f"{start + 2} 3 {start},2:0,3"
        prefix = save(tmp_path / f"s{number}", {"ü": np.zeros((2, 3), np.int8)}, {"ü": shape})
        keys = [key for key, _ in sstable.Table(Path(prefix + ".index").read_bytes()).items()]
        assert keys == [b"", reader.slice_key("ü", ((start, 2), (0, 3))), "ü".encode()]


def test_slices_come_along_under_the_new_name(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        split = tf.compat.v1.fixed_size_partitioner(3)
        whole = np.arange(28, dtype=np.float32).reshape(7, 4)
        start = iter((whole[:3], whole[3:5], whole[5:]))
        draw = lambda *_, **__: tf.constant(next(start))  # noqa: E731
        table = tf.compat.v1.get_variable("table", (7, 4), initializer=draw, partitioner=split, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        prefix = tf.compat.v1.train.Saver().save(session, str(tmp_path / "parted"))
        entry = Bundle(prefix).entries["table"]
        assert [part.extents for part in entry.parts] == [((0, 3), (0, 4)), ((3, 2), (0, 4)), ((5, 2), (0, 4))]
        assert (entry.shape, entry.size, entry.crc32c) == ((7, 4), 112, 0)
        same(Bundle(prefix).read("table"), whole)

        names = copy_all(prefix, tmp_path / "copy", "tower/{}".format)
        assert check_copied(tmp_path / "copy", names) == Copied(1, 112)
        session.run([tf.compat.v1.assign(part, tf.zeros_like(part)) for part in table])
        tf.compat.v1.train.Saver({"tower/table": list(table)}).restore(session, str(tmp_path / "copy"))
        assert session.run(tf.concat(list(table), 0)).tolist() == whole.tolist()
    same_all(load(tmp_path / "copy"), {"tower/table": whole})


def test_slices_in_several_shards_and_dimensions(tmp_path):
    whole = np.arange(24, dtype=np.int32).reshape(4, 6)
    words = np.array([b"a", b"bb", b"ccc"], object)
    one = {"w": whole[:, :2], "s": words[:1]}, {"w": "4 6 -:0,2", "s": "3 0,1"}
    two = {"w": whole[:, 2:], "s": words[1:]}, {"w": "4 6 -:2,4", "s": "3 1,2"}
    parts = [save(tmp_path / f"part-{number}", *each) for number, each in enumerate((one, two))]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "merged"))
    bundle = Bundle(tmp_path / "merged")
    assert [(part.shard, part.extents) for part in bundle.entries["w"].parts] == [
        (0, ((0, -1), (0, 2))),
        (1, ((0, -1), (2, 4))),
    ]
    same(bundle.read("w"), whole)
    same(bundle.read("s"), words)
    assert check_copied(tmp_path / "copy", copy_all(bundle.prefix, tmp_path / "copy")).tensors == 2
    names, slices = ["w", "s", "s"], ["", "3 0,1", "3 1,2"]
    types = [tf.int32, tf.string, tf.string]
    read = tf.raw_ops.RestoreV2(prefix=str(tmp_path / "copy"), tensor_names=names, shape_and_slices=slices, dtypes=types)
    assert [value.numpy().tolist() for value in read] == [whole.tolist(), [b"a"], [b"bb", b"ccc"]]


# --- writing


def test_bytes_are_those_that_tensorflow_writes(tmp_path):
    prefix = save(tmp_path / "theirs", everything())
    with BundleWriter(tmp_path / "ours") as writer:
        for name, array in everything().items():
            writer.add(name, array)
    assert files(tmp_path / "ours") == files(prefix)


def test_bytes_of_copies_are_those_that_tensorflow_wrote(tmp_path):
    tensors = {f"tower_{number % 7}/layer_{number}/kernel_of_some_length": np.float32(number) for number in range(9000)}
    tensors = {name: tensors[name] for name in sorted(tensors)}
    prefix = save(tmp_path / "theirs", tensors | {"zz": example("int8", (2, 3))}, {"zz": "9 3 4,2:-"})
    path = Path(prefix + ".index")
    assert path.stat().st_size > 300_000
    part = Part(0, 36_000, 6, 0)
    assert "do not make up the whole" in refused(prefix)
    prefix = save(prefix, tensors | {"zz": example("int8", (9, 3))}, {"zz": "9 3 -:-"})
    copy_all(prefix, tmp_path / "ours")
    assert Bundle(prefix).entries["zz"].parts[0].offset == part.offset
    assert files(tmp_path / "ours") == files(prefix)


def test_what_is_added_is_read_by_tensorflow(tmp_path):
    arrays = everything() | {
        "big endian": example(">f4"),
        "fortran": np.asfortranarray(example("int16", (3, 4))),
        "every second": example("float64", (10,))[::2],
    }
    with BundleWriter(tmp_path / "ours") as writer:
        for name, array in arrays.items():
            writer.add(name, array)
        writer.add("str", np.array(["ä", "b"]))
        writer.add("fixed bytes", np.array([b"a", b"bc"]))
        writer.add("bytes", b"zero at the end\0")
    strings = {
        "bytes": np.array(b"zero at the end\0", object),
        "str": np.array(["ä".encode(), b"b"], object),
        "fixed bytes": np.array([b"a", b"bc"], object),
    }
    same_all(
        load(tmp_path / "ours"), {name: np.asarray(one, one.dtype.newbyteorder("=")) for name, one in arrays.items()} | strings
    )
    assert check_copied(tmp_path / "ours", {}).tensors == 0


def test_the_same_input_gives_the_same_bytes(tmp_path):
    prefix = save(tmp_path / "all", everything())
    written = []
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
        copy_all(prefix, tmp_path / directory / "copy", "x/{}".format)
        written.append(files(tmp_path / directory / "copy"))
    assert written[0] == written[1]


def test_adjacent_ranges_are_copied_at_once(small, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "copy_file_range", lambda *a, kernel=os.copy_file_range: calls.append(a[2:]) or kernel(*a))
    copy_all(small, tmp_path / "copy")
    assert calls == [(16 + 48 + 9, 0, 0)]


@pytest.mark.parametrize("reason", ["error", "nothing", "absent"])
def test_where_the_kernel_cannot_copy_a_buffer_does(small, tmp_path, monkeypatch, reason):
    def kernel(*_):
        if reason == "error":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return 0

    monkeypatch.setattr(os, "copy_file_range", kernel)
    if reason == "absent":
        monkeypatch.delattr(os, "copy_file_range")
    check_copied(tmp_path / "copy", copy_all(small, tmp_path / "copy"))
    same_all(load(tmp_path / "copy"), load(small))


def test_a_kernel_that_copies_a_part_is_called_for_the_rest(small, tmp_path, monkeypatch):
    """One call copies 2 GiB at most; here 40 bytes."""
    calls, kernel = [], os.copy_file_range

    def in_parts(source, target, size, offset, at):
        calls.append((size, offset, at))
        return kernel(source, target, min(size, 40), offset, at)

    monkeypatch.setattr(os, "copy_file_range", in_parts)
    bundle = Bundle(small)
    with BundleWriter(tmp_path / "new") as writer:
        writer.add("first", np.zeros(3, np.int8))
        writer.copy("kernel", bundle, "dense/kernel")
        writer.copy("words", bundle, "words")
    assert calls == [(48 + 9, 16, 3), (17, 16 + 40, 3 + 40)]
    same_all(
        load(tmp_path / "new"),
        {"first": np.zeros(3, np.int8), "kernel": load(small)["dense/kernel"], "words": bundle.read("words")},
    )


@pytest.mark.parametrize("copied", [0, 1, 1 << 20, (2 << 20) + 5])
def test_a_buffer_copies_what_the_kernel_left(tmp_path, monkeypatch, copied):
    """More than one chunk of it, and from where the kernel stopped."""
    kernel, called = os.copy_file_range, []

    def stops(source, target, size, offset, at):
        called.append(size)
        if len(called) > 1 or not copied:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return kernel(source, target, copied, offset, at)

    values = np.random.default_rng(3).integers(0, 256, (3 << 20) + 7, np.uint8)
    prefix = save(tmp_path / "model", {"before": np.zeros(5, np.uint8), "large": values, "later": np.ones(9, np.uint8)})
    monkeypatch.setattr(os, "copy_file_range", stops)
    bundle = Bundle(prefix)
    with BundleWriter(tmp_path / "new") as writer:
        writer.add("first", np.zeros(3, np.uint8))
        writer.copy("large", bundle, "large")
    assert called == [len(values), len(values) - copied][: 1 + bool(copied)]
    assert files(tmp_path / "new")[".data-00000-of-00001"] == bytes(3) + values.tobytes()
    check_copied(tmp_path / "new", {"large": (bundle, "large")})


def test_a_full_disk_leaves_nothing(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(EnvironmentFailed) as caught:
        copy_all(small, tmp_path / "out/copy")
    assert str(caught.value) == f"{tmp_path}/out/copy.data-00000-of-00001: no space left on device; free some space"
    assert not list((tmp_path / "out").iterdir())


def test_a_failure_inside_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), BundleWriter(tmp_path / "new") as writer:
        writer.add("x", np.zeros(3))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_closing_twice_is_closing_once(tmp_path):
    with BundleWriter(tmp_path / "new") as writer:
        writer.add("x", np.zeros(3))
        writer.close()
    assert list(Bundle(tmp_path / "new").entries) == ["x"]


def test_an_empty_checkpoint(tmp_path):
    BundleWriter(tmp_path / "none").close()
    assert Bundle(tmp_path / "none").entries == {}
    assert tf.train.load_checkpoint(str(tmp_path / "none")).get_variable_to_shape_map() == {}


def test_a_checkpoint_is_not_overwritten(small):
    with pytest.raises(WeightsError) as caught:
        BundleWriter(small)
    assert str(caught.value) == f"{small}: a checkpoint is there already; choose another prefix"
    Bundle(small).verify("dense/kernel")


def test_a_directory_that_is_missing(tmp_path):
    with pytest.raises(EnvironmentFailed) as caught:
        BundleWriter(tmp_path / "no/new")
    assert str(caught.value) == f"{tmp_path}/no/new.data-00000-of-00001: no such file or directory; choose another directory"


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        ("x", np.zeros(2), "{prefix}: would get a second tensor 'x'; give each a name of its own"),
        ("d", np.zeros(2, "datetime64[s]"), "d: TensorFlow has no dtype datetime64[s]; convert the array"),
        ("o", np.array([b"a", 5], object), "o: a string tensor cannot hold a int; give bytes"),
    ],
)
def test_what_cannot_be_added(tmp_path, name, array, text):
    with pytest.raises(WeightsError) as caught, BundleWriter(tmp_path / "new") as writer:
        writer.add("x", np.zeros(1))
        writer.add(name, array)
    assert str(caught.value) == text.format(prefix=tmp_path / "new")


def test_a_source_that_becomes_shorter(small, tmp_path):
    bundle = Bundle(small)
    data = small + ".data-00000-of-00001"
    os.truncate(data, 20)
    with pytest.raises(WeightsError) as caught, BundleWriter(tmp_path / "new") as writer:
        writer.copy("k", bundle, "dense/kernel")
    assert str(caught.value) == f"{data}: became shorter while it was copied; wait until training has saved it"


# --- proof


def test_a_proof_names_every_tensor_that_is_wrong(small, tmp_path):
    names = copy_all(small, tmp_path / "copy", "x/{}".format)
    data = tmp_path / "copy.data-00000-of-00001"
    data.write_bytes(b"\1" + data.read_bytes()[1:-1] + b"\1")
    source = Bundle(small)
    names |= {"x/dense/kernel": (source, "dense/bias"), "y": (source, "words")}
    with pytest.raises(WeightsError) as caught:
        check_copied(tmp_path / "copy", names)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/copy: 'x/dense/kernel' is not the tensor 'dense/bias' of {small}; export again",
        f"{tmp_path}/copy: lacks 'y'; export again",
        f"{data}: is damaged: the bytes of 'x/dense/bias' do not have their checksum{DAMAGED}",
        f"{data}: is damaged: the bytes of 'x/words' do not have their checksum{DAMAGED}",
    ]


# --- what cannot be read


def test_nothing_is_there(small, tmp_path):
    assert refused(tmp_path / "model.ckpt-8") == f"{tmp_path}/model.ckpt-8: no checkpoint is there; did you mean model.ckpt-7?"
    (tmp_path / "sub").mkdir()
    assert refused(tmp_path / "sub/x") == f"{tmp_path}/sub/x: no checkpoint is there; {tmp_path}/sub is empty"
    (tmp_path / "sub" / "runs").mkdir()
    assert refused(tmp_path / "sub/rums") == f"{tmp_path}/sub/rums: no checkpoint is there; did you mean runs?"
    assert refused(tmp_path / "sub/x") == f"{tmp_path}/sub/x: no checkpoint is there; {tmp_path}/sub holds runs"
    assert refused("x") == "x: no checkpoint is there; paths are relative to where exportkit was started"
    assert refused("nowhere/at/all") == "nowhere/at/all: no checkpoint is there; there is no directory nowhere/at either"


def test_git_lfs_pointers(small):
    data, index = Path(small + ".data-00000-of-00001"), Path(small + ".index")
    data.write_bytes(LFS[:60])
    assert refused(small) == f"{data}: is a Git LFS pointer, not the data; run `git lfs pull`"
    index.write_bytes(LFS)
    assert refused(small) == f"{index}: is a Git LFS pointer, not a checkpoint; run `git lfs pull`"


def test_data_that_do_not_fit_the_index(small):
    data = Path(small + ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-1])
    do = "it is still being written or was cut short, or index and data are of two different saves: wait, or copy both again"
    assert refused(small) == f"{data}: has 72 bytes, and the index needs 73; {do}"
    data.unlink()
    do = "the index needs it: copy all files of the checkpoint"
    assert refused(small) == f"{data}: cannot be read: No such file or directory; {do}"


def test_files_that_are_something_else(small, tmp_path):
    index, other = Path(small + ".index"), tmp_path / "other"
    nothing = "is no TensorFlow checkpoint, or one that was cut short; name the checkpoint's prefix, without .index or .data"
    text = "is damaged: it does not end like a checkpoint: it was cut short or is something else"
    for content, says in ((b"", "is damaged: it is empty"), (b"x" * 100, text), (index.read_bytes()[:-1], text)):
        index.write_bytes(content)
        other.write_bytes(content)
        assert refused(small) == f"{index}: {says}{DAMAGED}"
        assert refused(other) == (f"{other}: {nothing}" if content else f"{other}: {says}{DAMAGED}")


def rewrite(prefix, change):
    """Lets `change` edit the keys and protos of an index, whose checksums are right again afterwards."""
    path = Path(prefix + ".index")
    items = dict(sstable.Table(path.read_bytes()).items())
    kinds = {b"": protos.tensor_bundle_pb2.BundleHeaderProto}
    parsed = {key: kinds.get(key, protos.tensor_bundle_pb2.BundleEntryProto).FromString(value) for key, value in items.items()}
    change(parsed)
    path.write_bytes(sstable.table(sorted((key, proto.SerializeToString()) for key, proto in parsed.items())))


def _set(key, field, value):
    return lambda items: setattr(items[key], field, value)


def _two_slices(items):
    for start in (0, 1):
        extent = items[b"dense/bias"].slices.add().extent.add(start=start)
        extent.length = 3
        items[reader.slice_key("dense/bias", ((start, 3),))] = type(items[b"dense/bias"])(dtype=1, size=12)


CHANGES = {
    "the machine": (
        lambda items: setattr(items[b""], "endianness", 1),
        "a big-endian machine wrote it, and its numbers are the wrong way round",
    ),
    "the version": (
        lambda items: setattr(items[b""].version, "min_consumer", 2),
        "its format is newer than any that is known (version 2)",
    ),
    "the writer's version": (
        lambda items: setattr(items[b""].version, "producer", -1),
        "its format has the version -1, which no writer has",
    ),
    "the header": (lambda items: items.pop(b""), "it does not begin with a header"),
    "the shard": (_set(b"dense/bias", "shard_id", 1), "'dense/bias' lies outside of its 1 data files"),
    "the offset": (_set(b"dense/bias", "offset", -1), "'dense/bias' lies outside of its 1 data files"),
    "the size": (_set(b"dense/bias", "size", 15), "'dense/bias' is float32 [4] and has 15 bytes"),
    "the dtype": (_set(b"dense/bias", "dtype", 2), "'dense/bias' is float64 [4] and has 16 bytes"),
    "an unknown dtype": (_set(b"dense/bias", "dtype", 77), "there is no dtype 77"),
    "no dtype": (_set(b"dense/bias", "dtype", 0), "NumPy has no dtype invalid"),
    "the shape": (lambda items: items[b"dense/bias"].shape.dim.add(size=-1), "'dense/bias' has the shape [4, -1]"),
    "no shape": (lambda items: setattr(items[b"dense/bias"].shape, "unknown_rank", True), "'dense/bias' has no shape"),
    "a long shape": (
        lambda items: items[b"words"].shape.dim.add(size=2**62),
        f"'words' has the shape [2, {2**62}]",
    ),
    "a missing slice": (lambda items: items[b"dense/bias"].slices.add(), "a slice of 'dense/bias' is missing"),
    "overlapping slices": (_two_slices, "the slices of 'dense/bias' do not make up the whole"),
    "a name": (
        lambda items: items.update({b"\xff": items[b"words"]}),
        "a name in it is not UTF-8",
    ),
}


@pytest.mark.parametrize(("change", "text"), CHANGES.values(), ids=CHANGES)
def test_an_index_that_contradicts_itself(small, change, text):
    rewrite(small, change)
    assert refused(small) == f"{small}.index: is damaged: {text}{DAMAGED}"


def test_an_index_whose_keys_are_not_in_order(small):
    path = Path(small + ".index")
    header, *items = sstable.Table(path.read_bytes()).items()
    path.write_bytes(sstable.table([header, items[1], items[0], items[2]]))
    assert refused(small) == f"{path}: is damaged: its keys are not in order{DAMAGED}"


def test_strings_whose_lengths_are_wrong(small):
    data = Path(small + ".data-00000-of-00001")
    bytes_of_data = bytearray(data.read_bytes())
    bytes_of_data[64] = 3
    data.write_bytes(bytes_of_data)
    says = "is damaged: the lengths of its strings do not add up to its size"
    assert refused(small) == f"{data}: {says}{DAMAGED}"


def outcome(prefix):
    """Entries and values of a checkpoint that may be damaged, or the error's text."""
    try:
        bundle = Bundle(prefix)
        return {name: (entry, bundle.read(name).tolist()) for name, entry in bundle.entries.items()}
    except WeightsError as error:
        return str(error)


@pytest.mark.slow
def test_ten_thousand_damaged_bytes(tmp_path, breadth):
    chance, times = random.Random(1), breadth(250, 5000)
    prefix = save(tmp_path / "model", everything() | {"parted": example("int16", (5, 2))}, {"parted": "5 2 0,5:-"})
    good = outcome(prefix)
    for path in (Path(prefix + ".index"), Path(prefix + ".data-00000-of-00001")):
        content = path.read_bytes()
        noticed = 0
        for _ in range(times):
            bad = bytearray(content)
            bad[chance.randrange(len(bad))] ^= chance.randrange(1, 256)
            overwrite(path, bad)
            found = outcome(prefix)
            assert found == good or "is damaged: " in found
            noticed += found != good
        assert noticed > 0.93 * times
        overwrite(path, content)


def overwrite(path, content):
    """Write as many bytes as the file has: one that is emptied first goes to the disk each time (ext4, auto_da_alloc)."""
    with open(path, "r+b") as file:
        assert file.write(content) == os.path.getsize(path)


def test_every_cut_is_noticed(small):
    for path in (Path(small + ".index"), Path(small + ".data-00000-of-00001")):
        content = path.read_bytes()
        for size in reversed(range(len(content))):
            os.truncate(path, size)
            assert str(path) in outcome(small)
        path.write_bytes(content)


values = st.one_of(st.integers(-2, 70), st.sampled_from([2**31 - 1, 2**40, 2**62, 2**63 - 1, -(2**63)]))
SETTINGS = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@st.composite
def entry_protos(draw):
    """An entry with all its numbers drawn."""
    proto = protos.tensor_bundle_pb2.BundleEntryProto(
        dtype=draw(st.integers(0, 35)), shard_id=draw(st.sampled_from([0, 1, -1]))
    )
    proto.offset, proto.size, proto.crc32c = draw(values), draw(values), draw(st.integers(0, 2**32 - 1))
    for size in draw(st.lists(values, max_size=3)):
        proto.shape.dim.add(size=size)
    for extents in draw(st.lists(st.lists(st.tuples(values, values), max_size=3), max_size=2)):
        added = proto.slices.add()
        for start, length in extents:
            added.extent.add(start=start, length=length)
    return proto.SerializeToString()


@given(
    st.dictionaries(
        st.one_of(st.binary(min_size=1, max_size=9), st.just(b"a")), st.one_of(entry_protos(), st.binary(max_size=30))
    )
)
@settings(max_examples=2 * settings().max_examples, **SETTINGS)
def test_any_index_is_read_or_refused(tmp_path, items):
    items = {b"": b"\x08\x01", **items}
    (tmp_path / "any.index").unlink(missing_ok=True)
    (tmp_path / "any.index").write_bytes(sstable.table(sorted(items.items())))
    if not (tmp_path / "any.data-00000-of-00001").exists():
        (tmp_path / "any.data-00000-of-00001").write_bytes(bytes(100))
    assert outcome(tmp_path / "any") or len(items) == 1


# --- V1


@pytest.fixture
def old(tmp_path):
    """A V1 checkpoint of all dtypes that V1 knows, and two slices."""
    names = {name: value for name, value in everything().items() if value.dtype.name in V1_DTYPES}
    tensors = [tensor(value) for value in names.values()] + [tensor(example("float32", (3, 2)))]
    specs = [""] * len(names) + ["3 2 0,3:-"]
    tf.raw_ops.SaveSlices(
        filename=str(tmp_path / "old"), tensor_names=[*names, "parted"], shapes_and_slices=specs, data=tensors
    )
    return str(tmp_path / "old")


V1_DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"]
V1_DTYPES += ["complex64", "complex128", "object"]


def test_v1_is_read(old):
    bundle, values = Bundle(old), load(old)
    assert bundle.format == "V1"
    assert list(bundle.entries) == sorted(values, key=str.encode)
    assert bundle.entries["all/int16"] == Entry("all/int16", "int16", (2, 3), 12, 0, ())
    for name in values:
        bundle.verify(name)
        same(bundle.read(name), values[name])


def test_v1_becomes_v2(old, tmp_path):
    names = copy_all(old, tmp_path / "new")
    assert check_copied(tmp_path / "new", names).tensors == len(names)
    same_all(load(tmp_path / "new"), load(old))
    with pytest.raises(WeightsError, match="'scalar' is not the tensor 'empty' of"):
        check_copied(tmp_path / "new", {"scalar": (Bundle(old), "empty")})


def test_v1_slices_of_one_variable(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        whole = np.ones((5, 2), np.float32)
        split = tf.compat.v1.fixed_size_partitioner(2)
        tf.compat.v1.get_variable(
            "table", (5, 2), initializer=tf.compat.v1.ones_initializer(), partitioner=split, use_resource=False
        )
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
        same(Bundle(saver.save(session, str(tmp_path / "old"))).read("table"), whole)


@pytest.mark.slow
def test_damaged_v1(old, breadth):
    def is_refused(found):
        return f"{old}: is damaged: " in found or f"{old}: is no TensorFlow checkpoint, or one that was cut short; " in found

    chance, path = random.Random(2), Path(old)
    content, good = path.read_bytes(), outcome(old)
    for _ in range(breadth(100, 2000)):
        bad = bytearray(content)
        bad[chance.randrange(len(bad))] ^= chance.randrange(1, 256)
        path.write_bytes(bad)
        found = outcome(old)
        assert found == good or is_refused(found)
    for size in range(0, len(content), breadth(70, 7)):
        path.write_bytes(content[:size])
        assert is_refused(outcome(old))


def test_an_absurd_shape_in_v1_takes_no_memory(tmp_path):
    saved = protos.saved_tensor_slice_pb2.SavedTensorSlices()
    one = saved.meta.tensor.add(name="w", type=1)
    one.shape.dim.add(size=2**50)
    one.slice.add().extent.add()
    (tmp_path / "old").write_bytes(sstable.table([(b"", saved.SerializeToString())]))
    assert refused(tmp_path / "old") == f"{tmp_path}/old: is damaged: 'w' has the shape [{2**50}]{DAMAGED}"


# --- which checkpoint


def state(directory, recorded):
    Path(directory, "checkpoint").write_text(f'model_checkpoint_path: "{recorded}"\nall_model_checkpoint_paths: "x"\n')


def test_the_state_file_names_the_latest(tmp_path):
    for number in (2, 10):
        save(tmp_path / f"model-{number}", {"x": np.float32(number)})
    tf.compat.v1.train.update_checkpoint_state(str(tmp_path), str(tmp_path / "model-2"))
    assert latest(tmp_path) == f"{tmp_path}/model-2"
    for recorded in ("model-2", "/gone/model-2", r"C:\\runs\\model-2", str(tmp_path / "model-2")):
        state(tmp_path, recorded)
        assert latest(tmp_path) == resolve(tmp_path) == f"{tmp_path}/model-2"
    state(tmp_path, "/gone/elsewhere")
    with pytest.raises(WeightsError) as caught:
        latest(tmp_path)
    assert str(caught.value) == f"{tmp_path}/checkpoint: names '/gone/elsewhere', which is not there; known: model-10, model-2"


def test_a_state_file_in_any_script(tmp_path):
    directory = tmp_path / 'gr"ö\\ße'
    directory.mkdir()
    save(directory / "модель-1", {"x": np.float32(1)})
    tf.compat.v1.train.update_checkpoint_state(str(directory), "модель-1")
    assert latest(directory) == f"{directory}/модель-1"


def test_a_state_file_without_a_checkpoint(tmp_path):
    (tmp_path / "checkpoint").write_text("nonsense")
    with pytest.raises(WeightsError) as caught:
        latest(tmp_path)
    assert str(caught.value) == f'{tmp_path}/checkpoint: is damaged: it has no line `model_checkpoint_path: "..."`{DAMAGED}'


def test_without_a_state_file_the_highest_number_counts(tmp_path):
    for number in (9, 10, 2):
        save(tmp_path / f"model-{number}.ckpt", {"x": np.float32(number)})
    assert latest(tmp_path) == f"{tmp_path}/model-10.ckpt"
    save(tmp_path / "other-11.ckpt", {"x": np.float32(0)})
    with pytest.raises(WeightsError) as caught:
        latest(tmp_path)
    several = "model-10.ckpt, model-2.ckpt, model-9.ckpt, other-11.ckpt"
    assert str(caught.value) == f"{tmp_path}: has several checkpoints: {several}; name one of them"


def test_without_a_state_file_a_v1_file_counts(old, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert latest(tmp_path) == old


def test_a_directory_without_a_checkpoint(tmp_path):
    for names, says in (
        ([], "it is empty"),
        (["a", "b"], "it holds a, b"),
        ("cdefghij", "it holds a, b, c, d, e, f, g, h and 2 more"),
    ):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(WeightsError) as caught:
            latest(tmp_path)
        assert str(caught.value) == f"{tmp_path}: has no checkpoint; {says}"
    with pytest.raises(WeightsError) as caught:
        latest(tmp_path / "no")
    assert str(caught.value) == f"{tmp_path}/no: cannot be read: No such file or directory"


def test_a_path_may_name_a_file_of_the_checkpoint(small, tmp_path):
    for end in ("", ".index", ".meta", ".data-00000-of-00001"):
        assert resolve(small + end) == small
    Path(small).mkdir()
    assert resolve(small) == small
    assert resolve(tmp_path) == small
    assert resolve("absent") == "absent"


# --- the room itself


def run(script, *arguments):
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensorflow_is_not_imported(small):
    script = "import sys; from exportkit.checkpoint import Bundle; Bundle(sys.argv[1]).read('words')"
    run(f"{script}; assert 'tensorflow' not in sys.modules", small)


MEMORY = """
import resource, sys
from exportkit.checkpoint import Bundle, BundleWriter, check_copied
source = Bundle(sys.argv[1])
source.verify("small")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20),) * 2)
with BundleWriter(sys.argv[2]) as writer:
    writer.copy("big", source, "big")
check_copied(sys.argv[2], {"big": (source, "big")})
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_memory_stays_flat(tmp_path):
    with BundleWriter(tmp_path / "source") as writer:
        writer.add("small", np.zeros(1))
        writer.add("big", np.arange(16 << 20, dtype=np.float32))
    run(MEMORY, tmp_path / "source", tmp_path / "target")
    assert files(tmp_path / "target")[".data-00000-of-00001"] == np.arange(16 << 20, dtype=np.float32).tobytes()


# --- random tensors, and real checkpoints

JOINED = ["float32", "float64", "uint8", "int8", "int16", "int32", "int64", "complex64", "complex128", "bool", "bfloat16"]
"""Dtypes of which TensorFlow puts slices together."""

any_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@st.composite
def tensors(draw):
    """A value that TensorFlow can save, and the spec of the slice that it is saved as (empty: the whole)."""
    dtype = draw(st.sampled_from([*NUMBERS, *OTHERS, "string"]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = int(np.prod(shape))
    if dtype == "string":
        words = np.empty(size, object)
        words[:] = draw(st.lists(st.binary(max_size=200), min_size=size, max_size=size))
        return words.reshape(shape)
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    if dtype.kind == "b" or dtype.name in ("int4", "uint4"):
        return example(dtype.name, shape)
    return np.frombuffer(draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize)), dtype).reshape(shape)


def sliced(value, pieces):
    """A value cut along its first dimension: (rows, spec) of each slice."""
    cuts = np.linspace(0, len(value), pieces + 1).astype(int)
    shape, rest = " ".join(map(str, value.shape)), "".join(":-" for _ in value.shape[1:])
    return [(value[a:b], f"{shape} {a},{b - a}{rest}") for a, b in itertools.pairwise(cuts) if b > a]


def write_shards(directory, chosen, shards, pieces):
    """Saves tensors in several shards, the tall ones in slices."""
    content = [[] for _ in range(shards)]
    for number, (name, value) in enumerate(chosen.items()):
        tall = value.ndim and value.size and len(value) >= pieces > 1 and value.dtype.name in JOINED
        for at, (rows, spec) in enumerate(sliced(value, pieces) if tall else [(value, "")]):
            content[(number + at) % shards].append((name, rows, spec))
    parts = [save_pieces(directory / f"part-{number}", each) for number, each in enumerate(content) if each]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(directory / "all"))
    return str(directory / "all")


@pytest.mark.slow
@given(st.dictionaries(any_names, tensors(), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 3), any_names)
@settings(**SETTINGS)
def test_random_tensors_survive(tmp_path_factory, chosen, shards, pieces, prefix):
    directory = tmp_path_factory.mktemp("random")
    source = write_shards(directory, chosen, shards, pieces)
    for name, value in chosen.items():
        same(Bundle(source).read(name), value)
    proven = copy_all(source, directory / "copy", lambda name: f"{prefix}/{name}")
    assert check_copied(directory / "copy", proven).tensors == len(chosen)
    copied = load(directory / "copy")
    same_all(copied, {new: chosen[key] for new, (_, key) in proven.items()})
    shutil.rmtree(directory)


CORPUS = os.environ.get("EXPORTKIT_CORPUS", "")


@pytest.mark.skipif(not CORPUS, reason="EXPORTKIT_CORPUS names no folder of real checkpoints")
def test_real_checkpoints(tmp_path):
    found = [path / prefix for path in Path(CORPUS).rglob("*") if path.is_dir() for prefix in locate._checkpoints(path)]
    assert found
    for number, prefix in enumerate(map(str, found)):
        names = copy_all(prefix, tmp_path / str(number), "copied/{}".format)
        assert check_copied(tmp_path / str(number), names).tensors == len(names)
        same_all(load(tmp_path / str(number)), {f"copied/{name}": value for name, value in load(prefix).items()})


def test_a_sharded_v1_checkpoint_is_read_like_any_other(tmp_path):
    (tmp_path / "run").mkdir()
    with tf.Graph().as_default():
        a = tf.compat.v1.get_variable("a", initializer=np.arange(6, dtype=np.float32).reshape(2, 3), use_resource=False)
        with tf.device("/cpu:1"):
            b = tf.compat.v1.get_variable("b", initializer=np.int64(7), use_resource=False)
        config = tf.compat.v1.ConfigProto(device_count={"CPU": 2})
        with tf.compat.v1.Session(config=config) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            saver = tf.compat.v1.train.Saver([a, b], sharded=True, write_version=tf.compat.v1.train.SaverDef.V1)
            recorded = saver.save(session, str(tmp_path / "run" / "model.ckpt"), global_step=5)
    assert recorded.endswith("model.ckpt-5-?????-of-00002")
    prefix = str(tmp_path / "run" / "model.ckpt-5")
    assert (resolve(tmp_path / "run"), resolve(recorded), resolve(f"{prefix}-00001-of-00002")) == (prefix,) * 3
    bundle = Bundle(prefix)
    assert (bundle.format, list(bundle.entries)) == ("V1", ["a", "b"])
    assert bundle.read("a").tolist() == [[0, 1, 2], [3, 4, 5]] and bundle.read("b") == 7
    (tmp_path / "run" / "model.ckpt-5-00001-of-00002").unlink()
    with pytest.raises(WeightsError) as caught:
        Bundle(prefix)
    assert str(caught.value) == f"{prefix}-00001-of-00002: this part of the checkpoint is missing; copy all its files"
