"""The models that are served: which versions are on disk, loaded and labelled, and who answers a request.

As in a model server, a new version becomes available before the one that it replaces is unloaded, which waits for its requests.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from exportkit.errors import BindingError, ExportKitError, Problem, StepFailed, system_error
from exportkit.server.model_config import Model, versions_in
from exportkit.server.servable import Servable
from exportkit.server.status import Status, invalid

RETRIES, RETRY_SECONDS = 5, 60.0  # max_num_load_retries and load_retry_interval_micros of tensorflow_model_server


class State(IntEnum):
    """The state of a version, as in get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionState:
    """A version's state, and the error that its load ended with."""

    state: State
    error: Status | None = None


@dataclass(frozen=True)
class Spec:
    """What a request names: a model, and a version or a label; neither: the highest available version."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass
class _Failure:
    """A version that does not load: how often that was tried, when it is tried again, and why it failed."""

    times: int
    again: float
    error: ExportKitError


class Models:
    """All models of a server; every method may be called by any thread.

    Args:
        tags: exactly the tags of the meta graphs to serve.
        allowed: what the graphs may do beyond computing, as in ``allow.ops`` of a config.
        report: called with a line for each event.
    """

    def __init__(self, tags: Sequence[str], allowed: Collection[str] = (), report: Callable[[str], None] = lambda _: None):
        self._tags, self._allowed, self._report = tags, allowed, report
        self._changing = threading.Lock()  # one change of what is served at a time
        self._lock = threading.Condition()  # for what follows
        self._models: dict[str, Model] = {}
        self._available: dict[str, dict[int, Servable]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._users: dict[Servable, int] = {}
        self._failures: dict[tuple[str, int], _Failure] = {}
        self._warned: dict[str, str] = {}

    def start(self, models: Sequence[Model]) -> None:
        """Load the models; all of them must load.

        Raises:
            BindingError: one of them can do what is not allowed, or cannot be read.
            StepFailed: one of them has no version to serve, or does not load.
        """
        with self._changing:
            self._set(models)
            self._sync()
        found = [failure.error for failure in self._failures.values()]
        missing = [name for name in self._models if not self._available.get(name)]
        failed = {name for name, _ in self._failures}
        problems = [problem for error in found for problem in error.problems]
        problems += [self._nothing(self._models[name]) for name in missing if name not in failed]
        if problems:
            kind = BindingError if any(isinstance(error, BindingError) for error in found) else StepFailed
            raise kind(*problems)
        self._check_labels(models)

    def _nothing(self, model: Model) -> Problem:
        return Problem(
            str(model.base), f"has no version that model {model.name} would serve", "export one, or change its policy"
        )

    def _check_labels(self, models: Sequence[Model]) -> None:
        wrong = [(model, label, number) for model in models for label, number in model.labels.items()]
        for model, label, number in wrong:
            if number not in self._available.get(model.name, {}):
                self._report(f"{model.name}: the label {label} is of version {number}, which is not served")

    def reload(self, models: Sequence[Model]) -> None:
        """Serve other models; returns when what is new is loaded.

        Raises:
            Status: a label is of a version that is not available, and nothing was changed; a new model does not load.
        """
        with self._changing:
            self._refuse_labels(models)
            new = {model.name for model in models} - self._models.keys()
            self._set(models)
            self._sync()
            if missing := sorted(name for name in new if not self._available.get(name)):
                raise Status("UNKNOWN", f"Some models did not become available: {{{', '.join(missing)}}}")

    def _refuse_labels(self, models: Sequence[Model]) -> None:
        for model in models:
            for _, number in sorted(model.labels.items()):
                if number not in self._available.get(model.name, {}):
                    what = (
                        f"Request to assign label to version {number} of model {model.name}, which is not currently available"
                    )
                    raise Status("FAILED_PRECONDITION", f"{what} for inference")

    def _set(self, models: Sequence[Model]) -> None:
        with self._lock:
            self._models = {model.name: model for model in models}

    def poll(self) -> None:
        """Look for versions that came or went, and load and unload accordingly."""
        with self._changing:
            self._sync()

    def stop(self, seconds: float = -1) -> None:
        """End all processes.

        Args:
            seconds: to wait for a change under way, such as a load, whose process then ends with this one; -1: for ever.
        """
        changing = self._changing.acquire(timeout=seconds)
        with self._lock:
            servables = [servable for versions in self._available.values() for servable in versions.values()]
            self._available = {}
        for servable in servables:
            servable.unload()
        if changing:
            self._changing.release()

    @contextmanager
    def use(self, spec: Spec) -> Iterator[Servable]:
        """Give the version that answers a request; it is not unloaded meanwhile.

        Raises:
            Status: there is none.
        """
        with self._lock:
            servable = self._find(spec)
            self._users[servable] = self._users.get(servable, 0) + 1
        try:
            yield servable
        finally:
            with self._lock:
                self._users[servable] -= 1
                if not self._users[servable]:
                    del self._users[servable]
                    self._lock.notify_all()

    def _find(self, spec: Spec) -> Servable:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        versions, number = self._available.get(spec.name, {}), spec.version
        if spec.label is not None:
            labels = self._models[spec.name].labels if spec.name in self._models else {}
            if spec.label not in labels:
                raise invalid(f"Unrecognized servable version label: {spec.label}")
            number = labels[spec.label]
        if number is None and versions:
            return versions[max(versions)]
        if number is not None and number in versions:
            return versions[number]
        asked = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise Status("NOT_FOUND", f"Servable not found for request: {asked}")

    def states(self, name: str, version: int | None = None) -> dict[int, VersionState]:
        """Return the states of a model's versions, of those that were unloaded too, the highest first.

        Raises:
            Status: there is none.
        """
        with self._lock:
            known = dict(self._states.get(name, {}))
        if version is not None:
            if version not in known:
                raise Status("NOT_FOUND", f"Could not find version {version} of model {name}")
            return {version: known[version]}
        if not known:
            raise Status("NOT_FOUND", f"Could not find any versions of model {name}")
        return dict(sorted(known.items(), reverse=True))

    def listed(self) -> dict[str, dict[int, Servable]]:
        """Return model → number → version, of those that are available."""
        with self._lock:
            return {name: dict(versions) for name, versions in sorted(self._available.items()) if versions}

    def labels(self, name: str) -> Mapping[str, int]:
        """Return label → version."""
        with self._lock:
            return dict(self._models[name].labels) if name in self._models else {}

    def _sync(self) -> None:
        """Load what shall be served and unload what shall not; the caller holds `_changing`."""
        for model in list(self._models.values()):
            present = self._present(model)
            if present is not None:
                self._sync_model(model, present)
        for name in self._available.keys() - self._models.keys():
            self._unload(name, list(self._available[name]))

    def _present(self, model: Model) -> dict[int, Path] | None:
        try:
            present = versions_in(model.base)
        except OSError as error:
            self._warn(model.name, f"{model.base} cannot be listed: {(error.strerror or '').lower()}; what is served stays")
            return None
        missing = sorted((model.versions or frozenset()) - present.keys())
        self._warn(model.name, f"version {', '.join(map(str, missing))} is not in {model.base}" if missing else "")
        return present

    def _warn(self, name: str, text: str) -> None:
        """Report a warning once, until it is another one."""
        if text and self._warned.get(name) != text:
            self._report(f"{name}: {text}")
        self._warned[name] = text

    def _sync_model(self, model: Model, present: Mapping[int, Path]) -> None:
        aspired = model.aspired(list(present))
        for key in [key for key in self._failures if key[0] == model.name and key[1] not in aspired]:
            del self._failures[key]
        for number in sorted(aspired - self._available.get(model.name, {}).keys()):
            self._load(model.name, number, present[number])
        available = self._available.get(model.name, {}).keys()
        if not aspired or aspired & available:  # availability_preserving_policy.cc
            self._unload(model.name, sorted(available - aspired))

    def _load(self, name: str, number: int, directory: Path) -> None:
        failure = self._failures.get((name, number))
        if failure and (failure.times > RETRIES or time.monotonic() < failure.again):
            return
        self._become(name, number, State.LOADING)
        servable = Servable(name, number, directory, self._tags, self._allowed)
        try:
            servable.load()
        except (ExportKitError, OSError) as cause:
            error = system_error(cause, directory) if isinstance(cause, OSError) else cause
            times = failure.times + 1 if failure else 1
            self._failures[name, number] = _Failure(times, time.monotonic() + RETRY_SECONDS, error)
            self._become(name, number, State.END, Status("FAILED_PRECONDITION", str(error)))
            if times == 1:
                self._report(f"{name} {number} cannot be served: {error}")
            return
        self._failures.pop((name, number), None)
        with self._lock:
            self._available.setdefault(name, {})[number] = servable
        self._become(name, number, State.AVAILABLE)
        self._report(f"{name} {number} is available")

    def _unload(self, name: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            with self._lock:
                servable = self._available[name].pop(number)
                self._lock.wait_for(lambda: servable not in self._users)  # noqa: B023 - called in this turn only
            self._become(name, number, State.UNLOADING)
            servable.unload()
            self._become(name, number, State.END)
            self._report(f"{name} {number} was unloaded")

    def _become(self, name: str, number: int, state: State, error: Status | None = None) -> None:
        with self._lock:
            self._states.setdefault(name, {})[number] = VersionState(state, error)
