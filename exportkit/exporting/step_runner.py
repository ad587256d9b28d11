"""Post steps, run one by one under guard: what each may change in the version, how long it may take, what it returns."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, Literal

from exportkit.contract import Export, Phase, PostStep, signatures_of, under_reporter
from exportkit.errors import DISK_ERRNOS, NETWORK, ExportKitError, Problem, StepFailed, brief_in, some, system_error
from exportkit.exporting.snapshot import Siblings, Watch
from exportkit.registry import Plugins
from exportkit.report import StepReport

Stray = tuple[str, threading.Thread]
_ADDS = (Phase.AUGMENT, Phase.SEAL, Phase.SIGN)


def begin_steps(plugins: Plugins, export: Export, stage: Literal["begin", "begin_written"]) -> None:
    """Let each step of the plan start what goes on beside the writing.

    Args:
        stage: the method of `PostStep` that is called.

    Raises:
        StepFailed: a step broke down.
        ExportKitError: what else a step raised on purpose.
    """
    for name, step in export.plan.post.items():
        guard = _Guard(name, step, str(plugins.providers.get(type(step))), [])
        with _attributed(guard, None):
            guard.begin(export, stage)


def run_steps(plugins: Plugins, export: Export, progress: Callable[[str], None], *phases: Phase) -> None:
    """Run the steps of `phases` in the plan's order.

    Raises:
        StepFailed: a step refused, broke down, took too long, returned junk, or changed what it may not.
        ExportKitError: what else a step raised on purpose.
    """
    strays: list[Stray] = []
    for name, step in export.plan.post.items():
        if step.phase in phases:
            progress(name)
            guard = _Guard(name, step, str(plugins.providers.get(type(step))), strays)
            with export.report.stage(name), _attributed(guard, export if step.phase is Phase.PUBLISH else None):
                _run(guard, export)


def _run(guard: "_Guard", export: Export) -> None:
    line = StepReport(kind=guard.step.kind, phase=guard.step.phase.name, status="failed")
    export.report.steps.append(line)
    started = perf_counter()
    try:
        watch, beside = Watch(export.directory), Siblings(export.plan.export_dir)
        with guard.surroundings(export.report.warnings):
            answer = guard.answer(export)
        guard.check(watch)
        export.report.warnings += guard.version_warnings(beside.appeared(), export.plan.export_dir)
        line.details = guard.details(answer)
        line.status = str(line.details.get("status", "passed"))
    finally:
        line.seconds = perf_counter() - started


@contextmanager
def _attributed(guard: "_Guard", published: Export | None) -> Iterator[None]:
    """Add to each problem the step that it is of, and where a published version stays."""
    try:
        yield
    except ExportKitError as error:
        problems = (_naming(guard, problem) for problem in error.problems)
        error.args = tuple(_staying(problem, published) if published else problem for problem in problems)
        raise


def _naming(guard: "_Guard", problem: Problem) -> Problem:
    place = f"post.{guard.name}"
    if not problem.where:
        return problem.located(guard.where)
    if problem.where.startswith(place):  # the guard's own
        return problem
    return under_reporter(problem, guard.step, place) or replace(problem, what=f"{problem.what} ({place})")


def _staying(problem: Problem, published: Export) -> Problem:
    stays = f"version {published.version} stays in {published.directory}"
    return replace(problem, do="; ".join(filter(None, [problem.do, stays])))


class _Guard:
    """A step with its name in the config and its plugin; `strays` are the threads that steps left running so far."""

    def __init__(self, name: str, step: PostStep, provider: str, strays: list[Stray]):
        self.name, self.step, self.provider, self.strays = name, step, provider, strays

    @property
    def where(self) -> str:
        return f"post.{self.name} ({self.provider})"

    def failure(self, what: str, do: str = "") -> StepFailed:
        return StepFailed(Problem(self.where, what, do))

    def begin(self, export: Export, stage: str) -> None:
        """Call one of the step's methods that begin; anything but exportkit's errors is raised as the step's failure."""
        try:
            getattr(self.step, stage)(export)
        except ExportKitError:
            raise
        except (Exception, SystemExit) as cause:
            raise self.failure(*_describe_failure(cause, self.step, export)) from cause

    def answer(self, export: Export) -> Any:
        """Return what the step returns; anything but exportkit's errors is raised as the step's failure."""
        try:
            return _run_within(self.step.timeout, lambda: self.step.run(export))
        except _TooLong:
            do = f"set post.{self.name}.timeout higher, or to null for no limit"
            raise self.failure(f"ran longer than its timeout of {self.step.timeout:g} s", do) from None
        except ExportKitError:
            raise
        except (Exception, SystemExit) as cause:
            raise self.failure(*_describe_failure(cause, self.step, export)) from cause

    def check(self, watch: Watch) -> None:
        """Raise StepFailed if the version was changed in a way that the step's phase does not allow."""
        found, phase = watch.changes(), self.step.phase
        if found.changed or found.removed or (found.added and phase not in _ADDS):
            rule = "may add files and nothing else" if phase in _ADDS else "may not touch the version"
            raise self.failure(str(found), f"a step of phase {phase.name} {rule}{self._suspects()}")
        if found.odd:
            raise self.failure(f"added {', '.join(found.odd)}, which is not a plain file", "copy what it points to")
        if phase is Phase.SIGN:
            self._check_signatures({name for name in found.added if not name.endswith("/")})

    def _check_signatures(self, added: set[str]) -> None:
        """Raise StepFailed unless a step of SIGN added just the files that the manifest names as its signatures."""
        named = signatures_of(self.step)
        if added - named:
            do = f"a step of phase SIGN adds only its signature_files ({some(sorted(named)) or 'it names none'})"
            raise self.failure(f"added {', '.join(sorted(added - named))}", do)
        if named - added:
            raise self.failure(f"did not write {', '.join(sorted(named - added))}", "it is among its signature_files")

    def version_warnings(self, versions: Sequence[int], base: Path) -> list[str]:
        """Return warnings of versions that appeared beside this one while the step ran."""
        return [
            f"post.{self.name}: while it ran, version {number} appeared in {base}, and a server may serve it; "
            "if no other export made it, the step did"
            for number in versions
        ]

    def _suspects(self) -> str:
        """Return the other steps that may have done it: those whose threads still run beside this step."""
        others = [(name, stray) for name, stray in self.strays if stray.is_alive() and name != self.name]
        threads = [f"post.{name}, whose thread '{stray.name}' still runs" for name, stray in others]
        return f" (or did it {', or '.join(threads)}?)" if threads else ""

    def details(self, answer: Any) -> dict[str, Any]:
        """Return what the step returned as a plain mapping. Raises StepFailed if a report cannot hold it."""
        if not isinstance(answer, Mapping | None):
            raise self.failure(f"returned a {type(answer).__name__}", "return a mapping for the report, or nothing")
        try:
            json.dumps(answer)
        except (TypeError, ValueError, RecursionError) as cause:
            raise self.failure(
                f"returned what JSON cannot hold: {cause}", "return texts, numbers, lists and mappings"
            ) from None
        return dict(answer or {})

    @contextmanager
    def surroundings(self, warnings: list[str]) -> Iterator[None]:
        """Warn of threads that the step leaves running, and set the working directory back."""
        here, threads = _working_directory(), set(threading.enumerate())
        try:
            yield
        finally:
            for thread in threading.enumerate():
                if thread not in threads and thread.name != _THREAD:
                    self.strays.append((self.name, thread))
                    warnings.append(f"post.{self.name}: left the thread '{thread.name}' running")
            if here is not None and _working_directory() != here:
                os.chdir(here)
                warnings.append(f"post.{self.name}: left the working directory for another; it was set back")


def _describe_failure(cause: BaseException, step: PostStep, export: Export) -> tuple[str, str]:
    """Return what went wrong and what to do; the latter is known where the machine or the network refused."""
    if isinstance(cause, OSError):
        refused = system_error(cause, export.directory).problems[0]
        if refused.where == NETWORK or cause.filename is not None or cause.errno in DISK_ERRNOS:
            return f"{refused.where}: {refused.what}", refused.do
    return f"raised {brief_in(cause, type(step).__module__)}", ""


class _TooLong(Exception):
    pass


_THREAD = "exportkit-step"


def _run_within(seconds: float | None, work: Callable[[], Any]) -> Any:
    """Run `work` in this thread, or, with a limit in seconds, in one that is abandoned when its time is up.

    Nothing can stop a thread that hangs in C code. An abandoned one ends with the process; until then it works on a version
    that will never be published. Returns and raises what `work` does; raises _TooLong.
    """
    if seconds is None:
        return work()
    done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    threading.Thread(target=_deliver, args=(work, done), name=_THREAD, daemon=True).start()
    try:
        answer, error = done.get(timeout=min(seconds, threading.TIMEOUT_MAX))
    except Empty:
        raise _TooLong from None
    if error is not None:
        raise error
    return answer


def _deliver(work: Callable[[], Any], done: SimpleQueue) -> None:
    try:
        done.put((work(), None))
    except BaseException as error:
        done.put((None, error))


def _working_directory() -> str | None:
    """Return the working directory; None if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
