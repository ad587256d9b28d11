"""What tests of several rooms share. TensorFlow is imported only by the fixtures that make graphs."""

import fcntl
import importlib
import importlib.metadata
import os
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from exportkit import processes, registry
from exportkit.cli import hydra_app
from exportkit.core.capi import library
from exportkit.processes import spare
from exportkit.registry import DISABLE, GROUP, load_plugins
from exportkit.testing import toys
from exportkit.version import identity


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Make a process that has loaded TensorFlow's C library, and knows its ops, from which the workers of all tests are forked.

    It is made before pytest sets its fault handler, which would print a stack for each worker that a test has crash.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):  # this process runs tests
        library()
        processes.reserve("exportkit.core.preload_many")


def pytest_sessionfinish():
    if spare._spare is not None:
        spare._spare.close()


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    """Every test starts in an empty directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _others():
    """The distributions beside exportkit that have plugins."""
    return {entry.dist.name for entry in importlib.metadata.entry_points(group=GROUP)} - {"exportkit"}


@pytest.fixture(autouse=True)
def _no_other_plugins(_others, monkeypatch):
    """What else is installed beside exportkit has tests of its own."""
    monkeypatch.setenv(DISABLE, ",".join(sorted(_others)))
    hydra_app.plugins.cache_clear()


@pytest.fixture(autouse=True)
def _own_hydra(monkeypatch):
    """What Hydra holds of a test's plugins ends with it: a sweep pickles that state, and their modules are gone by then."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    groups = ConfigStore.instance().repo
    for name in ("source", "post"):
        monkeypatch.setitem(groups, name, dict(groups.get(name, {})))


@pytest.fixture
def plugins():
    """The installed plugins, loaded for this test alone."""
    return load_plugins()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """``shared(name, make)``: a directory that ``make(directory)`` filled, once for the workers of pytest-xdist together."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place

    def given(name, make):
        directory, done = place / f"shared_{name}", place / f"shared_{name}.done"
        with open(place / f"shared_{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir()
                make(directory)
                done.touch()
        return directory

    return given


@pytest.fixture(scope="session")
def saved_model(shared):
    """A factory of SavedModels, each made once by a function of `saved_models_made`: ``saved_model("module")``."""

    def make(name):
        saved_models_made = importlib.import_module("saved_models_made")  # which imports TensorFlow
        return shared(f"saved_{name}", lambda directory: getattr(saved_models_made, name)(directory / name)) / name

    return make


@pytest.fixture(scope="session")
def corpus():
    """The directory of real training artefacts; tests of them are skipped where EXPORTKIT_CORPUS does not name it."""
    if not os.environ.get("EXPORTKIT_CORPUS"):
        pytest.skip("EXPORTKIT_CORPUS is not set")
    return Path(os.environ["EXPORTKIT_CORPUS"])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A factory of checkpoints with their .meta, each made once: ``checkpoint("dense")``."""
    return cache(lambda name: toys.checkpoint(name, tmp_path_factory.mktemp(name)))


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A factory of copies that a test may damage: ``copied("dense")`` is the copy's prefix."""

    def copy(name):
        source = Path(checkpoint(name).prefix)
        target = tmp_path / f"copy_of_{name}"
        target.mkdir()
        for path in source.parent.glob(f"{source.name}*"):
            shutil.copy(path, target)
        return target / source.name

    return copy


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A factory of installed distributions: their metadata and one module, on sys.path as pip leaves them."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    made = []

    def make(name, code, entry_points=None, version="1.2"):
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(code)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {value}" for key, value in (entry_points or {name: module}).items()]
        (info / "entry_points.txt").write_text("\n".join(["[exportkit]", *lines, ""]))
        made.append(module)
        importlib.invalidate_caches()
        identity._installed.cache_clear()  # a process reads it once
        registry._entry_points.cache_clear()  # a file system may keep times in steps that a test is shorter than

    yield make
    identity._installed.cache_clear()
    for module in made:
        sys.modules.pop(module, None)
