"""The proof of one meta graph: every signature answers as the training graph does, or a problem says where not."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from exportkit.contract import Export
from exportkit.errors import Problem
from exportkit.samples import Batch
from exportkit.verifying.parity import refusals
from exportkit.verifying.parity.beginning import elsewhere
from exportkit.verifying.parity.divergence import Tolerance
from exportkit.verifying.parity.judge import Failure, Judge
from exportkit.verifying.parity.origin import origins
from exportkit.verifying.parity.originals import originals
from exportkit.verifying.parity.sides import Answered, Sides
from exportkit.verifying.parity.trials import Trial


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
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.unverified: list[str] = []

    def prove(self) -> dict[str, Any]:
        """Run both sides and compare.

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
        with Sides(self._export, self._key, self._sizes, self._timeout) as sides:
            answered = sides.ask()
        self.warnings += [
            f"signatures.{name}: post.verify.batch_sizes is left out of account, as {batch.unbatched}"
            for name, batch in answered.batches.items()
            if self._sizes and not batch.rows and batch.unbatched
        ]
        judge = Judge(self._export, self._key, sides.here.meta, self._tolerance, self._sizes)
        original = self._judge(judge, sides, answered)
        self.problems, self.warnings = self.problems + judge.problems, self.warnings + judge.warnings
        if not self.problems:
            self._judge_unsampled(answered.batches)
        described = {"training graph": sides.there.note, "seconds": dict(sorted(sides.seconds.items()))}
        return {**described, "signatures": _described(answered, judge), **({"original model": original} if original else {})}

    def _judge(self, judge: Judge, sides: Sides, answered: Answered) -> dict[str, Any]:
        """Judge all answers, and return how the export compares with those of the original model."""
        asked, written = answered.asked, answered.written
        failed = judge.compare(asked, answered.there, written)
        failed += _judge_random(judge, sides, asked)
        judge.problems += [] if judge.problems or failed else judge.uncompared(asked)
        judge.problems += origins(failed, self._export, self._key, sides.there, sides.here, self._tolerance)
        original: dict[str, Any] = {}
        if not judge.problems:
            random = {output for output, outcome in judge.outcomes.items() if outcome.random}
            found = originals(self._export, self._key, sides.here, self._tolerance, random)
            judge.problems += found.problems
            judge.warnings += found.warnings
            original = found.details
        if not judge.problems:
            judge.compare_optimized(asked, written, answered.optimized)
        return original

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


def _judge_random(judge: Judge, sides: Sides, asked: Sequence[Trial]) -> list[Failure]:
    """Compare what is random on both sides, and not in step, once more with seeds that both are given."""
    if judge.problems:
        return []
    asked = [trial for trial in asked if trial.signature in dict(judge.out_of_step)]
    answers = sides.seeded(asked) if asked else ()
    random = (output for output, outcome in judge.outcomes.items() if outcome.random)
    return [failure for output in random for failure in judge.compare_seeded(output, asked, answers)]


def _described(answered: Answered, judge: Judge) -> dict[str, Any]:
    """Return signature → what it was asked and how it answered."""

    def signature(name: str, batch: Batch) -> dict[str, Any]:
        rows = [trial.rows for trial in answered.asked if trial.signature == name and trial.rows and not trial.doubtful]
        outputs = {alias: asdict(outcome) for (of, alias), outcome in judge.outcomes.items() if of == name}
        if batch.refusal and batch.drawn:
            return {"not verified": refusals.describe_untaken(batch), "outputs": {}}
        known = {"inputs": dict(batch.axes), "batching": batch.unbatched or "yes"}
        return {"samples": ", ".join(batch.notes) or "as given", "rows": rows, **known, "outputs": outputs}

    return {name: signature(name, batch) for name, batch in answered.batches.items()}
