"""A version loaded and asked: by its recorded samples, or by made-up input where it has none."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.capabilities import CAPABILITIES, NotAllowed, Use, allowance, nodes
from exportkit.checkpoint import tensorproto
from exportkit.errors import ExportKitError, Problem, StepFailed
from exportkit.metagraph import Graph
from exportkit.processes import not_sandboxed
from exportkit.protos import ConfigProto
from exportkit.serving import native, warmup
from exportkit.serving.loading import Request
from exportkit.serving.running import Refusal, Running
from exportkit.verifying.audit import drawn, recorded
from exportkit.verifying.audit.finding import Finding, failures
from exportkit.verifying.audit.graphs import pinned, signatures

TIMEOUT = 600.0


@dataclass(frozen=True)
class Trial:
    """The inputs of a signature, and its recorded outputs (alias → the array as in the manifest)."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    drawn: bool = True


def check(
    directory: Path,
    saved_model: Any,
    manifest: Mapping[str, Any] | None,
    tolerances: Mapping[str, float],
    allowed: Collection[str] = (),
) -> Iterator[Finding]:
    """Load every meta graph and run its signatures; then the warmup file, against each that a server would load.

    One that can do what is not `allowed` (as in `allow.ops` of a config) is not loaded.
    """
    samples = (manifest or {}).get("samples", {})
    for meta in saved_model.meta_graphs:
        graph, tags = Graph(meta), list(meta.meta_info_def.tags)
        loaded = _Loaded(directory, tags, _config(graph), allowed)
        try:
            with Running(directory, tags, timeout=TIMEOUT, config=loaded.config, allowed=allowed) as model:
                trials = {key: _trial(directory, graph, key, samples.get(key), model) for key in signatures(graph)}
        except NotAllowed as refused:
            yield _not_run(refused.dangers, allowed)
            continue
        for key, trial in trials.items():
            yield from _judged(f"run {key}", trial, loaded.answers(trials)[key], tolerances)
        if "serve" in tags:
            yield from _check_warmup(directory, loaded)
    if lacks := not_sandboxed():
        yield Finding(None, "sandbox", f"not sandboxed: {lacks}")


def _not_run(dangers: Mapping[str, Sequence[Use]], allowed: Collection[str]) -> Finding:
    what = "; ".join(f"can {CAPABILITIES[name].can}: {nodes(uses)}" for name, uses in dangers.items())
    flags = " ".join(f"--allow {name}" for name in dict.fromkeys([*allowed, *map(allowance, dangers)]))
    return Finding(False, "run", f"not run, as it {what}", f"if it may do that: {flags}")


@dataclass
class _Loaded:
    """One meta graph of a version, with what it answered."""

    directory: Path
    tags: Sequence[str]
    config: Any
    allowed: Collection[str] = ()
    known: dict[str, Any] = field(default_factory=dict)

    def answers(self, trials: Mapping[str, Trial]) -> dict[str, Any]:
        """Return signature → outputs by alias, or the problems; from one process, or where that fails from one for each."""
        if not self.known:
            try:
                self.known = dict(zip(trials, self._ask(trials), strict=True))
            except ExportKitError:
                self.known = {key: self._one(key, trial) for key, trial in trials.items()}
        return self.known

    def _one(self, key: str, trial: Trial) -> Any:
        try:
            return self._ask({key: trial})[0]
        except ExportKitError as error:
            return error.problems

    def _ask(self, trials: Mapping[str, Trial]) -> list[Any]:
        requests = [Request(key, trial.inputs, key) for key, trial in trials.items()]
        options = {"timeout": TIMEOUT, "config": self.config, "allowed": self.allowed}
        return native.run_signatures(self.directory, self.tags, requests, **options).outputs


def _config(graph: Graph) -> ConfigProto | None:
    """Return the session's config: the server's own (None), or for a graph pinned to an accelerator one that runs it here."""
    return ConfigProto(allow_soft_placement=True) if pinned(graph) else None


def _trial(directory: Path, graph: Graph, key: str, record: Mapping[str, Any] | None, model: Running) -> Trial:
    """Return the recorded inputs, or else made-up ones: the first that the model answers."""
    if record is not None and (inputs := recorded.inputs(directory, record)) is not None:
        return Trial(inputs, record["outputs"] or {}, drawn=False)
    first = None
    for inputs in drawn.inputs(graph, graph.meta.signature_def[key]):
        first = inputs if first is None else first
        try:
            answer = model.ask(key, inputs)
        except ExportKitError:
            break  # it does not load, which the run reports
        if not isinstance(answer, Refusal):
            return Trial(inputs)
        if answer.died:
            break
    return Trial(first or {})


def _judged(what: str, trial: Trial, answer: Any, tolerances: Mapping[str, float]) -> Iterator[Finding]:
    if isinstance(answer, tuple):
        yield from (_refused(what, problem, trial.drawn) for problem in answer)
    elif not trial.outputs:
        given = "made-up input" if trial.drawn else "its samples (which it answers differently each time)"
        yield Finding(True, what, f"answers {given} with {_shapes(answer)}")
    else:
        yield _compared(what, trial.outputs, answer, tolerances)


def _refused(what: str, problem: Problem, made_up: bool) -> Finding:
    """Return the finding of a refusal; that of made-up input may only mean that the signature does not take such values."""
    why = problem.what.removeprefix(f"{what.removeprefix('run ')}: ")
    if made_up and why.startswith("INVALID_ARGUMENT"):
        return Finding(None, what, f"refuses made-up input: {why}", "export with samples")
    return Finding(False, what, why, problem.do)


def _shapes(answer: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{alias} {tensorproto.dtype_of(value)} {list(value.shape)}" for alias, value in sorted(answer.items()))


def _compared(
    what: str, recorded: Mapping[str, Any], answer: Mapping[str, np.ndarray], tolerances: Mapping[str, float]
) -> Finding:
    found = {alias: difference(one, answer.get(alias), tolerances) for alias, one in recorded.items()}
    differing = {alias: difference for alias, difference in found.items() if difference}
    if differing:
        why = "; ".join(f"{alias} {difference}" for alias, difference in differing.items())
        return Finding(False, what, f"its recorded outputs do not come out: {why}", _ELSEWHERE)
    how = "exactly" if not any(tolerances.values()) else "within " + ", ".join(f"{k} {v:g}" for k, v in tolerances.items())
    return Finding(True, what, f"its recorded outputs come out {how}: {_shapes(answer)}")


_ELSEWHERE = "on another kind of processor the last bits may differ: --rtol 1e-5 allows that"


def difference(recorded: Mapping[str, Any], value: np.ndarray | None, tolerances: Mapping[str, float]) -> str:
    """Return how an output differs from the recorded one; empty where it does not."""
    if value is None:
        return "is gone"
    if (recorded["dtype"], recorded["shape"]) != (tensorproto.dtype_of(value), list(value.shape)):
        return f"is {tensorproto.dtype_of(value)} {list(value.shape)}, and was {recorded['dtype']} {recorded['shape']}"
    expected = tensorproto.from_json(recorded)
    if expected is None:
        return "" if recorded["sha256"] == tensorproto.digest(value) else "has another digest"
    if value.dtype.kind in "OSUTbiu":
        wrong = int(np.sum(expected != value))
        return f"differs in {wrong} of {value.size} places" if wrong else ""
    return _distance(expected, value, **tolerances)


def _distance(expected: np.ndarray, value: np.ndarray, atol: float, rtol: float) -> str:
    expected, value = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (expected, value))
    if np.allclose(value, expected, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    return f"differs by up to {np.nanmax(np.abs(value - expected)):.3g}"


def _check_warmup(directory: Path, loaded: _Loaded) -> Iterator[Finding]:
    path = directory / warmup.FILE
    if not path.exists():
        return
    try:
        requests = warmup.read_warmup(path)
        warmup.replay(directory, loaded.tags, requests, loaded.config, loaded.allowed)
    except StepFailed as error:
        yield from failures("warmup", (Problem("warmup", problem.what, problem.do) for problem in error.problems))
    else:
        records = len({number for number, _ in requests})
        yield Finding(True, "warmup", f"{records} records, each answered")
