"""Runs a SavedModel in a process of its own, the way a model server's core loads and runs it.

The process is `exportkit.native_worker`: TensorFlow's C++ loader without its Python, up in half a second. What kills it there
would kill a server, and is one error here.
"""

import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from exportkit.errors import EnvironmentFailed, Problem, StepFailed, did_you_mean
from exportkit.metagraph import read_saved_model
from exportkit.protos import MetaGraphDef, config_pb2, dtype_name

ConfigProto = config_pb2.ConfigProto
Run = tuple[Mapping[str, np.ndarray], Sequence[str]]


@dataclass(frozen=True)
class Request:
    """What a client sends: a signature's key and its inputs by alias; strings are bytes or str in an object array."""

    signature: str
    inputs: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Served:
    """What came back.

    Attributes:
        outputs: per request its values, by alias; per raw run a list in the order of its fetches. Strings are bytes in
            object arrays.
        load_seconds: what loading took, restoring and initialising included.
        run_seconds: what each run took; the first of a signature builds its executor.
    """

    outputs: list[Any]
    load_seconds: float
    run_seconds: list[float]


def run_signatures(
    directory: str | os.PathLike,
    tags: Sequence[str],
    requests: Sequence[Request],
    *,
    timeout: float | None = None,
    config: ConfigProto | None = None,
) -> Served:
    """Load a SavedModel once, in a fresh process, and send it requests.

    Args:
        directory: the SavedModel.
        tags: exactly the tags of one of its meta graphs.
        requests: answered one after the other; those after a refused one, too.
        timeout: seconds for all of it, loading included.
        config: how the session is set up; the C++ defaults where it is not given.

    Raises:
        StepFailed: with all problems of the first stage that has some: requests that do not fit their signature; the load;
            the runs that TensorFlow refused, one that killed the process, or one that did not end.
        BindingError: there is no saved_model.pb to read.
        EnvironmentFailed: the process was killed from outside, or is not to be started.
    """
    signatures = meta_graph(directory, tags).signature_def
    names = [f"request {i} ({request.signature})" for i, request in enumerate(requests)]
    _refuse(directory, [f"{name} {p}" for name, r in zip(names, requests, strict=True) for p in _misfits(signatures, r)])
    served = _serve(directory, tags, [_as_run(signatures[r.signature], r) for r in requests], names, timeout, config)
    outputs = [
        dict(zip(sorted(signatures[request.signature].outputs), values, strict=True))
        for request, values in zip(requests, served.outputs, strict=True)
    ]
    return Served(outputs, served.load_seconds, served.run_seconds)


def run(
    directory: str | os.PathLike,
    tags: Sequence[str],
    runs: Sequence[Run],
    *,
    timeout: float | None = None,
    config: ConfigProto | None = None,
) -> Served:
    """The same by tensor names: each run is ``({tensor name: value}, [tensor names])``."""
    meta_graph(directory, tags)
    return _serve(directory, tags, runs, [f"run {i}" for i in range(len(runs))], timeout, config)


def unoptimized() -> ConfigProto:
    """A session that computes the graph as it is written: nothing folded, fused or rearranged."""
    config = ConfigProto()
    config.graph_options.optimizer_options.opt_level = config_pb2.OptimizerOptions.L0
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def meta_graph(directory: str | os.PathLike, tags: Sequence[str]) -> MetaGraphDef:
    """The meta graph whose tags are exactly `tags`.

    Raises:
        StepFailed: no meta graph has them.
        BindingError: there is no saved_model.pb to read.
    """
    by_tags = {frozenset(meta.meta_info_def.tags): meta for meta in read_saved_model(directory).meta_graphs}
    if meta := by_tags.get(frozenset(tags)):
        return meta
    known = ", ".join(sorted(_tag_set(known) for known in by_tags))
    raise StepFailed(Problem(os.fspath(directory), f"no meta graph has the tags {_tag_set(tags)}", f"it has {known}"))


def _tag_set(tags: Sequence[str] | frozenset[str]) -> str:
    return f"[{', '.join(sorted(tags))}]"


def _misfits(signatures: Mapping[str, Any], request: Request) -> list[str]:
    """What a server would refuse before it runs anything: key, aliases, dtypes."""
    if request.signature not in signatures:
        return _said(f"asks for an unknown signature; {did_you_mean(request.signature, signatures)}")
    inputs = signatures[request.signature].inputs
    misfits = [f"lacks the input {alias}" for alias in sorted(inputs.keys() - request.inputs.keys())]
    for alias, value in request.inputs.items():
        if alias not in inputs:
            misfits += _said(f"feeds {alias}, which is no input; {did_you_mean(alias, inputs)}")
        elif _dtype(value) != dtype_name(inputs[alias].dtype):
            misfits.append(f"feeds {alias} as {_dtype(value)}; the signature says {dtype_name(inputs[alias].dtype)}")
    return misfits + [f"feeds or fetches {alias}, which is sparse; export its parts" for alias in _nameless(signatures, request)]
