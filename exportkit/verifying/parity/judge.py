"""The proof of one meta graph: every signature answers as the training graph does, or a problem says where not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from exportkit.contract import Export
from exportkit.errors import Problem, some
from exportkit.metagraph import Graph
from exportkit.protos import ConfigProto
from exportkit.samples import Batch
from exportkit.serving import tried_samples
from exportkit.serving.native import Refusal, Running, unoptimized
from exportkit.verifying.parity import adapters, divergence, refusals
from exportkit.verifying.parity.beginning import both_fit, elsewhere, moved_export, training_graph
from exportkit.verifying.parity.divergence import Difference, Tolerance, compare, unequal
from exportkit.verifying.parity.origin import origins
from exportkit.verifying.parity.originals import originals
from exportkit.verifying.parity.trials import Answer, Answers, Asked, MovedExport, Trial, Twice, trials

T = TypeVar("T")
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


class Proof:
    """One meta graph's proof.

    Args:
        sizes: numbers of rows to try; empty: 1, and all of the sample's but at least 2.
        timeout: seconds that starting a model, or one run of it, may take.
        unsampled: ``allow`` for a signature that takes none of the random values that it is tried with.

    Attributes:
        problems: why the export is refused.
        warnings: what is allowed and may surprise.
        unverified: what could not be run, and why.
    """

    def __init__(self, export: Export, key: str, tolerance: Tolerance, sizes: Sequence[int], timeout: float, unsampled: str):
        self._export, self._key, self._tolerance = export, key, tolerance
        self._sizes, self._timeout, self._unsampled = sizes, timeout, unsampled
        self._outcomes: dict[Output, Outcome] = {}
        self._out_of_step: list[Output] = []
        self._seconds: dict[str, float] = {}
        self._original: dict[str, Any] = {}
        self._together = True  # whether memory holds both sides
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.unverified: list[str] = []

    def prove(self) -> dict[str, Any]:
        """Run both sides and compare: at the same time, or one after the other where memory does not hold both.

        Returns:
            The details for the report.

        Raises:
            StepFailed: a side does not run at all.
            ConfigError: a sample does not fit.
            EnvironmentFailed: a process was killed from outside.
        """
        if device := elsewhere(self._export, self._key):
            self.warnings.append(f"meta_graphs.{self._key}: is pinned to {device}, and was not verified")
            self.unverified.append(f"meta_graphs.{self._key} (pinned to {device})")
            return {"not verified": f"pinned to {device}"}
        self._together = both_fit(self._export, self._key)
        self._there = training_graph(self._export, self._key, self._timeout)
        with ExitStack() as there, ExitStack() as here:
            there.callback(self._there.close)
            self._here = moved_export(self._export, self._key, self._timeout)
            here.callback(self._here.close)
            running, model = self._started(there, here) if self._together else (None, self._start_export(here))
            batches = self._batches(running, model)
            asked = trials(self._export, self._key, batches, self._sizes)
            self.warnings += [
                f"signatures.{name}: post.verify.batch_sizes is left out of account, as {batch.unbatched}"
                for name, batch in batches.items()
                if self._sizes and not batch.rows and batch.unbatched
            ]
            if running is not None:
                with ThreadPoolExecutor(2) as pool:
                    theirs = pool.submit(self._ask_training_graph, there, running, asked)
                    ours = pool.submit(lambda: (self._ask_export(model, asked), self._ask_optimized(asked)))
                answers = theirs.result(), *ours.result()
            else:
                answers = self._ask_in_turn(there, model, asked)
        self._judge_sides(asked, *answers)
        if not self.problems:
            self._judge_unsampled(batches)
        return self._details(asked, batches)

    def _ask_in_turn(
        self, there: ExitStack, model: Running, asked: Sequence[Trial]
    ) -> tuple[list[Answers], list[Answers], list[Answer]]:
        """Return the answers of both sides, and those of the optimised export, with no two of the three in memory at once."""
        written = self._ask_export(model, asked)
        self._here.end_process()
        answers = self._ask_training_graph(there, self._start_training_graph(there), asked)
        return answers, written, self._ask_optimized(asked)

    def _ask_training_graph(self, context: ExitStack, running: Asked, asked: Sequence[Trial]) -> list[Answers]:
        """Return its answers, and end its process."""
        return self._timed("training graph", partial(_ask_and_end, context, self._there.ask, running, asked))

    def _ask_export(self, model: Running, asked: Sequence[Trial]) -> list[Answers]:
        """Return the answers of the export as it is written."""
        return self._timed("export", partial(self._here.ask, model, asked))

    def _ask_optimized(self, asked: Sequence[Trial]) -> list[Answer]:
        """Return the answers of the export as a server has optimised it."""
        with self._here.running(ConfigProto()) as optimized:
            answers = self._timed("export, optimized", partial(self._here.ask_once, optimized, asked))
            optimized.serves = "" if self._here.keeps_state else self._key  # the steps behind this one need load no other
        return answers

    def _started(self, there: ExitStack, here: ExitStack) -> tuple[Asked, Running]:
        """Start both sides at the same time; the training graph's process ends with its context."""
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(self._start_training_graph, there)
            model = pool.submit(self._start_export, here)
        return running.result(), model.result()

    def _start_training_graph(self, context: ExitStack) -> Asked:
        return self._timed("training graph", partial(context.enter_context, self._there.running()))

    def _start_export(self, context: ExitStack) -> Running:
        return self._timed("export", partial(context.enter_context, self._here.running(unoptimized())))

    def _batches(self, running: Asked | None, model: Running) -> dict[str, Batch]:
        """Return the samples of the signatures, values that are drawn among those that both sides take.

        The sides that are compared are asked for them, which saves a load. Where an answer changes what the next one is, they
        would be out of step: then the training graph is not asked, and the export's session is a new one after it. Nor is it
        asked while it does not run.
        """
        signatures = self._export.prepared.parts[self._key].wiring.signatures
        also = None if running is None or self._here.keeps_state else partial(self._there.refusal, running)
        found = tried_samples.found(self._export, self._key, self._timeout, model=model, also=also)
        if self._here.keeps_state:
            model.renew()
        return {name: batch for name, batch in found.items() if name in signatures}

    def _judge_sides(
        self, asked: Sequence[Trial], there: Sequence[Answers], here: Sequence[Answers], optimized: Sequence[Answer]
    ) -> None:
        failed = self._judge_all(asked, there, here) + self._judge_random(asked)
        self.problems += [] if self.problems or failed else self._uncompared(asked)
        self.problems += origins(failed, self._export, self._key, self._there, self._here, self._tolerance)
        if not self.problems:
            self._judge_originals()
        if not self.problems:
            self._judge_optimized(asked, here, optimized)

    def _timed(self, name: str, call: Callable[[], T]) -> T:
        started = perf_counter()
        try:
            return call()
        finally:
            self._seconds[name] = round(self._seconds.get(name, 0.0) + perf_counter() - started, 2)

    def _details(self, asked: Sequence[Trial], batches: Mapping[str, Batch]) -> dict[str, Any]:
        def signature(name: str) -> dict[str, Any]:
            batch = batches[name]
            rows = [trial.rows for trial in asked if trial.signature == name and trial.rows and not trial.doubtful]
            outputs = {alias: asdict(outcome) for (of, alias), outcome in self._outcomes.items() if of == name}
            if batch.refusal and batch.drawn:
                return {"not verified": refusals.describe_untaken(batch), "outputs": {}}
            known = {"inputs": dict(batch.axes), "batching": batch.unbatched or "yes"}
            return {"samples": ", ".join(batch.notes) or "as given", "rows": rows, **known, "outputs": outputs}

        described = {name: signature(name) for name in batches}
        original = {"original model": self._original} if self._original else {}
        seconds = dict(sorted(self._seconds.items()))  # those of two threads come in any order
        return {"training graph": self._there.note, "seconds": seconds, "signatures": described, **original}

    # As the graph is written

    def _judge_all(self, asked: Sequence[Trial], there: Sequence[Answers], here: Sequence[Answers]) -> list[Failure]:
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
                self._out_of_step.append(output)
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
        return self._outcomes.setdefault((trial.signature, alias), Outcome())

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

    def _judge_unsampled(self, batches: Mapping[str, Batch]) -> None:
        """Refuse, or let pass unverified, the signatures that took none of the random values."""
        for name, batch in batches.items():
            if not batch.drawn:
                continue
            if batch.refusal and self._unsampled == "allow":
                what = refusals.describe_untaken(batch)
                self.unverified.append(name)
                self.warnings.append(f"signatures.{name}: was not verified, as it {what} (post.verify.unsampled=allow)")
            elif batch.refusal:
                self.problems.append(refusals.unsampled(self._export, self._key, name, batch))
            elif batch.elsewhere:
                what = f"takes random values that the training graph refuses, so others were compared: {batch.elsewhere}"
                self.warnings.append(f"signatures.{name}: {what}; samples.{name} gives it values")

    def _random_here(self, output: Output) -> Problem:
        what = f"changes from run to run, and the training graph's does not{self._drawn(output[0], ': {}')}"
        return Problem(_place(*output), what, "is dropout left on? bake its rate or is_training: bindings.NAME.constant")

    def _drawn(self, signature: str, form: str) -> str:
        """Return the random nodes behind a signature, in the wording of `form`; empty where there are none."""
        fetches = [info.name for info in self._here.meta.signature_def[signature].outputs.values()]
        nodes = divergence.random_nodes(Graph(self._here.meta), fetches)
        return form.format(some(nodes, 3)) if nodes else ""

    def _uncompared(self, asked: Sequence[Trial]) -> Iterator[Problem]:
        """Yield a problem for each signature of which not one element was compared, so that nothing was proved of it.

        A signature that takes none of its samples is left out: `_judge_unsampled` refuses it.
        """
        elements = dict.fromkeys((trial.signature for trial in asked if not trial.doubtful), 0)
        for (signature, _), outcome in self._outcomes.items():
            elements[signature] = elements.get(signature, 0) + outcome.compared
        for key in (key for key, number in elements.items() if not number):
            random = any(outcome.random for (signature, _), outcome in self._outcomes.items() if signature == key)
            empty = f"give samples.{key} rows that it answers with a value"
            do = "it changes from run to run: bake what makes it random, in bindings" if random else empty
            yield Problem(f"signatures.{key}", "nothing was compared: no output has an element that could be", do)

    # Random outputs

    def _judge_random(self, asked: Sequence[Trial]) -> list[Failure]:
        """Compare what is random on both sides, and not in step, once more with seeds that both are given."""
        if self.problems:
            return []
        asked = [trial for trial in asked if trial.signature in dict(self._out_of_step)]
        sides = self._seeded(asked) if asked else ()
        random = (output for output, outcome in self._outcomes.items() if outcome.random)
        return [failure for output in random for failure in self._judge_seeded(output, asked, sides)]

    def _seeded(self, asked: Sequence[Trial]) -> tuple[list[Answers], ...]:
        """Return the answers of the training graph, of the export, and of the export in another process."""
        here = MovedExport(self._export, self._key, self._timeout, seeded=True)
        if not self._together:
            here.end_process()  # its memory is for the training graph now
        there, first = self._there.answers(asked, seeded=True), here.answers(asked, unoptimized())
        here.end_process()
        return there, first, here.answers(asked, unoptimized())

    def _judge_seeded(self, output: Output, asked: Sequence[Trial], sides: Sequence[list[Answers]]) -> list[Failure]:
        signature, alias = output
        mine = [one for one in zip(asked, *sides, strict=True) if output in self._out_of_step and one[0].signature == signature]
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

    # Beside the original model

    def _judge_originals(self) -> None:
        random = {output for output, outcome in self._outcomes.items() if outcome.random}
        found = originals(self._export, self._key, self._here, self._tolerance, random)
        self._original = found.details
        self.problems += found.problems
        self.warnings += found.warnings

    # As a server optimises it

    def _judge_optimized(self, asked: Sequence[Trial], written: Sequence[Answers], optimized: Sequence[Answer]) -> None:
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
                    self._judge_optimized_output(trial, alias, a[alias], b[alias])

    def _judge_optimized_output(self, trial: Trial, alias: str, written: np.ndarray, optimized: np.ndarray) -> None:
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


def _ask_and_end(context: ExitStack, ask: Callable[..., T], *arguments: Any) -> T:
    """Ask a side, and end its process."""
    with context:
        return ask(*arguments)


def _worse(answers: Answers) -> Answer:
    return next((answer for answer in answers if isinstance(answer, Refusal)), answers[0])
