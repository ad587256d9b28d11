"""Run a SavedModel in a process of its own, as the core of a model server loads and runs it.

The process is `exportkit.core.worker`: TensorFlow's C++ loader without its Python, which starts in half a second. A request
that kills it would kill a server; here it is one error.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exportkit.core import worker as core_worker
from exportkit.core.host import Reply
from exportkit.errors import Problem, StepFailed
from exportkit.processes import Death, Sandbox, exchange
from exportkit.processes.sandbox import explained
from exportkit.protos import ConfigProto, MetaGraphDef
from exportkit.serving.loading import Message, Request, Run, as_run, death_error, load_message, mismatches, request_name, tagged


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
    metas = tagged(directory, tags)
    signatures = metas[-1].signature_def
    named = {request_name(request, i): request for i, request in enumerate(requests)}
    if problems := [Problem(os.fspath(directory), *p) for name, r in named.items() for p in mismatches(signatures, name, r)]:
        raise StepFailed(*problems)
    runs = {name: as_run(signatures[request.signature], request) for name, request in named.items()}
    served = _serve(directory, metas, runs, timeout, config, allowed)
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
    allowed: Collection[str] = (),
) -> Served:
    """Do what `run_signatures` does, by tensor names: each run is ``({tensor name: value}, [tensor names])``."""
    metas = tagged(directory, tags)
    return _serve(directory, metas, {f"run {i}": run for i, run in enumerate(runs)}, timeout, config, allowed)


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
    messages: list[Message] = [load_message(where, metas, config, allowed), *((core_worker.RUN, run) for run in runs.values())]
    replies: list[Reply]
    replies, death = exchange(core_worker, messages, timeout, Sandbox([where]))
    stages = ["loading", *runs, "closing"]
    errors = [(stage, error) for stage, (_, _, error) in zip(stages, replies, strict=False) if error]
    rejected = [Problem(where, explained(f"{stage}: {status}: {' '.join(text.split())}")) for stage, (status, text) in errors]
    if not rejected and len(replies) <= len(runs):
        death = death or Death.from_exit_code(0)
    if death:
        error = death_error(death, where, stages[len(replies)])
        raise type(error)(*rejected, *error.problems)
    if rejected:
        raise StepFailed(*rejected)
    values, seconds, _ = zip(*replies, strict=True)
    return Served(list(values[1:]), seconds[0], list(seconds[1:]))
