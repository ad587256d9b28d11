"""The printed requests: each line is run by a shell, and its body read by the rules of TensorFlow Serving's json_tensor.cc."""

import base64
import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toys

from exportkit.checkpoint.encoding import numpy_dtype, objects
from exportkit.operations.parse_example import Feature, ParseExample
from exportkit.report import SignatureReport, TensorReport
from exportkit.samples import tfexample
from exportkit.serving.rest_request import request
from exportkit.spec import Examples, File, Literal, Tensor

URL = "http://localhost:8501/v1/models/m"
CURL = 'curl() { case "$2" in @-) cat;; @*) cat "${2#@}";; *) printf %s "$2";; esac; printf "\\n%s" "$3"; }; '
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")


def tensor(alias, dtype, *shape, binding=None):
    return TensorReport(alias=alias, binding=binding or alias, tensor=f"{alias}:0", dtype=dtype, shape=list(shape))


Y = tensor("y", "float32", None)


def printed(signature, report=None, model="m", samples=None, **bindings):
    """The line for one signature."""
    bindings = {t.binding: Tensor(tensor=t.tensor) for t in signature.inputs} | bindings
    given = {} if samples is None else {signature.key: samples}
    plan = SimpleNamespace(bindings=bindings, samples=given, signatures={signature.key: signature_of(signature)}, report=report)
    return request(model, signature, plan)


def signature_of(signature):
    return SimpleNamespace(inputs={t.alias: t.binding for t in signature.inputs}, method=signature.method)


def predict(inputs, outputs=(Y,), **options):
    return printed(SignatureReport(key="s", method="predict", inputs=list(inputs), outputs=list(outputs)), **options)


def classify(**options):
    inputs = [tensor("inputs", "string", None, binding="e")]
    return printed(SignatureReport(key="s", method="classify", inputs=inputs, outputs=[Y]), **options)


def sent(line):
    """What a shell makes of the line: the body, and the URL."""
    body, url = subprocess.run(["sh", "-c", CURL + line], capture_output=True, check=True, text=True).stdout.rsplit("\n", 1)
    return json.loads(body), url


def received(line, inputs):
    """What a server makes of the body of a predict request: alias → array. It refuses as json_tensor.cc does."""
    body, _ = sent(line)
    assert set(body) in ({"signature_name", "instances"}, {"signature_name", "inputs"})
    if "inputs" in body:
        return {t.alias: parsed(body["inputs"][t.alias], t.dtype) for t in inputs}
    rows = body["instances"]
    assert rows and all(set(row) == {t.alias for t in inputs} for row in rows)
    return {t.alias: np.stack([parsed(row[t.alias], t.dtype) for row in rows]) for t in inputs}


def parsed(value, dtype):
    """A dense tensor: one kind of element at one level, of the dtype without loss."""
    array = np.asarray(value, object)
    elements = [element(item, dtype) for item in array.flat]
    return (
        objects(elements).reshape(array.shape)
        if dtype == "string"
        else np.array(elements, numpy_dtype(dtype)).reshape(array.shape)
    )


def element(item, dtype):
    if isinstance(item, dict):
        assert set(item) == {"b64"} and dtype == "string", item
        return base64.b64decode(item["b64"], validate=True)
    kinds = {"string": str, "bool": bool, "float32": (int, float), "float64": (int, float), **dict.fromkeys(INTEGERS, int)}
    assert isinstance(item, kinds[dtype]) and (dtype == "bool" or not isinstance(item, bool)), item
    return item.encode() if dtype == "string" else item


def examples(line):
    """What a server makes of the body of a classify request: feature → its kind and values."""
    (example,) = sent(line)[0]["examples"]
    found = {}
    for name, value in example.items():
        values = value if isinstance(value, list) else [value]
        (kind,) = ({float: "float_list", int: "int64_list", str: "bytes_list", dict: "bytes_list"}[type(values[0])],)
        assert len({type(v) in (str, dict) or type(v) for v in values}) == 1, "0 and 0.5 in one feature are refused"
        found[name] = kind, [element(v, "string") if kind == "bytes_list" else v for v in values]
    return found


# ---- zeros ----


def test_a_request_goes_row_by_row_where_tensors_have_a_batch():
    inputs = [tensor("a", "int64", None, 2), tensor("b_bytes", "string", None)]
    line = predict(inputs)
    body = '{"signature_name": "s", "instances": [{"a": [0, 0], "b_bytes": {"b64": ""}}]}'
    assert line == f"curl -d '{body}' {URL}:predict"
    assert {alias: value.tolist() for alias, value in received(line, inputs).items()} == {"a": [[0, 0]], "b_bytes": [b""]}


def test_a_request_gives_whole_tensors_where_one_has_no_batch():
    line = predict([tensor("a", "bool", None)], [tensor("y", "float32")])
    assert line == f"""curl -d '{{"signature_name": "s", "inputs": {{"a": [false]}}}}' {URL}:predict"""


@pytest.mark.parametrize("dtype", ["bool", "float32", "float64", "string", *INTEGERS])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_zeros_are_of_their_dtype(dtype, shape):
    inputs = [tensor("x", dtype, None, *shape)]
    value = received(predict(inputs), inputs)["x"]
    expected = np.full((1, *shape), b"", object) if dtype == "string" else np.zeros((1, *shape), dtype)
    assert (value.dtype, value.tolist()) == (expected.dtype, expected.tolist())


PARSED = ParseExample(
    parse_example={"f": Feature(dtype="float32", shape=[2, 2]), "i": Feature(dtype="int64"), "n": Feature(dtype="string")}
)


def test_a_request_of_examples_has_their_features():
    line = classify(e=PARSED)
    body = '{"signature_name": "s", "examples": [{"f": [0.0, 0.0, 0.0, 0.0], "i": 0, "n": ""}]}'
    assert line == f"curl -d '{body}' {URL}:classify"
    assert examples(line) == {"f": ("float_list", [0.0] * 4), "i": ("int64_list", [0]), "n": ("bytes_list", [b""])}


def test_a_predict_request_that_is_parsed_sends_an_example_and_no_empty_text():
    inputs = [tensor("serialized", "string", None, binding="e")]
    (row,) = received(predict(inputs, e=PARSED), inputs)["serialized"]
    decoded = tfexample.decode([row], PARSED.parse_example)
    assert {name: value.tolist() for name, value in decoded.items()} == {"f": [[[0.0] * 2] * 2], "i": [0], "n": [b""]}


def test_a_large_request_is_made_by_a_line_of_python():
    inputs = [tensor("image", "float32", None, 50, 50, 3), tensor("flag", "bool", None), tensor("t", "string", None, 2)]
    line = predict(inputs)
    assert line == (
        """python3 -c 'import json; print(json.dumps({"signature_name": "s", "instances": [{"""
        f""""image": [[[0.0] * 3] * 50] * 50, "flag": False, "t": [""] * 2}}]}}))' | curl -d @- {URL}:predict"""
    )
    values = received(line, inputs)
    assert values["image"].shape == (1, 50, 50, 3) and not values["image"].any()
    assert (values["flag"].tolist(), values["t"].tolist()) == ([False], [[b"", b""]])


# ---- from samples ----


def given(value, dtype, shape=(None,), **options):
    inputs = [tensor("x", dtype, *shape)]
    line = predict(inputs, samples={"x": Literal(value=value)}, **options)
    return line, received(line, inputs)["x"]


def test_the_first_row_of_the_sample_is_asked():
    line, value = given([[1, 2.5], [3, 4]], "float32", (None, 2))
    assert line == f"""curl -d '{{"signature_name": "s", "instances": [{{"x": [1.0, 2.5]}}]}}' {URL}:predict"""
    assert value.tolist() == [[1.0, 2.5]]


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        ([7.0], "int64", "7"),
        ([2**63 - 1], "int64", "9223372036854775807"),
        ([1], "float32", "1.0"),
        ([0.1], "float32", "0.1"),
        ([0.1], "float64", "0.1"),
        ([math.nan], "float32", "NaN"),
        ([-math.inf], "float64", "-Infinity"),
        ([True], "bool", "true"),
        (["it's"], "string", '"it\'s"'),
        (["grün"], "string", '"gr\\u00fcn"'),
        (["zero\0"], "string", '{"b64": "emVybwA="}'),
    ],
)
def test_a_value_is_as_the_server_reads_it(value, dtype, text):
    line, read = given(value, dtype)
    body, _ = sent(line)
    assert json.dumps(body["instances"][0]["x"]) == text
    expected = np.array([v.encode() for v in value], object) if dtype == "string" else np.array(value, dtype)
    np.testing.assert_array_equal(read, expected)


def test_bytes_that_are_no_text_are_base64(tmp_path):
    np.save(tmp_path / "x.npy", np.array([b"\xff\xfe", b"b"]))
    inputs = [tensor("x", "string", None)]
    line = predict(inputs, samples={"x": File(path=tmp_path / "x.npy")})
    assert received(line, inputs)["x"].tolist() == [b"\xff\xfe"]


def test_inputs_of_different_sizes_are_sent_whole():
    inputs = [tensor("a", "int64", None), tensor("b", "int64", None)]
    line = predict(inputs, samples={"a": Literal(value=[1, 2]), "b": Literal(value=[3])})
    assert {alias: value.tolist() for alias, value in received(line, inputs).items()} == {"a": [1, 2], "b": [3]}


def test_the_first_example_of_the_sample_is_asked():
    features = {"f": Literal(value=[[[1, 2], [3, 4]]]), "i": Literal(value=[2]), "n": Literal(value=["ö"])}
    line = classify(e=PARSED, samples={"inputs": Examples(features=features)})
    body = '{"signature_name": "s", "examples": [{"f": [1.0, 2.0, 3.0, 4.0], "i": 2, "n": "\\u00f6"}]}'
    assert line == f"curl -d '{body}' {URL}:classify"
    assert examples(line) == {
        "f": ("float_list", [1.0, 2.0, 3.0, 4.0]),
        "i": ("int64_list", [2]),
        "n": ("bytes_list", ["ö".encode()]),
    }


def test_a_graph_that_parses_examples_itself_is_asked_for_its_sample(tmp_path):
    assert classify() == ("# s: which features its graph parses is not known; give samples.s, and its first row is asked")
    np.save(tmp_path / "x.npy", np.array([toys.example(a=[1.5], b=[b"\xff"])]))
    line = classify(samples={"inputs": File(path=tmp_path / "x.npy")})
    assert examples(line) == {"a": ("float_list", [1.5]), "b": ("bytes_list", [b"\xff"])}
    assert classify(samples={"inputs": Literal(value=["no example"])}) == (
        "# s: the first row of its sample is not a tf.Example"
    )


# ---- files ----


def test_what_is_too_long_to_read_stands_beside_the_report(tmp_path):
    inputs = [tensor("x", "float32", None, 300)]
    values = [[0.5 * n for n in range(300)]]
    line = predict(inputs, samples={"x": Literal(value=values)}, report=tmp_path / "my reports/first.json")
    assert line.startswith("python3 -c ")  # a report that could not be written has no neighbours either
    (tmp_path / "my reports").mkdir()
    line = predict(inputs, samples={"x": Literal(value=values)}, report=tmp_path / "my reports/first.json")
    assert line == f"curl -d '@{tmp_path}/my reports/first-request-s.json' {URL}:predict"
    assert received(line, inputs)["x"].tolist() == values
    assert [path.name for path in Path("my reports").iterdir()] == ["first-request-s.json"]


def test_what_can_be_read_needs_no_file(tmp_path):
    assert predict([tensor("x", "float32", None)], report=tmp_path / "r.json").startswith("curl -d '{")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_short_form_says_how_to_get_it(tmp_path):
    inputs = [tensor("x", "string", None, binding="e")]
    large = ParseExample(parse_example={"f": Feature(dtype="float32", shape=[500])})
    assert predict(inputs, e=large) == (
        "# s: its request is too long for a line; report.path=report.json has it written to a file as well"
    )
    (row,) = received(predict(inputs, e=large, report=tmp_path / "r.json"), inputs)["x"]
    assert tfexample.decode([row], large.parse_example)["f"].tolist() == [[0.0] * 500]


# ---- what REST cannot do ----


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (lambda: predict([tensor("x", "float16", None)]), "REST has no float16, which its input 'x' is; ask by gRPC"),
        (
            lambda: predict([tensor("x", "int64", None)], [tensor("y", "uint16", None)]),
            "REST has no uint16, which its output 'y' is; ask by gRPC",
        ),
        (lambda: predict([]), "REST cannot ask a signature without inputs; ask by gRPC"),
        (lambda: predict([tensor("x", "bool", None)], model="a:b"), "REST cannot name a model with a colon; ask by gRPC"),
        (
            lambda: predict([tensor("x", "bool", None)], samples={"x": Literal(value=[3])}),
            "its sample cannot be sent: samples.s.x: is int64, not bool; write bool values",
        ),
    ],
)
def test_what_rest_cannot_ask_is_said(line, text):
    assert line() == f"# s: {text}"


@pytest.mark.parametrize(("model", "path"), [("a?b#c", "a%3Fb%23c"), ("é", "%C3%A9"), ("m-1_x.y", "m-1_x.y")])
def test_a_models_name_is_a_part_of_the_url(model, path):
    assert sent(predict([tensor("x", "bool", None)], model=model))[1] == f"http://localhost:8501/v1/models/{path}:predict"
