"""`exportkit serve` answers as tensorflow_model_server 2.21 does: statuses, texts and JSON measured on that."""

import base64
import json
import re
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
import serverlab
import toys
import versions_made
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from exportkit.checkpoint.tensorproto import from_json, from_message, to_proto
from exportkit.protos import TensorProto, example_pb2
from exportkit.server import json_examples, messages
from exportkit.server.model_config import Model
from exportkit.server.page import Page
from exportkit.version.manifest import read_manifest

pytestmark = pytest.mark.quick(60)
TOY, MIXED = "/v1/models/toy", "/v1/models/mixed"
PREDICT, MIXED_PREDICT, CLASSIFY, REGRESS = f"{TOY}:predict", f"{MIXED}:predict", f"{TOY}:classify", f"{TOY}:regress"
ROW = [1.0, 2.0, 3.0, 4.0]
PROBS = [0.00377940456, 0.643754542, 0.352466047]
ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: "


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base paths of two models: one with a signature of each method, and one with several dtypes."""
    base = tmp_path_factory.mktemp("served")
    config = versions_made.config(toys.saved(base, toys.dense), base, post={"manifest": {"kind": "manifest"}})
    versions_made.export({**config, "name": "toy", "export_dir": str(base / "toy")})
    serverlab.exported(base, "mixed", serverlab.mixed, **serverlab.MIXED)
    return base


@pytest.fixture(scope="module")
def server(base):
    with serverlab.serving([Model("toy", base / "toy", labels={"stable": 1}), base / "mixed"]) as server:
        yield server


@pytest.fixture(scope="module")
def rest(server):
    with serverlab.Rest(server) as rest:
        yield rest


@pytest.fixture(scope="module")
def channel(server):
    with ExitStack() as stack:
        yield stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}"))


@pytest.fixture(scope="module")
def prediction(channel):
    return messages.prediction_service_pb2_grpc.PredictionServiceStub(channel)


def body(**content):
    return json.dumps(content)


def classify(**content):
    return body(signature_name="by_class", **content)


AVAILABLE = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
REFUSED = [  # method, path, body, status, error
    ("GET", f"{TOY}/versions/99", None, 404, "Could not find version 99 of model toy"),
    ("GET", "/v1/models/nosuch", None, 404, "Could not find any versions of model nosuch"),
    ("GET", "/v1/models/nosuch/metadata", None, 404, "Servable not found for request: Latest(nosuch)"),
    ("GET", f"{TOY}?x=1", None, 404, "Could not find any versions of model toy?x=1"),
    ("POST", "/v1/models/nosuch:predict", body(instances=[1]), 404, "Servable not found for request: Latest(nosuch)"),
    ("GET", f"{TOY}/versions/99/metadata", None, 404, "Servable not found for request: Specific(toy, 99)"),
    ("POST", f"{TOY}/versions/99:predict", body(instances=[1]), 404, "Servable not found for request: Specific(toy, 99)"),
    ("GET", f"{TOY}/labels/no/metadata", None, 400, "Unrecognized servable version label: no"),
    ("POST", f"{TOY}/labels/no:predict", body(instances=[1]), 400, "Unrecognized servable version label: no"),
    ("GET", "/v1/models", None, 400, "Missing model name in request."),
    ("GET", "/v1/models/", None, 400, "Malformed request: GET /v1/models/"),
    ("GET", f"{TOY}/", None, 400, "Malformed request: GET /v1/models/toy/"),
    ("GET", PREDICT, None, 400, "Malformed request: GET /v1/models/toy:predict"),
    ("GET", f"{TOY}/versions/x", None, 400, "Malformed request: GET /v1/models/toy/versions/x"),
    ("PUT", TOY, None, 400, "Malformed request: PUT /v1/models/toy"),
    ("DELETE", TOY, None, 400, "Malformed request: DELETE /v1/models/toy"),
    ("POST", TOY, "{}", 400, "Malformed request: POST /v1/models/toy"),
    ("POST", f"{TOY}:explain", "{}", 400, "Malformed request: POST /v1/models/toy:explain"),
    ("POST", f"{TOY}/versions/1/labels/a:predict", "{}", 400, f"Malformed request: POST {TOY}/versions/1/labels/a:predict"),
    ("POST", PREDICT, "", 400, "JSON Parse error: The document is empty"),
    ("POST", PREDICT, "{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("POST", PREDICT, '{"a" 1}', 400, "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
    ("POST", PREDICT, '{"é": 1 2}', 400, "JSON Parse error: Missing a comma or } after an object member. at offset: 9"),
    ("POST", PREDICT, '{"a": [1 2]}', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 9"),
    ("POST", PREDICT, '{"a": "b', 400, "JSON Parse error: Missing a closing quotation mark in string. at offset: 8"),
    ("POST", PREDICT, "[]", 400, "JSON Value: [] Is not object"),
    ("POST", PREDICT, "{}", 400, "Missing 'inputs' or 'instances' key"),
    ("POST", PREDICT, body(instances=[]), 400, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    (
        "POST",
        PREDICT,
        body(instances=1),
        400,
        "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
    ),
    (
        *("POST", PREDICT, body(instances=[], inputs=1), 400),
        'JSON Value: {\n    "instances": [],\n    "inputs": 1\n} Not formatted correctly expecting only one of '
        "'inputs' or 'instances' keys to exist ",
    ),
    (
        *("POST", PREDICT, body(signature_name=3), 400),
        "JSON Value: {\n    \"signature_name\": 3\n} not formatted correctly. 'signature_name' key must be a string value.",
    ),
    (
        *("POST", PREDICT, body(signature_name="nosuch", instances=[1]), 400),
        'Serving signature name: "nosuch" not found in signature def',
    ),
    (
        *("POST", PREDICT, body(instances=[{"b": ROW}]), 400),
        "Failed to process element: 0 key: b of 'instances' list. Error: INVALID_ARGUMENT: "
        "JSON object: does not have named input: b",
    ),
    (
        *("POST", PREDICT, body(instances=[{}]), 400),
        "Failed to process element: 0 of 'instances' list. JSON object: {} keys must be equal to: x",
    ),
    ("POST", PREDICT, body(instances=[{"x": ROW}, ROW]), 400, "Expecting object but got list at item 1 of input list"),
    ("POST", PREDICT, body(instances=[ROW, {"x": ROW}]), 400, "Expecting value/list but got object at item 1 of input list"),
    ("POST", PREDICT, body(instances=[ROW, ROW[:3]]), 400, ELEMENT.format(1) + "Expecting tensor size: 4 but got: 3"),
    (
        *("POST", PREDICT, body(instances=[[1, [2], 3, 4]]), 400),
        ELEMENT.format(0) + "Encountered list at unexpected level: 1 expected < 1",
    ),
    *(
        (
            "POST",
            PREDICT,
            f'{{"instances": [[{value}, 2, 3, 4]]}}',
            400,
            f"{ELEMENT.format(0)}JSON Value: {value} Type: {name} is not of expected type: float",
        )
        for value, name in (('"a"', "String"), ("null", "Null"), ("true", "True"))
    ),
    (
        *("POST", PREDICT, body(instances=[[1, 2]]), 400),
        "Shape of tensor _arg_inputs/x_0_0 [1,2] is not compatible with expected shape [?,4].\n"
        "\t [[{{node inputs/x_checked}}]]",
    ),
    ("POST", PREDICT, body(inputs={"y": [ROW]}), 400, "Missing named input: x in 'inputs' object."),
    (
        *("POST", MIXED_PREDICT, body(instances=[[1, 2]]), 400),
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map",
    ),
    (
        *("POST", MIXED_PREDICT, body(inputs=[[1, 2]]), 400),
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map",
    ),
    *(
        (
            "POST",
            MIXED_PREDICT,
            body(signature_name="chosen", inputs=[value]),
            400,
            f"JSON Value: {value} Type: Number is not of expected type: int64",
        )
        for value in (1.0, 1 << 63)
    ),
    (
        *("POST", MIXED_PREDICT, body(signature_name="chosen", inputs=[9]), 400),
        "indices[0] = 9 is not in [0, 3)\n\t [[{{node chosen}}]]",
    ),
    ("POST", MIXED_PREDICT, body(signature_name="loud", inputs=[{"b64": "_"}]), 400, "Unable to base64 decode"),
    (
        *("POST", MIXED_PREDICT, body(signature_name="half", inputs=[1.5]), 501),
        "Conversion of JSON Value: 1.5 to type: half",
    ),
    (
        *("POST", MIXED_PREDICT, body(signature_name="narrow", inputs=[[1, 2]]), 400),
        "Failed to write JSON value for tensor type: half",
    ),
    (
        *("POST", CLASSIFY, classify(), 400),
        'JSON Value: {\n    "signature_name": "by_class"\n} '
        "When method is classify, key 'examples' is expected and was not found",
    ),
    (
        *("POST", CLASSIFY, body(examples=[]), 400),
        "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
    ),
    (
        *("POST", CLASSIFY, body(examples={}), 400),
        "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array",
    ),
    ("POST", CLASSIFY, classify(examples=[[]]), 400, "Example must be JSON object but got JSON Array"),
    (
        *("POST", CLASSIFY, classify(examples=[{"x": [1, 2, 3, 4]}]), 400),
        "Name: <unknown>, Key: x, Index: 0.  Data types don't match. Data type: int64 but expected type: float\n"
        "\t [[{{node inputs/example_parsed/example_parsed}}]]",
    ),
    (
        "POST",
        CLASSIFY,
        classify(examples=[{"x": [1, 2.5]}]),
        400,
        "Unexpected element type in feature: x expecting type: int64",
    ),
    ("POST", CLASSIFY, classify(examples=[{"x": None}]), 400, "Feature: x has element with unexpected JSON type: Null"),
    ("POST", CLASSIFY, classify(examples=[{"x": [[1.0]]}]), 400, "Feature: x has element with unexpected JSON type: Array"),
    (
        *("POST", CLASSIFY, body(signature_name="nosuch", examples=[{}]), 400),
        "No signature was found with the name: nosuch",
    ),
    ("POST", REGRESS, classify(examples=[{"x": ROW}]), 400, "Expected one output Tensor."),
]


@pytest.mark.parametrize(("method", "path", "sent", "status", "error"), REFUSED)
def test_a_wrong_request_gets_the_status_and_text_of_a_model_server(rest, method, path, sent, status, error):
    assert rest.ask(method, path, sent) == (status, {"error": error})


ANSWERED = [  # method, path, body, JSON
    ("GET", TOY, None, {"model_version_status": [AVAILABLE]}),
    ("GET", f"{TOY}/versions/1", None, {"model_version_status": [AVAILABLE]}),
    ("GET", f"{TOY}/labels/any", None, {"model_version_status": [AVAILABLE]}),
    ("POST", PREDICT, body(instances=[ROW]), {"predictions": [PROBS]}),
    ("POST", PREDICT, body(instances=[{"x": ROW}]), {"predictions": [PROBS]}),
    ("POST", PREDICT, body(inputs=[ROW]), {"outputs": [PROBS]}),
    ("POST", PREDICT, body(inputs={"x": [ROW], "unknown": 1}), {"outputs": [PROBS]}),
    ("POST", PREDICT, body(inputs=[[1, 2, 3, 4]]), {"outputs": [PROBS]}),
    ("POST", PREDICT, body(instances=[ROW]) + " anything", {"predictions": [PROBS]}),
    ("POST", f"{TOY}/labels/stable:predict", body(instances=[ROW]), {"predictions": [PROBS]}),
    ("POST", "/V1/Models/t%6Fy/VERSIONS/1:PREDICT", body(instances=[ROW]), {"predictions": [PROBS]}),
    (
        *("POST", MIXED_PREDICT, body(instances=[{"x": [1, 2], "ids": 1}, {"x": [3, 4.5], "ids": 0}])),
        {"predictions": [{"sum": [1.0, 2.0], "chosen": 20}, {"sum": [3.0, 4.5], "chosen": 10}]},
    ),
    (
        *("POST", MIXED_PREDICT, body(inputs={"x": [[1, 2]], "ids": [2]})),
        {"outputs": {"sum": [[1.0, 2.0]], "chosen": [30]}},
    ),
    ("POST", MIXED_PREDICT, body(signature_name="loud", instances=["é", {"b64": "YQ=="}]), {"predictions": ["é!", "a!"]}),
    (
        *("POST", MIXED_PREDICT, body(signature_name="raw", inputs=[{"b64": "/w=="}])),
        {"outputs": [{"b64": base64.b64encode(b"\xff!").decode()}]},
    ),
    ("POST", MIXED_PREDICT, body(signature_name="small", inputs=[300, -1]), {"outputs": [45, 0]}),
    ("POST", CLASSIFY, classify(examples=[{"x": ROW}]), {"results": [[["b", PROBS[1]], ["c", PROBS[2]]]]}),
    ("POST", CLASSIFY, classify(context={"x": ROW}, examples=[{}]), {"results": [[["b", PROBS[1]], ["c", PROBS[2]]]]}),
    ("POST", REGRESS, body(signature_name="by_value", examples=[{"x": ROW}]), {"results": [PROBS[1]]}),
]


@pytest.mark.parametrize(("method", "path", "sent", "answer"), ANSWERED)
def test_a_right_request_gets_the_json_of_a_model_server(rest, method, path, sent, answer):
    assert rest.ask(method, path, sent) == (200, answer)


def test_floats_of_an_example_are_rounded_alike_alone_and_together():
    floats = [1.5, 1e39, -1e39, float("nan"), 0.1, 1e-46]
    (together,) = json_examples.examples_of({"examples": [{"x": floats}]})
    (mixed,) = json_examples.examples_of({"examples": [{"x": [*floats, 1 << 70]}]})  # no integer of RapidJSON
    values = [example_pb2.Example.FromString(one).features.feature["x"].float_list.value for one in (together, mixed)]
    np.testing.assert_array_equal(values[0], np.array([1.5, np.inf, -np.inf, np.nan, 0.1, 0], np.float32))
    np.testing.assert_array_equal(values[1], [*values[0], np.float32(1 << 70)])


def test_texts_of_many_lengths_take_no_more_memory_than_they_have(rest):
    status, answer = rest.ask("POST", PREDICT, body(instances=[["a" * 50_000] + ["b"] * 50_000]))
    assert status == 400
    assert answer["error"] == f'{ELEMENT.format(0)}JSON Value: "{"a" * 255} Type: String is not of expected type: float'


def test_answers_that_are_not_numbers(server, rest):
    status, answer = rest.ask("POST", MIXED_PREDICT, '{"inputs": {"x": [[NaN, 1e39], [-Infinity, 0.1]], "ids": [0]}}')
    assert status == 200
    assert json.dumps(answer["outputs"]["sum"]) == "[[NaN, Infinity], [-Infinity, 0.1]]"


def test_the_layout_is_that_of_a_pretty_writer(rest):
    assert rest.send("POST", PREDICT, body(instances=[ROW]))[1] == f'{{\n    "predictions": [{PROBS}\n    ]\n}}'.encode()
    assert rest.send("GET", "/v1/models/nosuch")[1] == b'{\n    "error": "Could not find any versions of model nosuch"\n}'


def test_requests_without_json(rest):
    assert rest.ask("GET", f"{TOY}/versions/99999999999999999999") == (400, b"")
    assert rest.ask("OPTIONS", TOY) == (400, b"")
    assert rest.ask("OPTIONS", TOY, Origin="http://localhost") == (200, b"")
    assert [rest.ask("GET", path)[0] for path in ("/", "/v2/models")] == [404, 404]


def test_metadata_has_the_signatures(rest):
    status, answer = rest.ask("GET", f"{TOY}/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "toy", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert sorted(signatures) == ["by_class", "by_value", "serving_default"]
    assert signatures["serving_default"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "4", "name": ""}], "unknown_rank": False},
        "name": "inputs/x:0",
    }


# gRPC


def predicting(model="toy", signature="", version=None, label=None, only=(), **inputs):
    request = messages.predict_pb2.PredictRequest(output_filter=only)
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    for alias, value in inputs.items():
        content = value if isinstance(value, TensorProto) else TensorProto.FromString(to_proto(np.asarray(value)))
        request.inputs[alias].CopyFrom(content)
    return request


def examples(message, signature, *rows):
    request = message()
    request.model_spec.name, request.model_spec.signature_name = "toy", signature
    for row in rows:
        example = example_pb2.Example()
        example.features.feature["x"].float_list.value.extend(row)
        request.input.example_list.examples.append(example)
    return request


X = np.array([ROW], np.float32)
REFUSED_CALLS = [
    (predicting(""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (predicting("nosuch", x=X), "NOT_FOUND", "Servable not found for request: Latest(nosuch)"),
    (predicting(version=9, x=X), "NOT_FOUND", "Servable not found for request: Specific(toy, 9)"),
    (predicting(label="no", x=X), "INVALID_ARGUMENT", "Unrecognized servable version label: no"),
    (predicting(signature="nosuch", x=X), "FAILED_PRECONDITION", 'Serving signature key "nosuch" not found.'),
    (
        *(predicting(), "INVALID_ARGUMENT"),
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    ),
    (
        *(predicting(y=X), "INVALID_ARGUMENT"),
        "Signature input alias: x(feed name: inputs/x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {y}, or default input alias set: ",
    ),
    (predicting(x=X.astype(np.float64)), "INVALID_ARGUMENT", "Expects arg[0] to be float but double is provided"),
    (predicting(x=TensorProto(dtype=0)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (predicting(x=TensorProto(dtype=20)), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (predicting(x=TensorProto(dtype=1, tensor_content=b"123")), "INVALID_ARGUMENT", "tensor parsing error: x"),
    (
        *(predicting(only=["nosuch"], x=X), "INVALID_ARGUMENT"),
        "output tensor alias not found in signature: nosuch Outputs expected to be in the set {probs}.",
    ),
    (predicting(only=["probs", "probs"], x=X), "INVALID_ARGUMENT", "duplicate output tensor alias: probs"),
]


@pytest.mark.parametrize(("request_", "code", "text"), REFUSED_CALLS)
def test_a_wrong_call_gets_the_code_and_text_of_a_model_server(prediction, request_, code, text):
    with pytest.raises(grpc.RpcError) as error:
        prediction.Predict(request_)
    assert (error.value.code().name, error.value.details()) == (code, text)


def test_predict_answers_with_values_in_the_field_of_their_dtype(prediction):
    response = prediction.Predict(predicting(x=X))
    assert response.model_spec.name == "toy"
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == 1
    assert list(np.array(response.outputs["probs"].float_val, np.float32)) == list(np.array(PROBS, np.float32))
    assert response.outputs["probs"].tensor_content == b""
    answer = prediction.Predict(predicting("mixed", x=X[:, :2], ids=np.array([1])), timeout=30)
    assert list(answer.outputs["chosen"].int64_val) == [20]
    halves = prediction.Predict(predicting("mixed", "half", half=np.float16([1.5]))).outputs["twice"]
    assert (halves.dtype, list(halves.half_val)) == (19, [np.float16(3).view(np.uint16)])
    assert list(prediction.Predict(predicting("mixed", "loud", text=["a", "b"])).outputs["loud"].string_val) == [b"a!", b"b!"]


def test_a_tensor_without_values_is_filled_with_zeros(prediction):
    empty = TensorProto(dtype=1)
    for size in (1, 4):
        empty.tensor_shape.dim.add(size=size)
    zeros = prediction.Predict(predicting(x=np.zeros((1, 4), np.float32))).outputs["probs"]
    assert prediction.Predict(predicting(x=empty)).outputs["probs"] == zeros


def recorded(base):
    """What the manifest recorded: signature → inputs and outputs, alias → array."""
    samples = read_manifest(base / "toy" / "1")["samples"]
    return {
        name: [{alias: from_json(value) for alias, value in sample[side].items()} for side in ("inputs", "outputs")]
        for name, sample in samples.items()
    }


def test_predict_gives_the_bits_that_the_manifest_recorded(base, prediction, rest):
    inputs, outputs = recorded(base)["serving_default"]
    answered = from_message(prediction.Predict(predicting(**inputs)).outputs["probs"])
    assert answered.tobytes() == outputs["probs"].tobytes()
    for asked, key in (("instances", "predictions"), ("inputs", "outputs")):
        _, answer = rest.ask("POST", PREDICT, body(**{asked: inputs["x"].tolist()}))
        assert np.array(answer[key], np.float32).tobytes() == outputs["probs"].tobytes()


def test_classify_and_regress_give_the_bits_that_the_manifest_recorded(base, prediction, rest):
    held = recorded(base)
    parsed = [example_pb2.Example.FromString(text) for text in held["by_class"][0]["inputs"]]
    rows = [list(example.features.feature["x"].float_list.value) for example in parsed]
    asked = {"examples": [{"x": row} for row in rows]}
    _, outputs = held["by_class"]
    answer = prediction.Classify(examples(messages.classification_pb2.ClassificationRequest, "by_class", *rows)).result
    scores = [[entry.score for entry in row.classes] for row in answer.classifications]
    assert np.array(scores, np.float32).tobytes() == outputs["scores"].tobytes()
    results = rest.ask("POST", CLASSIFY, classify(**asked))[1]["results"]
    assert [[label.encode() for label, _ in row] for row in results] == outputs["classes"].tolist()
    assert np.array([[score for _, score in row] for row in results], np.float32).tobytes() == outputs["scores"].tobytes()
    _, outputs = held["by_value"]
    answer = prediction.Regress(examples(messages.regression_pb2.RegressionRequest, "by_value", *rows)).result
    assert np.array([entry.value for entry in answer.regressions], np.float32).tobytes() == outputs["outputs"].tobytes()
    results = rest.ask("POST", REGRESS, body(signature_name="by_value", **asked))[1]["results"]
    assert np.array(results, np.float32).tobytes() == outputs["outputs"].tobytes()


def test_examples_are_classified_and_regressed(prediction):
    answer = prediction.Classify(examples(messages.classification_pb2.ClassificationRequest, "by_class", ROW, ROW))
    assert [[entry.label for entry in row.classes] for row in answer.result.classifications] == [["b", "c"]] * 2
    assert np.float32(answer.result.classifications[0].classes[0].score) == np.float32(PROBS[1])
    assert answer.model_spec.signature_name == "by_class"
    answer = prediction.Regress(examples(messages.regression_pb2.RegressionRequest, "by_value", ROW))
    assert [np.float32(entry.value) for entry in answer.result.regressions] == [np.float32(PROBS[1])]


def test_no_examples_are_an_error(prediction):
    with pytest.raises(grpc.RpcError, match=r"Input is empty\."):
        prediction.Classify(examples(messages.classification_pb2.ClassificationRequest, "by_class"))


def multi(*tasks):
    request = messages.inference_pb2.MultiInferenceRequest()
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    request.input.CopyFrom(examples(messages.regression_pb2.RegressionRequest, "", ROW).input)
    return request


BY_CLASS, BY_VALUE = ("toy", "by_class", "tensorflow/serving/classify"), ("toy", "by_value", "tensorflow/serving/regress")


def test_multi_inference_answers_several_signatures(prediction):
    results = prediction.MultiInference(multi(BY_CLASS, BY_VALUE)).results
    assert results[0].classification_result.classifications[0].classes[1].label == "c"
    assert np.float32(results[1].regression_result.regressions[0].value) == np.float32(PROBS[1])
    assert [result.model_spec.signature_name for result in results] == ["by_class", "by_value"]


@pytest.mark.parametrize(
    ("tasks", "code", "text"),
    [
        ((), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ((BY_CLASS, BY_CLASS), "INVALID_ARGUMENT", "Duplicate evaluation of signature: by_class"),
        (
            (BY_CLASS, ("mixed", "a", "b")),
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        ((("toy", "no", "a"),), "INVALID_ARGUMENT", "Requested signature not found in model graph: no"),
        ((("toy", "by_class", "a"),), "UNIMPLEMENTED", "Unsupported signature method_name: a"),
    ],
)
def test_wrong_multi_inference(prediction, tasks, code, text):
    with pytest.raises(grpc.RpcError) as error:
        prediction.MultiInference(multi(*tasks))
    assert (error.value.code().name, error.value.details()) == (code, text)


def test_metadata_by_grpc(prediction):
    request = messages.get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        prediction.GetModelMetadata(request)
    request.model_spec.name = "toy"
    signatures = messages.get_model_metadata_pb2.SignatureDefMap()
    assert prediction.GetModelMetadata(request).metadata["signature_def"].Unpack(signatures)
    assert sorted(signatures.signature_def) == ["by_class", "by_value", "serving_default"]


def test_status_health_and_reflection(channel):
    model = messages.model_service_pb2_grpc.ModelServiceStub(channel)
    request = messages.get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "toy"
    assert [(entry.version, entry.state) for entry in model.GetModelStatus(request).model_version_status] == [(1, 30)]
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked))
    names = {service.name for service in listed.list_services_response.service}
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService", "grpc.health.v1.Health"} <= names


# the page


def test_the_page_describes_the_models_with_their_samples(base, rest):
    models = [Model("toy", base / "toy", labels={"stable": 1}), Model("mixed", base / "mixed")]
    with serverlab.serving(models, page=Page) as server, serverlab.Rest(server) as client:
        status, html, kind = client.send("GET", "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert "http" not in re.sub(r'http-equiv="[^"]*"', "", html.decode())  # no address of anywhere else
        _, (mixed, toy) = client.ask("GET", "/exportkit/models.json")
        assert (mixed["name"], toy["name"], toy["labels"]) == ("mixed", "toy", {"stable": 1})
        by_class, by_value, default = toy["versions"][0]["signatures"]
        assert [one["method"] for one in (by_class, by_value, default)] == ["classify", "regress", "predict"]
        assert default["inputs"] == [{"alias": "x", "dtype": "float32", "shape": [-1, 4]}]
        assert default["body"] == '{"signature_name": "serving_default", "instances": [{"x": [0.0, 1.0, 2.0, 3.0]}]}'
        assert json.loads(by_class["body"])["examples"] == [{"x": ROW}]
        assert [default["recorded"], mixed["versions"][0]["signatures"][0]["recorded"]] == [True, False]
        for model in (mixed, toy):
            for signature in model["versions"][0]["signatures"]:
                path = f"/v1/models/{model['name']}:{signature['method']}"
                if signature["key"] in ("half", "narrow"):
                    assert signature["barred"] == "REST has no float16: ask by gRPC."
                    continue
                assert client.ask("POST", path, signature["body"])[0] == 200, signature
    assert rest.ask("GET", "/exportkit/models.json")[0] == 404
