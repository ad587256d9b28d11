"""A server of toy models for the tests of `exportkit.server`: its versions, and clients of both interfaces."""

import http.client
import json
from contextlib import contextmanager

import toys
import versions_made

import exportkit
from exportkit.server.asgi import Limits
from exportkit.server.model_config import Model
from exportkit.server.models import Models
from exportkit.server.serving import Address, Server


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
    toys.tf.strings.join([text, "!"], name="loud")


MIXED = {
    "bindings": {"x": "x:0", "ids": "ids:0", "text": "text:0", "sum": "sum:0", "chosen": "chosen:0", "loud": "loud:0"},
    "signatures": {
        "serving_default": {"inputs": {"x": "x", "ids": "ids"}, "outputs": {"sum": "sum", "chosen": "chosen"}},
        "loud": {"inputs": {"text": "text"}, "outputs": {"loud": "loud"}},
        "raw": {"inputs": {"text": "text"}, "outputs": {"loud_bytes": "loud"}},
        "chosen": {"inputs": {"ids": "ids"}, "outputs": {"chosen": "chosen"}},
    },
}


@contextmanager
def serving(models, limits=Limits(), **options):  # noqa: B008 - it is frozen
    """Serve on free ports; give the server."""
    served = Models(["serve"], options.get("allowed", ()), options.get("report", lambda _: None))
    with Server(served, Address(rest=0, grpc=0), limits, options.get("page", lambda _: None)) as server:
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
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read(), answer.headers["content-type"]

    def ask(self, method, path, body=None, **headers):
        """Return the status and the body; JSON as a value."""
        status, content, kind = self.send(method, path, body, **headers)
        return status, json.loads(content) if kind == "application/json" and content else content
