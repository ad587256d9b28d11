"""Warmup: the bytes of the file, what a server would refuse of it, and that every record is replayed."""

import gzip
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import toys
import versions_made
from versions_made import X

from exportkit.checkpoint import tensorproto
from exportkit.checkpoint.encoding import objects
from exportkit.errors import ConfigError, StepFailed
from exportkit.serving import prediction_log, warmup
from exportkit.serving.prediction_log import Logged, PredictionLog, decode, encode

TOO_MANY = "and a server refuses to load a model with more than 1000; take fewer batch_sizes, or repeat them less often"
EXAMPLES = objects(versions_made.EXAMPLES)


# ---- arrays ----

ARRAYS = [
    X,
    np.float32(1.5),
    np.zeros((0, 3), np.int64),
    np.array([[True], [False]]),
    np.array([1 + 2j], np.complex64),
    np.array([np.nan, np.inf], np.float64),
    np.array([1, 2], np.float16),
    tf.constant([1.5, 2.5], tf.bfloat16).numpy(),
    np.array([[b"a", b"\xff\x00"]], object),
    np.array(["ä", ""], object),
    np.asfortranarray(X),
    X.astype(">f4"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{np.asarray(a).dtype}")
def test_tensorflow_reads_the_same_values(array):
    array = np.asarray(array)
    proto = tf.make_tensor_proto(0)
    proto.ParseFromString(tensorproto.to_proto(array))
    expected = (
        np.array([s.encode() for s in array], object) if array.dtype == object and isinstance(array.flat[0], str) else array
    )
    np.testing.assert_array_equal(tf.make_ndarray(proto), expected)
    np.testing.assert_array_equal(tensorproto.from_proto(tensorproto.to_proto(array)), expected)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{np.asarray(a).dtype}")
def test_json_gives_every_array_back(array):
    array = np.asarray(array)
    said = tensorproto.to_json(array)
    back = tensorproto.from_json(said)
    assert said["dtype"] == tensorproto.dtype_of(back) and said["shape"] == list(back.shape)
    assert tensorproto.to_proto(back) == tensorproto.to_proto(array)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int8", "uint16", "int32", "int64", "uint64", "bool"]
)
def test_typed_fields_are_read_as_tensorflow_reads_them(dtype):
    for value in (np.float32(1), np.float32([[1]])):
        proto = tf.make_tensor_proto(tf.cast(value, dtype).numpy())
        assert not proto.tensor_content
        np.testing.assert_array_equal(tensorproto.from_proto(proto.SerializeToString()), tf.make_ndarray(proto))


def test_the_last_value_fills_what_is_not_given():
    proto = tf.make_tensor_proto([1.0, 2.0], tf.float32, [2])
    proto.tensor_content, proto.tensor_shape.dim[0].size = b"", 4
    proto.float_val.extend([1.0, 2.0])
    np.testing.assert_array_equal(tensorproto.from_proto(proto.SerializeToString()), [1, 2, 2, 2])


@pytest.mark.parametrize(
    "data, text",
    [
        (b"\xff", "is no TensorProto"),
        (b"", "is a TensorProto of dtype invalid and shape []"),
        (
            tf.make_tensor_proto([b"a", b"b"], tf.string, [2]).SerializeToString().replace(b"\x08\x02", b"\x08\x01", 1),
            "has 2 values for 1 elements",
        ),
    ],
)
def test_what_is_no_tensor(data, text):
    with pytest.raises(ValueError) as error:
        tensorproto.from_proto(data)
    assert str(error.value) == text


def test_large_arrays_are_said_by_their_digest():
    large = np.zeros(1 << 15, np.float32)
    said = tensorproto.to_json(large)
    assert said == {"dtype": "float32", "shape": [32768], "sha256": tensorproto.digest(large)}
    assert tensorproto.from_json(said) is None
    assert tensorproto.digest(large) == "fa43239bcee7b97ca62f007cc68487560a39e19f74f3dde7486db3f98df8e471"
    assert tensorproto.digest(objects([b"ab", b"c"])) != tensorproto.digest(objects([b"a", b"bc"]))


# ---- the log ----


def _api():
    pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="needs tensorflow_serving")
    from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2, regression_pb2

    return SimpleNamespace(log=prediction_log_pb2, predict=predict_pb2, classify=classification_pb2, regress=regression_pb2)


def test_predict_bytes_are_those_of_the_serving_api():
    api = _api()
    log = api.log.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "toy", "predict_x"
    for alias, value in {"x": X, "name": objects([b"a", b"b"])}.items():
        request.inputs[alias].ParseFromString(tensorproto.to_proto(value))
    expected = log.SerializeToString(deterministic=True)
    assert encode("toy", Logged("predict", "predict_x", {"x": X, "name": objects([b"a", b"b"])})) == expected
    assert api.log.PredictionLog.FromString(expected).predict_log.request.inputs["x"] == tf.make_tensor_proto(X)


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_classify_and_regress_bytes_are_those_of_the_serving_api(method):
    log = _api().log.PredictionLog()
    request = getattr(log, f"{method}_log").request
    request.model_spec.name, request.model_spec.signature_name = "toy", "key"
    for example in EXAMPLES:
        request.input.example_list.examples.add().ParseFromString(example)
    assert encode("toy", Logged(method, "key", {"inputs": EXAMPLES})) == log.SerializeToString(deterministic=True)


def test_a_multi_inference_and_a_context_of_the_serving_api_are_read():
    log = _api().log.PredictionLog()
    request = log.multi_inference_log.request
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.signature_name = f"by_{method}"
    request.input.example_list_with_context.context.ParseFromString(toys.example(x=[1.0]))
    request.input.example_list_with_context.examples.add().ParseFromString(toys.example(y=[2.0]))
    found = decode(log.SerializeToString())
    assert [(f.method, f.signature) for f in found] == [("classify", "by_classify"), ("regress", "by_regress")]
    merged = tf.train.Example.FromString(found[0].inputs["inputs"][0]).features.feature
    assert {key: list(value.float_list.value) for key, value in merged.items()} == {"x": [1.0], "y": [2.0]}


def test_every_field_has_the_number_that_the_serving_api_gives_it():
    api = _api()
    for ours, theirs in [
        (PredictionLog.DESCRIPTOR, api.log.PredictionLog.DESCRIPTOR),
        (prediction_log._message("PredictRequest").DESCRIPTOR, api.predict.PredictRequest.DESCRIPTOR),
        (prediction_log._message("ExamplesRequest").DESCRIPTOR, api.classify.ClassificationRequest.DESCRIPTOR),
        (prediction_log._message("ExamplesRequest").DESCRIPTOR, api.regress.RegressionRequest.DESCRIPTOR),
    ]:
        assert {f.name: f.number for f in ours.fields}.items() <= {f.name: f.number for f in theirs.fields}.items()


def test_a_request_has_these_bytes():
    assert encode("m", Logged("predict", "s", {"x": np.array([1.0], np.float32)})).hex() == (
        "321f0a1d0a060a016d1a017312130a0178120e080112041202080122040000803f"
    )
    assert (
        encode("m", Logged("regress", "s", {"inputs": objects([b"\x0a\x00"])})).hex() == "1a120a100a060a016d1a01731206"
        "0a04"
        "0a02"
        "0a00"
    )


def test_what_was_written_is_read():
    for method, inputs in [("predict", {"a": X, "b": objects([b"\xff"])}), ("classify", {"inputs": EXAMPLES})]:
        (found,) = decode(encode("toy", Logged(method, "key", inputs)))
        assert (found.method, found.signature, list(found.inputs)) == (method, "key", list(inputs))
        for alias, value in inputs.items():
            np.testing.assert_array_equal(found.inputs[alias], value)


def test_a_request_without_a_signature_means_the_default():
    assert decode(encode("toy", Logged("predict", "", {"x": X})))[0].signature == "serving_default"


# ---- the file ----


def _write(path, *records):
    with tf.io.TFRecordWriter(str(path)) as file:
        for record in records:
            file.write(record)
    return path


@pytest.mark.parametrize(
    "data, text",
    [
        ([b"\xff"], "{}: record 0 is no PredictionLog; write it again"),
        ([b"\x2a\x00"], "{}: record 0 is no predict, classify, regress or multi-inference log; write it again"),
        (
            [encode("m", Logged("predict", "s", {"x": X})).replace(b"\x08\x01", b"\x08\x14", 1)],
            "{}: record 0 x is a TensorProto of dtype resource and shape [2, 4]; write it again",
        ),
        (
            [encode("m", Logged("predict", "s", {}))] * 1001,
            "{}: 1001 warmup records, " + TOO_MANY,
        ),
    ],
)
def test_a_file_that_a_server_refuses(tmp_path, data, text):
    path = _write(tmp_path / "f", *data)
    with pytest.raises(StepFailed) as error:
        warmup.read_warmup(path)
    assert str(error.value) == text.format(path)


def test_a_compressed_file_is_refused(tmp_path):
    path = _write(tmp_path / "f", encode("m", Logged("predict", "s", {})))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(StepFailed) as error:
        warmup.read_warmup(path)
    assert str(error.value) == f"{path}: is compressed with gzip: decompress it; a server reads an uncompressed TFRecord"


# ---- the step ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


def _config(checkpoint, base, **fields):
    return versions_made.config(checkpoint, base, post={"warmup": {"kind": "warmup", **fields}})


def test_an_export_is_warmed_up_at_every_batch_size(tmp_path, checkpoint):
    report = versions_made.export(_config(checkpoint, tmp_path, batch_sizes=[1, 4], repeat=2))
    path = tmp_path / "exports" / "toy" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    assert report.steps[0].details == {
        "summary": "each request answered; requests 12",
        "records": 12,
        "bytes": path.stat().st_size,
        "left_out": {},
        "notes": [],
    }
    found = [(n, f.method, f.signature, {a: v.shape for a, v in f.inputs.items()}) for n, f in warmup.read_warmup(path)]
    once = [
        ("predict", "serving_default", {"x": (1, 4)}),
        ("predict", "serving_default", {"x": (4, 4)}),
        ("classify", "by_class", {"inputs": (1,)}),
        ("classify", "by_class", {"inputs": (4,)}),
        ("regress", "by_value", {"inputs": (1,)}),
        ("regress", "by_value", {"inputs": (4,)}),
    ]
    assert found == [(n, *one) for n, one in enumerate(once * 2)]
    assert (
        path.read_bytes()
        == (
            versions_made.export(_config(checkpoint, tmp_path, batch_sizes=[1, 4], repeat=2))
            and path.parents[2] / "2" / "assets.extra" / path.name
        ).read_bytes()
    )


def test_without_samples_they_are_drawn(tmp_path, checkpoint):
    report = versions_made.export({**_config(checkpoint, tmp_path), "samples": {}})
    assert report.steps[0].details["records"] == 3
    assert report.steps[0].details["notes"][0] == "serving_default: random values, as samples gives none"


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"batch_sizes": [0]}, "post.warmup.batch_sizes[0]: is 0; write 1 or more"),
        ({"batch_sizes": []}, "post.warmup.batch_sizes: is empty; write 1 or more entries"),
        ({"repeat": 0}, "post.warmup.repeat: is 0; write 1 or more"),
        (
            {"repeat": 334},
            "post.warmup.batch_sizes: 1002 warmup records, " + TOO_MANY,
        ),
    ],
)
def test_the_plan_refuses_fields_that_cannot_be(tmp_path, checkpoint, fields, text):
    with pytest.raises(ConfigError) as error:
        versions_made.plan(_config(checkpoint, tmp_path, **fields))
    assert [(p.where, p.what.split(" (plugin")[0], p.do) for p in error.value.problems] == [
        (text.split(": ")[0], text.split(": ")[1].split("; ")[0], text.split("; ")[1].split(" (plugin")[0])
    ]


@pytest.fixture(scope="module")
def version(tmp_path_factory, checkpoint):
    base = tmp_path_factory.mktemp("version")
    return base / versions_made.export({**_config(checkpoint, base), "post": {}}).directory


@pytest.mark.parametrize(
    "logged, text",
    [
        (
            Logged("predict", "serving_defautl", {"x": X}),
            "record 1: there is no signature 'serving_defautl'; did you mean serving_default?",
        ),
        (
            Logged("classify", "serving_default", {"inputs": EXAMPLES}),
            "record 1: classify of 'serving_default', which is of method tensorflow/serving/predict",
        ),
        (Logged("predict", "serving_default", {"y": X}), "record 1 (serving_default): the input x is missing"),
        (
            Logged("predict", "serving_default", {"x": X.astype(np.float64)}),
            "record 1 (serving_default): INVALID_ARGUMENT: inputs/x:0 is float32 and is fed float64",
        ),
        (
            Logged("classify", "by_class", {"inputs": objects([toys.example(y=[1.0])])}),
            "record 1 (by_class): INVALID_ARGUMENT: ",
        ),
        (Logged("predict", "serving_default", {"x": X[:, :3]}), "record 1 (serving_default): INVALID_ARGUMENT: "),
    ],
)
def test_a_record_that_fails_is_named(version, logged, text):
    good = Logged("predict", "serving_default", {"x": X})
    with pytest.raises(StepFailed) as error:
        warmup.replay(version, ["serve"], [(0, good), (1, logged)])
    assert str(error.value).startswith(f"{version}: {text}")


def test_a_predict_request_may_ask_any_signature(version):
    logged = Logged("predict", "by_class", {"inputs": EXAMPLES})
    assert len(warmup.replay(version, ["serve"], [(0, logged)])) == 1


def test_nothing_is_committed_when_a_record_fails(tmp_path, checkpoint):
    data = _config(checkpoint, tmp_path)
    data["samples"]["by_class"] = {"inputs": [toys.example(y=[1.0])]}
    with pytest.raises(StepFailed, match=r"record 1 \(by_class\): INVALID_ARGUMENT: .*Feature: x .*is required"):
        versions_made.export(data)
    assert list((tmp_path / "exports" / "toy").iterdir()) == []


def test_a_warmup_file_is_read_without_tensorflow():
    code = "import sys, exportkit.steps.warmup; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
