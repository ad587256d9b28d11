"""Both sides of a proof in their processes: in which order they run, and what they answer to the same questions."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TypeVar

from exportkit.contract import Export
from exportkit.protos import ConfigProto
from exportkit.samples import Batch
from exportkit.serving import tried_samples
from exportkit.serving.running import Running, unoptimized
from exportkit.verifying.parity.beginning import both_fit, moved_export, training_graph
from exportkit.verifying.parity.trials import Answer, Answers, Asked, MovedExport, Trial, trials

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Answered:
    """What both sides answered.

    Attributes:
        batches: signature → sample.
        asked: the questions.
        there: the training graph's answers.
        written: those of the export as it is written.
        optimized: those of the export as a server optimises it.
    """

    batches: Mapping[str, Batch]
    asked: Sequence[Trial]
    there: Sequence[Answers]
    written: Sequence[Answers]
    optimized: Sequence[Answer]


class Sides:
    """The training graph and the export of one meta graph; a context manager that ends the processes that were begun.

    Args:
        sizes: numbers of rows to try; empty: 1, and all of the sample's but at least 2.
        timeout: seconds that starting a model, or one run of it, may take.

    Attributes:
        there: the training graph.
        here: the export.
        seconds: what ran → for how long.
    """

    def __init__(self, export: Export, key: str, sizes: Sequence[int], timeout: float):
        self._export, self._key, self._sizes, self._timeout = export, key, sizes, timeout
        self._together = both_fit(export, key)
        self._open = ExitStack()
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> "Sides":
        self.there = training_graph(self._export, self._key, self._timeout)
        self._open.callback(self.there.close)
        self.here = moved_export(self._export, self._key, self._timeout)
        self._open.callback(self.here.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def ask(self) -> Answered:
        """Ask both sides: at the same time, or one after the other where memory does not hold both.

        Raises:
            StepFailed: a side does not run at all.
            ConfigError: a sample does not fit.
            EnvironmentFailed: a process was killed from outside.
        """
        return self._ask_together() if self._together else self._ask_in_turn()

    def _ask_together(self) -> Answered:
        with ExitStack() as there, ExitStack() as here:
            running, (model, written) = _at_once(partial(self._start_training_graph, there), partial(self._start_export, here))
            batches = self._batches(running, written)
            asked = trials(self._export, self._key, batches, self._sizes)
            theirs, ours = _at_once(
                partial(self._ask_training_graph, there, running, asked),
                lambda: (self._ask_written(written, asked), self._ask_optimized(model, asked)),
            )
        return Answered(batches, asked, theirs, *ours)

    def _ask_in_turn(self) -> Answered:
        """Ask with no two sessions in memory at once."""
        with ExitStack() as there, ExitStack() as here:
            model, written = self._start_export(here)
            batches = self._batches(None, written)
            asked = trials(self._export, self._key, batches, self._sizes)
            ours = self._ask_written(written, asked)
            optimized = None if self.here.keeps_state else self._ask_optimized(model, asked, twice=True)
            self.here.end_process()
            theirs = self._ask_training_graph(there, self._start_training_graph(there), asked)
            if optimized is None:
                optimized = self._ask_optimized(model, asked)
            return Answered(batches, asked, theirs, ours, optimized)

    def seeded(self, asked: Sequence[Trial]) -> tuple[list[Answers], ...]:
        """Return the answers of the training graph, of the export, and of the export in another process, with seeds given."""
        here = MovedExport(self._export, self._key, self._timeout, seeded=True)
        if not self._together:
            here.end_process()  # its memory is for the training graph now
        there, first = self.there.answers(asked, seeded=True), here.answers(asked, unoptimized())
        here.end_process()
        return there, first, here.answers(asked, unoptimized())

    def _start_training_graph(self, context: ExitStack) -> Asked:
        return self._timed("training graph", partial(context.enter_context, self.there.running()))

    def _start_export(self, context: ExitStack) -> tuple[Running, Running]:
        """Return the export in its first session, and as it is written."""

        def start() -> tuple[Running, Running]:
            model = context.enter_context(self.here.running(self.here.first_config()))
            return model, self.here.as_written(model)

        return self._timed("export", start)

    def _batches(self, running: Asked | None, model: Running) -> dict[str, Batch]:
        """Return the samples of the signatures, values that are drawn among those that both sides take.

        The sides that are compared are asked for them, which saves a load. Where an answer changes what the next one is, they
        would be out of step: then the training graph is not asked, and the export's session is a new one after it. Nor is it
        asked while it does not run.
        """
        signatures = self._export.prepared.parts[self._key].wiring.signatures
        also = None if running is None or self.here.keeps_state else partial(self.there.refusal, running)
        search = partial(tried_samples.found, self._export, self._key, self._timeout, model=model, also=also)
        found = self._timed("samples", search)
        if self.here.keeps_state:
            model.renew()
        return {name: batch for name, batch in found.items() if name in signatures}

    def _ask_training_graph(self, context: ExitStack, running: Asked, asked: Sequence[Trial]) -> list[Answers]:
        """Return its answers, and end its process."""
        with context:
            return self._timed("training graph", partial(self.there.ask, running, asked))

    def _ask_written(self, model: Running, asked: Sequence[Trial]) -> list[Answers]:
        """Return the answers of the export as it is written."""
        return self._timed("export", partial(self.here.ask, model, asked))

    def _ask_optimized(self, model: Running, asked: Sequence[Trial], *, twice: bool = False) -> list[Answer]:
        """Return the answers of the export as a server has optimised it; of a new session where each changes the next one.

        Args:
            twice: whether a second answer is remembered for the steps behind this one.
        """
        with self.here.running(ConfigProto()) if self.here.keeps_state else nullcontext(model) as optimized:
            answers = self._timed("export, optimized", partial(self.here.ask_once, optimized, asked))
            if twice:
                self._timed("export, optimized", partial(self.here.ask, optimized, asked))
            optimized.serves = "" if self.here.keeps_state else self._key  # the steps behind this one need load no other
        return answers

    def _timed(self, name: str, call: Callable[[], T]) -> T:
        started = perf_counter()
        try:
            return call()
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + perf_counter() - started, 2)


def _at_once(theirs: Callable[[], T], ours: Callable[[], U]) -> tuple[T, U]:
    """Do both at the same time, to their ends."""
    with ThreadPoolExecutor(2) as pool:
        there, here = pool.submit(theirs), pool.submit(ours)
    return there.result(), here.result()
