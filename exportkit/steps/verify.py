"""The step `verify`: what was written answers as the training graph does, or it does not go live."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, ClassVar

import numpy as np

from exportkit import binding, divergence, samples
from exportkit.divergence import Difference, compare, unequal
from exportkit.errors import Problem, StepFailed
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import VARIABLE_OPS
from exportkit.native import ConfigProto, unoptimized
from exportkit.plugin import Export, Phase, PostStep, hookimpl
from exportkit.reference import Refusal
from exportkit.spec import Lookup, TopK
from exportkit.trials import Answer, Answers, MovedExport, TrainingGraph, Trial, trials

Output = tuple[str, str]  # signature, alias
Failure = tuple[Trial, str, Difference]  # the question, the output's alias
SMALL = 1e-3  # of a value: what optimising and another order of sums may come to


@dataclass(kw_only=True)
class Verify(PostStep):
    """Run every signature beside the whole training graph, and refuse the export where they differ."""

    kind: str = "verify"
    phase: ClassVar[Phase] = Phase.VERIFY

    atol: float = 0.0
    """How far numbers may be from the training graph's: atol + rtol * |its value|."""

    rtol: float = 0.0
    """The part of it that grows with the value."""

    batch_sizes: list[int] = field(default_factory=list)
    """Numbers of rows to try; empty: 1, and all of the samples' but at least 2."""

    timeout: float = 600.0
    """Seconds that starting a model, or one run of it, may take."""

    def run(self, export: Export) -> dict[str, Any]:
        """Both sides run the graph as it is written; then the export runs once more as a server optimises it."""
        proofs = {key: _Proof(self, export, key) for key in export.meta_graphs}
        details = {key: proof.details() for key, proof in proofs.items()}
        problems = [problem for proof in proofs.values() for problem in proof.problems]
        if problems:
            raise StepFailed(*dict.fromkeys(problems))
        export.report.warnings += dict.fromkeys(warning for proof in proofs.values() for warning in proof.warnings)
        return {"atol": self.atol, "rtol": self.rtol, "meta_graphs": details}


class _Proof:
    """The proof of one meta graph."""

    def __init__(self, step: Verify, export: Export, key: str):
        self.step, self.export, self.key = step, export, key
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.worst: dict[Output, Difference] = {}
        self.optimized: dict[Output, float] = {}
        self.random: set[Output] = set()
        self.seconds: dict[str, float] = {}

    def details(self) -> dict[str, Any]:
        """Prove it; what the report shall say."""
        device = self.export.plan.meta_graphs[self.key].device
        if device and "CPU" not in device.upper():
            self.warnings.append(f"meta_graphs.{self.key}: pinned to {device}, and so not verified here")
            return {"not run": f"pinned to {device}"}
        batches = samples.load(self.export.plan, self.export.bound[self.key], self.part.wiring.signatures)
        self.trials = trials(self.export, self.key, batches, self.step.batch_sizes)
        self.there = TrainingGraph(self.export, self.key, self.step.timeout)
        self.here = MovedExport(self.export, self.key, self.step.timeout)
        self._judge_all()
        return {
            "training graph": self.there.note,
            "seconds": {name: round(seconds, 2) for name, seconds in self.seconds.items()},
            "signatures": {name: self._signature(name, batch) for name, batch in batches.items()},
        }

    @property
    def part(self) -> Any:
        return self.export.prepared.parts[self.key]

    def _signature(self, name: str, batch: samples.Batch) -> dict[str, Any]:
        rows = [trial.rows for trial in self.trials if trial.signature == name and trial.rows]
        outputs = {alias: self._output(name, alias) for alias in self.export.plan.signatures[name].outputs}
        return {"samples": ", ".join(batch.notes) or "as given", "rows": rows, "outputs": outputs}

    def _output(self, name: str, alias: str) -> dict[str, Any]:
        worst = self.worst.get((name, alias), Difference())
        said = {"max_abs_diff": worst.largest, "mismatches": worst.mismatches}
        if (name, alias) in self.random:
            return {**said, "random": True}
        return {**said, "optimized_max_abs_diff": self.optimized.get((name, alias), 0.0)}

    # Judging

    def _judge_all(self) -> None:
        with ThreadPoolExecutor(2) as pool:
            expected = pool.submit(self._timed, "training graph", partial(self.there.answers, self.trials))
            written = pool.submit(self._timed, "export", partial(self.here.answers, self.trials, unoptimized()))
            served = pool.submit(self._timed, "export, optimized", partial(self.here.answers, self.trials, ConfigProto()))
            there, here = expected.result(), written.result()
        failed = [failure for trial, a, b in zip(self.trials, there, here, strict=True) for failure in self._judge(trial, a, b)]
        if self.random:
            failed += self._judge_seeded()
        self.problems += self._explained(failed)
        if not self.problems:
            self._judge_optimized(here, served.result())

    def _timed(self, name: str, ask: Callable[[], list[Answers]]) -> list[Answers]:
        started = perf_counter()
        try:
            return ask()
        finally:
            self.seconds[name] = perf_counter() - started

    def _judge(self, trial: Trial, there: Answers, here: Answers) -> Iterator[Failure]:
        """Compare the answers to one question; yields each output that differs."""
        if refused := _refused(trial, there[0], here[0]):
            self.problems.append(refused)
            return
        for alias in there[0]:
            output = trial.signature, alias
            found = self._compared(alias, there, here)
            if not any(found):
                self._note(output, found)
            elif unequal(there[0][alias], there[1][alias]):
                self.random.add(output)
            elif unequal(here[0][alias], here[1][alias]):
                self.problems.append(self._only_here(output))
            else:
                self._note(output, found)
                yield trial, alias, found[0] or found[1]

    def _compared(self, alias: str, there: Answers, here: Answers) -> list[Difference]:
        return [compare(a[alias], b[alias], self.step.atol, self.step.rtol) for a, b in zip(there, here, strict=True)]

    def _note(self, output: Output, found: Sequence[Difference]) -> None:
        self.worst[output] = max(self.worst.get(output, Difference()), *found, key=lambda d: (d.mismatches, d.largest))

    def _only_here(self, output: Output) -> Problem:
        nodes = divergence.random_nodes(self._graph(), self._fetches(output[0]))
        drawn = f": {divergence.named(nodes)}" if nodes else ""
        what = f"is random, and the training graph's is not{drawn}"
        return Problem("signatures.{}.outputs.{}".format(*output), what, "is dropout left on? bake its rate or is_training")

    def _graph(self) -> Graph:
        return Graph(self.here.meta)

    def _fetches(self, signature: str) -> list[str]:
        return [info.name for info in self.here.meta.signature_def[signature].outputs.values()]

    # Random outputs

    def _judge_seeded(self) -> list[Failure]:
        """What is random in the training graph as well, compared with seeds that both sides are given."""
        keys = {signature for signature, _ in self.random}
        asked = [trial for trial in self.trials if trial.signature in keys]
        here = MovedExport(self.export, self.key, self.step.timeout, seeded=True)
        first, second = here.answers(asked, unoptimized()), here.answers(asked, unoptimized())
        there = self.there.answers(asked, seeded=True)
        failed: list[Failure] = []
        for signature, alias in sorted(self.random):
            mine = [i for i, trial in enumerate(asked) if trial.signature == signature]
            steady = not any(unequal(a[alias], b[alias]) for i in mine for a, b in zip(first[i], second[i], strict=True))
            self.warnings.append(self._random(signature, alias, steady))
            for i in mine if steady else ():
                found = self._compared(alias, there[i], first[i])
                self._note((signature, alias), found)
                failed += [(asked[i], alias, difference) for difference in found if difference][:1]
        return failed

    def _random(self, signature: str, alias: str, steady: bool) -> str:
        nodes = divergence.random_nodes(self._graph(), self._fetches(signature))
        drawn = f" ({divergence.named(nodes)})" if nodes else ""
        proof = "with fixed seeds it equals the training graph's" if steady else "it cannot be compared"
        return f"signatures.{signature}.outputs.{alias}: random, as in the training graph{drawn}; {proof}"

    # Explaining

    def _explained(self, failed: Sequence[Failure]) -> Iterator[Problem]:
        """One problem for each output that differs, at its first trial, with the node where that begins."""
        outputs = {(trial.signature, alias): (trial, alias, difference) for trial, alias, difference in reversed(failed)}
        if not outputs:
            return
        seeded = bool(self.random)
        with self.there.running(seeded=seeded) as running:
            for trial, alias, difference in reversed(outputs.values()):
                yield self._problem(trial, alias, difference, self._first(trial, alias, running))

    def _problem(self, trial: Trial, alias: str, difference: Difference, where: str) -> Problem:
        step, place = self.step, f"signatures.{trial.signature}.outputs.{alias}"
        if difference.misfit:
            return Problem(place, f"is not what the training graph gives: {difference}")
        allowed = f"atol {step.atol:g}" + (f", rtol {step.rtol:g}" if step.rtol else "")
        amount = f"by {difference.largest:.6g} " if difference.largest else f"in {difference.mismatches} values "
        small = difference.largest and difference.largest <= SMALL * abs(_number(difference.there))
        do = "post.verify.rtol allows what is small" if small else ""
        return Problem(place, f"differs {amount}from the training graph ({allowed}): {where}", do)

    def _first(self, trial: Trial, alias: str, running: Any) -> str:
        """Where an output begins to differ, in words."""
        plan, ref = self.export.plan, self.export.plan.signatures[trial.signature].outputs[alias]
        if said := self._first_input(trial):
            return said
        leaf = self.part.wiring.names[binding.leaf(ref, plan.bindings)]
        graph = self._graph()
        known = [leaf] if leaf.split(":")[0] in graph.nodes else []
        there = partial(_fetch, running, self.there.feeds(trial))
        found = divergence.first(
            divergence.comparable(self.there.graph, graph, known),
            there,
            partial(self.here.fetch, trial),
            self.step.atol,
            self.step.rtol,
        )
        if found:
            return f"first at {_called(found.tensor, graph)}: {found.difference}"
        spec = plan.bindings[binding.offers(plan.bindings)[ref]]
        if isinstance(spec, TopK | Lookup):
            return f"all nodes of the training graph are equal, the {binding.operation(spec)} behind them is not"
        return "only where TensorFlow fuses or folds nodes, for each of them alone is equal"

    def _first_input(self, trial: Trial) -> str:
        """A difference in what the tf.Examples were parsed to."""
        parsed = {
            name: value
            for name, value in trial.fed.items()
            if name not in self.export.plan.signatures[trial.signature].inputs.values()
        }
        names = {self.export.bound[self.key][name].export_name: name for name in parsed}
        values = self.here.fetch(trial, list(names)) if names else None
        for tensor, value in (values or {}).items():
            if difference := compare(parsed[names[tensor]], value):
                return f"first at '{names[tensor]}' as parsed from the tf.Example: {difference}"
        return ""

    # As a server runs it

    def _judge_optimized(self, written: Sequence[Answers], served: Sequence[Answers]) -> None:
        for trial, (a, _), (b, _) in zip(self.trials, written, served, strict=True):
            if isinstance(b, Refusal):
                self.problems.append(
                    Problem(f"signatures.{trial.signature}", f"refuses {trial} once it is optimised: {b.text}")
                )
                continue
            for alias in a:
                if (trial.signature, alias) not in self.random:
                    self._judge_optimized_output((trial.signature, alias), a[alias], b[alias])

    def _judge_optimized_output(self, output: Output, written: np.ndarray, served: np.ndarray) -> None:
        """TensorFlow's optimiser may change the last bits, and with them the order of what was nearly equal."""
        found = compare(written, served)
        self.optimized[output] = max(self.optimized.get(output, 0.0), found.largest)
        place, said = (
            "signatures.{}.outputs.{}".format(*output),
            f"as TensorFlow optimises it, it differs by {found.largest:.6g}",
        )
        if written.dtype.kind == "f" and compare(written, served, SMALL * float(np.abs(written).max(initial=0))):
            self.problems.append(Problem(place, f"{said}: {found}"))
        elif found:
            self.warnings.append(f"{place}: {said} from the graph as it is written")


def _refused(trial: Trial, there: Answer, here: Answer) -> Problem | None:
    place = f"signatures.{trial.signature}"
    if isinstance(there, Refusal) and isinstance(here, Refusal):
        return Problem(place, f"{trial} is refused, by the training graph as well: {here.text}", _advice(trial))
    if isinstance(here, Refusal):
        return Problem(place, f"{trial} is refused, and the training graph takes it: {here.text}")
    if isinstance(there, Refusal):
        return Problem(place, f"{trial} is refused by the training graph, and the export takes it: {there.text}")
    return None


def _advice(trial: Trial) -> str:
    if trial.drawn:
        return f"give samples.{trial.signature}"
    return "is a size baked into the graph? say so in the shape of the bindings" if (trial.rows or 0) > 1 else "mend the sample"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _fetch(running: Any, feeds: Mapping[str, np.ndarray], tensors: Sequence[str]) -> dict[str, np.ndarray] | None:
    values = running.run(feeds, tensors)
    return None if isinstance(values, Refusal) else dict(zip(tensors, values, strict=True))


def _called(tensor: str, graph: Graph) -> str:
    origin = graph.origin(tensor)
    if graph.nodes[origin].op in VARIABLE_OPS:
        return f"variable {origin}"
    return f"node {tensor.removesuffix(':0')}"


@hookimpl
def exportkit_post_steps():
    return [Verify]
