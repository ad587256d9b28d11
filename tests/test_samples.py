"""Samples as arrays: what is given in a config or a file, what is drawn, and what does not fit."""

import numpy as np
import pytest
import tensorflow as tf
import toys

from exportkit import samples
from exportkit.errors import ConfigError
from exportkit.operations.parse_example import Feature, ParseExample
from exportkit.plugin import BoundTensor
from exportkit.samples import tfexample
from exportkit.spec import Examples, ExportPlan, File, Literal, Random, Signature, Tensor

FEATURES = {
    "pixels": Feature(dtype="float32", shape=[2]),
    "label": Feature(dtype="int64", default=7),
    "name": Feature(dtype="string", shape=[1], default="none"),
}


def load(sample=None, dtype="float32", shape=(None, 2), **more):
    """The batch of a signature with the input `x`, and such inputs as `more` gives: alias → (sample, dtype, shape)."""
    inputs = {"x": (sample, dtype, shape), **more}
    bound = {alias: BoundTensor(f"{alias}:0", f"{alias}:0", dtype, shape) for alias, (_, dtype, shape) in inputs.items()}
    bindings = {alias: Tensor(tensor=f"{alias}:0") for alias in inputs}
    return _load(bindings, bound, {alias: one for alias, (one, _, _) in inputs.items()})


def load_examples(sample, features=FEATURES):
    return _load({"x": ParseExample(parse_example=features)}, {"x": BoundTensor(None, "x:0", "string", (None,))}, {"x": sample})


def _load(bindings, bound, given):
    plan = ExportPlan(
        name="toy",
        source=None,
        bindings=bindings,
        signatures={"s": Signature(inputs={alias: alias for alias in given}, outputs={})},
        meta_graphs={},
        export_dir=None,
        version="auto",
        samples={} if None in given.values() else {"s": given},
    )
    return samples.load(plan, bound)["s"]


def refusal(sample, **options):
    with pytest.raises(ConfigError) as caught:
        load(sample, **options)
    return str(caught.value)


def same(array, expected, dtype):
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == expected


# ---- literals ----


def test_a_literal_takes_the_bound_dtype():
    same(load(Literal(value=[[1, 2.5], [3, 4]])).values["x"], [[1.0, 2.5], [3.0, 4.0]], "float32")


def test_a_scalar():
    batch = load(Literal(value=3), dtype="int32", shape=())
    same(batch.values["x"], 3, "int32")
    assert batch.rows is None


def test_strings_are_bytes():
    same(load(Literal(value=["rot", "grün"]), dtype="string", shape=(None,)).values["x"], [b"rot", "grün".encode()], "O")


def test_whole_floats_are_integers():
    same(load(Literal(value=[[1.0, 2.0]]), dtype="int64").values["x"], [[1, 2]], "int64")


def test_bfloat16():
    assert load(Literal(value=[[1.5, 2]]), dtype="bfloat16").values["x"].dtype.name == "bfloat16"


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        ([[1, 2], [3]], {}, "is ragged: its lists are of different lengths; fill them up to one length"),
        ([1, 2], {}, "is float32 [2], not float32 [?, 2]; write a list of rows"),
        ([[1, 2, 3]], {}, "is float32 [1, 3], not float32 [?, 2]"),
        ([["a", "b"]], {}, "is string, not float32; write float32 values"),
        ([[True, False]], {}, "is bool, not float32; write float32 values"),
        ([[1, 0]], {"dtype": "bool"}, "is int64, not bool; write bool values"),
        ([[1, 2.5]], {"dtype": "int32"}, "holds 2.5, which is no int32; write int32 values"),
        ([[1, 300]], {"dtype": "uint8"}, "holds 300, which is no uint8; write uint8 values"),
        ([[1, 1e300]], {}, "holds 1e+300, which is no float32; write float32 values"),
        ([["a", 1]], {"dtype": "string"}, "holds 1, which is no string; write texts, in quotes"),
    ],
)
def test_a_literal_that_does_not_fit(value, options, text):
    assert refusal(Literal(value=value), **options) == f"samples.s.x: {text}"


def test_every_misfit_is_told():
    text = refusal(Literal(value=[1]), y=(Literal(value="a"), "int32", ()))
    assert [line.split(":")[0] for line in text.splitlines()] == ["samples.s.x", "samples.s.y"]


# ---- files ----


def test_npz_and_npy(tmp_path):
    pixels = np.arange(4, dtype=np.float64).reshape(2, 2)
    np.savez(tmp_path / "d.npz", images=pixels, labels=np.array([1, 2]))
    np.save(tmp_path / "d.npy", pixels)
    for sample in (File(path=tmp_path / "d.npz", array="images"), File(path=tmp_path / "d.npy")):
        same(load(sample).values["x"], [[0.0, 1.0], [2.0, 3.0]], "float32")


def test_an_array_that_is_not_there(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros(2), labels=np.zeros(2))
    text = refusal(File(path=tmp_path / "d.npz", array="image"))
    assert text == f"samples.s.x: there is no array 'image' in {tmp_path}/d.npz; did you mean images?"


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"text"])
def test_a_file_that_is_no_array(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    text = refusal(File(path=tmp_path / "d.npz", array="images"))
    assert text == f"samples.s.x: {tmp_path}/d.npz is not a .npz file of numbers or bytes"


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "d.npy", np.array([{}], object), allow_pickle=True)
    assert "d.npy holds pickled objects, which are never loaded; save numbers or bytes" in refusal(
        File(path=tmp_path / "d.npy")
    )


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def test_records_as_tensorflow_writes_them(tmp_path):
    records = [b"", b"one", b"x" * 100_000]
    assert list(tfexample.records(write_records(tmp_path / "r.tfrecord", records))) == records


def test_records_feed_a_parser(tmp_path):
    records = [toys.example(pixels=[1.0, 2.0]), toys.example(pixels=[3.0, 4.0])]
    batch = load_examples(File(path=write_records(tmp_path / "r.tfrecord", records)))
    same(batch.values["x"], records, "O")
    assert batch.rows == 2


def test_a_feature_of_the_records_feeds_a_tensor(tmp_path):
    path = write_records(tmp_path / "r.tfrecord", [toys.example(pixels=[1.0, 2.0], label=[3])])
    same(load(File(path=path, array="pixels")).values["x"], [[1.0, 2.0]], "float32")
    text = refusal(File(path=path, array="pixel"))
    assert text == f"samples.s.x: there is no feature 'pixel' in {path}; did you mean pixels?"


def test_damaged_records(tmp_path):
    path = write_records(tmp_path / "r.tfrecord", [b"some data"])
    whole = path.read_bytes()
    for damaged, what in [
        (whole[:-1], "is cut short"),
        (whole[:5], "is cut short"),
        (whole[:14] + b"X" + whole[15:], "is damaged: a checksum does not hold, or it is no TFRecord file"),
        (b"\x1f\x8b" + whole, "is compressed with gzip: decompress it"),
    ]:
        path.write_bytes(damaged)
        assert refusal(File(path=path), dtype="string", shape=(None,)) == f"samples.s.x: {path} {what}"


# ---- drawn ----


def test_random_values_are_of_a_seed_and_a_range():
    batch = load(Random(seed=3, low=-2, high=4), shape=(5, 100))
    again = load(Random(seed=3, low=-2, high=4), shape=(5, 100))
    values = batch.values["x"]
    assert values.tobytes() == again.values["x"].tobytes()
    assert values.min() < -1 and values.max() > 3 and values.min() >= -2 and values.max() < 4
    assert batch.notes == ()


def test_random_integers_and_booleans():
    assert set(load(Random(low=3, high=6), dtype="int32", shape=(100,)).values["x"].tolist()) == {3, 4, 5}
    assert set(load(Random(), dtype="int64", shape=(100,)).values["x"].tolist()) == {0, 1}
    assert set(load(Random(), dtype="bool", shape=(100,)).values["x"].tolist()) == {False, True}


def test_random_values_of_two_inputs_are_not_the_same():
    values = load(Random(), y=(Random(), "float32", (None, 2))).values
    assert values["x"].tolist() != values["y"].tolist()


def test_where_nothing_is_given_values_are_drawn_and_that_is_said():
    batch = load(None, shape=(None, None, 3), words=(None, "string", (None,)), any=(None, "float32", None))
    assert batch.notes == ("random values, as samples gives none",)
    assert batch.values["x"].shape == (2, 8, 3)
    assert batch.values["words"].tolist() == [b"exportkit", b"exportkit"]
    assert batch.values["any"].shape == (2,)
    assert batch.rows == 2


def test_a_range_with_nothing_in_it():
    text = "samples.s.x: is drawn from [1, 1), where there is nothing; write low < high"
    assert refusal(Random(low=1, high=1)) == text
    assert refusal(Random(low=-3, high=0), dtype="uint8").startswith("samples.s.x: holds -")


# ---- tf.Examples ----


def test_examples_are_what_tensorflow_parses():
    given = {"pixels": Literal(value=[[1, 2], [3, 4]]), "name": Literal(value=[["a"], ["b"]])}
    batch = load_examples(Examples(features=given))
    parsed = tf.io.parse_example(
        batch.values["x"].tolist(),
        {
            "pixels": tf.io.FixedLenFeature([2], tf.float32),
            "label": tf.io.FixedLenFeature([], tf.int64, 7),
            "name": tf.io.FixedLenFeature([1], tf.string),
        },
    )
    decoded = tfexample.decode(batch.values["x"], FEATURES)
    assert {name: value.numpy().tolist() for name, value in parsed.items()} == {k: v.tolist() for k, v in decoded.items()}
    assert decoded["label"].tolist() == [7, 7]


def test_examples_of_random_features():
    batch = load_examples(None)
    decoded = tfexample.decode(batch.values["x"], FEATURES)
    assert decoded["pixels"].shape == (2, 2)
    assert decoded["name"].tolist() == [[b"exportkit"], [b"exportkit"]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"pixel": Literal(value=[[1, 2]])}, "there is no feature 'pixel'; did you mean pixels?"),
        ({"label": Literal(value=[1])}, "gives no feature pixels; a feature without a default is in every example"),
        ({"pixels": Literal(value=[[1, 2, 3]])}, "feature 'pixels' is float32 [1, 3], not float32 [?, 2]"),
        (
            {"pixels": Literal(value=[[1, 2]]), "label": Literal(value=[1, 2])},
            "has features of different numbers of rows: {'pixels': 1, 'label': 2}; give each as many",
        ),
    ],
)
def test_examples_that_do_not_fit(given, text):
    with pytest.raises(ConfigError) as caught:
        load_examples(Examples(features=given))
    assert str(caught.value) == f"samples.s.x: {text}"


def test_examples_for_what_parses_none():
    assert refusal(Examples(features={})) == "samples.s.x: 'x' does not parse tf.Examples; write its values"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (b"\xff\xff", "row 0 is not a tf.Example"),
        (toys.example(pixel=[1.0]), "row 0: feature 'pixels' is missing, and has no default (did you mean pixel?)"),
        (toys.example(pixels=[1.0]), "row 0: feature 'pixels' has 1 values, not 2"),
        (toys.example(pixels=[1, 2]), "row 0: feature 'pixels' is a int64_list, not a float_list"),
    ],
)
def test_rows_that_are_not_the_examples_that_are_parsed(row, text):
    with pytest.raises(ValueError) as caught:
        tfexample.decode([row], FEATURES)
    assert str(caught.value) == text


# ---- batches ----


def test_a_batch_at_another_size():
    batch = load(Literal(value=[[1, 2], [3, 4], [5, 6]]), flag=(Literal(value=True), "bool", ()))
    assert batch.rows == 3
    assert batch.resized(1)["x"].tolist() == [[1.0, 2.0]]
    assert batch.resized(4)["x"][:, 0].tolist() == [1.0, 3.0, 5.0, 1.0]
    assert batch.resized(4)["flag"].tolist() is True


def test_inputs_of_different_sizes_have_no_batch():
    assert load(Literal(value=[[1, 2]]), y=(Literal(value=[1, 2, 3]), "int32", (None,))).rows is None


def test_a_fixed_first_dimension_has_no_batch():
    assert load(Literal(value=[[1, 2]]), shape=(1, 2)).rows is None
