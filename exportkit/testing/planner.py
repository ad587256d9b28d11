"""Imports and plans in processes that have not imported TensorFlow, forked from one that has what every plan needs."""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_CODE = """
import importlib, json, os, sys, time
import exportkit, exportkit.planning.plan, exportkit.registry, numpy  # no plugin's module is among what these import

for line in sys.stdin:
    request = json.loads(line)
    if child := os.fork():
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\\n")
        sys.stdout.flush()
        continue
    os.chdir(request["directory"])
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = ["", *request["path"]]
    importlib.invalidate_caches()
    importlib.import_module(request["module"])
    early = "tensorflow" in sys.modules
    plugins = exportkit.load_plugins()
    started = time.process_time()
    exportkit.plan(json.load(open("config.json")), plugins)
    seconds = time.process_time() - started
    json.dump([early, "tensorflow.python" in sys.modules, seconds], open("outcome.json", "w"))
    break
"""


class Outcome(NamedTuple):
    """Whether importing a module imported TensorFlow, whether planning did, and the plan's seconds of CPU time."""

    early: bool
    late: bool
    seconds: float


def plan(module: str, config: Mapping[str, Any], directory: Path) -> tuple[int, str, Outcome | None]:
    """Import a module and plan an export in a process of its own, with the environment and the path of this one.

    Args:
        module: the plugin's.
        config: of the export.
        directory: the working directory of that process; files are written into it.

    Returns:
        The exit code, what was printed, and the outcome; None where the process failed.
    """
    (directory / "config.json").write_text(json.dumps(config))
    path = [entry for entry in sys.path if entry]
    request = {"module": module, "directory": str(directory), "environment": dict(os.environ), "path": path}
    code = _planner().ask(json.dumps(request))
    outcome = directory / "outcome.json"
    return code, (directory / "printed").read_text(), Outcome(*json.loads(outcome.read_text())) if code == 0 else None


class _Planner:
    """The process that the others are forked from."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # no threads beside the one that forks
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", _CODE], stdin=pipe, stdout=pipe, text=True, env=environment)
        atexit.register(self._close)

    def ask(self, request: str) -> int:
        """Return the exit code of the fork that answered `request`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{request}\n")
            self._process.stdin.flush()
        return int(self._process.stdout.readline() or self._process.wait())

    def _close(self) -> None:
        with suppress(BrokenPipeError), self._process:
            self._process.kill()


@cache
def _planner() -> _Planner:
    return _Planner()
