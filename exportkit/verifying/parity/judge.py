"""The judgement on the answers of both sides: equal, or how they differ, output by output."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exportkit.contract import Export
from exportkit.errors import Problem, some
from exportkit.metagraph import Graph
from exportkit.protos import MetaGraphDef
from exportkit.serving.running import Refusal
from exportkit.verifying.parity import adapters, divergence, refusals
from exportkit.verifying.parity.divergence import Difference, Tolerance, compare, unequal
from exportkit.verifying.parity.trials import Answer, Answers, Trial, Twice

Output = tuple[str, str]  # signature, alias
Failure = tuple[Trial, str, Difference]  # the question, the output's alias, how the answers differ
ORDER = 1e-5  # of an output's largest value: what another order of sums may come to
SMALL = 1e-3  # of an output's largest value: more than another order of sums comes to


@dataclass
class Outcome:
    """The report on an output: differences from the training graph, and of the optimised graph from the written.

    `compared` counts the elements that were compared with the training graph's, in all trials.
    """

    max_abs_diff: float = 0.0
    mismatches: int = 0
    optimized_max_abs_diff: float = 0.0
    random: bool = False
    compared: int = 0


class Judge:
    """The judgement on one meta graph.

    Args:
        meta: the exported meta graph, as it was run.
        sizes: ``post.verify.batch_sizes``.

    Attributes:
        outcomes: signature and alias of an output → the report on it.
        out_of_step: outputs that are random on both sides and differ.
        problems: why the export is refused.
        warnings: what is allowed and may surprise.
    """

    def __init__(self, export: Export, key: str, meta: MetaGraphDef, tolerance: Tolerance, sizes: Sequence[int]):
        self._export, self._key, self._meta = export, key, meta
        self._tolerance, self._sizes = tolerance, sizes
        self.outcomes: dict[Output, Outcome] = {}
        self.out_of_step: list[Output] = []
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def compare(self, asked: Sequence[Trial], there: Sequence[Answers], here: Sequence[Answers]) -> list[Failure]:
        """Compare all answers. An output that is random here alone has its problem: where it differs is chance."""
        failed = [failure for sides in zip(asked, there, here, strict=True) for failure in self._judge(*sides)]
        random = {problem.where for problem in self.problems}
        return [failure for failure in failed if _place(failure[0].signature, failure[1]) not in random]

    def _judge(self, trial: Trial, there: Answers, here: Answers) -> Iterator[Failure]:
        """Compare the answers to one question; each output that differs, though it is the same twice."""
        if trial.doubtful and isinstance(_worse(there), Refusal):
            return
        theirs, ours = _values(there), _values(here)
        if theirs is None or ours is None:
            self.problems += refusals.refused(trial, _worse(there), _worse(here), self._key, self._sizes)
            return
        for alias in theirs[0]:
            output = trial.signature, alias
            found = self._compared(output, theirs, ours)
            changes = unequal(theirs[0][alias], theirs[1][alias]), unequal(ours[0][alias], ours[1][alias])
            if any(changes) and self._unordered(trial, alias, theirs, ours):
                self._outcome(trial, alias).max_abs_diff = max(difference.largest for difference in found)
                self.warnings.append(
                    f"{_place(*output)}: its last bits change from run to run, by the order of sums in threads"
                )
                continue
            self._outcome(trial, alias).random |= any(changes)
            if any(found) and changes[0]:
                self.out_of_step.append(output)
            elif any(found) and changes[1]:
                self.problems.append(self._random_here(output))
            else:
                yield from self._noted(trial, alias, found, ours)

    def _unordered(self, trial: Trial, alias: str, there: Twice, here: Twice) -> bool:
        """Return whether all answers are equal but for the order of sums, with no random node behind them."""
        values = [answers[alias] for answers in (*there, *here)]
        if values[0].dtype.kind not in "fc" or any(value.shape != values[0].shape for value in values):
            return False
        scale = np.max(np.abs(values[0]), where=np.isfinite(values[0]), initial=0)
        near = Tolerance(atol=ORDER * float(scale))
        return not self._drawn(trial.signature, "{}") and not any(compare(values[0], value, near) for value in values[1:])

    def _outcome(self, trial: Trial, alias: str) -> Outcome:
        return self.outcomes.setdefault((trial.signature, alias), Outcome())

    def _compared(self, output: Output, there: Twice, here: Twice) -> list[Difference]:
        signature, alias = output
        plan = self._export.plan
        units = adapters.rounding(plan.signatures[signature].outputs[alias], plan.bindings)
        allowed = self._tolerance.of_at_least(units, there[0][alias].dtype)
        return [compare(a[alias], b[alias], allowed) for a, b in zip(there, here, strict=True)]

    def _noted(self, trial: Trial, alias: str, found: Sequence[Difference], here: Twice) -> Iterator[Failure]:
        outcome = self._outcome(trial, alias)
        outcome.compared += here[0][alias].size
        outcome.max_abs_diff = max(outcome.max_abs_diff, *(difference.largest for difference in found))
        outcome.mismatches = max(outcome.mismatches, *(difference.mismatches for difference in found))
        yield from [(trial, alias, difference) for difference in found if difference][:1]

    def _random_here(self, output: Output) -> Problem:
        what = f"changes from run to run, and the training graph's does not{self._drawn(output[0], ': {}')}"
        return Problem(_place(*output), what, "is dropout left on? bake its rate or is_training: bindings.NAME.constant")

    def _drawn(self, signature: str, form: str) -> str:
        """Return the random nodes behind a signature, in the wording of `form`; empty where there are none."""
        fetches = [info.name for info in self._meta.signature_def[signature].outputs.values()]
        nodes = divergence.random_nodes(Graph(self._meta), fetches)
        return form.format(some(nodes, 3)) if nodes else ""

    def uncompared(self, asked: Sequence[Trial]) -> Iterator[Problem]:
        """Yield a problem for each signature of which not one element was compared, so that nothing was proved of it.

        A signature that takes none of its samples is left out: `_judge_unsampled` refuses it.
        """
        elements = dict.fromkeys((trial.signature for trial in asked if not trial.doubtful), 0)
        for (signature, _), outcome in self.outcomes.items():
            elements[signature] = elements.get(signature, 0) + outcome.compared
        for key in (key for key, number in elements.items() if not number):
            random = any(outcome.random for (signature, _), outcome in self.outcomes.items() if signature == key)
            empty = f"give samples.{key} rows that it answers with a value"
            do = "it changes from run to run: bake what makes it random, in bindings" if random else empty
            yield Problem(f"signatures.{key}", "nothing was compared: no output has an element that could be", do)

    # Random outputs, with the same seeds on both sides

    def compare_seeded(self, output: Output, asked: Sequence[Trial], sides: Sequence[list[Answers]]) -> list[Failure]:
        signature, alias = output
        mine = [one for one in zip(asked, *sides, strict=True) if output in self.out_of_step and one[0].signature == signature]
        steady = not any(unequal(a[alias], b[alias]) for _, _, here, again in mine for a, b in zip(here, again, strict=True))
        compared = [(t, self._compared(output, there, here), here) for t, there, here, _ in mine if steady]
        failed = [failure for t, found, here in compared for failure in self._noted(t, alias, found, here)]
        if not failed:
            self.warnings.append(self._random(output, steady))
        return failed

    def _random(self, output: Output, steady: bool) -> str:
        drawn = self._drawn(output[0], "is random, as in the training graph ({}); ")
        if not steady:
            return f"{_place(*output)}: {drawn or 'changes from run to run; '}it could not be compared"
        if drawn:
            return f"{_place(*output)}: {drawn}with fixed seeds it equals the training graph's"
        return f"{_place(*output)}: changes from run to run, as in the training graph, which it equals"

    # As a server optimises it

    def compare_optimized(self, asked: Sequence[Trial], written: Sequence[Answers], optimized: Sequence[Answer]) -> None:
        """Check that TensorFlow's optimiser changes only the last bits, and with them the order of what is nearly equal."""
        for trial, (a, _), b in zip(asked, written, optimized, strict=True):
            if isinstance(a, Refusal):
                continue
            if isinstance(b, Refusal):
                what = f"{trial} is refused once TensorFlow has optimised the graph: {b.text}"
                do = f"bind other outputs in signatures.{trial.signature}, or try another sample in samples.{trial.signature}"
                self.problems.append(Problem(f"signatures.{trial.signature}", what, do))
                continue
            for alias in a:
                if not self._outcome(trial, alias).random:
                    self._compare_optimized(trial, alias, a[alias], b[alias])

    def _compare_optimized(self, trial: Trial, alias: str, written: np.ndarray, optimized: np.ndarray) -> None:
        outcome, found, place = self._outcome(trial, alias), compare(written, optimized), _place(trial.signature, alias)
        outcome.optimized_max_abs_diff = max(outcome.optimized_max_abs_diff, found.largest)
        if written.dtype.kind != "f":
            if found:
                self.warnings.append(f"{place}: once a server has optimised the graph, {found.mismatches} values differ")
            return
        scale = np.max(np.abs(written), where=np.isfinite(written), initial=0)
        near = Tolerance(max(SMALL * float(scale), self._tolerance.atol), self._tolerance.rtol)
        if compare(written, optimized, near):
            what = f"once TensorFlow has optimised the graph, it differs by {found.largest:.6g}: {found}"
            self.problems.append(Problem(place, what, "post.verify.atol and post.verify.rtol allow more"))


def _place(signature: str, alias: str) -> str:
    return f"signatures.{signature}.outputs.{alias}"


def _values(answers: Answers) -> Twice | None:
    """Return both answers to a question; None where one of them is a refusal."""
    first, second = answers
    return None if isinstance(first, Refusal) or isinstance(second, Refusal) else (first, second)


def _worse(answers: Answers) -> Answer:
    return next((answer for answer in answers if isinstance(answer, Refusal)), answers[0])
