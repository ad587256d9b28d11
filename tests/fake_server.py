"""A small model server for the tests of clients: gRPC by TensorFlow Serving's own messages, REST by http.server.

A version is answered by the worker that exportkit tries it with. It does what a client needs and no more.
"""

import base64
import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import grpc
import numpy as np
import tensorflow as tf
import toys
import versions_made
from google.protobuf import json_format
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationResponse
from tensorflow_serving.apis.predict_pb2 import PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionResponse

from exportkit.serving.loading import meta_graph
from exportkit.serving.running import Refusal, Running

_MADE = []


def made_version(factory):
    """A version with a signature of each method, labels that are texts, and a manifest; `factory` makes its directory, once."""
    if not _MADE:
        checkpoint, base = toys.saved(factory.mktemp("toy"), toys.dense), factory.mktemp("version")
        data = versions_made.config(checkpoint, base, post={"manifest": {"kind": "manifest"}})
        _MADE.append(Path(versions_made.export(data).directory))
    return _MADE[0]


class Refused(Exception):
    """A request that is refused: a gRPC status and its text."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


class Model:
    """One version of one model; `signatures` may be changed, and `change` alters every answer."""

    def __init__(self, name, version, running, signatures):
        self.name, self.version, self.running, self.signatures = name, version, running, signatures
        self.lock, self.requests, self.unavailable, self.looked_up = threading.Lock(), [], 0, 0
        self.change = lambda outputs: outputs
        self.labels = {}

    def look_up(self, name, version=None, label=None):
        """Refuse what a server without that version refuses."""
        self.looked_up += 1
        if self.unavailable:
            self.unavailable -= 1
            raise Refused("UNAVAILABLE", "the server is starting")
        if name != self.name or (version or self.version) != self.version:
            where = f"Specific({name}, {version})" if version else f"Latest({name})"
            raise Refused("NOT_FOUND", f"Servable not found for request: {where}")
        if label and label not in self.labels:
            raise Refused("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")

    def answer(self, signature, inputs):
        with self.lock:
            self.requests.append(inputs)
            answer = self.running.ask(signature, inputs)
        if isinstance(answer, Refusal):
            raise Refused("INVALID_ARGUMENT", answer.text)
        return self.change(answer)


class Grpc(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model):
        self._model = model

    def Predict(self, request, context):
        response = PredictResponse()
        inputs = {alias: tf.make_ndarray(proto) for alias, proto in request.inputs.items()}
        for alias, value in self._answer(request.model_spec, inputs, context, response).items():
            response.outputs[alias].CopyFrom(as_server(value))
        return response

    def Classify(self, request, context):
        response = ClassificationResponse()
        answer = self._answer(request.model_spec, examples(request), context, response)
        for row in range(len(next(iter(answer.values())))):
            classes = response.result.classifications.add().classes
            for k in range(next(iter(answer.values())).shape[1]):
                one = classes.add()
                if "classes" in answer:
                    one.label = answer["classes"][row, k].decode()
                if "scores" in answer:
                    one.score = answer["scores"][row, k]
        return response

    def Regress(self, request, context):
        response = RegressionResponse()
        for value in self._answer(request.model_spec, examples(request), context, response)["outputs"].ravel():
            response.result.regressions.add(value=value)
        return response

    def GetModelMetadata(self, request, context):
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        self._look_up(request.model_spec, context, response)
        response.metadata["signature_def"].Pack(signature_map(self._model))
        return response

    def _answer(self, spec, inputs, context, response):
        self._look_up(spec, context, response)
        try:
            return self._model.answer(spec.signature_name, inputs)
        except Refused as refused:
            context.abort(grpc.StatusCode[refused.code], refused.text)

    def _look_up(self, spec, context, response):
        version = spec.version.value if spec.HasField("version") else None
        try:
            self._model.look_up(spec.name, version, spec.version_label)
        except Refused as refused:
            context.abort(grpc.StatusCode[refused.code], refused.text)
        response.model_spec.name, response.model_spec.version.value = self._model.name, self._model.version


def as_server(value):
    """A tensor as the server answers it: numbers in typed fields, not in tensor_content."""
    proto = tf.make_tensor_proto(value.astype(object) if value.dtype == object else value)
    if proto.tensor_content:
        field = {"float32": "float_val", "float64": "double_val", "int64": "int64_val", "bool": "bool_val"}.get(
            value.dtype.name
        )
        if field:
            getattr(proto, field).extend(value.ravel().tolist())
            proto.tensor_content = b""
    return proto


def examples(request):
    serialized = [example.SerializeToString() for example in request.input.example_list.examples]
    array = np.empty(len(serialized), object)
    array[:] = serialized
    return {"inputs": array}


def signature_map(model):
    found = get_model_metadata_pb2.SignatureDefMap()
    for key, signature in model.signatures.items():
        found.signature_def[key].CopyFrom(signature)
    return found


class Rest(BaseHTTPRequestHandler):
    """REST for the model of its server; one handler is made for each request."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        model = self.server.model
        place = self.path.removeprefix("/v1/models/")
        if place.endswith("/metadata"):
            stated = {"signature_def": json_format.MessageToDict(signature_map(model), preserving_proto_field_name=True)}
            content = {
                "model_spec": {"name": model.name, "version": str(model.version)},
                "metadata": {"signature_def": stated["signature_def"]},
            }
            self._guarded(place.removesuffix("/metadata"), lambda: content)
        else:
            state = {"version": str(model.version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            self._guarded(place, lambda: {"model_version_status": [state]})

    def do_POST(self):
        place, _, method = self.path.removeprefix("/v1/models/").rpartition(":")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._guarded(place, lambda: self._ask(method, body))

    def _guarded(self, place, make):
        name, *rest = map(unquote, place.split("/"))
        chosen = dict(zip(rest[::2], rest[1::2], strict=True))
        try:
            self.server.model.look_up(name, int(chosen["versions"]) if "versions" in chosen else None, chosen.get("labels"))
            self._send(200, make())
        except Refused as refused:
            status = {"UNAVAILABLE": 503, "NOT_FOUND": 404}.get(refused.code, 400)
            self._send(status, {"error": refused.text})

    def _send(self, status, content):
        data = json.dumps(content, indent=4).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _ask(self, method, body):
        model = self.server.model
        key = body.get("signature_name", "serving_default")
        if key not in model.signatures:
            raise Refused("INVALID_ARGUMENT", f'Serving signature name: "{key}" not found in signature def')
        signature = model.signatures[key]
        if method == "predict":
            given = body["inputs"]
            inputs = {alias: from_json(given[alias], info.dtype) for alias, info in signature.inputs.items()}
            outputs = {alias: to_json(value) for alias, value in model.answer(key, inputs).items()}
            return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}
        serialized = np.empty(len(body["examples"]), object)
        serialized[:] = [example_of(row) for row in body["examples"]]
        answer = model.answer(key, {"inputs": serialized})
        if method == "regress":
            return {"results": answer["outputs"].ravel().tolist()}
        shape = next(iter(answer.values())).shape
        labels = to_json(answer["classes"]) if "classes" in answer else [[""] * shape[1]] * shape[0]
        scores = to_json(answer["scores"]) if "scores" in answer else [[0.0] * shape[1]] * shape[0]
        return {"results": [list(map(list, zip(*row, strict=True))) for row in zip(labels, scores, strict=True)]}


def to_json(value):
    """Floats with 9 digits, which identify a float32."""
    if value.dtype == object:
        return np.vectorize(bytes.decode, otypes=[object])(value).tolist()
    return (
        [to_json(one) for one in value]
        if value.ndim
        else (float(f"{value:.9g}") if value.dtype == np.float32 else value.item())
    )


def from_json(value, dtype):
    if dtype != types_pb2.DT_STRING:
        return np.array(value, tf.dtypes.as_dtype(dtype).as_numpy_dtype)
    array = np.array(value, object)
    return np.vectorize(lambda one: base64.b64decode(one["b64"]) if isinstance(one, dict) else one.encode(), otypes=[object])(
        array
    )


def example_of(row):
    example = tf.train.Example()
    for name, values in row.items():
        values = values if isinstance(values, list) else [values]
        feature = example.features.feature[name]
        if all(type(value) is int for value in values):
            feature.int64_list.value.extend(values)
        elif all(type(value) is float for value in values):
            feature.float_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode() for v in values)
    return example.SerializeToString()


@contextmanager
def serving(directory, name, tls=None):
    """Serve a version: yields its Model, the gRPC address and the URL of REST; by TLS with a key and a certificate (files)."""
    directory = Path(directory)
    with ExitStack() as stack:
        running = stack.enter_context(Running(directory, ["serve"]))
        model = Model(name, int(directory.name), running, dict(meta_graph(directory, ["serve"]).signature_def))
        model.signatures.pop("__saved_model_init_op", None)
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Grpc(model), server)
        if tls is None:
            port = server.add_insecure_port("localhost:0")
        else:
            credentials = grpc.ssl_server_credentials([tuple(Path(path).read_bytes() for path in tls)])
            port = server.add_secure_port("localhost:0", credentials)
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        rest = ThreadingHTTPServer(("localhost", 0), Rest)
        rest.model = model
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls[1], tls[0])
            rest.socket = context.wrap_socket(rest.socket, server_side=True)
        threading.Thread(target=rest.serve_forever, args=(0.05,), daemon=True).start()
        stack.callback(rest.server_close)
        stack.callback(rest.shutdown)
        yield model, f"localhost:{port}", f"http{'s' * bool(tls)}://localhost:{rest.server_port}"
