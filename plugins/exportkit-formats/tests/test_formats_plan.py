"""What is told before anything is built."""

import importlib.metadata

import exportkit
import pytest
from exportkit.plugin import ConfigError
from exportkit.testing import toys
from formats_toys import PLUGINS, config, refusal

pytestmark = pytest.mark.needs("ai_edge_litert", "tf2onnx", "onnxruntime", "openvino")

BY = "(plugin formats of exportkit-formats 0.1.0)"
IMAGES = {"inputs": {"x": "x"}, "outputs": {"y": "y"}}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return toys.checkpoint("softmax", tmp_path_factory.mktemp("softmax")).prefix


def _config(prefix, base, **changes):
    return config(prefix, base, bindings={"x": "x:0", "y": "probs:0"}, **changes)


def test_all_that_is_wrong_is_told_at_once(prefix, tmp_path):
    tflite = {"kind": "tflite", "atol": -1.0, "rtol": -0.5}
    onnx = {"kind": "onnx", "signatures": ["serving_defualt", "serving_default"]}
    assert refusal(ConfigError, _config(prefix, tmp_path, post={"tflite": tflite, "onnx": onnx})) == [
        "post.tflite.atol: is -1; write 0 or more",
        "post.tflite.rtol: is -0.5; write 0 or more",
        "post.onnx.signatures[0]: there is no signature 'serving_defualt'; did you mean serving_default?",
    ]


def test_a_signature_that_a_server_does_not_load_is_none(prefix, tmp_path):
    graphs = {"serving": {"tags": ["serve"], "signatures": ["serving_default"]}, "gpu": {"tags": ["serve", "gpu"]}}
    data = _config(
        prefix,
        tmp_path,
        signatures={"serving_default": IMAGES, "other": IMAGES},
        meta_graphs=graphs,
        post={"onnx": {"kind": "onnx", "signatures": ["other"]}},
    )
    assert refusal(ConfigError, data) == ["post.onnx.signatures[0]: there is no signature 'other'; known: serving_default"]


def test_signatures_have_to_be_named_where_none_predicts(prefix, tmp_path):
    bindings = {"x": "x:0", "y": "probs:0", "example": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}}}
    signature = {"method": "classify", "inputs": {"inputs": "example"}, "outputs": {"scores": "y"}}
    data = config(prefix, tmp_path, ["openvino"], bindings=bindings, signatures={"serving_default": signature})
    assert refusal(ConfigError, data) == [
        "post.openvino.signatures: is empty, and no signature is of the method predict; name some of serving_default"
    ]


@pytest.mark.parametrize(
    ("kind", "missing", "told"),
    [
        ("tflite", ["ai-edge-litert"], "ai-edge-litert is not installed"),
        ("onnx", ["tf2onnx", "onnxruntime"], "tf2onnx and onnxruntime are not installed"),
        ("openvino", ["openvino"], "openvino is not installed"),
    ],
)
def test_a_missing_extra_is_told_with_its_command(kind, missing, told, prefix, tmp_path, monkeypatch):
    def version(name):
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr("exportkit_formats.conversion.version", version)
    assert refusal(ConfigError, _config(prefix, tmp_path, formats=[kind])) == [
        f"post.{kind} {BY}: {told}; pip install 'exportkit-formats[{kind}]'"
    ]


def test_what_is_right_is_planned(prefix, tmp_path):
    assert list(exportkit.plan(_config(prefix, tmp_path), PLUGINS).post) == ["tflite", "onnx", "openvino"]
