"""The clients that people read: the curl script and the OpenAPI document, both with the recorded samples."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from fake_server import made_version, serving

from exportkit.clients import curl, openapi, restexamples
from exportkit.clients.contract import Contract, Example, Signature, Tensor, read_contract
from exportkit.clients.languages import generate, write


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return made_version(tmp_path_factory)


@pytest.fixture(scope="module")
def contract(version):
    return read_contract(version)


@pytest.fixture(scope="module")
def server(version):
    with serving(version, "toy") as found:
        yield found


# curl


def script(directory, contract, *words, **variables):
    write(directory, generate(contract, ["curl"]))
    (path,) = directory.glob("*.sh")
    return subprocess.run([path, *words], env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.mark.needs("curl")
def test_the_script_sends_each_sample(contract, server, tmp_path):
    done = script(tmp_path, contract, SERVER=server[2])
    assert (done.returncode, done.stderr) == (0, "")
    decoder, text, found = json.JSONDecoder(), done.stdout, []
    while text := text.strip():
        answer, end = decoder.raw_decode(text)
        found.append(answer)
        text = text[end:]
    expected = [restexamples.response(one) for one in contract.signatures.values()]
    assert np.float32(found[0]["outputs"]).tolist() == np.float32(expected[0]["outputs"]).tolist()
    assert [[label for label, _ in row] for row in found[1]["results"]] == [["b", "c"]]
    assert np.float32(found[2]["results"]).tolist() == np.float32(expected[2]["results"]).tolist()


@pytest.mark.needs("curl")
def test_the_script_sends_those_that_are_named_to_one_version(contract, server, tmp_path):
    asked = len(server[0].requests)
    done = script(tmp_path, contract, "by_value", SERVER=server[2], VERSION="1")
    assert (done.returncode, list(json.loads(done.stdout))) == (0, ["results"])
    assert len(server[0].requests) == asked + 1
    done = script(tmp_path, contract, "by_value", SERVER=server[2], VERSION="7")
    assert done.returncode == 22
    assert json.loads(done.stdout) == {"error": "Servable not found for request: Specific(toy, 7)"}
    done = script(tmp_path, contract, "by_values", SERVER=server[2])
    assert (done.returncode, done.stderr) == (2, "by_values: there is no such signature\n")


def odd():
    """A contract of names that a shell would obey, and of what REST cannot carry or has no sample of."""
    row, half = Tensor("float32", (None, 2), {}), Tensor("float16", (None, 2), {})
    text = Tensor("string", (None,), {})
    values = {"it's": np.array([b"a'b\n$HOME `id`", b"\xff"], object)}
    example = Example(values, {"o_bytes": values["it's"]})
    return Contract(
        "$(touch pwned)'",
        None,
        "0" * 64,
        {
            "'; touch pwned; '": Signature("predict", {"x": row}, {"y": row}, True, None),
            "$(touch pwned)": Signature("predict", {"x": half}, {"y": row}, True, None),
            "JSON": Signature("predict", {"it's": text}, {"o_bytes": text}, False, example),
            "constant": Signature("predict", {}, {"y": row}, False, Example({}, None)),
        },
    )


@pytest.mark.needs("curl")
def test_what_is_odd_is_no_command(tmp_path):
    done = script(tmp_path, odd(), "$(touch pwned)", "constant", "'; touch pwned; '", SERVER="http://localhost:1")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "'; touch pwned; ': no sample of it is recorded",
        "$(touch pwned): REST cannot carry it (x is float16): ask by gRPC",
        "constant: REST cannot ask a signature without inputs: ask by gRPC",
    ]
    assert [path.name for path in tmp_path.rglob("pwned")] == []
    (text,) = curl.generate(odd()).values()
    assert """{"signature_name": "JSON", "inputs": {"it's": ["a'b\\n$HOME `id`", {"b64": "/w=="}]}}\nJSON\n""" in text


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_script_parses(shell, contract, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    for one in (contract, odd()):
        (text,) = curl.generate(one).values()
        (tmp_path / "script").write_text(text)
        assert subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True).stderr == ""


# Examples


def test_examples_are_one_row_as_people_write_it(contract):
    requests = {key: restexamples.request(key, one) for key, one in contract.signatures.items()}
    assert requests == {
        "serving_default": {"signature_name": "serving_default", "inputs": {"x": [[0.0, 1.0, 2.0, 3.0]]}},
        "by_class": {"signature_name": "by_class", "examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]},
        "by_value": {"signature_name": "by_value", "examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]},
    }
    responses = {key: restexamples.response(one) for key, one in contract.signatures.items()}
    example = contract.signatures["by_class"].example.outputs
    assert [label for label, _ in responses["by_class"]["results"][0]] == [label.decode() for label in example["classes"][0]]
    assert np.float32(responses["serving_default"]["outputs"]).tolist() == (
        contract.signatures["serving_default"].example.outputs["probs"][:1].tolist()
    )


def test_what_cannot_be_cut_is_sent_whole():
    signature = odd().signatures["JSON"]
    assert restexamples.request("JSON", signature)["inputs"] == {"it's": ["a'b\n$HOME `id`", {"b64": "/w=="}]}
    assert restexamples.response(signature) == {"outputs": [{"b64": "YSdiCiRIT01FIGBpZGA="}, {"b64": "/w=="}]}


# OpenAPI


@pytest.mark.needs("openapi_spec_validator")
@pytest.mark.parametrize("which", ["recorded", "odd"])
def test_the_document_is_openapi(which, contract):
    from openapi_spec_validator import OpenAPIV31SpecValidator

    document = openapi.document(contract if which == "recorded" else odd())
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_the_document_has_the_paths_of_the_methods(contract):
    document = openapi.document(contract)
    places = ["", "/versions/{version}", "/labels/{label}"]
    ends = [":predict", ":classify", ":regress", "/metadata", ""]
    assert list(document["paths"]) == [f"/v1/models/toy{place}{end}" for place in places for end in ends]
    assert document["info"]["version"] == "1"
    assert contract.digest in document["info"]["description"]
    assert document["servers"] == [{"url": "http://localhost:8501"}]


@pytest.mark.needs("jsonschema")
def test_its_examples_fit_its_schemas_and_others_do_not(contract):
    import jsonschema

    components = openapi.document(contract)["components"]

    def fits(name, value):
        return jsonschema.Draft202012Validator(components["schemas"][name]).is_valid(value)

    examples = {
        f"{name}{side}": example["value"]
        for side, found in (("Request", components["requestBodies"]), ("Response", components["responses"]))
        for one in found.values()
        for name, example in one["content"]["application/json"].get("examples", {}).items()
    }
    assert sorted(examples) == sorted(components["schemas"])
    assert {name: fits(name, value) for name, value in examples.items()} == dict.fromkeys(examples, True)
    assert not fits("ServingDefaultRequest", {"signature_name": "serving_default", "inputs": {"x": [[0.0, 1.0]]}})
    assert not fits("ServingDefaultRequest", {"signature_name": "other", "inputs": {"x": [[0.0, 1.0, 2.0, 3.0]]}})
    assert fits("ServingDefaultRequest", {"inputs": {"x": []}})
    assert not fits("ByClassRequest", {"signature_name": "by_class", "examples": [{}]})
    assert not fits("ByClassRequest", {"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]})


@pytest.mark.needs("jsonschema")
@pytest.mark.parametrize(
    ("tensor", "good", "bad"),
    [
        (Tensor("uint8", (2,), {}), [0, 255], [0, 256]),
        (Tensor("int64", (), {}), -(2**63), 2**63),
        (Tensor("bool", (None,), {}), [True], [1]),
        (Tensor("float64", (1, None), {}), [[1, 2.5]], [1.5]),
        (Tensor("string", (None,), {}), ["a", {"b64": "AA=="}], [{"b64": 1}]),
    ],
)
def test_schemas_of_tensors(tensor, good, bad):
    import jsonschema

    signature = Signature("predict", {"t": tensor}, {"t": tensor}, False, None)
    document = openapi.document(Contract("m", 1, "", {"s": signature}))
    validator = jsonschema.Draft202012Validator(document["components"]["schemas"]["SRequest"])
    assert validator.is_valid({"signature_name": "s", "inputs": {"t": good}})
    assert not validator.is_valid({"signature_name": "s", "inputs": {"t": bad}})


def test_what_rest_cannot_carry_is_left_out():
    document = openapi.document(odd())
    assert sorted(document["components"]["schemas"]) == [
        *("JSONRequest", "JSONResponse", "XTouchPwnedRequest", "XTouchPwnedResponse")
    ]
    assert "The signature constant is left out: REST cannot ask a signature without inputs" in document["info"]["description"]
