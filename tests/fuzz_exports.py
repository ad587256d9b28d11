"""Exports of mutated inputs, and what TensorFlow itself answers on the same mutated input.

An export runs in a fork with limits on its time and its memory, which hold for the workers that it starts too. If it made a
version, another process imports the whole mutated graph with TensorFlow's `import_meta_graph`, restores it with the Saver that
comes with it, loads the version with TensorFlow's own loader, and compares the answers of both. Where TensorFlow refuses the
whole graph, often for a node of the training alone, it imports what its `extract_sub_graph` says the outputs need.
"""

import gc
import io
import os
import pickle
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fuzzlab
import numpy as np
from fuzzlab import MEMORY, PATIENCE, SECONDS, Model

import exportkit
from exportkit import processes
from exportkit.errors import ExportKitError
from exportkit.registry import Plugins

OUTCOMES = ("equal", "close", "equal in part", "close in part", "only ours", "refused", "failed")
RTOL, ATOL = 1e-5, 1e-6
ROWS = 5


@dataclass(frozen=True)
class Outcome:
    """What an export of a mutated input came to.

    Attributes:
        outcome: one of `OUTCOMES`: ``equal`` is bit by bit, ``in part`` with what the outputs need of a graph that TensorFlow
            does not run as a whole, ``only ours`` one that it does not run at all.
        text: the refusal, the failure, or how the answers compare.
    """

    seed: int
    kind: str
    model: str
    outcome: str
    text: str
    seconds: float
    megabytes: int


def prepare() -> None:
    """Import what exports need, and load TensorFlow's C library, in the process that they are forked from."""
    import exportkit.cli.sweep.preload
    import exportkit.core.preload_many  # noqa: F401


def export(models: Mapping[str, Model], seed: int, directory: Path, plugins: Plugins, judge: "Judge") -> Outcome:
    """Export the case `seed` below the empty `directory`, and compare its answers."""
    chance = random.Random(seed)
    name = chance.choice(sorted(models))
    model = models[name]
    suffix, change = (
        (".index", fuzzlab.mutate_index) if chance.random() < 0.15 and name != "v1" else (".meta", fuzzlab.mutate_graph)
    )
    data = change(Path(f"{model.prefix}{suffix}").read_bytes(), chance)
    prefix = fuzzlab.copied(model, directory, suffix, data)
    config = {**fuzzlab.configured(model, prefix, directory), "post": {"verify": {"kind": "verify"}}}
    started = time.monotonic()
    (outcome, text), megabytes = _in_fork(lambda: _exported(config, plugins))
    seconds = time.monotonic() - started
    if outcome == "accepted":
        outcome, text = judge.compare(prefix, text, model.config)
    return Outcome(seed, suffix, name, outcome, text, seconds, megabytes)


def _exported(config: Mapping[str, Any], plugins: Plugins) -> tuple[str, str]:
    """Return ``accepted`` with the version's directory, ``refused`` or ``failed`` with the text."""
    printed = io.StringIO()
    processes.reserve()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            report = exportkit.run(exportkit.plan(config, plugins), plugins)
    except ExportKitError as error:
        text = str(error)
        return ("failed" if _is_unforeseen(text) else "refused"), f"exit code {error.exit_code}: {text}"
    except Exception:
        return "failed", traceback.format_exc()
    if _is_unforeseen(printed.getvalue()):
        return "failed", printed.getvalue()
    return "accepted", str(report.directory)


def _is_unforeseen(text: str) -> bool:
    ours = "of exportkit " in text and "): raised " in text  # a built-in step is named as a plugin is
    return ours or any(mark in text for mark in (*fuzzlab.UNFORESEEN, "SIGXCPU"))


def _in_fork(call: Callable[[], tuple[str, str]]) -> tuple[tuple[str, str], int]:
    """Return what a call returns in a fork with limits, and the most megabytes that the fork took."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with suppress(BaseException), os.fdopen(writer, "wb") as results:
            _limit()
            pickle.dump(call(), results)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as results:
        try:
            answer = pickle.load(results)
        except EOFError:
            answer = None
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return answer or ("failed", f"its process ended with exit code {code}"), usage.ru_maxrss // 1024


def _limit() -> None:
    """Limit this process, and each that it starts, to `SECONDS` of CPU time and `MEMORY` more bytes than it has."""
    signal.alarm(PATIENCE)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used = int(status["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))


class Judge:
    """A process that has imported TensorFlow, and forks another one for each comparison; `started` creates it."""

    def __init__(self, requests: IO[bytes], replies: IO[bytes]):
        self._requests, self._replies = requests, replies

    def compare(self, prefix: str, version: str, config: Mapping[str, Any]) -> tuple[str, str]:
        """Return ``equal``, ``close``, ``only ours`` or ``failed``, with the reason."""
        pickle.dump((prefix, version, dict(config)), self._requests)
        self._requests.flush()
        return pickle.load(self._replies)


@contextmanager
def started() -> Iterator[Judge]:
    """Start a judge; it ends with the context."""
    theirs, ours = os.pipe()
    replies, answers = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        os.close(replies)
        _serve(theirs, answers)
    os.close(theirs)
    os.close(answers)
    with os.fdopen(replies, "rb") as reading, os.fdopen(ours, "wb") as writing:
        yield Judge(writing, reading)
    os.waitpid(child, 0)


def _serve(requests: int, replies: int) -> None:
    try:
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", TF_CPP_MIN_LOG_LEVEL="3")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        import tensorflow  # noqa: F401

        gc.freeze()  # the forks' garbage collectors would copy the memory pages of all this
        with os.fdopen(requests, "rb") as asked, os.fdopen(replies, "wb") as answers, suppress(EOFError):
            while True:
                case = pickle.load(asked)
                answer, _ = _in_fork(lambda: _compared(*case))  # noqa: B023 (it is called at once)
                pickle.dump(answer, answers)
                answers.flush()
    finally:
        os._exit(0)


def _compared(prefix: str, version: str, config: Mapping[str, Any]) -> tuple[str, str]:
    values, ours = _served(version)
    answers = (_trained, ""), (_trained_part, " in part")
    refusals = []
    for answer, how in answers:
        try:
            theirs = answer(prefix, config, values)
        except Exception as error:
            refusals.append(f"{type(error).__name__}: {_first_line(error)}")
            continue
        if isinstance(ours, Exception):
            return "failed", f"TensorFlow answers{how}, and the version does not: {_first_line(ours)}"
        found = [_difference(alias, ours[alias], theirs[alias]) for alias in ours]
        outcome, text = max(found, key=lambda one: ("equal", "close", "failed").index(one[0]))
        return (outcome, f"{how} {text}") if outcome == "failed" else (outcome + how, text)
    return "only ours", "; ".join(refusals)


def _trained(prefix: str, config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the whole graph answers, restored by the Saver that TensorFlow makes of it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    feeds, fetches = _run_of(config, values)
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        v1.train.import_meta_graph(f"{prefix}.meta", clear_devices=True).restore(session, prefix)
        if "moving_average" in config.get("weights", {}):
            reader = tf.train.load_checkpoint(prefix)
            for variable in v1.global_variables():
                name = f"{variable.op.name}/ExponentialMovingAverage"
                if reader.has_tensor(name):
                    variable.load(reader.get_tensor(name), session)
        session.run(v1.tables_initializer())
        return session.run(fetches, feeds)


def _trained_part(prefix: str, config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the part of the graph that the outputs need answers; its variables get the checkpoint's values by name."""
    import tensorflow as tf
    from tensorflow.python.framework import meta_graph

    v1 = tf.compat.v1
    feeds, fetches = _run_of(config, values)
    meta = meta_graph.read_meta_graph_file(f"{prefix}.meta")
    reader = tf.train.load_checkpoint(prefix)
    tables = list(meta.collection_def["table_initializer"].node_list.value)
    slices = {one.variable_name.split(":")[0]: one.save_slice_info_def for one in _variables(meta)}
    wanted = dict.fromkeys(name.split(":")[0] for name in (*fetches.values(), *feeds, *tables))
    part = v1.graph_util.extract_sub_graph(meta.graph_def, list(wanted))
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        for node in part.node:
            for key in ("_output_shapes", "_class"):
                node.attr.pop(key, None)
            node.device = ""
        tf.import_graph_def(part, name="")
        for node in part.node:
            if node.op in ("VariableV2", "VarHandleOp"):
                value = _saved(reader, node.name, slices.get(node.name), "moving_average" in config.get("weights", {}))
                tensor = graph.get_tensor_by_name(f"{node.name}:0")
                if node.op == "VariableV2":
                    session.run(tf.raw_ops.Assign(ref=tensor, value=value))
                else:
                    session.run(tf.raw_ops.AssignVariableOp(resource=tensor, value=value))
        session.run(tables)
        return session.run(fetches, feeds)


def _variables(meta: Any) -> list[Any]:
    from tensorflow.core.framework.variable_pb2 import VariableDef

    return [VariableDef.FromString(data) for data in meta.collection_def["variables"].bytes_list.value]


def _saved(reader: Any, name: str, part: Any, averaged: bool) -> np.ndarray:
    """Return the value of a variable in a checkpoint, or of a part of it."""
    if averaged and reader.has_tensor(f"{name}/ExponentialMovingAverage"):
        return reader.get_tensor(f"{name}/ExponentialMovingAverage")
    if part is None or not part.full_name:
        return reader.get_tensor(name)
    at = tuple(slice(start, start + size) for start, size in zip(part.var_offset, part.var_shape, strict=True))
    return reader.get_tensor(part.full_name)[at]


def _run_of(config: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a run of the training graph is fed, by tensor, and the tensors of the outputs, by alias."""
    bindings = config["bindings"]
    tensors = {key: value.get("placeholder") if isinstance(value, dict) else value for key, value in bindings.items()}
    baked = {value["replaces"]: value["constant"] for value in bindings.values() if "constant" in value}
    outputs = config["signatures"]["serving_default"]["outputs"]
    return {tensors[alias]: value for alias, value in values.items()} | baked, {
        alias: tensors[k] for alias, k in outputs.items()
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _difference(alias: str, ours: Any, theirs: Any) -> tuple[str, str]:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return "failed", f"{alias}: {ours.dtype} {ours.shape}, and TensorFlow's {theirs.dtype} {theirs.shape}"
    if ours.tobytes() == theirs.tobytes() if ours.dtype != object else np.array_equal(ours, theirs):
        return "equal", ""
    if ours.dtype.kind in "fc" and np.allclose(ours, theirs, RTOL, ATOL, equal_nan=True):
        return "close", f"{alias}: {np.nanmax(np.abs(ours - theirs)):.3g}"
    return "failed", f"{alias} is {ours.ravel()[:8]}, and TensorFlow's {theirs.ravel()[:8]}"


def _served(version: str) -> tuple[tuple[dict[str, Any], dict[str, str]], Any]:
    """Return the inputs by alias, and what the version answers, or the exception."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        signature = v1.saved_model.load(session, ["serve"], version).signature_def["serving_default"]
        values = {alias: _value(alias, info) for alias, info in sorted(signature.inputs.items())}
        feeds = {signature.inputs[alias].name: value for alias, value in values.items()}
        try:
            answer: Any = session.run({alias: info.name for alias, info in signature.outputs.items()}, feeds)
        except Exception as error:
            answer = error
        return values, answer


def _value(alias: str, info: Any) -> np.ndarray:
    """Return a value for an input: words of the vocabulary, small numbers for indices, and normal floats else."""
    import tensorflow as tf

    dtype = tf.as_dtype(info.dtype).as_numpy_dtype
    shape = [ROWS if size.size < 0 else size.size for size in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank:
        shape = [ROWS] if alias in ("ids", "words") else [ROWS, 4]
    chance = np.random.default_rng(1)
    if dtype is np.object_ or dtype is object:
        return chance.choice(np.array([b"red", b"green", b"blue", b"mauve"], object), shape)
    if np.dtype(dtype).kind in "iu":
        return chance.integers(0, 4, shape).astype(dtype)
    return chance.normal(size=shape).astype(dtype)
