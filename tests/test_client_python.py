"""The generated Python client: the recorded answers by gRPC, by REST and from a coroutine; what it refuses; its code."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import versions_made
from fake_server import made_version, serving

from exportkit.cli import main
from exportkit.clients.contract import Contract, Feature, Signature, Tensor, read_contract
from exportkit.clients.languages import generate, write
from exportkit.clients.runtime import answers, messages, tensors
from exportkit.protos import TensorProto

X = versions_made.X
FEATURES = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return made_version(tmp_path_factory)


@pytest.fixture(scope="module")
def shared_server(version):
    with serving(version, "toy") as found:
        yield found


@pytest.fixture
def server(shared_server):
    """The server of this module, as it was started."""
    model = shared_server[0]
    signatures = dict(model.signatures)
    yield shared_server
    model.signatures, model.unavailable, model.change, model.labels = signatures, 0, lambda outputs: outputs, {}


@pytest.fixture(scope="module")
def path(version, tmp_path_factory):
    """The generated client's file."""
    directory = tmp_path_factory.mktemp("client")
    write(directory, generate(read_contract(version), ["python"]))
    return directory / "toy_client.py"


@pytest.fixture(scope="module")
def module(path):
    return load(path)


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def recorded(version):
    return {key: signature.example.outputs for key, signature in read_contract(version).signatures.items()}


def same(value, expected):
    return value.dtype == expected.dtype and value.shape == expected.shape and value.tolist() == expected.tolist()


def clients(module, server):
    """A client of each transport that blocks."""
    return {"gRPC": module.Client(server[1]), "REST": module.RestClient(server[2])}


# Answers


@pytest.mark.parametrize("by", ["gRPC", "REST"])
def test_answers_are_those_of_the_manifest(by, version, module, server):
    known = recorded(version)
    with clients(module, server)[by] as client:
        client.check()
        predicted, classified, regressed = client.serving_default(X), client.by_class(FEATURES), client.by_value(FEATURES)
    assert same(predicted.probs, known["serving_default"]["probs"])
    assert same(classified.classes, known["by_class"]["classes"])
    assert same(classified.scores, known["by_class"]["scores"])
    assert same(regressed.outputs, known["by_value"]["outputs"])
    assert classified.classes.dtype == object and type(classified.classes[0, 0]) is bytes
    versions = {predicted.model_version, classified.model_version, regressed.model_version}
    assert versions == {None if by == "REST" else 1}


def test_answers_to_a_coroutine_are_those_of_the_manifest(version, module, server):
    async def ask():
        async with module.AsyncClient(server[1]) as client:
            await client.check()
            several = await asyncio.gather(*(client.serving_default(X) for _ in range(8)))
            return several, await client.by_class(FEATURES), await client.by_value(FEATURES)

    several, classified, regressed = asyncio.run(ask())
    known = recorded(version)
    assert [same(one.probs, known["serving_default"]["probs"]) for one in several] == [True] * 8
    assert same(classified.classes, known["by_class"]["classes"])
    assert same(regressed.outputs, known["by_value"]["outputs"])
    assert regressed.model_version == 1


def test_a_request_is_what_the_server_is_given(module, server):
    model = server[0]
    for client in clients(module, server).values():
        with client:
            client.serving_default(X.astype(np.float64).tolist())
            assert same(model.requests[-1]["x"], X)
            client.serving_default(np.array([[np.nan, np.inf, -np.inf, 1e-45]], np.float32))
            assert repr(model.requests[-1]["x"].tolist()) == "[[nan, inf, -inf, 1.401298464324817e-45]]"
            client.by_class(FEATURES)
            example = tf.train.Example.FromString(model.requests[-1]["inputs"][1])
            assert dict(example.features.feature)["x"].float_list.value == [4, 3, 2, 1]


def test_a_version_or_a_label_is_asked(module, server):
    server[0].labels = {"stable": 1}
    for name, target in (("Client", server[1]), ("RestClient", server[2])):
        cls = getattr(module, name)
        missing = "404" if name == "RestClient" else "NOT_FOUND"
        unknown = "400" if name == "RestClient" else "INVALID_ARGUMENT"
        for chosen in ({"version": 1}, {"label": "stable"}):
            with cls(target, **chosen) as client:
                assert client.serving_default(X).probs.shape == (2, 3)
        with cls(target, version=7) as client, pytest.raises(module.ServerError) as refused:
            client.serving_default(X)
        assert (refused.value.code, refused.value.message) == (missing, "Servable not found for request: Specific(toy, 7)")
        with cls(target, label="a/b") as client, pytest.raises(module.ServerError) as refused:
            client.serving_default(X)
        assert refused.value.code == unknown
        with pytest.raises(ValueError, match=r"^give a version or a label, not both$"):
            cls(target, version=1, label="stable")


# What is refused


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.zeros(4, np.float32), "x has the shape [4], not [?, 4]"),
        (np.zeros((2, 5)), "x has the shape [2, 5], not [?, 4]"),
        ([["a", "b", "c", "d"]], "x is <U1, not float32"),
        (np.zeros((1, 4), complex), "x is complex128, not float32"),
    ],
)
def test_a_value_that_does_not_fit_is_not_sent(value, error, module, server):
    asked = len(server[0].requests)
    for client in clients(module, server).values():
        with client, pytest.raises((TypeError, ValueError)) as refused:
            client.serving_default(value)
        assert str(refused.value) == error
    assert len(server[0].requests) == asked


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("uint8", [1, 255], [1, 255]),
        ("uint8", [256], "t has integers that uint8 cannot hold"),
        ("int32", np.array([1 << 40]), "t has integers that int32 cannot hold"),
        ("int64", [0.5], "t is float64, not int64"),
        ("int64", [True], [1]),
        ("bool", [1], "t is int64, not bool"),
        ("float32", [1, 2], [1.0, 2.0]),
        ("string", ["é", b"\0\xff\0"], ["é".encode(), b"\0\xff\0"]),
        ("string", np.array(["a", "b"]), [b"a", b"b"]),
        ("string", [1], "t has 1, which is neither str nor bytes"),
        ("complex64", [1j], [1j]),
    ],
)
def test_values_become_arrays_of_the_contracts_dtype(dtype, value, expected):
    try:
        array = tensors.as_array("t", value, tensors.Tensor(dtype, (None,)))
    except (TypeError, ValueError) as error:
        assert str(error) == expected
    else:
        assert (array.dtype, array.tolist()) == (tensors.numpy_dtype(dtype), expected)


def test_only_a_server_that_is_unavailable_is_asked_again(module, server):
    model = server[0]
    for name, target in (("Client", server[1]), ("RestClient", server[2])):
        model.unavailable = 2
        with getattr(module, name)(target, attempts=3) as client:
            assert client.serving_default(X).probs.shape == (2, 3)
        model.unavailable = 2
        with getattr(module, name)(target, attempts=2) as client, pytest.raises(module.ServerError) as refused:
            client.serving_default(X)
        assert (refused.value.code, refused.value.message) == (
            "503" if name == "RestClient" else "UNAVAILABLE",
            "the server is starting",
        )
        assert model.unavailable == 0
        model.looked_up = 0
        with getattr(module, name)(target, version=7) as client, pytest.raises(module.ServerError, match="Specific"):
            client.serving_default(X)
        assert model.looked_up == 1


def test_nobody_listens(module):
    with module.Client("localhost:1", attempts=2) as client, pytest.raises(module.ServerError) as refused:
        client.serving_default(X)
    assert refused.value.code == "UNAVAILABLE"
    with module.RestClient("localhost:1", attempts=2) as client, pytest.raises(module.ServerError) as refused:
        client.serving_default(X)
    assert (refused.value.code, refused.value.message) == ("UNAVAILABLE", "[Errno 111] Connection refused")
    with pytest.raises(ValueError, match=r"^file:///etc is no address of HTTP$"):
        module.RestClient("file:///etc")


def test_a_deadline_holds(module, server):
    slow = lambda outputs: __import__("time").sleep(0.5) or outputs  # noqa: E731
    for client in clients(module, server).values():
        server[0].change = slow
        with client, pytest.raises(module.ServerError) as refused:
            client.serving_default(X, timeout=0.1)
        assert refused.value.code == "DEADLINE_EXCEEDED"


def test_a_message_that_is_too_large_is_refused(module, server):
    for name, target in (("Client", server[1]), ("RestClient", server[2])):
        with getattr(module, name)(target, message_bytes=1000) as client, pytest.raises(module.ServerError) as refused:
            client.serving_default(np.zeros((1000, 4), np.float32))
        assert refused.value.code == "RESOURCE_EXHAUSTED"


@pytest.mark.needs("openssl")
def test_tls_is_asked_by_those_who_trust_it(version, module, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with serving(version, "toy", tls=(key, certificate)) as (_, address, url):
        for name, target in (("Client", address), ("RestClient", url)):
            with getattr(module, name)(target, tls=module.Tls(authorities=certificate)) as client:
                assert client.serving_default(X).probs.shape == (2, 3)
            with (
                getattr(module, name)(target, tls=module.Tls(), attempts=1) as client,
                pytest.raises(module.ServerError) as refused,
            ):
                client.serving_default(X)
            assert refused.value.code == "UNAVAILABLE"
        rest = url.removeprefix("https://")
        command = ["probe", address, "toy", "--rest", rest, "--against", str(version), "--requests", "1"]
        assert [main([*command, "--ca", str(certificate)]), main([*command, "--tls"]), main(command)] == [0, 2, 2]


# A model that changed


def test_what_changed_on_the_server_is_listed(module, server):
    model = server[0]
    changed = type(model.signatures["serving_default"])()
    changed.CopyFrom(model.signatures["serving_default"])
    changed.inputs["mask"].dtype = 10
    changed.inputs["x"].dtype = 2
    changed.outputs["probs"].tensor_shape.dim[1].size = 7
    model.signatures = {"serving_default": changed, "by_class": model.signatures["by_value"], "new": changed}
    expected = [
        "serving_default has a new input mask",
        "the input x of serving_default is float64 [?, 4], not float32 [?, 4]",
        "the output probs of serving_default is float32 [?, 7], not float32 [?, 3]",
        "by_class is of the method regress, not classify",
        "the output classes of by_class is gone",
        "the output scores of by_class is gone",
        "the signature by_value is gone",
    ]
    for client in clients(module, server).values():
        with client, pytest.raises(module.ContractChanged) as refused:
            client.check()
        assert refused.value.differences == expected


def test_an_answer_of_another_model_is_refused(module, server):
    server[0].change = lambda outputs: {"other": outputs["probs"]}
    with module.Client(server[1]) as client, pytest.raises(module.ContractChanged, match=r"^the answer has no output probs$"):
        client.serving_default(X)
    server[0].change = lambda outputs: {"probs": outputs["probs"].astype(np.int64)}
    with module.Client(server[1]) as client, pytest.raises(module.ContractChanged) as refused:
        client.serving_default(X)
    assert str(refused.value) == "the output probs is int64, not float32"


# Tensors in messages


VALUES = {
    **{name: np.array([[0, 1, 2], [3, 4, 5]], name) for name in ("float32", "float64", "float16", "complex64", "complex128")},
    **{f"{sign}int{bits}": np.array([[0, 1, 100]], f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "int64 at its ends": np.array([-(2**63), 2**63 - 1]),
    "bool": np.array([True, False]),
    "string": np.array([[b"\0a\xff", b""], [b"b", b"c"]], object),
    "bfloat16": np.array([1.5, -2.0], tf.bfloat16.as_numpy_dtype),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}


def dtype_of(value):
    return "string" if value.dtype == object else value.dtype.name


@pytest.mark.parametrize("name", VALUES)
def test_tensors_are_those_of_tensorflow(name):
    value = VALUES[name]
    data = b"".join(tensors.tensor_pieces("t", value, dtype_of(value)))
    proto = TensorProto.FromString(data)
    assert same(tf.make_ndarray(proto), value)
    assert len(proto.tensor_content) == (0 if name == "string" else value.nbytes)
    assert same(tensors.to_array("t", messages.parse("TensorProto", data)), value)


@pytest.mark.parametrize("name", [name for name in VALUES if name not in ("empty",)])
def test_tensors_in_typed_fields_are_read(name):
    """TensorFlow Serving answers in the fields of the dtype; a single value may stand for all."""
    value = VALUES[name]
    proto = tf.make_tensor_proto(value.item() if value.ndim == 0 else value.tolist(), dtype_of(value), shape=value.shape)
    assert same(tensors.to_array("t", messages.parse("TensorProto", proto.SerializeToString())), value)
    repeated = tf.make_tensor_proto(value.flat[0], dtype_of(value), shape=[2, 2])
    array = tensors.to_array("t", messages.parse("TensorProto", repeated.SerializeToString()))
    assert array.tolist() == [[value.flat[0]] * 2] * 2


def test_a_large_array_is_copied_once_into_the_message():
    value = np.zeros(1 << 20, np.float32)
    pieces = tensors.tensor_pieces("t", value, "float32")
    assert np.shares_memory(np.frombuffer(pieces[-1], np.uint8), value)
    data = b"".join(pieces)
    assert len(data) < value.nbytes + 32
    read = tensors.to_array("t", messages.parse("TensorProto", data))
    assert not read.flags.writeable


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"dtype": 20}, "t has the dtype number 20, which a client cannot read"),
        ({"dtype": 1, "tensor_content": b"12345678"}, "t has 2 values for the shape []"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused(fields, error):
    with pytest.raises(messages.ServerError) as refused:
        tensors.to_array("t", messages.MESSAGES["TensorProto"](**fields))
    assert refused.value.message == error


def test_features_become_examples():
    features = {
        "n": tensors.Tensor("int64", ()),
        "s": tensors.Tensor("string", (2,)),
        "f": tensors.Tensor("float32", (2, 2), required=False),
    }
    data = answers.encode_examples({"n": [1, 2], "s": [[b"a\0", "b"], ["c", "d"]], "f": None}, features)
    second = tf.train.Example.FromString(data[0]).features.feature
    assert sorted(second) == ["n", "s"]
    assert (second["n"].int64_list.value, second["s"].bytes_list.value) == ([1], [b"a\0", b"b"])
    with pytest.raises(ValueError, match=r"^the features have different numbers of rows: {'n': 1, 's': 2}$"):
        answers.encode_examples({"n": [1], "s": [["a", "b"]] * 2}, features)


# Its code


def awkward():
    """A contract with names that are words of Python, clash, or hold quotes."""
    pair = Tensor("float32", (None, 2), {})
    feature = {
        "class": Feature("int64", (), True),
        "self": Feature("string", (1,), False),
        "timeout": Feature("float32", (2,), True),
    }
    given = {name: {"inputs": Tensor("string", (None,), one)} for name, one in (("features", feature), ("bytes", {}))}
    column = Tensor("float32", (None, 1), {})
    signatures = {
        'a"b\\': Signature(
            "predict", dict.fromkeys(["lambda", "x y", "x_y"], pair), {'o"': pair, "model_version": pair}, True, None
        ),
        "check": Signature("predict", {}, {"None": Tensor("bfloat16", None, {})}, False, None),
        "Client": Signature("classify", given["features"], {"scores": pair}, True, None),
        "client": Signature("regress", given["bytes"], {"outputs": column}, True, None),
    }
    return Contract('mo"del é\\', None, "0" * 64, signatures)


@pytest.mark.slow
def test_its_code_passes_ruff_and_mypy(version, tmp_path):
    for contract in (read_contract(version), awkward()):
        write(tmp_path, generate(contract, ["python"]))
    paths = sorted(tmp_path.glob("*_client.py"))
    assert len(paths) == 2
    rules = "E,F,W,I,B,UP,C4,SIM"
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", rules, "--line-length", "160"]
    done = subprocess.run([*check, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    check = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={os.devnull}", *(path.name for path in paths)]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_awkward_names_are_called_by_others(tmp_path):
    write(tmp_path, generate(awkward(), ["python"]))
    module = load(tmp_path / "mo_del____client.py")
    assert module.Client("localhost:1").model == 'mo"del é\\'
    assert [name for name in vars(module._Calls) if name[0].isalpha() and not name.isupper()] == [
        *("a_b_", "check_", "Client", "client"),
    ]
    assert [cls.__name__ for cls in (module.AB, module.Check, module.Client_, module.Client_2)] == [
        *("AB", "Check", "Client_", "Client_2"),
    ]
    varnames = module._Calls.a_b_.__code__.co_varnames
    assert varnames[:5] == ("self", "lambda_", "x_y", "x_y_", "timeout")
    assert module._Calls.Client.__code__.co_varnames[:5] == ("self", "class_", "timeout_", "self_", "timeout")


def test_it_needs_no_tensorflow(path, tmp_path):
    """Of third parties it imports grpc, numpy and protobuf alone, and lives in a process with TensorFlow's messages."""
    program = f"""
import sys
sys.path.insert(0, {str(path.parent)!r})
import {path.stem}
tops = {{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)
print(sorted(tops & {{"tensorflow", "exportkit", "ml_dtypes", "grpc", "numpy", "google"}}))
from exportkit.protos import TensorProto
print(TensorProto.DESCRIPTOR.full_name, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["['google', 'grpc', 'numpy']", "tensorflow.TensorProto False"], done.stderr


def test_the_runtime_imports_nothing_else_of_exportkit():
    program = """
import sys
import exportkit
known = set(sys.modules)
import exportkit.clients.runtime.servers
print(*sorted(name for name in sys.modules.keys() - known if name.startswith("exportkit")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    parts = [f"exportkit.clients.runtime.{path.stem}" for path in Path(answers.__file__).parent.glob("[a-z]*.py")]
    assert done.stdout.split() == ["exportkit.clients", "exportkit.clients.runtime", *sorted(parts)]
