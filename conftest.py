"""How much the tests of exportkit and of its plugins check, and what they need.

A quick run has fewer cases of each test, and a part of the slow ones; ``EXPORTKIT_THOROUGH=1`` has all of them. What scales
is said with the test: ``@pytest.mark.quick(5)`` for the cases of a parametrized test or the tests of a class or module (where
files are named, all of them run); the fixture `breadth` for a count in a test's body; Hypothesis' profile for drawn examples.
"""

import compileall
import gc
import importlib.util
import os
import re
import shutil
import signal
import sys
from collections import Counter, defaultdict

import pytest

from exportkit.cli import COLLECTED

_BEFORE, sys.dont_write_bytecode = sys.dont_write_bytecode, False  # pytest rewrites Hypothesis: that takes a second
from hypothesis import HealthCheck, settings  # noqa: E402

sys.dont_write_bytecode = _BEFORE

THOROUGH = os.environ.get("EXPORTKIT_THOROUGH", "0") not in ("", "0")

# the same examples in each run: what is drawn anew is for the campaigns of `benchmarks/`
settings.register_profile(
    "quick", max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("quick"), max_examples=200)
settings.load_profile("thorough" if THOROUGH else "quick")


def pytest_configure(config):
    gc.set_threshold(COLLECTED)  # as the first test of a command would
    # in the background of a script Ctrl-C is ignored, under nohup SIGHUP: processes that a test signals would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if not hasattr(config, "workerinput"):
        # where PYTHONDONTWRITEBYTECODE is set, each process that a test starts would compile these modules: 0.3 s of CPU time
        for package in ("exportkit", *config.rootpath.glob("plugins/*/exportkit_*")):
            compileall.compile_dir(config.rootpath / package, quiet=2)


def pytest_xdist_auto_num_workers():
    """One worker more than cores: tests also wait, for processes, locks and disks."""
    return (os.cpu_count() or 1) + 1


def pytest_report_header():
    return "breadth: thorough" if THOROUGH else "breadth: quick; all of it: make test THOROUGH=1"


@pytest.fixture(scope="session")
def breadth():
    """``breadth(quick, thorough)``: the one that this run takes."""
    return lambda quick, thorough: thorough if THOROUGH else quick


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Where all files are collected, import TensorFlow first, without Keras, and look for no garbage: half of the time.

    What pytest makes of the files is kept, also where PYTHONDONTWRITEBYTECODE is set: to make it takes each worker 3 s.
    """
    collects = hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses", None)
    if not collects or not _of_testpaths(session.config):
        return (yield)
    from exportkit.processes.tensorflow import preload_tensorflow

    preload_tensorflow()
    gc.disable()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Of what is marked ``quick(n)`` leave n cases, spread over all, unless files are named; order what is left."""
    marked = defaultdict(list)
    for item in items if _of_testpaths(config) and not THOROUGH else ():
        for node, mark in item.iter_markers_with_node("quick"):
            scope = (node.parent.nodeid, node.originalname) if node is item else node.nodeid
            marked[scope, *mark.args].append(item)
    dropped = {item for (_, n), found in marked.items() for item in _all_but(n, found)}
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = [item for item in items if item not in dropped]
    if _of_testpaths(config):
        items[:] = _long_first(items, getattr(config, "workerinput", {}).get("workercount", 1))


def _long_first(items, workers):
    """Return the tests in an order in which none of the long ones begins late: files with slow tests are first in each share.

    pytest-xdist hands each worker a share of the list, and later gives the end of a share to who has nothing left to do.
    """
    files = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    slow = {path: sum(item.get_closest_marker("slow") is not None for item in found) for path, found in files.items()}
    long = sorted((path for path in files if slow[path]), key=lambda path: -slow[path])
    short = [item for path, found in files.items() if not slow[path] for item in found]
    ordered = []
    for number in range(workers):
        share = [item for path in long[number::workers] for item in files[path]]
        filled = max((len(items) - len(ordered)) // (workers - number) - len(share), 0)
        ordered += share + short[:filled]
        del short[:filled]
    return ordered


def _of_testpaths(config):
    """Return whether no file was named: a worker of pytest-xdist is handed its controller's arguments as if they were typed."""
    if hasattr(config, "workerinput"):
        return config.workerinput["of_testpaths"]
    return config.args_source is config.ArgsSource.TESTPATHS


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["of_testpaths"] = _of_testpaths(node.config)


def _all_but(n, found):
    kept = {i * len(found) // n for i in range(n)}
    return [item for i, item in enumerate(found) if i not in kept] if len(found) > n else []


def pytest_runtest_setup(item):
    needed = (name for mark in item.iter_markers("needs") for name in mark.args)
    missing = [name for name in needed if not (importlib.util.find_spec(name) or shutil.which(name))]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def pytest_terminal_summary(terminalreporter):
    """One line for all that was skipped."""
    reasons = Counter(re.sub("^Skipped: ", "", report.longrepr[2]) for report in terminalreporter.getreports("skipped"))
    if reasons:
        more = "" if THOROUGH else "; make test THOROUGH=1 installs everything"
        counted = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"skipped: {counted}{more}")
