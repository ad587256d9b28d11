"""Run a SavedModel in a process of its own, as the core of a model server loads and runs it.

The process is `exportkit.core.worker`: TensorFlow's C++ loader without its Python, which starts in half a second. A request
that kills it would kill a server; here it is one error.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exportkit import files
from exportkit.capabilities import audit_loaded, demand
from exportkit.core import worker as core_worker
from exportkit.core.host import Host, Reply
from exportkit.errors import BindingError, ExportKitError, Problem, StepFailed, did_you_mean
from exportkit.metagraph import read_saved_model
from exportkit.processes import Death, Sandbox, WorkerDied, exchange
from exportkit.processes.sandbox import explained
from exportkit.protos import ConfigProto, MetaGraphDef, config_pb2
from exportkit.serving.remembered import Key, Remembered, request_key
from exportkit.serving.second_session import SecondSession

Run = tuple[Mapping[str, np.ndarray], Sequence[str]]
Message = tuple[str, tuple[Any, ...]]  # one of `core_worker.CALLS`, and its arguments


@dataclass(frozen=True)
class Request:
    """A client's request: a signature's key and its inputs by alias; strings are bytes or str in an object array.

    Problems mention its `name`; by default ``request 0 (serving_default)``.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    name: str = ""


@dataclass(frozen=True)
class Served:
    """The answers of a SavedModel.

    Attributes:
        outputs: for each request its values by alias; for each raw run a list in the order of its fetches. Strings are bytes
            in object arrays.
        load_seconds: seconds to load the SavedModel, to restore its variables and to run its initializers.
        run_seconds: seconds of each run; the first run of a signature includes the construction of its executor.
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
    allowed: Collection[str] = (),
) -> Served:
    """Load a SavedModel once, in a fresh process, and send it requests.

    Args:
        directory: the SavedModel.
        tags: exactly the tags of one of its meta graphs.
        requests: answered one after the other; after one that TensorFlow rejects, the others are still answered.
        timeout: seconds for everything, including the load.
        config: the session's configuration; default: that of the C++ API.
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.

    Raises:
        StepFailed: with all problems of the first stage that has any: requests that do not fit their signature; the load;
            the runs that TensorFlow rejected, one that killed the process, or one that did not end in time.
        BindingError: there is no saved_model.pb to read, or it can do what is not allowed.
        EnvironmentFailed: the process was killed from outside, or could not start.
    """
    metas = _tagged(directory, tags)
    signatures = metas[-1].signature_def
    named = {_named(request, i): request for i, request in enumerate(requests)}
    if problems := [Problem(os.fspath(directory), *p) for name, r in named.items() for p in _mismatches(signatures, name, r)]:
        raise StepFailed(*problems)
    runs = {name: _as_run(signatures[request.signature], request) for name, request in named.items()}
    served = _serve(directory, metas, runs, timeout, config, allowed)
    aliases = [sorted(signatures[request.signature].outputs) for request in requests]
    outputs = [dict(zip(names, values, strict=True)) for names, values in zip(aliases, served.outputs, strict=True)]
    return replace(served, outputs=outputs)


def _named(request: Request, number: int) -> str:
    return request.name or f"request {number} ({request.signature})"


def run(
    directory: str | os.PathLike,
    tags: Sequence[str],
    runs: Sequence[Run],
    *,
    timeout: float | None = None,
    config: ConfigProto | None = None,
    allowed: Collection[str] = (),
) -> Served:
    """Do what `run_signatures` does, by tensor names: each run is ``({tensor name: value}, [tensor names])``."""
    metas = _tagged(directory, tags)
    return _serve(directory, metas, {f"run {i}": run for i, run in enumerate(runs)}, timeout, config, allowed)


@dataclass(frozen=True)
class Refusal:
    """TensorFlow's error message in place of values, and whether its process died."""

    text: str
    died: bool = False


class Running:
    """A SavedModel that is loaded once and runs many requests; a context manager.

    A request that kills the process is a Refusal as well: the next one starts it again.

    Args:
        directory: the SavedModel.
        tags: exactly the tags of one of its meta graphs.
        timeout: seconds that the load, or one run, may take.
        config: the session's configuration; default: that of the C++ API.
        reads: files and directories that its process may open beside the SavedModel.
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.
        host: the process that loads it, in place of another model; its sandbox counts, not `reads`. Default: one of its own.

    Raises:
        BindingError: there is no saved_model.pb to read, or it can do what is not allowed.

    Attributes:
        meta: the meta graph, as it was read.
        loads: how often the model was loaded.
        serves: the key of the meta graph that it answers for as a server does, whatever it was asked before; empty for none.
        remembered: what its session has answered; None, as it is by default, where that is not to be remembered, as an answer
            may depend on those before it.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        tags: Sequence[str],
        *,
        timeout: float | None = None,
        config: ConfigProto | None = None,
        reads: Sequence[Path] = (),
        allowed: Collection[str] = (),
        host: Host | None = None,
    ):
        self._host, self._owns = host or Host(Sandbox([directory, *reads])), host is None
        self._where, self._timeout = os.fspath(directory), timeout
        metas = _tagged(directory, tags)
        self._loading = _loading(self._where, metas, config, allowed)
        self.meta = metas[-1]
        self._signatures = self.meta.signature_def
        self._answered = False  # whether its session was run
        self._first: Running | None = None  # whose variables its session shares
        self._shared = 0  # the number of that one's load
        self.loads, self.serves = 0, ""
        self.remembered: Remembered | None = None

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self._owns:
            self._host.stop()

    def configured(self, config: ConfigProto, *, remembers: bool = False) -> "Running":
        """Return the same model, which is audited already, for sessions of another configuration in the same process.

        Args:
            config: the session's configuration.
            remembers: whether answers are remembered.
        """
        other = copy(self)
        other.remembered = Remembered() if remembers else None
        name, (directory, tags, _) = self._loading
        other._loading, other._answered, other.loads = (name, (directory, tags, config.SerializeToString())), False, 0
        return other

    def beside(self, second: SecondSession, config: ConfigProto, *, remembers: bool = False) -> "Running":
        """Return the same model for a second session of another configuration, which shares the variables of this one's.

        Args:
            config: the session's configuration.
            remembers: whether answers are remembered.
        """
        other = self.configured(config, remembers=remembers)
        arguments = second.values, second.restore, second.initialize, second.assets, config.SerializeToString()
        other._first, other._loading = self, (core_worker.SECOND, arguments)
        return other

    def ask(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | Refusal:
        """Send a request; return the outputs by alias, or a Refusal. Raises what `run` raises."""
        return self._ask(signature, inputs)

    def _ask(
        self, signature: str, inputs: Mapping[str, np.ndarray], known_as: Key | None = None
    ) -> dict[str, np.ndarray] | Refusal:
        if misfit := next(_mismatches(self._signatures, "", Request(signature, inputs)), None):
            return Refusal(misfit[0].removeprefix(": "))
        definition = self._signatures[signature]
        values = self.run(*_as_run(definition, Request(signature, inputs)))
        if isinstance(values, Refusal):
            return values
        answer = dict(zip(sorted(definition.outputs), values, strict=True))
        if self.remembered is not None:
            self.remembered.add(known_as or request_key(signature, inputs), answer)
        return answer

    def answer(self, signature: str, inputs: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray] | Refusal:
        """Return answer `number`, from 0, to a request: one that is remembered, or the one that `ask` returns now."""
        if self.remembered is None:
            return self._ask(signature, inputs)
        request = request_key(signature, inputs)
        known = self.remembered.to(request)
        return known[number] if number < len(known) else self._ask(signature, inputs, request)

    def answers(self, requests: Sequence[Request], number: int = 0) -> list[dict[str, np.ndarray]]:
        """Return answer `number` to each request. Raises StepFailed with all Refusals, and what `run` raises."""
        found = [self.answer(request.signature, request.inputs, number) for request in requests]
        refused = [(i, answer) for i, answer in enumerate(found) if isinstance(answer, Refusal)]
        if refused:
            raise StepFailed(*(Problem(self._where, f"{_named(requests[i], i)}: {answer.text}") for i, answer in refused))
        return [answer for answer in found if not isinstance(answer, Refusal)]

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray] | Refusal:
        """Run the graph once, by tensor names.

        Raises:
            StepFailed: it does not load.
            EnvironmentFailed: the process was killed from outside, or cannot be started.
        """
        self.load()
        self._answered = True
        try:
            return self._exchange("run", core_worker.RUN, dict(feeds), list(fetches), int(self._first is not None))
        except StepFailed as death:
            return Refusal(death.problems[0].what.partition(": ")[2], died=True)

    def load(self) -> None:
        """Load the model, if it is not loaded. Raises what `run` raises."""
        if self._is_loaded():
            return
        self.loads += 1
        self._answered = False
        if self._first is None:
            self._host.holder = None
        self.remembered = None if self.remembered is None else Remembered()
        if isinstance(refusal := self._exchange("loading", self._loading[0], *self._loading[1]), Refusal):
            raise StepFailed(Problem(self._where, f"loading: {refusal.text}"))
        if self._first is None:
            self._host.holder = self
        else:
            self._shared = self._first.loads

    def _is_loaded(self) -> bool:
        """Return whether its session is there; that of the model which it is beside is, after this."""
        if self._first is None:
            return self._host.holder is self
        self._first.load()
        return self._shared == self._first.loads

    def renew(self) -> None:
        """Have the next run done by a new session, if this one has done any: nothing of those before can change its answer."""
        if self._answered and self._host.holder is self:
            self._host.holder = None

    def _exchange(self, stage: str, name: str, *arguments: Any) -> Any:
        """Return the reply to a message.

        Raises:
            StepFailed, EnvironmentFailed: the process died of it.
        """
        try:
            value, _, error = self._host.call(name, *arguments, timeout=self._timeout)
        except WorkerDied as died:
            raise _death_error(died.death, self._where, stage) from None
        return Refusal(explained(f"{error[0]}: {' '.join(error[1].split())}")) if error else value


def unoptimized() -> ConfigProto:
    """Return the config of a session that computes the graph as it is written, without any optimization."""
    config = ConfigProto()
    config.graph_options.optimizer_options.opt_level = config_pb2.OptimizerOptions.L0
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def meta_graph(directory: str | os.PathLike, tags: Sequence[str]) -> MetaGraphDef:
    """Return the meta graph whose tags are exactly `tags`.

    Raises:
        StepFailed: no meta graph has them.
        BindingError: there is no saved_model.pb to read.
    """
    return _tagged(directory, tags)[-1]


def loadable(
    directory: str | os.PathLike, tags: Sequence[str], allowed: Collection[str], advise: Callable[[str], str]
) -> tuple[MetaGraphDef, Any]:
    """Return the meta graph whose tags are exactly `tags`, and the message that has a process of `exportkit.core` load it.

    Args:
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.
        advise: an entry of `allow.ops` that it lacks → what to do about that.

    Raises:
        StepFailed: no meta graph has these tags.
        BindingError: there is no saved_model.pb to read, or it can do what is not allowed.
    """
    metas = _tagged(directory, tags)
    return metas[-1], _loading(os.fspath(directory), metas, None, allowed, advise)


def _tagged(directory: str | os.PathLike, tags: Sequence[str]) -> list[MetaGraphDef]:
    """Return the meta graphs whose tags are exactly `tags`, at least one; only a SavedModel made by hand has several."""
    by_tags: dict[frozenset[str], list[MetaGraphDef]] = {}
    for meta in read_saved_model(directory).meta_graphs:
        by_tags.setdefault(frozenset(meta.meta_info_def.tags), []).append(meta)
    if metas := by_tags.get(frozenset(tags)):
        return metas
    known = ", ".join(sorted(_tag_set(known) for known in by_tags))
    raise StepFailed(Problem(os.fspath(directory), f"no meta graph has the tags {_tag_set(tags)}", f"it has {known}"))


def _tag_set(tags: Sequence[str] | frozenset[str]) -> str:
    return f"[{', '.join(sorted(tags))}]"


def _mismatches(signatures: Mapping[str, Any], name: str, request: Request) -> Iterator[tuple[str, str]]:
    """Yield how a request does not fit its signature, by key and aliases, and what to do about it."""
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
    metas: Sequence[MetaGraphDef],
    runs: Mapping[str, Run],
    timeout: float | None,
    config: ConfigProto | None,
    allowed: Collection[str],
) -> Served:
    """Load once and do all runs; `runs` has them by the name that problems mention."""
    where = os.fspath(directory)
    messages: list[Message] = [_loading(where, metas, config, allowed), *((core_worker.RUN, run) for run in runs.values())]
    replies: list[Reply]
    replies, death = exchange(core_worker, messages, timeout, Sandbox([where]))
    stages = ["loading", *runs, "closing"]
    errors = [(stage, error) for stage, (_, _, error) in zip(stages, replies, strict=False) if error]
    rejected = [Problem(where, explained(f"{stage}: {status}: {' '.join(text.split())}")) for stage, (status, text) in errors]
    if not rejected and len(replies) <= len(runs):
        death = death or Death.from_exit_code(0)
    if death:
        error = _death_error(death, where, stages[len(replies)])
        raise type(error)(*rejected, *error.problems)
    if rejected:
        raise StepFailed(*rejected)
    values, seconds, _ = zip(*replies, strict=True)
    return Served(list(values[1:]), seconds[0], list(seconds[1:]))


def _loading(
    directory: str,
    metas: Sequence[MetaGraphDef],
    config: ConfigProto | None,
    allowed: Collection[str],
    advise: Callable[[str], str] | None = None,
) -> Message:
    """Return the message that has a process load a SavedModel: no process gets it for one that can do what is not allowed.

    Raises:
        BindingError: the SavedModel can do what is not allowed, or its assets are no files that can be read to their end.
    """
    _check_assets(directory)
    demand(audit_loaded(metas), allowed, directory, advise)
    return core_worker.LOAD, (directory, list(metas[-1].meta_info_def.tags), (config or ConfigProto()).SerializeToString())


def _check_assets(directory: str) -> None:
    """Refuse assets that TensorFlow would wait for, or read for hours: FIFOs, devices, files of holes."""
    for folder, _, names in os.walk(os.path.join(directory, "assets")):
        for path in (os.path.join(folder, name) for name in names):
            try:
                os.close(files.descriptor(path))
            except OSError as error:
                do = "it was made by hand: copy the whole version again"
                raise BindingError(Problem(path, f"cannot be read: {error.strerror}", do)) from None


def _death_error(death: Death, directory: str, stage: str) -> ExportKitError:
    return death.error(
        directory,
        f"{stage}: the process that served it",
        after_timeout="raise the timeout, or look for a loop or a queue that waits for ever",
        after_crash="a model server would die as well: let the graph check what it is fed",
    )
