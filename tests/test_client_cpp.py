"""The generated C++ client: its names, its messages, and, where a compiler and gRPC are there, its answers from a server."""

import dataclasses
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import ml_dtypes
import numpy as np
import pytest
import toys
import versions_made
from fake_server import Grpc, serving
from google.protobuf import descriptor_pb2
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import prediction_service_pb2, prediction_service_pb2_grpc

from exportkit.clients import cpp
from exportkit.clients.contract import Contract, Example, Feature, Signature, Tensor, read_contract
from exportkit.clients.languages import generate, write
from exportkit.errors import ConfigError, Problem

pytestmark = pytest.mark.quick(4)

COMPILER = pytest.mark.needs("cmake", "c++", "pkg-config", "protoc", "grpc_cpp_plugin")
KINDS = {
    "float32": np.array([[0.1, -0.0], [np.nan, np.inf], [1e-45, 3.4028235e38]], np.float32),
    "float64": np.array([[0.1, -0.0], [np.nan, -np.inf], [5e-324, 1.7976931348623157e308]]),
    "int8": np.array([[-128, 127]], np.int8),
    "int16": np.array([[-32768, 32767]], np.int16),
    "int32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "int64": np.array([[-(2**63), 2**63 - 1]]),
    "uint8": np.array([[0, 255]], np.uint8),
    "uint16": np.array([[0, 65535]], np.uint16),
    "uint32": np.array([[0, 2**32 - 1]], np.uint32),
    "uint64": np.array([[0, 2**64 - 1]], np.uint64),
    "bool": np.array([[True, False]]),
    "float16": np.array([[0.1, -2]], np.float16),
    "bfloat16": np.array([[0.1, -2]], ml_dtypes.bfloat16),
    "complex64": np.array([[0.1 - 2j, 1j]], np.complex64),
    "complex128": np.array([[0.1 - 2j, 1j]]),
    "string": np.array([[b"caf\xc3\xa9?", b'a"\\\n\x011'], [b"", b"x" * 9]], object),
}


def mirror():
    """A signature that answers what it is asked, of every dtype."""
    tensors = {dtype: Tensor(dtype, (None, 2), {}) for dtype in KINDS}
    scalar = {"scalar": Tensor("float32", (), {}), "anything": Tensor("int64", None, {})}
    values = {**KINDS, "scalar": np.float32(1.5).reshape(()), "anything": np.zeros((2, 0, 3), np.int64)}
    return Signature("predict", tensors | scalar, tensors | scalar, False, Example(values, values))


def by_hand(**signatures):
    return Contract("toy", 1, "d" * 64, signatures)


def signature(inputs, outputs=("y",), method="predict", dtype="float32"):
    tensors = [{alias: Tensor(dtype, (None,), {}) for alias in side} for side in (inputs, outputs)]
    return Signature(method, *tensors, True, None)


# ---- the code ----


def test_every_file_is_made_and_ours(tmp_path):
    made = generate(by_hand(serving_default=signature(["x"])), ["cpp"])
    assert [name for name in made if not name.startswith("proto/")] == [
        *("contract.json", "toy_client.h", "toy_client.cc", "toy_samples.cc", "CMakeLists.txt")
    ]
    assert sorted(Path(name).name for name in made if name.startswith("proto/")) == [
        *("classification.proto", "example.proto", "feature.proto", "input.proto", "model.proto", "predict.proto"),
        *("prediction_service.proto", "regression.proto", "tensor.proto", "tensor_shape.proto", "types.proto"),
    ]
    write(tmp_path, made)
    write(tmp_path, made)  # which replaces only files that were generated
    assert all("$" not in text for name, text in made.items() if name != "CMakeLists.txt")
    assert "@" not in made["CMakeLists.txt"]


def test_the_structs_are_those_of_the_contract():
    examples = Tensor("string", (None,), {"age": Feature("int64", (), True), "name": Feature("string", (2,), False)})
    header = generate(
        by_hand(
            predict_images=Signature(
                "predict", {"images": Tensor("float32", (None, 28), {})}, {"ids": Tensor("int64", None, {})}, True, None
            ),
            rank=Signature("regress", {"inputs": examples}, {"outputs": Tensor("float32", (None, 1), {})}, True, None),
        ),
        ["cpp"],
    )["toy_client.h"]
    assert header[header.index("// The signature") : header.index("// A connection")] == (
        """\
// The signature "predict_images" (predict).
struct PredictImagesInput {
  View<float> images;  // float32 [?, 28]
};

struct PredictImagesOutput {
  Array<std::int64_t> ids;  // int64 of any rank
  std::int64_t model_version = 0;  // that answered
};

// The signature "rank" (regress).
struct RankInput {
  struct {  // the features of tf.Examples, which all have as many rows
    View<std::int64_t> age;  // int64 [?]
    std::optional<View<std::string>> name;  // string [?, 2]
  } inputs;
};

struct RankOutput {
  Array<float> outputs;  // float32 [?, 1]
  std::int64_t model_version = 0;  // that answered
};

"""
    )
    assert (
        """\
//   toy::Client client({.target = "localhost:8500"});
//   toy::PredictImagesOutput output;
//   toy::Status status = client.PredictImages({.images = {values}}, &output);
"""
        in header
    )


def test_names_that_cpp_does_not_have_get_others():
    header = generate(
        by_hand(
            **{
                "a": signature(["class", "NULL", "View", "AInput", "x-y", "x y"], ["model_version", "é"]),
                "a_input": signature(["x"]),
                "client": signature([]),
            }
        ),
        ["cpp"],
    )["toy_client.h"]
    assert re.findall(r"^struct (\w+Input) \{", header, re.M) == ["AInput", "AInput_2Input", "Client_2Input"]
    members = re.findall(r"(?:View|Array)<float> (\w+);", header)
    assert members == ["class_", "NULL_", "View_", "AInput_", "x_y", "x_y_", "model_version_", "x_", "x", "y", "y"]


def test_a_name_cannot_end_a_comment_or_a_literal():
    made = generate(by_hand(**{"a\\": signature(['" + system("x") + "'])}), ["cpp"])
    assert """// The signature "a'" (predict).""" in made["toy_client.h"]
    assert '"\\042 + system(\\042x\\042) + \\042"' in made["toy_client.cc"]
    assert 'system("' not in made["toy_client.cc"]


def test_a_dtype_without_a_type_is_refused():
    with pytest.raises(ConfigError) as caught:
        generate(by_hand(a=signature(["x"], dtype="int4")), ["cpp"])
    do = "leave out --lang cpp"
    assert caught.value.problems == (
        Problem("a.x", "is int4, for which the C++ client has no type", do),
        Problem("a.y", "is int4, for which the C++ client has no type", do),
    )


def test_a_sample_that_is_too_long_is_cut_to_rows_or_left_out():
    def program(rows, size, by_rows):
        example = Example({"x": np.ones((rows, size), np.float32)}, None)
        tensors = {"x": Tensor("float32", (None, size), {})}
        contract = by_hand(a=Signature("predict", tensors, tensors, by_rows, example))
        return generate(contract, ["cpp"])["toy_samples.cc"].count("1.0F")

    assert (program(2, 900, True), program(3, 900, True), program(1, 2001, True)) == (1800, 1800, 0)
    assert (program(2, 1000, False), program(3, 900, False)) == (2000, 0)


@pytest.mark.needs("protoc")
def test_the_messages_are_those_of_tensorflow(tmp_path):
    """Each field has the name, number, type and label of the official one, so the bytes are the same."""
    root = Path(cpp.__file__).parent / "templates" / "cpp" / "proto"
    made = tmp_path / "set"
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))
    subprocess.run(["protoc", "-I", root, f"--descriptor_set_out={made}", *names], check=True)
    found = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes())
    pool = prediction_service_pb2.DESCRIPTOR.pool
    assert example_pb2.DESCRIPTOR.pool is pool
    checked = 0
    for file in found.file:
        for message in file.message_type:
            official = descriptor_pb2.DescriptorProto()
            pool.FindMessageTypeByName(f"{file.package}.{message.name}").CopyToProto(official)
            known = {field.name: (field.number, field.type, field.label, field.type_name) for field in official.field}
            for field in message.field:
                assert (field.number, field.type, field.label, field.type_name) == known[field.name], (message.name, field.name)
                checked += 1
        for one in file.enum_type:
            values = pool.FindEnumTypeByName(f"{file.package}.{one.name}").values_by_name
            assert {value.name: value.number for value in one.value}.items() <= {n: v.number for n, v in values.items()}.items()
        for service in file.service:
            methods = pool.FindServiceByName(f"{file.package}.{service.name}").methods_by_name
            for method in service.method:
                official = methods[method.name]
                assert method.input_type == f".{official.input_type.full_name}"
                assert method.output_type == f".{official.output_type.full_name}"
    assert checked == 47


# ---- built and run ----

DRIVER = r"""
#include <cstdio>
#include <cstdlib>

#include "toy_client.h"

using namespace std::chrono_literals;

void Show(const char* what, const toy::Status& status) {
  std::printf("%s: %d %s\n", what, status.code, status.message.c_str());
}

int main(int count, char** words) {
  const std::vector<float> x{0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<float> few(7);
  toy::ServingDefaultOutput output;
  toy::ByClassOutput classes;
  const toy::Options options{.target = words[1]};
  toy::Client client(options);
  Show("shape", client.ServingDefault({{x, {2, 4}}}, &output));
  Show("no shape", client.ServingDefault({{x}}, &output));
  std::printf("version %lld\n", static_cast<long long>(output.model_version));
  Show("few", client.ServingDefault({{few}}, &output));
  Show("other shape", client.ServingDefault({{x, {4, 2}}}, &output));
  Show("negative", client.ServingDefault({{x, {-2, -4}}}, &output));
  Show("no examples", client.ByClass({.inputs = {.x = {{}}}}, &classes));
  Show("deadline", client.ServingDefault({{x}}, &output, 1ms));
  auto other = options;
  other.version = 1;
  Show("version 1", toy::Client(other).ServingDefault({{x}}, &output));
  other.version = 7;
  Show("version 7", toy::Client(other).ServingDefault({{x}}, &output));
  other.version.reset();
  other.label = "stable";
  Show("label", toy::Client(other).ServingDefault({{x}}, &output));
  other = options;
  other.max_message_bytes = 10;
  Show("size", toy::Client(other).ServingDefault({{x}}, &output));
  other = options;
  other.model = "other";
  Show("model", toy::Client(other).ServingDefault({{x}}, &output));
  other = options;
  other.target = words[2];
  other.tls = true;
  other.root_certificates = words[3];
  client = toy::Client(other);
  Show("tls", client.ServingDefault({{x}}, &output));
  other.root_certificates.clear();
  Show("no authority", toy::Client(other).ServingDefault({{x}}, &output));
}
"""
PARENT = """
cmake_minimum_required(VERSION 3.16)
project(test_client CXX)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_BUILD_TYPE None)
set(CMAKE_UNITY_BUILD ON)  # the client, which comes first, and its messages as one file: a third of the compiler's time
set(CMAKE_UNITY_BUILD_BATCH_SIZE 0)
add_subdirectory(client)
add_executable(driver driver.cc)
target_link_libraries(driver toy_client)
target_compile_options(toy_client PRIVATE -Wall -Wextra)
"""


class Mirror:
    """A model that answers the signature `mirror` with its inputs, and all others as the version does."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def answer(self, key, inputs):
        return inputs if key == "mirror" else self._model.answer(key, inputs)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    checkpoint = toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)
    data = versions_made.config(checkpoint, tmp_path_factory.mktemp("version"), post={"manifest": {"kind": "manifest"}})
    return Path(versions_made.export(data).directory)


@pytest.fixture(scope="module")
def contract(version):
    known = read_contract(version)
    return dataclasses.replace(known, signatures={**known.signatures, "mirror": mirror()})


@pytest.fixture(scope="module")
def built(contract, tmp_path_factory):
    """The directory of the programs, built as part of another project."""
    if subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"], check=False).returncode:
        pytest.skip("needs libgrpc++-dev, libprotobuf-dev")
    project = tmp_path_factory.mktemp("project")
    write(project / "client", generate(contract, ["cpp"]))
    (project / "CMakeLists.txt").write_text(PARENT)
    (project / "driver.cc").write_text(DRIVER)
    for words in (["-S", project, "-B", project / "build"], ["--build", project / "build", "--parallel", "2"]):
        done = subprocess.run(["cmake", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return project / "build"


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A certificate for localhost and its key, as files."""
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    words = ["-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", *words, "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True
    )
    return key, certificate


@pytest.fixture(scope="module")
def server(version, secure):
    """The addresses of a server without and with TLS, and its model; `mirror` is a signature of it."""
    key, certificate = secure
    with serving(version, "toy") as (model, _, _):
        server = grpc.server(ThreadPoolExecutor(2))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Grpc(Mirror(model)), server)
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        ports = server.add_insecure_port("localhost:0"), server.add_secure_port("localhost:0", credentials)
        server.start()
        yield [f"localhost:{port}" for port in ports], model
        server.stop(None).wait()


@pytest.mark.slow
@COMPILER
@pytest.mark.needs("openssl")
class TestBuilt:
    def test_its_answers_are_those_of_the_manifest(self, built, contract, server):
        (address, _), _ = server
        done = subprocess.run([built / "client" / "toy_samples", address], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        found = {}
        for line in re.findall(rb"^(\w+) (\w+) \[([\d, ]*)\]:(.*?)\n(?=\w+ \w+ \[|\Z)", done.stdout, re.M | re.S):
            found[line[0].decode(), line[1].decode()] = [int(size) for size in re.findall(rb"\d+", line[2])], line[3]
        expected = {(key, alias): v for key, s in contract.signatures.items() for alias, v in s.example.outputs.items()}
        assert found.keys() == expected.keys()
        for place, value in expected.items():
            shape, printed = found[place]
            assert shape == list(value.shape) or place == ("by_value", "outputs"), place
            assert printed == b"".join(b" " + text(item) for item in value.ravel()), place

    def test_what_is_refused_and_by_whom(self, built, server, secure):
        (address, tls), model = server
        model.change = Slow().change
        done = subprocess.run(
            [built / "driver", address, tls, secure[1].read_text()], capture_output=True, text=True, check=False
        )
        model.change = lambda outputs: outputs
        assert done.returncode == 0
        *lines, untrusted = done.stdout.splitlines()
        assert lines == [
            "shape: 0 ",
            "no shape: 0 ",
            "version 1",
            "few: 3 x: 7 values of the shape [1, 4] are not [?, 4]",
            "other shape: 3 x: 8 values of the shape [4, 2] are not [?, 4]",
            "negative: 3 x: 8 values of the shape [?, ?] are not [?, 4]",
            "no examples: 3 there is no example",
            "deadline: 4 Deadline Exceeded",
            "version 1: 0 ",
            "version 7: 5 Servable not found for request: Specific(toy, 7)",
            "label: 3 Unrecognized servable version label: stable",
            "size: 8 Sent message larger than max (77 vs. 10)",
            "model: 5 Servable not found for request: Latest(other)",
            "tls: 0 ",
        ]
        assert untrusted.startswith("no authority: 14 ")


class Slow:
    """Answers that come at once, but for the third: it takes half a second."""

    def __init__(self):
        self.number = 0

    def change(self, outputs):
        self.number += 1
        time.sleep(0.5 * (self.number == 3))
        return outputs


def text(item):
    """A value as the program prints it."""
    if isinstance(item, bytes):
        return b'"' + item + b'"'
    if isinstance(item, np.complexfloating):
        return f"({float(item.real):.17g},{float(item.imag):.17g})".encode()
    if item.dtype in (np.float16, ml_dtypes.bfloat16):
        return str(item.view(np.uint16)).encode()
    if isinstance(item, np.floating):
        return f"{float(item):.{9 if item.dtype == np.float32 else 17}g}".encode()
    return str(int(item)).encode()
