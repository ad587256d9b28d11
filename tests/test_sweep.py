"""Sweeps from end to end: planned first, nothing twice, one failure never another's, a record of all."""

import copy
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processlab
import pytest
from hydra.core.singleton import Singleton

from exportkit.cli import main

pytestmark = pytest.mark.quick(6)
MODEL = """\
# @package _global_
defaults: [override /source: meta_graph]
name: {name}
source: {{checkpoint: runs/{name}}}
bindings: {{x: x:0, probs: probs:0}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}}}
"""
PUBLISHING = """\
from dataclasses import dataclass
from pathlib import Path
from exportkit.plugin import Phase, PostStep, hookimpl

@dataclass(kw_only=True)
class Announce(PostStep):
    kind: str = "announce"
    phase = Phase.PUBLISH

    def run(self, export):
        if Path("broken").exists():
            raise OSError("the board is full")
        with open("board.txt", "a") as board:
            board.write(f"{export.plan.name} {export.version}\\n")

@hookimpl
def exportkit_post_steps():
    return [Announce]
"""
SLOW = """\
import pathlib, time
import tensorflow as tf
from exportkit.testing import graphs

def build():
    if not pathlib.Path("building").exists():
        pathlib.Path("building").touch()
        time.sleep(600)
    graphs.softmax()
"""
NAMES = ("a", "b", "c")
FAST = ("post=[manifest]",)


class Fleet:
    """A working directory with a checkpoint and a config for each model."""

    def __init__(self, directory: Path, checkpoint, capfd):
        self.directory, self.checkpoint, self._capfd = directory, checkpoint, capfd
        for name in NAMES:
            self.train(name)
            self.write(f"conf/model/{name}.yaml", MODEL.format(name=name))

    def train(self, name: str, graph: str = "softmax") -> None:
        made = Path(self.checkpoint(graph).prefix).parent
        shutil.rmtree(self.directory / "runs" / name, ignore_errors=True)
        shutil.copytree(made, self.directory / "runs" / name)

    def write(self, path: str, text: str) -> None:
        (self.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / path).write_text(text)

    def sweep(self, *words: str, code: int = 0, models: str = "a,b,c") -> dict[str, str]:
        """Model and job → status and version of ``sweep.json``, which stands in ``record``; run in this process."""
        shutil.rmtree(self.directory / "record", ignore_errors=True)
        arguments = ["-m", f"model={models}", "hydra.sweep.dir=record", *words]
        self._capfd.readouterr()
        self.told = subprocess.CompletedProcess(arguments, main(arguments), *self._capfd.readouterr())
        assert self.told.returncode == code, self.told.stdout + self.told.stderr
        file = self.directory / "record/sweep.json"
        if not file.exists():
            return {}
        self.record = json.loads(file.read_text())
        return {f"{job['name']} {job['number']}": f"{job['status']} {job['version']}" for job in self.record["jobs"]}

    def versions(self, name: str) -> list[str]:
        return sorted(path.name for path in (self.directory / "exports" / name).glob("*") if path.name.isdecimal())


@pytest.fixture
def own_hydra(monkeypatch):
    """Hydra configures logging and keeps what it has composed; both are as before when a test ends."""
    monkeypatch.setattr(logging, "_handlerList", [])  # it closes all handlers, those of pytest and TensorFlow too
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    singletons = copy.deepcopy(Singleton.get_state())
    yield
    Singleton.set_state(singletons)
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def fleet(tmp_path, checkpoint, own_hydra, capfd):
    return Fleet(tmp_path, checkpoint, capfd)


@pytest.mark.slow
def test_a_second_sweep_does_only_what_changed(fleet):
    assert fleet.sweep(*FAST) == {"a 0": "exported 1", "b 1": "exported 1", "c 2": "exported 1"}
    assert fleet.sweep(*FAST) == {"a 0": "unchanged 1", "b 1": "unchanged 1", "c 2": "unchanged 1"}
    assert not list((fleet.directory / "record").glob("[0-9]*"))
    (index,) = (fleet.directory / "runs/b").glob("*.index")
    fleet.train("b")
    os.utime(index)  # a time is no change
    assert fleet.sweep(*FAST)["b 1"] == "unchanged 1"
    assert fleet.sweep("post=[manifest]", "post.manifest.rows=4") == dict.fromkeys(("a 0", "b 1", "c 2"), "exported 2")
    assert fleet.sweep(*FAST, "--force") == dict.fromkeys(("a 0", "b 1", "c 2"), "exported 3")
    assert fleet.record["counts"] == {"exported": 3}


@pytest.mark.slow
def test_the_sweep_json_says_what_was_proved(fleet):
    fleet.sweep(*FAST, models="a")
    (job,) = fleet.record["jobs"]
    assert job.pop("seconds") > 0
    assert job.pop("bytes") == sum(p.stat().st_size for p in (fleet.directory / "exports/a/1").rglob("*") if p.is_file())
    proof = re.sub(r"\d+", "N", job.pop("proof"))
    assert proof == "N/N variables equal to the checkpoint, N initialised"
    assert job == {
        "number": 0,
        "name": "a",
        "status": "exported",
        "version": 1,
        "base": str(fleet.directory / "exports/a"),
        "directory": str(fleet.directory / "exports/a/1"),
        "reason": "",
        "overrides": ["model=a", "post=[manifest]"],
    }
    config = (fleet.directory / "record/models.config").read_text()
    assert f'base_path: "{fleet.directory}/exports/a"' in config
    assert json.loads((fleet.directory / "record/0/job.json").read_text())["report"]["status"] == "exported"


@pytest.mark.slow
def test_versions_and_checkpoints_are_axes(fleet):
    assert fleet.sweep(*FAST, "version=3,7", models="a,b") == {
        "a 0": "exported 3",
        "a 1": "exported 7",
        "b 2": "exported 3",
        "b 3": "exported 7",
    }
    assert set(fleet.sweep(*FAST, "version=3,7", models="a,b").values()) == {"unchanged 3", "unchanged 7"}
    found = fleet.sweep(*FAST, "source.checkpoint=runs/b,runs/c", "export_dir=exports/both", models="a")
    assert found == {"a 0": "exported 1", "a 1": "exported 2"}
    again = fleet.sweep(*FAST, "source.checkpoint=runs/b,runs/c", "export_dir=exports/both", models="a")
    assert again == {"a 0": "unchanged 1", "a 1": "unchanged 2"}
    words = (*FAST, "--force", "hydra/launcher=basic")
    again = fleet.sweep(*words, "source.checkpoint=runs/b,runs/c", "export_dir=exports/both", models="a")
    assert again == {"a 0": "exported 3", "a 1": "exported 4"}


@pytest.mark.slow
def test_what_is_wrong_is_told_of_all_jobs_before_any_starts(fleet):
    fleet.write("conf/model/c.yaml", MODEL.format(name="c").replace("probs: probs:0", "probs: prbs:0"))
    assert fleet.sweep(*FAST, "version=1,01", code=2) == {}
    first, *problems = fleet.told.stderr.splitlines()
    assert re.fullmatch(r"sweep: 6 jobs composed and checked in \d+\.\d s, 4 cannot be exported", first)
    assert problems == [
        "exportkit: 2 problems",
        "job 1 (model=a version=01) and 2 more: version: is the text '01'; "
        "write auto, timestamp or an integer from 0, without leading zeros",
        "job 4 (model=c version=1) and 1 more: bindings.probs.tensor: the graph has no tensor prbs:0; did you mean probs:0?",
    ]
    assert not (fleet.directory / "exports").exists()
    assert fleet.sweep(*FAST, "--keep-going", code=1) == {
        "a 0": "exported 1",
        "b 1": "exported 1",
        "c 2": "failed None",
    }
    assert fleet.told.stderr.splitlines()[-1] == (
        "job 2: bindings.probs.tensor: the graph has no tensor prbs:0; did you mean probs:0?"
    )


@pytest.mark.slow
def test_a_sweep_of_nothing_is_an_error(fleet):
    assert fleet.sweep(code=2, models="glob(x*)") == {}
    assert fleet.told.stderr == "sweep: there are no jobs; a glob(…) that matches nothing makes none\n"


@pytest.mark.slow
def test_jobs_in_each_others_way_are_told(fleet):
    assert fleet.sweep(*FAST, "export_dir=exports/one", "version=1", code=2) == {}
    assert fleet.told.stderr.splitlines()[1:] == [
        f"job 1 (model=b) and 1 more: version 1: is also made by job 0, below {fleet.directory}/exports/one; "
        "sweep over export_dir or version too"
    ]


@pytest.mark.slow
def test_what_was_not_announced_is_exported_again(fleet, install):
    install("announce", PUBLISHING)
    words = ("post=[manifest,announce]",)
    (fleet.directory / "broken").touch()
    assert fleet.sweep(*words, code=1, models="a") == {"a 0": "failed 1"}
    (fleet.directory / "broken").unlink()
    assert fleet.sweep(*words, models="a") == {"a 0": "exported 2"}
    assert fleet.sweep(*words, models="a") == {"a 0": "unchanged 2"}
    assert (fleet.directory / "board.txt").read_text() == "a 2\n"


@pytest.mark.slow
def test_a_lost_jobs_second_attempt_finds_what_the_first_one_made(fleet):
    """As a cluster runs a job again: same directory, same overrides, and the record of the first attempt is missing."""
    words = (*FAST, "hydra/launcher=basic", "hydra/sweeper=basic", "hydra.sweep.dir=kept")
    fleet.sweep(*words, models="a")
    (fleet.directory / "kept/0/job.json").unlink()
    fleet.sweep(*words, models="a")
    job = json.loads((fleet.directory / "kept/0/job.json").read_text())
    assert (job["status"], job["version"]) == ("exported", 1)
    assert job["report"]["warnings"] == ["made by an earlier attempt of this job, which was lost before it could say so"]
    assert fleet.versions("a") == ["1"]


@pytest.mark.slow
def test_other_launchers_are_given_only_what_is_due(fleet):
    fleet.sweep(*FAST, models="b")
    assert fleet.sweep(*FAST, "hydra/launcher=basic") == {"a 0": "exported 1", "b 1": "unchanged 1", "c 2": "exported 1"}


def test_a_sweep_is_planned_without_tensorflow(fleet):
    command = [sys.executable, "-X", "importtime", "-m", "exportkit", "plan", "-m", "model=a,b"]
    told = subprocess.run(command, cwd=fleet.directory, capture_output=True, text=True)
    assert told.returncode == 0
    assert [line for line in told.stderr.splitlines() if line.endswith("| tensorflow")] == []
    assert sorted(path.name for path in fleet.directory.iterdir()) == ["conf", "runs"]


@pytest.mark.slow
def test_an_interrupted_sweep_says_how_far_it_came_and_goes_on_there(fleet):
    fleet.write("slow.py", SLOW)
    fleet.write("conf/model/b.yaml", MODEL.format(name="b").replace("meta_graph", "graph_builder"))
    text = (fleet.directory / "conf/model/b.yaml").read_text()
    fleet.write("conf/model/b.yaml", text.replace("{checkpoint:", "{builder: slow:build, checkpoint:"))
    command = [
        sys.executable,
        "-m",
        "exportkit",
        "-m",
        "model=a,b,c",
        "hydra.sweep.dir=record",
        "hydra.launcher.n_jobs=1",
        *FAST,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    sweep = subprocess.Popen(command, cwd=fleet.directory, preexec_fn=processlab.interruptible, **pipes)
    while not (fleet.directory / "building").exists():
        assert sweep.poll() is None
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    told, problems = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert [re.split(r"  +", line)[1:4] for line in told.splitlines() if re.match(r"\d  ", line)] == [
        ["a", "1", "exported"],
        ["b", "-", "interrupted"],
        ["c", "-", "not run"],
    ]
    assert problems.splitlines()[-2:] == [
        "2 jobs not run, from job 1 on: run the sweep again, and it goes on there",
        "exportkit: interrupted",
    ]
    assert [path.name for path in (fleet.directory / "exports").rglob(".*.staging")] == []
    assert fleet.sweep(*FAST) == {"a 0": "unchanged 1", "b 1": "exported 1", "c 2": "exported 1"}
