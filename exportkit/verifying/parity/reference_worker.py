"""A training graph in TensorFlow's Python: imported whole, restored by TensorFlow's own ops, and run on request.

As a script it is the process that `reference` starts. It imports nothing of exportkit, so that no error in the making of an
export can be in its reference too.
"""

import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Trained:
    """A graph with its values in a session.

    Args:
        job: what `exportkit.verifying.parity.reference.Job.message` returns.
    """

    def __init__(self, job: Mapping[str, Any]):
        import tensorflow as tf

        self._tf, self._graph = tf, tf.Graph()
        with self._graph.as_default():
            self._import(job)
            self._replace(job["replaced"])
            restores = [self._restore(**restore) for restore in job["restores"]]
        config = tf.compat.v1.ConfigProto.FromString(job["config"])
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._session.run(restores)
        self._session.run([self._graph.get_operation_by_name(name) for name in job["init_ops"]])

    def _import(self, job: Mapping[str, Any]) -> None:
        """Import the graph as it is, with placeholders of any shape in place of the tensors that are fed."""
        tf = self._tf
        self._fed = {tensor: tf.compat.v1.placeholder(dtype) for tensor, dtype in job["feeds"].items()}
        tf.import_graph_def(
            tf.compat.v1.GraphDef.FromString(job["graph"]),
            input_map={tensor: self._fed[tensor] for tensor in job["consumed"]},
            name="",
            producer_op_list=_op_list(job["ops"]),
        )

    def _replace(self, replaced: Mapping[str, str]) -> None:
        """Let what takes a tensor take another one instead, as the config does it in the training graph."""
        for old, new in replaced.items():
            taken, given = (self._fed.get(name) for name in (new, old))
            taken = self._graph.get_tensor_by_name(new) if taken is None else taken
            given = self._graph.get_tensor_by_name(old) if given is None else given
            for user in given.consumers():
                for index, tensor in enumerate(user.inputs):
                    if tensor is given:
                        user._update_input(index, taken)

    def _restore(self, operation: str, dtype: str, resource: bool, prefix: str, key: str, part: str) -> Any:
        raw, variable = self._tf.raw_ops, self._graph.get_tensor_by_name(f"{operation}:0")
        (value,) = raw.RestoreV2(prefix=prefix, tensor_names=[key], shape_and_slices=[part], dtypes=[dtype])
        if resource:
            return raw.AssignVariableOp(resource=variable, value=value)
        return raw.Assign(ref=variable, value=value, validate_shape=False).op

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """Run the graph once; strings are returned as object arrays of bytes."""
        wanted = [self._fed.get(name, name) for name in fetches]
        return [np.asarray(v) for v in self._session.run(wanted, {self._fed[name]: value for name, value in feeds.items()})]


def _op_list(data: bytes) -> Any:
    from tensorflow.core.framework import op_def_pb2

    return op_def_pb2.OpList.FromString(data) if data else None


def main() -> None:
    """Read a job from stdin, then runs; write ``(value, error)`` to stdout for the job and for each run."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the graph's Print ops, and TensorFlow, write to stdout
    job = pickle.load(sys.stdin.buffer)
    trained = _reply(replies, lambda: Trained(job), keep=True)
    while trained is not None:
        try:
            feeds, fetches = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _reply(replies, lambda feeds=feeds, fetches=fetches: trained.run(feeds, fetches))


def _reply(replies: Any, call: Any, keep: bool = False) -> Any:
    """Call, write ``(value, error)``, and return the value; one to `keep` is not written."""
    value = error = None
    try:
        value = call()
    except Exception as cause:
        error = f"{type(cause).__name__}: {getattr(cause, 'message', cause)}"
    pickle.dump((None if keep else value, error), replies, protocol=5)
    replies.flush()
    return value
