"""Converted models, run by their own runtimes, against what the version answers; and what cannot be converted."""

from pathlib import Path

import numpy as np
import pytest
from exportkit.plugin import StepFailed
from exportkit.testing import toys
from formats_toys import (
    FORMATS,
    any_rank,
    checked,
    config,
    dropout,
    eigenvalues,
    export,
    loop,
    refusal,
    save,
    spoken,
    table_of_numbers,
    words,
)

from exportkit_formats import onnx, openvino, tflite

pytestmark = [pytest.mark.slow, pytest.mark.needs("ai_edge_litert", "tf2onnx", "onnxruntime", "openvino")]

ANSWER = {"tflite": (tflite.answer, ".tflite"), "onnx": (onnx.answer, ".onnx"), "openvino": (openvino.answer, ".xml")}
TITLE = {"tflite": "TensorFlow Lite", "onnx": "ONNX", "openvino": "OpenVINO"}
NEAR = 1e-6


def _answers(report, kind, key, request):
    """What a converted model answers, run here."""
    answer, suffix = ANSWER[kind]
    (said,) = answer(Path(report.directory, "assets.extra", f"{key}{suffix}"), key, [request])
    return said


def _converted(report):
    return {step.kind: step.details["signatures"] for step in report.steps}


def _only(data, kind, **keys):
    return {**data, "post": {kind: {"kind": kind, **keys}}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A classifier that takes tf.Examples and answers labels, and the same for numbers: the config."""
    place = tmp_path_factory.mktemp("digits")
    prefix = toys.checkpoint("dense", place).prefix
    (place / "labels.txt").write_text("red\ngreen\nblue\n")
    bindings = {
        "images": {"tensor": "x:0", "shape": [None, 4]},
        "probs": "probs:0",
        "training": {"constant": False, "replaces": "is_training:0"},
        "example": {"parse_example": {"images": {"dtype": "float32", "shape": [4]}}},
        "top": {"top_k": "probs", "k": 2},
        "classes": {"lookup": "top.indices", "vocabulary": str(place / "labels.txt")},
    }
    signatures = {
        "serving_default": {
            "method": "classify",
            "inputs": {"inputs": "example"},
            "outputs": {"classes": "classes", "scores": "top.values"},
        },
        "numbers": {"inputs": {"images": "images"}, "outputs": {"probs": "probs"}},
        "labels": {"inputs": {"images": "images"}, "outputs": {"label": "classes"}},
        "text": {"inputs": {"images": "images"}, "outputs": {"label": "classes", "probs": "probs"}},
    }
    samples = {key: {"images": [[0.0, 1.0, 0.0, 2.0]] * 3} for key in ("numbers", "labels", "text")}
    return config(prefix, place, bindings=bindings, signatures=signatures, samples=samples)


@pytest.fixture(scope="module")
def exported(digits):
    named = {kind: {"kind": kind, "signatures": ["serving_default", "numbers"]} for kind in FORMATS}
    return export({**digits, "post": named})


@pytest.mark.parametrize("kind", FORMATS)
def test_a_signature_of_numbers_has_its_own_names(exported, kind):
    found = _converted(exported)[kind]["numbers"]
    assert found["inputs"] == {"images": "float32 [?, 4]"}
    assert list(found["outputs"]) == ["probs"]
    assert found["left_out"] == []
    images = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [4, 3, 2, 1]], np.float32)
    served = toys.served(exported.directory, "numbers", {"images": images})
    assert np.abs(_answers(exported, kind, "numbers", {"images": images})["probs"] - served["probs"]).max() < NEAR


@pytest.mark.parametrize("kind", FORMATS)
def test_examples_and_labels_give_way_to_numbers(exported, kind):
    found = _converted(exported)[kind]["serving_default"]
    assert found["inputs"] == {"images": "float32 [?, 4]"}
    assert list(found["outputs"]) == ["scores", "top.indices"]
    assert found["left_out"] == ["inputs", "classes"]
    image = np.array([[1, 2, 3, 4]], np.float32)
    said = _answers(exported, kind, "serving_default", {"images": image})
    assert said["top.indices"].tolist() == [[2, 1]]
    example = np.array([toys.example(images=image[0])], object)
    served = toys.served(exported.directory, "serving_default", {"inputs": example})
    assert served["classes"].tolist() == [[b"blue", b"green"]]
    assert np.abs(said["scores"] - served["scores"]).max() < NEAR


def test_what_is_reported(exported):
    details = exported.steps[1].details
    sizes = {f"{key}.onnx": details["signatures"][key]["files"][f"assets.extra/{key}.onnx"] for key in details["signatures"]}
    assert list(sizes) == ["serving_default.onnx", "numbers.onnx"]
    assert sizes == {name: Path(exported.directory, "assets.extra", name).stat().st_size for name in sizes}
    worst = max(o["max_abs_diff"] for s in details["signatures"].values() for o in s["outputs"].values())
    assert worst < NEAR
    files = ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items())
    assert details["summary"] == f"max abs diff {worst:g}; {files}"
    assert (details["atol"], details["rtol"]) == (1e-5, 1e-4)
    assert list(details["versions"]) == ["tensorflow", "tf2onnx", "onnx", "onnxruntime"]


def test_every_signature_that_predicts_is_converted_if_none_is_named(digits):
    details = export(_only(digits, "tflite")).steps[0].details
    assert {key: list(found["outputs"]) for key, found in details["signatures"].items()} == {
        "numbers": ["probs"],
        "labels": ["top.indices"],
        "text": ["probs", "top.indices"],
    }
    assert details["left_out"] == {}


def test_text_ends_where_a_binding_says(tmp_path):
    (tmp_path / "words.txt").write_text("red\ngreen\nblue\n")
    prefix = save(lambda: words(str(tmp_path / "words.txt")), tmp_path)
    signatures = {"serving_default": {"inputs": {"words": "words"}, "outputs": {"vectors": "vectors"}}}
    data = config(prefix, tmp_path, bindings={"words": "words:0", "vectors": "embedded:0"}, signatures=signatures)
    data["samples"] = {"serving_default": {"words": ["blue", "red", "green"]}}
    assert refusal(StepFailed, _only(data, "onnx")) == [
        "signatures.serving_default: 'words' is text until hash_table_Lookup/LookupTableFindV2 (LookupTableFindV2) "
        "(post.onnx); bind the numbers behind it that the model reads, as in bindings: {ids: NAME:0}"
    ]
    data["bindings"]["ids"] = "ids:0"
    report = export(data)
    for kind in FORMATS:
        found = _converted(report)[kind]["serving_default"]
        assert list(found["inputs"]) == ["ids"]
        assert found["left_out"] == ["words"]
        said = _answers(report, kind, "serving_default", {"ids": np.array([2, 0])})
        assert said["vectors"].tolist() == [[0.5, 0.625], [0.0, 0.125]]


def test_a_signature_of_text_is_left_out_unless_it_is_named(tmp_path):
    signatures = {key: {"inputs": {"x": "x"}, "outputs": {"said": key, "same": "x"}} for key in ("text", "numbers")}
    bindings = {"x": "x:0", "text": "text:0", "numbers": "y:0"}
    data = config(save(spoken, tmp_path), tmp_path, ["tflite"], bindings=bindings, signatures=signatures)
    details = export(data).steps[0].details
    assert {key: found["left_out"] for key, found in details["signatures"].items()} == {"numbers": ["same"]}
    assert details["left_out"] == {"text": "computes no numbers"}
    named = _only(data, "tflite", signatures=["numbers", "text"])
    for changed in (named, {**data, "signatures": {"text": signatures["text"]}}):
        assert refusal(StepFailed, changed) == ["signatures.text: computes no numbers (post.tflite); convert another signature"]


@pytest.mark.parametrize("old", [True, False], ids=["enter and exit", "functional"])
@pytest.mark.parametrize("kind", FORMATS)
def test_loops_are_carried(kind, old, tmp_path):
    report = export(_only(config(save(loop(old), tmp_path), tmp_path), kind))
    x = np.array([[1, 2, 3], [0, -1, 1]], np.float32)
    served = toys.served(report.directory, "serving_default", {"x": x})
    assert np.abs(_answers(report, kind, "serving_default", {"x": x})["y"] - served["y"]).max() < NEAR


@pytest.mark.parametrize("kind", FORMATS)
def test_functions_are_carried_and_checks_are_left_out(kind, tmp_path):
    report = export(_only(config(save(checked, tmp_path), tmp_path), kind))
    assert _answers(report, kind, "serving_default", {"x": np.array([1.5, -1.0], np.float32)})["y"].tolist() == [3.0, 0.0]


@pytest.mark.parametrize("kind", FORMATS)
def test_integers_are_carried(kind, tmp_path):
    data = config(toys.checkpoint("integers", tmp_path).prefix, tmp_path, [kind], bindings={"x": "x:0", "y": "counted:0"})
    assert _answers(export(data), kind, "serving_default", {"x": np.array([1, 2**30])})["y"].tolist() == [8, 2**30 + 7]


def test_openvino_computes_large_integers_wrong_and_that_is_found(tmp_path):
    data = config(toys.checkpoint("integers", tmp_path).prefix, tmp_path, bindings={"x": "x:0", "y": "counted:0"})
    data["samples"] = {"serving_default": {"x": [2**40]}}
    for kind in ("tflite", "onnx"):
        export(_only(data, kind))
    assert refusal(StepFailed, _only(data, "openvino")) == [
        "signatures.serving_default.outputs.y: OpenVINO answers something else: 1099511627783 there, 7 here "
        "(atol 1e-05, rtol 0.0001) (post.openvino); raise atol or rtol if that is near enough"
    ]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_partitioned_variables_are_carried(kind, tmp_path):
    report = export(_partitioned(tmp_path, kind))
    said = _answers(report, kind, "serving_default", {"x": np.array([6, 0, 3])})
    assert said["y"].tolist() == [[1.5, 1.625], [0.0, 0.125], [0.75, 0.875]]


def test_tensorflow_lite_names_the_ops_of_partitioned_lookups(tmp_path):
    assert refusal(StepFailed, _partitioned(tmp_path, "tflite")) == [
        "signatures.serving_default: TensorFlow Lite cannot carry vectors/floordiv (FloorDiv of int64), "
        "vectors/DynamicPartition (DynamicPartition of int64), vectors (ParallelDynamicStitch) (post.tflite); "
        "end the signature before it"
    ]


def _partitioned(place, kind):
    return config(toys.checkpoint("partitioned", place).prefix, place, [kind], bindings={"x": "ids:0", "y": "vectors:0"})


@pytest.mark.parametrize("kind", FORMATS)
def test_an_op_that_cannot_be_carried_is_named(kind, tmp_path):
    data = config(save(eigenvalues, tmp_path), tmp_path, [kind])
    data["samples"] = {"serving_default": {"x": [[[2.0, 1.0], [1.0, 2.0]]]}}
    assert refusal(StepFailed, data) == [
        f"signatures.serving_default: {TITLE[kind]} cannot carry SelfAdjointEigV2 (SelfAdjointEigV2) (post.{kind}); "
        "end the signature before it"
    ]
    assert not list((tmp_path / "exports").glob("[0-9]*"))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_is_named(kind, tmp_path):
    data = config(save(table_of_numbers, tmp_path), tmp_path, [kind])
    assert refusal(StepFailed, data) == [
        f"signatures.serving_default: needs hash_table (HashTableV2) (post.{kind}); end the signature before the table"
    ]


def test_a_random_output_cannot_be_compared(tmp_path):
    data = config(save(dropout, tmp_path), tmp_path, ["onnx"])
    assert refusal(StepFailed, data) == [
        "signatures.serving_default.outputs.y: changes from run to run, and cannot be compared (post.onnx); "
        "is dropout left on? bake its rate or is_training"
    ]


def test_openvino_needs_a_rank(tmp_path):
    data = config(save(any_rank, tmp_path), tmp_path, ["openvino"])
    assert refusal(StepFailed, data) == [
        "signatures.serving_default: OpenVINO has to know how many dimensions 'x' has (post.openvino); give its binding a shape"
    ]
    data["bindings"]["x"] = {"tensor": "x:0", "shape": [None, 2]}
    assert export(data).steps[0].details["signatures"]["serving_default"]["inputs"] == {"x": "float32 [?, 2]"}


def test_an_answer_that_is_not_near_enough_fails(tmp_path, monkeypatch):
    from exportkit_formats import conversion

    def off_by_one(*args, **arguments):
        said = real(*args, **arguments)
        return [{name: value + 1 for name, value in row.items()} for row in said] if said else said

    real = conversion.call_apart
    monkeypatch.setattr(conversion, "call_apart", off_by_one)
    data = config(toys.checkpoint("averaged", tmp_path).prefix, tmp_path, ["tflite"])
    data["samples"] = {"serving_default": {"x": [1.0, 2.0]}}
    assert refusal(StepFailed, data) == [
        "signatures.serving_default.outputs.y: TensorFlow Lite answers something else: 3.0 there, 4.0 here "
        "(atol 1e-05, rtol 0.0001) (post.tflite); raise atol or rtol if that is near enough"
    ]
    details = export(_only(data, "tflite", atol=1.0)).steps[0].details
    assert details["signatures"]["serving_default"]["outputs"] == {"y": {"max_abs_diff": 1.0}}


def test_the_operators_of_onnx_are_of_the_version_that_is_asked_for(tmp_path):
    import onnx as format

    data = config(toys.checkpoint("averaged", tmp_path).prefix, tmp_path)
    report = export(_only(data, "onnx", opset=15))
    model = format.load(Path(report.directory, "assets.extra", "serving_default.onnx"))
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [15]


def test_what_is_converted_is_the_export_and_not_the_checkpoint(tmp_path):
    """A variable that is initialised has its value in the export alone."""
    prefix = toys.checkpoint("averaged", tmp_path).prefix
    data = config(prefix, tmp_path, ["tflite"], weights={"initialize": ["slope"]})
    report = export(data)
    x = np.array([3.0], np.float32)
    assert _answers(report, "tflite", "serving_default", {"x": x})["y"].tolist() == [7.0]
