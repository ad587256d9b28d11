"""The launcher: Hydra's own conformance suite, and sweeps whose jobs die."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import processlab
import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase
from hydra_plugins.exportkit import ProcessLauncher
from omegaconf import OmegaConf

import exportkit
from exportkit.cli import hydra_app
from exportkit.cli.sweep import job_process, process_launcher
from exportkit.errors import EnvironmentFailed


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch):
    """Here, and in the applications that the suite starts, the launcher is as an installed wheel has it."""
    Plugins.instance().register(ProcessLauncher)
    (tmp_path / "site/hydra_plugins").mkdir(parents=True)
    (tmp_path / "site/hydra_plugins/exportkit").symlink_to(Path(exportkit.__file__).parent / "launcher")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))


@pytest.fixture
def fresh_hydra(monkeypatch):
    """Hydra as it is in a process that has run nothing: other tests have told it which version's behaviour they want."""
    monkeypatch.delitem(Singleton._instances, VersionBase, raising=False)


@pytest.mark.usefixtures("fresh_hydra")
@pytest.mark.parametrize("launcher_name, overrides", [("exportkit", [])])
class TestConformance(LauncherTestSuite):
    pass


@pytest.mark.usefixtures("fresh_hydra")
@pytest.mark.parametrize("launcher_name, overrides", [("exportkit", ["hydra.sweeper.max_batch_size=2"])])
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.quick(6)
@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=exportkit"])])
class TestIntegration(IntegrationTestSuite):
    pass


# Sweeps of exports

MODEL = """\
# @package _global_
defaults: [override /source: {source}]
name: {name}
source: {{checkpoint: {checkpoint}{more}}}
bindings: {{x: "x:0", probs: "probs:0"}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}}}
"""
MODELS = {"a_good": None, "b_abort": "abort", "c_leave": "leave", "d_stay": "stay", "e_good": None}
BUILDERS = """\
import os, sys, time

def abort():
    print("CHECK failed", flush=True)
    os.abort()

def leave():
    sys.exit(3)

def stay():
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, checkpoint):
    """A working directory with five models, of which three do not do well, and what a sweep of them said."""
    here = tmp_path_factory.mktemp("fleet")
    (here / "conf/model").mkdir(parents=True)
    (here / "builders.py").write_text(BUILDERS)
    prefix = checkpoint("softmax").prefix
    for name, builder in MODELS.items():
        source, more = ("graph_builder", f", builder: 'builders:{builder}'") if builder else ("meta_graph", "")
        text = MODEL.format(name=name, source=source, checkpoint=prefix, more=more)
        (here / f"conf/model/{name}.yaml").write_text(text)
    words = [
        f"model={','.join(MODELS)}",
        "post=[]",
        "hydra.launcher.n_jobs=2",
        "hydra.launcher.timeout=10",
        "hydra.sweep.dir=sweep",
    ]
    return here, sweep(here, *words)


def sweep(here, *words):
    command = [sys.executable, "-m", "exportkit", "-m", *words]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=300)


def test_a_death_is_one_jobs(fleet):
    here, told = fleet
    assert told.returncode == 1
    versions = sorted((here / "exports").glob("*/[0-9]*"))
    assert [str(path.relative_to(here)) for path in versions] == ["exports/a_good/1", "exports/e_good/1"]
    rows = [re.split(r"  +", line)[:4] for line in told.stdout.splitlines() if re.match(r"\d  ", line)]
    assert rows == [
        ["0", "a_good", "1", "exported"],
        ["1", "b_abort", "-", "died"],
        ["2", "c_leave", "-", "failed"],
        ["3", "d_stay", "-", "died"],
        ["4", "e_good", "1", "exported"],
    ]


def test_why_is_told_at_the_end(fleet):
    here, told = fleet
    head, *problems = [line for line in told.stderr.splitlines() if line.startswith(("exportkit: ", "job "))]
    assert head == "exportkit: 3 problems"
    assert problems == [
        "job 1: died of SIGABRT; its last line: CHECK failed; its output: sweep/1/output.log",
        f"job 2: source.builder: raised SystemExit: 3 ({here / 'builders.py'}:8)",
        "job 3: took longer than 10 s (hydra.launcher.timeout)",
    ]


def test_a_line_tells_of_each_jobs_end(fleet):
    _, told = fleet
    ends = dict(re.findall(r"^sweep: \[\d/5\] job \d (\w+): (\w+) in \d+\.\d s$", told.stderr, re.MULTILINE))
    assert ends == {"a_good": "exported", "b_abort": "died", "c_leave": "failed", "d_stay": "died", "e_good": "exported"}


def test_a_job_that_died_has_a_record(fleet):
    here, _ = fleet
    record = json.loads((here / "sweep/3/job.json").read_text())
    said = {key: record[key] for key in ("number", "name", "status", "reason", "overrides", "version")}
    assert said == {
        "number": 3,
        "name": "d_stay",
        "status": "died",
        "reason": "took longer than 10 s (hydra.launcher.timeout)",
        "overrides": ["model=d_stay", "post=[]"],
        "version": None,
    }


def test_ctrl_c_ends_a_sweep(fleet):
    here, _ = fleet
    command = [sys.executable, "-m", "exportkit", "-m", "model=d_stay", "post=[]", "hydra.sweep.dir=interrupted"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=here, start_new_session=True, preexec_fn=processlab.interruptible, **pipes) as running:
        for _ in range(1200):
            if list((here / "exports/d_stay").glob(".*.staging")) and (here / "interrupted/0/output.log").exists():
                break
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "exportkit: interrupted"


BROKEN = """
import ctypes

def load(self, name, *rest, loaded=ctypes.CDLL.__init__, **options):
    if "tensorflow_cc" in str(name):
        raise OSError("wrong ELF class")
    loaded(self, name, *rest, **options)

ctypes.CDLL.__init__ = load
"""


def test_each_job_tells_that_tensorflow_cannot_be_loaded(fleet, tmp_path, monkeypatch):
    here, _ = fleet
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = sweep(here, "model=a_good,e_good", "post=[]", "export_dir=broken/${name}", "hydra.sweep.dir=broken")
    reasons = [line.split(": ", 1)[1] for line in told.stderr.splitlines() if line.startswith("job ")]
    assert told.returncode == 1
    assert len(reasons) == 2
    assert {reason.split(": ")[0] for reason in reasons} == {"tensorflow"}
    assert all("its C library cannot be loaded: wrong ELF class" in reason for reason in reasons), reasons


def test_a_jobs_words_are_in_its_log(fleet):
    here, _ = fleet
    (line,) = (here / "sweep/0/output.log").read_text().splitlines()
    assert re.fullmatch(r"a_good: exported version 1 to exports/a_good/1 in \d+\.\d s", line)
    assert "SystemExit: 3" in (here / "sweep/2/output.log").read_text()


def test_the_basic_launcher_can_be_chosen(fleet):
    here, _ = fleet
    told = sweep(here, "model=a_good", "post=[]", "hydra/launcher=basic", "hydra.sweep.dir=basic", "export_dir=exports_basic")
    assert told.returncode == 0
    assert not (here / "basic/0/output.log").exists()


@pytest.mark.parametrize("option", ["n_jobs=0", "timeout=-1"])
def test_an_option_that_makes_no_sense_is_refused(fleet, option):
    here, _ = fleet
    told = sweep(here, "model=a_good", f"hydra.launcher.{option}", "hydra.sweep.dir=refused")
    key, value = option.split("=")
    value = "-1.0" if key == "timeout" else value
    problem = f"hydra.launcher.{key}: is {value}; write a positive number, or null"
    assert (told.returncode, told.stderr.splitlines()[-1]) == (2, problem)


# What is handed over


def test_only_a_process_of_this_sweep_has_its_state(monkeypatch):
    """The server outlives a sweep, and the next one's functions and callbacks are others."""
    ran = []
    monkeypatch.setattr(job_process, "_run_job", lambda known, *job: ran.append(known) or JobReturn())
    monkeypatch.setattr(job_process, "_needs_hydra", lambda config: False)
    monkeypatch.setattr(job_process, "_unpacked", lambda shared: shared)
    monkeypatch.setattr(sys, "breakpointhook", sys.breakpointhook)
    job = job_process.PackedJob(0, pickle.dumps({}), Path("0"))
    for inherited in (None, (b"this", "inherited")):
        monkeypatch.setattr(job_process, "_inherited", inherited)
        job_process.run(b"this", "sent", job, whole=False)
        job_process.run(b"that", "sent", job, whole=False)
    assert ran == ["sent", "sent", "inherited", "sent"]


@pytest.mark.parametrize(("config", "imported", "expected"), [
    ({"source": "???"}, False, "tensorflow"),
    ({"db": "mysql"}, True, "tensorflow"),
    ({"db": "mysql"}, False, "other"),
])  # fmt: skip
def test_the_server_of_another_applications_jobs_imports_tensorflow_if_that_has(config, imported, expected, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    if imported:
        monkeypatch.setitem(sys.modules, "tensorflow", sys)
    launcher = SimpleNamespace(config=OmegaConf.create(config))
    assert process_launcher._preload_of_any(launcher) == (f"exportkit.cli.sweep.preload_{expected}",)


def test_a_job_that_has_no_name_to_import_it_by_needs_cloudpickle(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(EnvironmentFailed) as raised:
        job_process._pickle(job_process._Shared(None, lambda config: None, {}, {}, None, ()))
    name = "test_a_job_that_has_no_name_to_import_it_by_needs_cloudpickle.<locals>.<lambda>"
    assert str(raised.value).startswith(f"{name}: cannot be pickled: ")
    assert str(raised.value).endswith("; install cloudpickle, or move it into a module")


def test_what_a_job_raised_comes_back_as_it_is_or_as_its_text(capsys):
    kept = job_process._printed_error(hydra_app.JobFailed("x: is wrong", 2))
    assert (type(kept), str(kept), kept.exit_code) == (hydra_app.JobFailed, "x: is wrong", 2)

    class Local(Exception):
        pass

    assert str(job_process._printed_error(Local("no\ngood"))) == "Local: no good"
    assert capsys.readouterr().err.count("Local: no\ngood") == 1


# Packaging


@pytest.mark.slow
def test_hydra_finds_it_in_a_wheel_and_imports_nothing_with_it(tmp_path):
    root = Path(__file__).parents[1]
    for name in ("exportkit", "conf"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    ask = (
        "import sys; from hydra.core.plugins import Plugins; from hydra.plugins.launcher import Launcher\n"
        "print([cls.__module__ + '.' + cls.__name__ for cls in Plugins.instance().discover(Launcher)])\n"
        "print(sys.modules['hydra_plugins.exportkit'].__file__)\n"
        "print({'exportkit', 'tensorflow', 'numpy', 'rich'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    told = subprocess.run([sys.executable, "-P", "-c", ask], env=environment, capture_output=True, text=True, check=True)
    launchers, place, imported = told.stdout.splitlines()
    assert "hydra_plugins.exportkit.ProcessLauncher" in launchers
    assert place == str(tmp_path / "installed/hydra_plugins/exportkit/__init__.py")
    assert imported == "set()"
