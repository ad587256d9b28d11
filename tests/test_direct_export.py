"""An export that Hydra neither composes nor runs: what it leaves, prints and offers to user code is as under Hydra."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from exportkit.cli import hydra_app, main
from exportkit.cli.channel import PrintableFormatter
from exportkit.cli.direct import exporting, stand_in
from exportkit.cli.direct.stand_in import Composed
from exportkit.cli.sweep import process_launcher

MODEL = """\
# @package _global_
defaults: [override /source: meta_graph]
name: good
source: {{checkpoint: {checkpoint}}}
bindings: {{x: "x:0", probs: "probs:0"}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}}}
report: {{path: report.json}}
version: 7
"""
BY_HYDRA = "hydra.mode=RUN"  # what a run has anyway; but an override of Hydra's is Hydra's
WHOLE = "import sys; from exportkit.cli import main; code = main(sys.argv[1:]); print('hydra' in sys.modules, code)"


@pytest.fixture
def here(tmp_path, checkpoint):
    """A working directory with one model."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/good.yaml").write_text(MODEL.format(checkpoint=checkpoint("softmax").prefix))
    return tmp_path


def left(place):
    """What lies in a directory, but for the times in it: path → content."""
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name: without_times(name, content) for name, content in found.items()}


def without_times(name, content):
    """Return a file's content without dates and without numbers that are not whole: seconds."""
    if not name.endswith(".json"):
        return content
    return re.sub(r'"\d{4}-\d\d-\d\d[^"]*"', "DATE", json.dumps(json.loads(content, parse_float=lambda _: None)))


def ran(here, *words):
    """The outcome of a command in a process of its own, whether it imported Hydra, and what it left; that is removed then."""
    done = subprocess.run([sys.executable, "-c", WHOLE, *words], cwd=here, capture_output=True, text=True, timeout=300)
    *out, (last) = done.stdout.splitlines()
    hydra, code = last.split()
    out = [re.sub(r"\d+\.\d s", "SECONDS", line) for line in out]
    found = left(here)
    for name in found:
        if not name.startswith("conf/"):
            (here / name).unlink()
    for path in sorted((path for path in (here / "exports").rglob("*") if path.is_dir()), reverse=True):
        path.rmdir()
    return hydra == "True", (int(code), out, done.stderr, found)


CASES = {
    "good": ("model=good",),
    "quiet": ("model=good", "-q", "post=[]"),
    "interpolated": ("model=good", "post=[]", "export_dir=exports/in_${name}/deep"),
    "unplannable": ("model=good", "source.checkpoint=nowhere", "post.verify.atol=-1"),
    "unwritable": ("model=good", "source.checkpoint=nowhere", "report.path=conf/model/good.yaml/report.json"),
    "unproved": ("model=good", "post=[]", "weights.prove=false"),
    "nothing": ("name=alone",),
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("case", CASES)
def test_an_export_is_what_it_is_by_hydra(case, here):
    uses_hydra, outcome = ran(here, *CASES[case])
    with_hydra, expected = ran(here, *CASES[case], BY_HYDRA)
    assert (uses_hydra, with_hydra) == (False, True)
    assert outcome == expected
    if case in ("good", "quiet"):
        assert outcome[0] == 0
        assert {"exports/good/7/saved_model.pb", "report.json"} <= outcome[3].keys()


SEEN = []


def recorded(config):
    """A job of Hydra's that remembers what it finds."""
    SEEN.append((OmegaConf.to_yaml(HydraConfig.get()), OmegaConf.to_yaml(config), logged()))


def logged():
    """Return what logging is set to: levels, and the formats of the root's handlers."""
    known = [logging.getLogger(name) for name in (None, "tensorflow", "absl", "exportkit")]
    formats = [(type(handler.formatter), handler.formatter._fmt) for handler in known[0].handlers if handler.formatter]
    return [(one.name, one.level, one.disabled) for one in known], [one for one in formats if one[0] is PrintableFormatter]


@pytest.fixture
def own_logging(monkeypatch):
    """Logging is configured, and afterwards as it was; dictConfig closes all handlers, those of pytest too."""
    monkeypatch.setattr(logging, "_handlerList", [])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("words", [("model=good",), ("model=good", "post=[]", "name=other", "version=9")])
def test_user_code_finds_the_config_and_the_logging_of_hydra(words, here, own_logging):
    SEEN.clear()
    hydra_app.run(list(words), recorded)
    (expected,) = SEEN
    assert not HydraConfig.initialized()
    with Composed.here(words).job():
        stand_in.configure_log()
        assert HydraConfig.initialized()
        config = hydra_app.task_config(hydra_app.job_config(words))
        found = (OmegaConf.to_yaml(HydraConfig.get()), OmegaConf.to_yaml(config), logged())
    assert not HydraConfig.initialized()
    assert found == expected


def test_what_is_taken_for_granted_of_hydras_own_config(here):
    """Where this changes, `exportkit.cli.direct` has to follow, or to leave the export to Hydra."""
    hydra = hydra_app.job_config(["model=good"]).hydra
    granted = (hydra.run.dir, hydra.output_subdir, hydra.job.chdir, hydra.verbose, hydra.job.env_set, list(hydra.callbacks))
    assert granted == (".", None, False, False, {}, ["exportkit_sweep"])
    assert (hydra.launcher._target_, hydra.launcher.timeout) == (process_launcher.LAUNCHER, None)


CODE = """
import os, sys
from exportkit.cli.direct.stand_in import Composed
with Composed.here(["model=good", "name=other"]).job():
    assert sys.argv[1:] == ["model=good", "name=other"] and "hydra" not in sys.modules and "omegaconf" not in sys.modules
    os.chdir("/")
    {}
    from omegaconf import OmegaConf
    config = OmegaConf.create({{"job": "${{hydra:job.name}}", "cwd": "${{hydra:runtime.cwd}}", "year": "${{now:%Y}}",
        "task": "${{hydra:overrides.task}}", "python": "${{python_version:major}}"}})
    print(list(OmegaConf.to_container(config, resolve=True).items()))
"""


@pytest.mark.parametrize("first", ["import hydra", "from hydra.core.hydra_config import HydraConfig", "pass"])
def test_hydra_is_there_when_user_code_imports_it(first, here):
    import time

    done = subprocess.run([sys.executable, "-c", CODE.format(first)], cwd=here, capture_output=True, text=True, timeout=60)
    expected = {
        "job": "exportkit",
        "cwd": str(here),
        "year": time.strftime("%Y"),
        "task": ["model=good", "name=other"],
        "python": "3",
    }
    assert (done.stdout, done.stderr) == (f"{list(expected.items())}\n", "")


LEFT_TO_HYDRA = [
    ["hydra.verbose=true"],
    ["hydra.run.dir=out"],
    ["hydra.output_subdir=.hydra"],
    ["hydra.launcher.timeout=9"],
    ["hydra/launcher=basic"],
    ["hydra/job_logging=none"],
    ["+vars.x=1"],
    ["--cfg", "job"],
    ["--run"],
    ["-m"],
    ["--force"],
    ["--config-dir", "conf"],
]


@pytest.mark.parametrize("words", [[], *LEFT_TO_HYDRA])
def test_what_asks_for_something_of_hydra_is_left_to_it(words, here, monkeypatch):
    from exportkit.cli import export_job

    monkeypatch.setattr(exporting, "export", lambda config, overrides, quiet: 50)
    monkeypatch.setattr(export_job, "export_all", lambda arguments, quiet: 60)
    assert main(["model=good", *words]) == (60 if words else 50)


def test_tracebacks_are_left_to_hydra(here, monkeypatch):
    from exportkit.cli import export_job

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(export_job, "export_all", lambda arguments, quiet: 60)
    assert main(["model=good"]) == 60


def test_a_config_that_sets_hydra_is_left_to_it(here, monkeypatch):
    from exportkit.cli import export_job

    file = Path("conf/model/good.yaml")
    file.write_text(file.read_text() + "hydra: {verbose: true}\n")
    monkeypatch.setattr(export_job, "export_all", lambda arguments, quiet: 60)
    assert main(["model=good"]) == 60
