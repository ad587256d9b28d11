"""Sweeps on other engines, for real: a job that crashes fails alone, a worker that is lost loses nothing, and what is told."""

import fcntl
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins

from exportkit.cli import main
from exportkit.cli.sweep import engine_side, job_record, job_run, sweep_record, worker_side
from exportkit.cli.sweep.job_record import Job
from exportkit.errors import EnvironmentFailed
from exportkit.processes import Task
from exportkit.testing import toys

MODEL = """\
# @package _global_
defaults: [override /source: {source}]
name: {name}
source: {{checkpoint: toy{more}}}
bindings: {{x: {{tensor: "x:0"}}, y: {{tensor: "y:0"}}}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{y: y}}}}}}
"""
MODELS = {"fine": ("meta_graph", ""), "other": ("meta_graph", ""), "crash": ("graph_builder", ', builder: "users:build"')}
USERS = """\
import os, signal, time
from pathlib import Path
from hydra.experimental.callback import Callback

def build():
    import tensorflow
    os.abort()

class LosesAWorker(Callback):
    def __init__(self, before=None, after=None):
        self.before, self.after = before, after

    def on_job_start(self, config, **kwargs):
        if config.hydra.job.num == self.before:
            while not Path(config.hydra.sweep.dir, "0", "job.json").exists():
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_job_end(self, config, **kwargs):
        mark = Path(config.hydra.runtime.output_dir, "lost")
        if config.hydra.job.num == self.after and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
ENGINES = {"joblib": "joblib", "ray_local": "ray", "submitit_local": "submitit", "slurm": "submitit", "ray_cluster": "ray"}
LOSES = "+hydra.callbacks.lost._target_=users.LosesAWorker"


def needs(launcher):
    return pytest.param(launcher, marks=pytest.mark.needs(ENGINES[launcher]))


def build():
    import tensorflow as tf

    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None], name="x")
    w = v1.get_variable("w", [], initializer=v1.constant_initializer(2.0), use_resource=False)
    tf.multiply(x, w, name="y")


@pytest.fixture
def sweep(tmp_path):
    """Run a sweep by the command line, in a directory with a user's models and module; what it came to."""
    toys.save(build, tmp_path / "toy")
    (tmp_path / "conf" / "model").mkdir(parents=True)
    for name, (source, more) in MODELS.items():
        text = MODEL.format(name=name, source=source, more=more)
        (tmp_path / "conf" / "model" / f"{name}.yaml").write_text(text)
    (tmp_path / "users.py").write_text(USERS)

    def run(launcher, *words):
        command = [sys.executable, "-P", "-m", "exportkit", "-m", f"hydra/launcher={launcher}", *words]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run([*command, "hydra.sweep.dir=record"], capture_output=True, text=True, env=environment)
        assert (tmp_path / "record" / "sweep.json").is_file(), done.stderr
        jobs = json.loads((tmp_path / "record" / "sweep.json").read_text())["jobs"]
        return SimpleNamespace(code=done.returncode, err=done.stderr, statuses=[job["status"] for job in jobs], jobs=jobs)

    return run


@pytest.mark.slow
@pytest.mark.quick(1)
@pytest.mark.parametrize("launcher", [needs("joblib"), needs("submitit_local")])
def test_a_job_that_crashes_fails_alone(sweep, launcher, tmp_path):
    done = sweep(launcher, "model=crash,fine")
    assert (done.code, done.statuses) == (1, ["died", "exported"])
    assert done.err.splitlines()[-1] == "job 0: died of SIGABRT; its output: record/0/output.log"
    assert "[2/2] job " in done.err
    assert toys.served(str(tmp_path / "exports/fine/1"), "serving_default", {"x": [3.0]})["y"].tolist() == [6.0]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [needs("ray_local")])
def test_a_job_whose_worker_is_lost_after_it_has_exported_does_not_export_again(sweep, launcher, tmp_path):
    done = sweep(launcher, "model=crash,fine", LOSES, "+hydra.callbacks.lost.after=1")
    assert (done.code, done.statuses) == (1, ["died", "exported"])
    assert "job 0: died of SIGABRT; its output: record/0/output.log" in done.err.splitlines()
    assert [path.name for path in (tmp_path / "exports/fine").iterdir()] == ["1"]
    record = json.loads((tmp_path / "record/1/job.json").read_text())
    assert (record["version"], record["report"]["warnings"]) == (1, [job_run.LOST])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [needs("joblib")])
def test_an_engine_that_gives_up_leaves_the_records_of_its_jobs(sweep, launcher):
    done = sweep(launcher, "model=fine,other", "hydra.launcher.n_jobs=2", LOSES, "+hydra.callbacks.lost.before=1")
    assert (done.code, done.statuses) == (1, ["exported", "died"])
    assert "hydra/launcher: joblib gave up: TerminatedWorkerError: " in done.err
    assert f"; {engine_side.AGAIN}\n" in done.err
    assert done.err.splitlines()[-1] == f"job 1: {sweep_record.DIED}"


# ---- presets ----


PRESETS = {
    "ray_cluster": {
        "ray": {
            "init": {"address": "auto", "object_store_memory": None, "logging_level": "warning"},
            "remote": {"max_retries": 3},
        }
    },
    "ray_local": {"ray": {"init": {"address": "local", "include_dashboard": False, "logging_level": "warning"}, "remote": {}}},
    "slurm": {"timeout_min": 30, "cpus_per_task": 2, "mem_gb": 4, "array_parallelism": 64, "max_num_timeout": 0},
}


@pytest.mark.parametrize("preset", [needs(preset) for preset in PRESETS])
def test_a_preset_is_the_engines_own_options_with_what_has_to_be_set(preset):
    command = [sys.executable, "-m", "exportkit", "--cfg", "hydra", "-p", "hydra.launcher", f"hydra/launcher={preset}"]
    launcher = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {key: launcher[key] for key in PRESETS[preset]} == PRESETS[preset]


@pytest.mark.parametrize(("launcher", "engine", "told"), [
    ("ray_cluster", "ray", "ray_cluster needs hydra-ray-launcher; pip install 'exportkit[ray]'"),
    ("slurm", "submitit_slurm", "slurm needs hydra-submitit-launcher; pip install 'exportkit[submitit]'"),
    ("submitit_local", "submitit_local", "submitit_local needs hydra-submitit-launcher; pip install 'exportkit[submitit]'"),
    ("joblib", "joblib", "joblib needs hydra-joblib-launcher; pip install 'exportkit[joblib]'"),
])  # fmt: skip
def test_an_engine_that_is_not_installed_is_named_with_its_command(launcher, engine, told, monkeypatch, capsys):
    Plugins.instance()  # from here on there are those that are installed
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{engine}.yaml", raising=False)
    assert main(["plan", f"hydra/launcher={launcher}"]) == 2
    assert capsys.readouterr().err == f"hydra/launcher: {told}\n"


# ---- what a job does in another engine's worker ----


def hydra(tmp_path, **more):
    planned = SimpleNamespace(_target_="hydra_plugins.exportkit.FleetSweeper")
    there = {"runtime": SimpleNamespace(cwd=str(tmp_path)), "sweep": SimpleNamespace(dir=str(tmp_path / "record"))}
    return SimpleNamespace(sweeper=planned, **{**there, **more})


def test_a_job_is_where_the_sweep_was_started(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "record").mkdir(parents=True)
    (home / "record" / "sweep.json").touch()
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra(home))
    monkeypatch.setenv("PYTHONPATH", "/site")
    with worker_side._in_launch_directory():
        assert (os.getcwd(), os.environ["PYTHONPATH"], sys.path[0]) == (str(home), f"{home}:/site", str(home))
    assert (os.getcwd(), os.environ["PYTHONPATH"]) == (str(tmp_path), "/site")
    assert sys.path[0] != str(home)


def test_a_worker_that_does_not_share_the_directory_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra(tmp_path))
    monkeypatch.setattr(worker_side.socket, "gethostname", lambda: "n2")
    with pytest.raises(EnvironmentFailed) as told, worker_side._in_launch_directory():
        pass
    assert str(told.value) == (
        f"{tmp_path}: is not on n2 what it is where the sweep was started; "
        "start the sweep in a directory that all machines share under the same path"
    )


@pytest.mark.parametrize(("target", "inside", "expected"), [
    ("hydra._internal.core_plugins.basic_launcher.BasicLauncher", False, False),
    ("hydra_plugins.exportkit.ProcessLauncher", True, False),
    ("hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", False, True),
    ("hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher", True, False),
])  # fmt: skip
def test_a_job_that_has_a_process_of_its_own_needs_no_other(monkeypatch, target, inside, expected):
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(launcher=SimpleNamespace(_target_=target)))
    monkeypatch.setattr(worker_side.processes, "inside", lambda: inside)
    assert worker_side.is_external_worker() is expected


def test_a_job_whose_time_is_over_is_told(monkeypatch):
    def run(*args, **kwargs):
        raise TimeoutError("Job not requeued")
        yield

    monkeypatch.setattr(worker_side.processes, "run", run)
    died = worker_side._run_task(Task(0, print), uses_tensorflow=False)
    assert str(died) == "was ended by its engine: TimeoutError: Job not requeued"


# ---- what is known of jobs from outside ----


@pytest.mark.parametrize("path", ["/a b/c", "/it's", "/a${b}", "/a,b=[c]", "/é/#1", "/back\\slash"])
def test_a_record_has_the_same_place_in_every_directory(path):
    parsed = OverridesParser.create().parse_overrides(engine_side._directory_overrides(path, 3))
    assert [(override.key_or_group, override.value()) for override in parsed] == [
        ("hydra.sweep.dir", path),
        ("hydra.sweep.subdir", 3),
    ]


def test_a_job_that_is_held_still_runs(tmp_path):
    sweep_record.write_sweep(tmp_path, [Job(number=0, name="m"), Job(number=1, name="n")])
    for number in ("0", "1"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "attempt.lock").touch()
    with (tmp_path / "0" / "attempt.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = sweep_record.read_sweep(tmp_path)
    assert [(job.status, job.reason) for job in found] == [("running", sweep_record.RUNS), ("died", sweep_record.DIED)]


def test_a_job_that_failed_out_of_sight_is_recorded(tmp_path):
    from hydra.core.utils import JobReturn, JobStatus

    failed, told = (JobReturn(status=JobStatus.FAILED) for _ in range(2))
    failed.return_value = told.return_value = RuntimeError("no such directory")
    jobs = [Job(number=4, name="m", overrides=["a=1"]), Job(number=5, name="n")]
    job_record.write_job(Job(number=5, name="n", status="died", reason="its own words"), tmp_path / "5")
    engine_side._record_missing(tmp_path, jobs, [failed, told])
    found = sweep_record.read_sweep(tmp_path)
    assert [(job.number, job.status, job.reason, job.overrides) for job in found] == [
        (4, "failed", "no such directory", ["a=1"]),
        (5, "died", "its own words", []),
    ]
