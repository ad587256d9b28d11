"""A server of toy models for the tests of `exportkit.server`: its versions, and clients of both interfaces."""

import http.client
import json
from contextlib import contextmanager

import toys
import versions_made

import exportkit
from exportkit.server.asgi import Limits
from exportkit.server.interfaces import Address, Server
from exportkit.server.model_config import Model
from exportkit.server.models import Models
from exportkit.serving.prediction_log import Logged
from exportkit.serving.warmup import write_warmup


def exported(base, name, build, **parts):
    """Export a graph to ``base/name/1``; return the base path."""
    (base / f"{name}_run").mkdir(parents=True, exist_ok=True)
    config = toys.config(toys.saved(base / f"{name}_run", build), base, name=name, export_dir=str(base / name), **parts)
    exportkit.run(versions_made.plan(config), versions_made.PLUGINS)
    return base / name


def mixed():
    """Two inputs, of which one is int64, and outputs of three dtypes; nothing is trained but a bias."""
    x = toys.v1.placeholder("float32", [None, 2], "x")
    ids = toys.v1.placeholder("int64", [None], "ids")
    text = toys.v1.placeholder("string", [None], "text")
    bias = toys.v1.get_variable("bias", [2], initializer=toys.v1.zeros_initializer())
    table = toys.tf.constant([10, 20, 30], "int64")
    toys.tf.add(x, bias, name="sum")
    toys.tf.gather(table, ids, name="chosen")
    toys.tf.multiply(toys.v1.placeholder("float16", [None], "half"), toys.tf.constant(2, "float16"), name="twice")
    toys.tf.add(toys.v1.placeholder("int8", [None], "small"), toys.tf.constant(1, "int8"), name="next")
    toys.tf.cast(x, "float16", name="narrow")
    toys.tf.strings.join([text, "!"], name="loud")


MIXED = {
    "bindings": {
        name: f"{name}:0" for name in ("x", "ids", "text", "half", "small", "sum", "chosen", "loud", "twice", "next", "narrow")
    },
    "signatures": {
        "serving_default": {"inputs": {"x": "x", "ids": "ids"}, "outputs": {"sum": "sum", "chosen": "chosen"}},
        "loud": {"inputs": {"text": "text"}, "outputs": {"loud": "loud"}},
        "raw": {"inputs": {"text": "text"}, "outputs": {"loud_bytes": "loud"}},
        "half": {"inputs": {"half": "half"}, "outputs": {"twice": "twice"}},
        "small": {"inputs": {"small": "small"}, "outputs": {"next": "next"}},
        "narrow": {"inputs": {"x": "x"}, "outputs": {"narrow": "narrow"}},
        "chosen": {"inputs": {"ids": "ids"}, "outputs": {"chosen": "chosen"}},
    },
}


@contextmanager
def serving(models, limits=Limits(), **options):  # noqa: B008 - it is frozen
    """Serve on free ports; give the server."""
    served = Models(["serve"], options.get("allowed", ()), options.get("report", lambda _: None))
    with Server(served, Address(rest=0, grpc=0), limits, options.get("page", lambda _: lambda _: None)(served)) as server:
        server.start([model if isinstance(model, Model) else Model(model.name, model) for model in models])
        yield server


class Rest:
    """A client of the REST API that keeps its connection."""

    def __init__(self, server):
        self._connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def send(self, method, path, body=None, **headers):
        """Return the status, the body and its type."""
        self._connection.request(method, path, body.encode() if isinstance(body, str) else body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read(), answer.headers["content-type"]

    def ask(self, method, path, body=None, **headers):
        """Return the status and the body; JSON as a value."""
        status, content, kind = self.send(method, path, body, **headers)
        return status, json.loads(content) if kind == "application/json" and content else content

    def predict(self, model, body):
        """Return the status and the answer to a predict request."""
        return self.ask("POST", f"/v1/models/{model}:predict", json.dumps(body))


def written(directory, **signatures):
    """Write the default graph as a SavedModel; a signature is ``(inputs, outputs)``."""
    definitions = {key: toys.v1.saved_model.predict_signature_def(*sides) for key, sides in signatures.items()}
    with toys.v1.Session() as session:
        session.run(toys.v1.global_variables_initializer())
        builder = toys.v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], definitions)
        builder.save()
    return directory


def numbered(base, number):
    """Publish version `number` of a model that adds its number to `x`: it is there as a whole or not at all."""
    staged = base.parent / f"{base.name}.{number}.staged"
    with toys.tf.Graph().as_default():
        x = toys.v1.placeholder("float32", [None], "x")
        written(staged, serving_default=({"x": x}, {"y": x + float(number)}))
    base.mkdir(exist_ok=True)
    staged.rename(base / str(number))


def traps(base):
    """Publish version 1 of a model that a request can kill, or keep busy for ever."""
    with toys.tf.Graph().as_default():
        image = toys.v1.placeholder("float32", [None, 4, 4, 1], "image")
        x = toys.v1.placeholder("float32", [None], "x")
        kernel = toys.tf.ones([3, 3, 1, 2])
        endless = toys.tf.while_loop(lambda i: i > -1.0, lambda i: [i * 1.0], [x[0]])[0]
        signatures = {
            "convolve": ({"image": image}, {"features": toys.tf.nn.conv2d(image, kernel, 1, "SAME")}),
            "loop": ({"x": x}, {"y": endless}),
            "serving_default": ({"x": x}, {"y": x * 2.0}),
        }
        base.mkdir()
        written(base / "1", **signatures)
    return base


def warmed(version, *requests):
    """Give a version warmup requests: (signature, inputs)."""
    write_warmup(version, "any", [Logged("predict", signature, inputs) for signature, inputs in requests])
