"""A version of a model as the server holds it: loaded, warmed up, asked by many threads, unloaded."""

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exportkit.errors import ExportKitError, Problem, StepFailed
from exportkit.processes import WorkerDied
from exportkit.protos import SignatureDef
from exportkit.server import inference
from exportkit.server.status import Status
from exportkit.server.worker import Overdue, Worker
from exportkit.serving import loading, warmup

LOAD_SECONDS = 600.0  # that a load, or a warmup request, may take


class Servable:
    """A version of a model.

    A run that kills its process is an error of that run alone. All runs that were under way are done again, one after the
    other, in a second process; so the one that kills that as well is known, and the others are answered.

    Args:
        name: of the model.
        number: of the version.
        directory: a SavedModel.
        tags: exactly the tags of the meta graph to serve.
        allowed: what the graph may do beyond computing its answers, as in ``allow.ops`` of a config.

    Attributes:
        signatures: key → SignatureDef, once it is loaded.
        restarts: how often its process was started again.
    """

    def __init__(self, name: str, number: int, directory: Path, tags: Sequence[str], allowed: Collection[str] = ()):
        self.name, self.number, self.directory = name, number, directory
        self.signatures: Mapping[str, SignatureDef] = {}
        self.restarts = 0
        self._tags, self._allowed = tags, allowed
        self._message: Any = None
        self._worker: Worker | None = None
        self._second: Worker | None = None
        self._starting, self._alone, self._counting = threading.Lock(), threading.Lock(), threading.Lock()
        self._suspects = 0
        self._unloaded = False

    def load(self) -> None:
        """Audit the version, load it, and run its warmup requests.

        Raises:
            ExportKitError: it cannot be read, can do what is not allowed, does not load, or refuses a warmup request.
        """
        meta, self._message = loading.loadable(self.directory, self._tags, self._allowed, _advice)
        self.signatures = dict(meta.signature_def)
        try:
            self._worker = self._started()
            self._warm_up()
        except BaseException:
            self.unload()
            raise

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float) -> list[np.ndarray]:
        """Run the graph once, by tensor names; any thread may.

        Raises:
            Status: TensorFlow's error; DEADLINE_EXCEEDED after `timeout` seconds; INTERNAL where it killed its process.
        """
        try:
            return self._living().run(feeds, fetches, timeout)
        except Overdue:
            raise _late(timeout) from None
        except WorkerDied:
            return self._run_alone(feeds, fetches, timeout)

    def unload(self) -> None:
        """End its processes; nothing may run any more."""
        with self._starting, self._alone:
            self._unloaded = True
            for worker in filter(None, (self._worker, self._second)):
                worker.stop()
            self._worker = self._second = None

    def _started(self) -> Worker:
        try:
            return Worker(self.directory, self._message, LOAD_SECONDS)
        except Status as status:
            raise StepFailed(Problem(str(self.directory), f"loading: {status}")) from None
        except WorkerDied as end:
            raise end.death.error(str(self.directory), "loading: its process") from None

    def _living(self) -> Worker:
        """Return the process, a new one if it is dead."""
        with self._starting:
            if self._unloaded or self._worker is None:
                raise self._gone()
            if self._worker.dead:
                self._worker.stop()
                self._worker = self._restarted()
                self.restarts += 1
            return self._worker

    def _gone(self) -> Status:
        return Status("UNAVAILABLE", f"Version {self.number} of model {self.name} was unloaded")

    def _restarted(self) -> Worker:
        try:
            return self._started()
        except ExportKitError as error:
            raise Status("UNAVAILABLE", f"Its process died and cannot be started again: {error}") from None

    def _run_alone(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float) -> list[np.ndarray]:
        """Do a run in a process that does nothing else, after the one that it shared died."""
        with self._counting:
            self._suspects += 1
        try:
            with self._alone:
                if self._unloaded:
                    raise self._gone()
                if self._second is None:
                    self._second = self._restarted()
                try:
                    return self._second.run(feeds, fetches, timeout)
                except (WorkerDied, Overdue) as end:
                    self._second.stop()
                    self._second = None
                    if isinstance(end, Overdue):
                        raise _late(timeout) from None
                    what = f"The process that computed it {end.death}; tensorflow_model_server itself would have ended"
                    raise Status("INTERNAL", what) from None
        finally:
            self._forget_suspect()

    def _forget_suspect(self) -> None:
        """Stop the second process after the last run that needed it."""
        with self._alone, self._counting:
            self._suspects -= 1
            if not self._suspects and self._second:
                self._second.stop()
                self._second = None

    def _warm_up(self) -> None:
        file = self.directory / warmup.FILE
        if not file.exists():
            return
        for number, logged in warmup.read_warmup(file):
            try:
                self._answer(logged)
            except Status as status:
                what = f"record {number} ({logged.signature}): {status}"
                raise StepFailed(Problem(str(file), what, "without it the version loads; write it again")) from None

    def _answer(self, logged: warmup.Logged) -> None:
        if logged.method == "predict":
            inference.predict(self, logged.signature, logged.inputs, LOAD_SECONDS)
        elif logged.method == "classify":
            inference.classify(self, logged.signature, logged.inputs["inputs"], LOAD_SECONDS)
        else:
            inference.regress(self, logged.signature, logged.inputs["inputs"], LOAD_SECONDS)


def _advice(allowance: str) -> str:
    return f"--allow {allowance} serves it if it may do that"


def _late(timeout: float) -> Status:
    return Status("DEADLINE_EXCEEDED", f"It took longer than {timeout:g} s")
