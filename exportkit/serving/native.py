"""Runs a SavedModel in a process of its own, the way a model server's core loads and runs it.

The process is `native_worker`: TensorFlow's C++ loader without its Python, up in half a second. What kills it there
would kill a server, and is one error here.
"""

import os
import pickle
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, StepFailed, did_you_mean
from exportkit.metagraph import read_saved_model
from exportkit.processes import workers
from exportkit.processes.crash_log import last_words
from exportkit.protos import MetaGraphDef, config_pb2
from exportkit.serving import native_worker

ConfigProto = config_pb2.ConfigProto
Run = tuple[Mapping[str, np.ndarray], Sequence[str]]
Reply = tuple[list[np.ndarray] | None, float, tuple[str, str] | None]


@dataclass(frozen=True)
class Request:
    """What a client sends: a signature's key and its inputs by alias; strings are bytes or str in an object array.

    Problems call it by its `name`; by default ``request 0 (serving_default)``.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    name: str = ""


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
    named = {request.name or f"request {i} ({request.signature})": request for i, request in enumerate(requests)}
    if problems := [Problem(os.fspath(directory), *p) for name, r in named.items() for p in _misfits(signatures, name, r)]:
        raise StepFailed(*problems)
    runs = {name: _as_run(signatures[request.signature], request) for name, request in named.items()}
    served = _serve(directory, tags, runs, timeout, config)
    aliases = [sorted(signatures[request.signature].outputs) for request in requests]
    outputs = [dict(zip(names, values, strict=True)) for names, values in zip(aliases, served.outputs, strict=True)]
    return replace(served, outputs=outputs)


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
    return _serve(directory, tags, {f"run {i}": run for i, run in enumerate(runs)}, timeout, config)


@dataclass(frozen=True)
class Refusal:
    """What TensorFlow said instead of giving values, and whether its process ended with that."""

    text: str
    died: bool = False


class Running:
    """A SavedModel that is loaded once and asked again and again; a context manager.

    A request that kills the process is a refusal as well: the next one starts it again.

    Args:
        directory: the SavedModel.
        tags: exactly the tags of one of its meta graphs.
        timeout: seconds that the load, or one run, may take.
        config: how the session is set up; the C++ defaults where it is not given.

    Attributes:
        loads: how often the model was loaded.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        tags: Sequence[str],
        *,
        timeout: float | None = None,
        config: ConfigProto | None = None,
    ):
        self._where, self._header, self._timeout = os.fspath(directory), _header(os.fspath(directory), tags, config), timeout
        self._signatures = meta_graph(directory, tags).signature_def
        self._process: workers.Process | None = None
        self._open = ExitStack()
        self.loads = 0

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | Refusal:
        """Send a request: the outputs by alias, or why there are none. Raises what `run` raises."""
        if misfit := next(_misfits(self._signatures, "", Request(signature, inputs)), None):
            return Refusal(misfit[0].removeprefix(": "))
        definition = self._signatures[signature]
        answer = self.run(*_as_run(definition, Request(signature, inputs)))
        return answer if isinstance(answer, Refusal) else dict(zip(sorted(definition.outputs), answer, strict=True))

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray] | Refusal:
        """Run the graph once, by tensor names.

        Raises:
            StepFailed: it does not load.
            EnvironmentFailed: the process was killed from outside, or cannot be started.
        """
        self.load()
        try:
            return self._exchange("run", (dict(feeds), list(fetches)))
        except StepFailed as death:
            return Refusal(death.problems[0].what.partition(": ")[2], died=True)

    def load(self) -> None:
        """Load the model, where it is not loaded. Raises what `run` raises."""
        if self._process is not None:
            return
        asked, requests = os.pipe()
        replies, answers = os.pipe()
        self._send = self._open.enter_context(os.fdopen(requests, "wb"))
        self._receive = self._open.enter_context(os.fdopen(replies, "rb"))
        self._log = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (it lives as long as the process)
        with open(asked, "rb") as stdin, open(answers, "wb") as stdout:
            self._process = workers.start(native_worker, stdin, stdout, self._log)
        self.loads += 1
        if isinstance(refusal := self._exchange("loading", self._header), Refusal):
            self._stop()
            raise StepFailed(Problem(self._where, f"loading: {refusal.text}"))

    def _exchange(self, stage: str, message: Any) -> Any:
        """The reply to a message; a StepFailed or EnvironmentFailed where the process died of it."""
        late = threading.Event()
        timer = threading.Timer(self._timeout or threading.TIMEOUT_MAX, lambda: (late.set(), self._process.kill()))
        timer.start()
        try:
            with suppress(BrokenPipeError):  # where it has died, that is found when its answer is missed
                pickle.dump(message, self._send, protocol=5)
                self._send.flush()
            value, _, error = pickle.load(self._receive)
        except (EOFError, pickle.UnpicklingError):
            code = self._process.wait()
            death = _death(self._where, stage, None if late.is_set() else code, last_words(self._log), self._timeout)
            self._stop()
            raise death from None
        finally:
            timer.cancel()
        return Refusal(f"{error[0]}: {' '.join(error[1].split())}") if error else value

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        with suppress(BrokenPipeError):
            self._open.close()


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


def _misfits(signatures: Mapping[str, Any], name: str, request: Request) -> Iterator[tuple[str, str]]:
    """What is wrong with a request before anything runs, and what to do: its key and its aliases."""
    if request.signature not in signatures:
        yield f"{name}: no such signature", did_you_mean(request.signature, signatures)
        return
    inputs, outputs = signatures[request.signature].inputs, signatures[request.signature].outputs
    for alias in sorted(inputs.keys() - request.inputs.keys()):
        yield f"{name}: the input {alias} is missing", ""
    for alias in sorted(request.inputs.keys() - inputs.keys()):
        yield f"{name}: {alias} is no input of the signature", did_you_mean(alias, inputs)
    for alias, info in sorted([*inputs.items(), *outputs.items()], key=lambda item: item[0]):
        if not info.name:
            yield f"{name}: {alias} is not a dense tensor", "give its parts, such as indices and values, aliases of their own"


def _as_run(signature: Any, request: Request) -> Run:
    feeds = {signature.inputs[alias].name: np.asarray(value) for alias, value in request.inputs.items()}
    return feeds, [signature.outputs[alias].name for alias in sorted(signature.outputs)]


def _serve(
    directory: str | os.PathLike,
    tags: Sequence[str],
    runs: Mapping[str, Run],
    timeout: float | None,
    config: ConfigProto | None,
) -> Served:
    """Load once and do all runs; they are by the name that a problem calls them by."""
    where = os.fspath(directory)
    replies, code, words = _asked([_header(where, tags, config), *runs.values()], timeout)
    stages = ["loading", *runs, "closing"]
    stated = [(stage, error) for stage, (_, _, error) in zip(stages, replies, strict=False) if error]
    refused = [Problem(where, f"{stage}: {status}: {' '.join(text.split())}") for stage, (status, text) in stated]
    if code != 0:
        death = _death(where, stages[len(replies)], code, words, timeout)
        raise type(death)(*refused, *death.problems)
    if refused:
        raise StepFailed(*refused)
    values, seconds, _ = zip(*replies, strict=True)
    return Served(list(values[1:]), seconds[0], list(seconds[1:]))


def _header(directory: str, tags: Sequence[str], config: ConfigProto | None) -> tuple[str, list[str], bytes]:
    return directory, list(tags), (config or ConfigProto()).SerializeToString()


def _asked(messages: Sequence[tuple], timeout: float | None) -> tuple[list[Reply], int | None, str]:
    """The replies of a worker, its exit code and its last words."""
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as log:
        for message in messages:
            pickle.dump(message, asked, protocol=5)
        asked.seek(0)
        code = _ended(workers.start(native_worker, asked, answers, log), timeout)
        answers.seek(0)
        return list(_replies(answers)), code, last_words(log)


def _death(directory: str, stage: str, code: int | None, words: str, timeout: float | None) -> ExportKitError:
    """The error for a worker that did not come to its end: its exit code is None where time ran out."""
    if code is None:
        do = "raise the timeout, or look for a loop or a queue that waits for ever"
        return StepFailed(Problem(directory, f"{stage}: no end within {timeout:g} s", do))
    if code > 0:
        return EnvironmentFailed(Problem(directory, f"{stage}: the process that serves it failed: {words}"))
    if code == -signal.SIGKILL:
        what = f"{stage}: the process that served it was killed, most often for want of memory"
        return EnvironmentFailed(Problem(directory, what, "free some memory"))
    what = f"{stage}: the process that served it died of {signal.Signals(-code).name}" + (f": {words}" if words else "")
    return StepFailed(Problem(directory, what, "a model server would die as well: let the graph check what it is fed"))


def _ended(process: workers.Process, timeout: float | None) -> int | None:
    """A worker's exit code, minus a signal's number; None where it did not end in time and was killed."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def _replies(file: IO[bytes]) -> Iterator[Reply]:
    """The replies that a worker wrote before it ended, or died."""
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(file)
