"""One export in a process of its own: how it ends, what is said of that, and what is left."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import processlab
import pytest
from test_docs import shown

from exportkit.cli.progress import Stages

pytestmark = pytest.mark.quick(12)

MODEL = """\
# @package _global_
defaults: [override /source: {source}]
name: {name}
source: {{{keys}}}
bindings: {{x: "x:0", probs: "probs:0"}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}}}
"""
BUILDERS = """\
import os, pathlib, sys, time

def abort():
    print("about to check")
    os.write(2, b"CHECK failed: x > 0" + bytes([10]))
    os.abort()

def killed():
    os.kill(os.getpid(), 9)

def exits():
    os._exit(0)

def stops():
    breakpoint()

def forks():
    if not os.fork():
        raise ValueError("in the child")
    os.wait()
    raise ValueError("in the parent")

def stays():
    pathlib.Path("building").touch()
    time.sleep(600)
"""
PLUGIN = """\
import threading, time
from dataclasses import dataclass
from typing import ClassVar

from exportkit.plugin import ModelSource, Preview, hookimpl

@dataclass(kw_only=True)
class Calls(ModelSource):
    kind: str = "calls"
    uses_tensorflow: ClassVar[bool] = False
    how: str
    threaded: bool = False

    def preview(self):
        if self.threaded:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return Preview(when_built=["the graph"])

    def build(self, preview, scratch, wanted):
        import builders

        getattr(builders, self.how)()

@hookimpl
def exportkit_model_sources():
    return [Calls]
"""
FAST = ("post=[]",)
# What the export's process is forked from: a server that has imported TensorFlow; one that has not, since the process that was
# started has two threads; or that process itself. The import takes most of the time, so few tests have it.
WAYS = {
    "TensorFlow": ("model={}_in_tensorflow",),
    "server": ("model={}", "source.threaded=true"),
    "fork": ("model={}",),
}


@pytest.fixture
def here(tmp_path, checkpoint, install):
    """A working directory with a model that is exported, and two for each way to fail."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "builders.py").write_text(BUILDERS)
    install("calls", PLUGIN)
    prefix = f"checkpoint: {checkpoint('softmax').prefix}"
    model(tmp_path, "good", "meta_graph", prefix)
    for name in ("abort", "killed", "exits", "stops", "forks", "stays"):
        model(tmp_path, name, "calls", f"how: {name}")
        model(tmp_path, name, "graph_builder", f"{prefix}, builder: 'builders:{name}'", "_in_tensorflow")
    return tmp_path


def model(here, name, source, keys, suffix=""):
    text = MODEL.format(name=name, source=source, keys=keys)
    (here / f"conf/model/{name}{suffix}.yaml").write_text(text)


def words(way, model):
    """The words by which a model is exported in one of the ways."""
    return [word.format(model) for word in WAYS[way]]


def surroundings(here):
    return {**os.environ, "TMPDIR": str(here / "tmp"), "PYTHONPATH": str(here / "site")}


def command(*words):
    return [sys.executable, "-m", "exportkit", *words]


def export(here, *words, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    done = subprocess.run(command(*words), cwd=here, env=surroundings(here), text=True, timeout=300, **pipes)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def left(here):
    """What lies in the directories for temporary files and for exports."""
    return sorted(path.name for place in ("tmp", "exports") for path in here.glob(f"{place}/**/*"))


def processes_of(here):
    """The processes whose temporary files are below a test's directory."""
    found, mark = [], f"TMPDIR={here}/tmp".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append((path.parent / "cmdline").read_bytes())
        except OSError:
            continue  # it has ended, or is another user's
    return found


def until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "did not come to pass"
        time.sleep(0.05)
    return found


DEATHS = {
    "abort": [
        "about to check",
        "CHECK failed: x > 0",
        "abort: at build its process died of SIGABRT; its last line: CHECK failed: x > 0",
    ],
    "killed": ["killed: at build its process was killed by SIGKILL, most likely because memory ran out"],
    "exits": ["exits: at build its process ended with exit code 0 before its work was done"],
    "stops": [
        "breakpoint(): this process has no terminal; "
        "add hydra/launcher=basic, which runs an export in the process that you started"
    ],
}


@pytest.mark.parametrize(
    ("model", "way"),
    [("abort", "TensorFlow"), *((model, way) for model in DEATHS for way in ("server", "fork"))],
)
def test_a_process_that_dies_is_one_line_and_leaves_nothing(model, way, here):
    told = export(here, *words(way, model), *FAST, "report.path=report.json")
    assert (told.code, told.out, told.err.splitlines()) == (1, "", DEATHS[model])
    assert left(here) == [model]
    until(lambda: processes_of(here) == [])
    report = json.loads((here / "report.json").read_text())
    assert (report["status"], report["version"], report["error"]) == ("failed", None, DEATHS[model][-1])


def test_what_a_builder_forks_leaves_the_export_alone(here):
    told = export(here, "model=forks_in_tensorflow", *FAST)
    assert (told.code, told.err) == (2, f"source.builder: raised ValueError: in the parent ({here}/builders.py:21)\n")
    assert left(here) == ["forks"]


def test_too_long_is_one_line(here):
    told = export(here, *words("server", "stays"), *FAST, "hydra.launcher.timeout=10")
    assert (told.code, told.err) == (1, "stays: at build its process took longer than 10 s (hydra.launcher.timeout)\n")
    assert left(here) == ["stays"]


def staying(here, way="server", **options):
    """An export that stays in its builder."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(
        command(*words(way, "stays"), *FAST), cwd=here, env=surroundings(here), start_new_session=True, **pipes, **options
    )
    until((here / "building").exists)
    return running


@pytest.mark.parametrize(
    ("number", "code", "said", "way"),
    [
        (signal.SIGINT, 130, "exportkit: interrupted\n", "server"),
        (signal.SIGTERM, 143, "exportkit: ended by SIGTERM\n", "TensorFlow"),
        (signal.SIGTERM, 143, "exportkit: ended by SIGTERM\n", "fork"),
        (signal.SIGHUP, 129, "exportkit: ended by SIGHUP\n", "server"),
        (signal.SIGQUIT, 131, "exportkit: ended by SIGQUIT\n", "server"),
    ],
)
def test_a_signal_ends_an_export_and_nothing_is_left(number, code, said, way, here):
    with staying(here, way, preexec_fn=processlab.interruptible) as running:
        running.send_signal(number)
        assert running.communicate(timeout=60) == ("", said)
    assert running.returncode == code
    assert left(here) == ["stays"]
    until(lambda: processes_of(here) == [])


def test_what_a_kill_leaves_is_removed_by_the_next_export(here):
    with staying(here) as running:
        running.kill()
    until(lambda: processes_of(here) == [])
    assert ".1.staging" in left(here)
    assert export(here, "model=good", *FAST).code == 0
    assert list((here / "tmp").glob("exportkit-*")) == []
    assert export(here, "model=stays", *FAST, "source.how=exits").code == 1
    assert [path.name for path in (here / "exports/stays").iterdir()] == []


def ignoring():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_signals_that_are_ignored_stay_so_and_sigterm_ends_it(here):
    """As under nohup, or in the background of a script."""
    with staying(here, preexec_fn=ignoring) as running:
        for number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(running.pid, number)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1)
        running.terminate()
        assert running.communicate(timeout=60) == ("", "exportkit: ended by SIGTERM\n")
    assert running.returncode == 143
    assert left(here) == ["stays"]


# Whoever reads it, or does not


def shell(here, line):
    done = subprocess.run(
        ["bash", "-c", line.replace("exportkit", f"{sys.executable} -m exportkit")],
        cwd=here, env=surroundings(here), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


GOOD = "exportkit model=good 'post=[]'"


@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        (f"{GOOD} >&-", "", ""),
        (f"{GOOD} <&- >&- 2>&-", "", ""),
        (f"{GOOD} >/dev/full", "", "warning: the output was not printed: No space left on device\n"),
        (f"set -o pipefail; {GOOD} | true", "", ""),
    ],
)
def test_a_published_version_is_no_failure_where_nobody_reads_of_it(line, out, err, here):
    assert shell(here, line) == (0, out, err)
    assert (here / "exports/good/1/saved_model.pb").is_file()


def test_a_working_directory_that_is_gone_is_one_line(here):
    code, out, err = shell(here, f"mkdir gone; cd gone; rmdir ../gone; {GOOD}")
    assert (code, out, err.splitlines()[-1]) == (1, "", "working directory: was removed; change to another one")


def test_a_working_directory_that_goes_meanwhile_is_no_failure(here):
    (here / "going/conf").mkdir(parents=True)
    (here / "conf/model").rename(here / "going/conf/model")
    builder = "import os, shutil, tensorflow as tf\n\ndef build():\n    shutil.rmtree(os.getcwd())\n"
    builder += "    x = tf.compat.v1.placeholder(tf.float32, [None, 3], 'x')\n    tf.identity(x, 'probs')\n"
    (here / "going/going.py").write_text(builder)
    words = f"post=[] export_dir={here}/exports source.builder=going:build"
    code, out, err = shell(here, f"cd going; exportkit model=exits_in_tensorflow {words}")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"exported exits 1: {here}/exports/1, no variables, \d+\.\d s\n", out)


def test_umask_077_is_a_warning(here):
    code, _, err = shell(here, f"umask 077; {GOOD}")
    text = "only its owner can read it, for the umask is 077; a server of another user needs an export under umask 022 or 027"
    assert (code, err) == (0, f"good: warning: {here}/exports/good/1: {text}\n")


def test_a_terminal_shows_the_stages_and_the_whole_report(here):
    ours, theirs = pty.openpty()
    environment = {**surroundings(here), "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command("model=good"), cwd=here, env=environment, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(ours))
    assert running.returncode == 0
    stages = r"start|build|prune|bind|write|verify|manifest|commit"  # those that last are shown
    assert re.search(rf"good: ({stages}) \d+\.\d s", text)
    assert re.search(r"good: exported version 1 to exports/good/1 in \d+\.\d s\r\n", text)
    assert "Serve it\r\n" in text


def test_what_a_builder_prints_is_not_among_the_result(here):
    (here / "speaking.py").write_text(
        "import builders\n\ndef build():\n    print('spoken', flush=True)\n    raise ValueError('no')\n"
    )
    told = export(here, "model=exits_in_tensorflow", "source.builder=speaking:build")
    assert told.out == ""
    assert told.err.splitlines() == ["spoken", f"source.builder: raised ValueError: no ({here}/speaking.py:5)"]


def test_in_the_process_that_was_started_tracebacks_and_debuggers_work(here):
    environment = {**surroundings(here), "HYDRA_FULL_ERROR": "1"}
    for more, env in ((["hydra/launcher=basic"], surroundings(here)), ([], environment)):
        done = subprocess.run(
            command("model=stops", *FAST, *more), cwd=here, env=env, input="p 6 * 7\nquit\n", capture_output=True, text=True
        )
        assert "-> return" in done.stdout or "builders.py" in done.stdout
        assert "(Pdb) 42\n" in done.stdout
    assert "bdb.BdbQuit" in done.stderr


def test_the_stages_that_are_done_have_their_seconds(monkeypatch):
    clock = iter([0.25, 0.25, 2.0, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock, 2.0))
    stages = Stages("digits", since=0.0)
    stages.begin("import tensorflow")
    stages.begin("build")
    stages.begin("build")
    assert stages.done == [("plan", 0.25), ("import tensorflow", 1.75)]
    assert str(stages) == "digits: build 0.0 s (done: plan 0.2 s, import tensorflow 1.8 s)"
