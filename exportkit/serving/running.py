"""A SavedModel that stays loaded in a process, as in the core of a model server, and is asked one request after the other."""

import os
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.core import worker as core_worker
from exportkit.core.host import Host
from exportkit.errors import Problem, StepFailed
from exportkit.processes import Sandbox, WorkerDied
from exportkit.processes.sandbox import explained
from exportkit.protos import ConfigProto, config_pb2
from exportkit.serving.loading import Request, as_run, death_error, load_message, mismatches, request_name, tagged
from exportkit.serving.remembered import Key, Remembered, request_key
from exportkit.serving.second_session import SecondSession


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
        metas = tagged(directory, tags)
        self._loading = load_message(self._where, metas, config, allowed)
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
        if misfit := next(mismatches(self._signatures, "", Request(signature, inputs)), None):
            return Refusal(misfit[0].removeprefix(": "))
        definition = self._signatures[signature]
        values = self.run(*as_run(definition, Request(signature, inputs)))
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
            raise StepFailed(*(Problem(self._where, f"{request_name(requests[i], i)}: {answer.text}") for i, answer in refused))
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
            self._host.holder = self._host.last = self
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
            raise death_error(died.death, self._where, stage) from None
        return Refusal(explained(f"{error[0]}: {' '.join(error[1].split())}")) if error else value


def unoptimized() -> ConfigProto:
    """Return the config of a session that computes the graph as it is written, without any optimization."""
    config = ConfigProto()
    config.graph_options.optimizer_options.opt_level = config_pb2.OptimizerOptions.L0
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config
