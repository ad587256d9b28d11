"""Workers give the same answers whether they are fresh interpreters or forks of a spare, and nothing of them is left."""

import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import processlab as lab
import pytest
from processlab import is_gone, until

from exportkit.errors import ConfigError, EnvironmentFailed, Problem, StepFailed
from exportkit.processes import call_apart
from exportkit.processes.replies import ReplyPipe
from exportkit.processes.scratch import PREFIX

WORKER = """
import os, pickle, subprocess, sys, time

def main():
    replies = os.fdopen(os.dup(1), "wb")
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if message == "raise":
            raise ValueError("no")
        if message == "abort":
            os.abort()
        if message == "leave":
            os._exit(0)
        if message == "wait":
            child = subprocess.Popen(["sleep", "600"])
            open(f"{os.getpid()}-{child.pid}.pids", "w").close()
            time.sleep(60)
        pickle.dump((message.upper(), os.environ["CUDA_VISIBLE_DEVICES"], os.getpgid(0) == os.getpid()), replies)
        replies.flush()

if __name__ == "__main__":
    main()
"""
SCRIPT = """
import sys
from exportkit.processes import WorkerDied, conversation, exchange, reserve
import shouting

if sys.argv[1] == "spare":
    reserve()

for text, timeout in (("hello", None), ("raise", None), ("abort", None), ("leave", 60), ("wait", 3)):
    replies, death = exchange(shouting, [text], timeout)
    print(replies, death)

with conversation(shouting) as worker:
    for text in ("one", "two", "abort"):
        worker.send(text)
        try:
            print(worker.receive(60))
        except WorkerDied as died:
            print(died.death)
    worker.send("dead")
with conversation(shouting) as worker:
    worker.send("wait")
    try:
        worker.receive(3)
    except WorkerDied as died:
        print(died.death)
with conversation(shouting) as worker:
    worker.send("x" * 1_000_000)   # more than a pipe holds, and unread
"""


@pytest.fixture
def said(tmp_path):
    """What the script prints that talks to workers, by where they come from."""
    (tmp_path / "shouting.py").write_text(WORKER)
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(kind):
        done = subprocess.run([sys.executable, "script.py", kind], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def pids(place):
    return [int(pid) for path in place.glob("*.pids") for pid in path.stem.split("-")]


@pytest.mark.parametrize("kind", ["anew", "spare"])
def test_a_worker_answers_fails_dies_and_is_killed(kind, said, tmp_path):
    assert said(kind) == [
        "[('HELLO', '-1', True)] None",
        "[] ended with exit code 1; its last line: ValueError: no",
        "[] died of SIGABRT",
        "[] None",
        "[] took longer than 3 s",
        "('ONE', '-1', True)",
        "('TWO', '-1', True)",
        "died of SIGABRT",
        "took longer than 3 s",
    ]
    assert len(pids(tmp_path)) == 4
    until(lambda: all(map(is_gone, pids(tmp_path))))


def test_an_interrupt_of_a_wait_leaves_nothing_to_wait_for(tmp_path):
    (tmp_path / "shouting.py").write_text(WORKER)
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import signal
            from exportkit.processes import conversation
            import shouting

            signal.signal(signal.SIGALRM, signal.default_int_handler)
            with conversation(shouting) as worker:
                worker.send("one")
                worker.receive(60)
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                try:
                    worker.receive(600)
                except KeyboardInterrupt:
                    print("interrupted")
        """)
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_a_reply_that_comes_in_pieces_has_to_be_whole_in_time():
    ours, theirs = os.pipe()
    with ReplyPipe(ours) as pipe, open(theirs, "wb", buffering=0) as worker:
        replies = io.BufferedReader(pipe)
        content = pickle.dumps(list(range(100_000)))
        sent = threading.Thread(target=worker.write, args=(content + content[:1000],))
        sent.start()
        pipe.expect(None)
        assert pickle.load(replies) == list(range(100_000))
        assert not pipe.late
        sent.join()
        pipe.expect(0.1)
        with pytest.raises((EOFError, pickle.UnpicklingError)):
            pickle.load(replies)
        assert pipe.late
        pipe.expect(1e9)
        worker.write(pickle.dumps("late"))
        assert replies.read(5) == pickle.dumps("late")[:5]


def test_a_spare_ends_with_its_process(said, tmp_path):
    said("spare")

    def left():
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if os.readlink(process / "cwd") == str(tmp_path) and int(process.name) != os.getpid():
                    found.append((process / "cmdline").read_bytes())
        return found

    until(lambda: left() == [])


@pytest.mark.parametrize("kind", ["anew", "spare"])
def test_no_worker_and_nothing_that_it_started_outlives_a_killed_parent(kind, tmp_path):
    (tmp_path / "shouting.py").write_text(WORKER)
    (tmp_path / "script.py").write_text(SCRIPT.split("for text")[0] + 'exchange(shouting, ["wait"])\n')
    with subprocess.Popen([sys.executable, "script.py", kind], cwd=tmp_path) as parent:
        until(lambda: pids(tmp_path))
        parent.kill()
    until(lambda: all(map(is_gone, pids(tmp_path))))


# ---- one call ----


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "tmp"
    assert list((tmp_path / "tmp").glob(f"{PREFIX}*")) == []


def test_a_call_gives_its_value_and_its_output_is_captured(temporary, capfd):
    assert call_apart(lab.add, 1, other=2) == 3
    assert call_apart("processlab:add", 1, 2) == 3
    assert call_apart(lab.speak, "one") is None
    assert capfd.readouterr() == ("", "")


def test_a_calls_temporary_files_are_removed(temporary):
    directory = Path(call_apart(lab.temporary))
    assert directory.parent == temporary
    assert not directory.exists()


def test_threads_that_a_call_leaves_are_not_waited_for(temporary):
    assert call_apart(lab.lingering, timeout=60) == "done"


@pytest.mark.parametrize(
    ("function", "error", "problem"),
    [
        (lab.fail, StepFailed, Problem("here", "it raised ValueError: no good")),
        (partial(lab.leave, 3), StepFailed, Problem("here", "it raised SystemExit: 3")),
        (lab.refuse, ConfigError, Problem("key", "is wrong", "fix it")),
        (lab.unpicklable, StepFailed, Problem("here", "it raised TypeError: mine alone")),
        (
            lab.unreadable,
            StepFailed,
            Problem("here", "it returned a value that cannot be read: ValueError: invalid literal for int() with base 10: 'x'"),
        ),
        (lab.abort, StepFailed, Problem("here", "it's process died of SIGABRT; its last line: said before")),
        (
            lab.killed,
            EnvironmentFailed,
            Problem("here", "it's process was killed by SIGKILL, most likely because memory ran out", "free some memory"),
        ),
        (lab.terminated, EnvironmentFailed, Problem("here", "it's process was killed by SIGTERM")),
        (lab.realtime, EnvironmentFailed, Problem("here", "it's process was killed by signal 40")),
        (
            partial(lab.leave_at_once, 0),
            EnvironmentFailed,
            Problem("here", "it's process ended with exit code 0 before its work was done"),
        ),
        (partial(lab.leave_at_once, 7), EnvironmentFailed, Problem("here", "it's process ended with exit code 7")),
        (
            "nowhere:f",
            StepFailed,
            Problem("here", "it raised ModuleNotFoundError: No module named 'nowhere'"),
        ),
    ],
)
def test_each_end_of_a_call_is_one_error(function, error, problem, temporary):
    with pytest.raises(error) as caught:
        call_apart(function, where="here", title="it")
    assert caught.value.problems == (problem,)


def test_a_call_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path, temporary):
    (tmp_path / "pids").mkdir()
    with pytest.raises(StepFailed) as caught:
        call_apart(lab.sleep_with_child, tmp_path / "pids", timeout=5)
    assert str(caught.value) == "the call's process took longer than 5 s; raise the timeout"
    both = [int(pid) for path in (tmp_path / "pids").iterdir() for pid in path.name.split("-")]
    assert len(both) == 2
    until(lambda: all(map(is_gone, both)))


VERIFIED = """
    import sys
    from exportkit import plan, run
    from exportkit.processes import reserve, workers
    from exportkit.core.capi import library
    from exportkit.testing import toys

    library()
    reserve()
    workers._fresh = None   # no worker may be a fresh interpreter
    config = toys.config(sys.argv[1], __import__("pathlib").Path("."), post={
        "verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}})
    steps = {step.kind: step for step in run(plan(config)).steps}
    print(steps["verify"].status, steps["verify"].details["summary"], steps["manifest"].details["samples"])
"""


@pytest.mark.slow
def test_an_export_is_verified_by_forks_of_a_spare(checkpoint, tmp_path):
    script = tmp_path / "verified.py"
    script.write_text(textwrap.dedent(VERIFIED))
    command = [sys.executable, script, checkpoint("softmax").prefix]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (
        done.stdout == "passed max abs diff 0, mismatches 0; signatures 1, outputs 1; on random values: serving_default 1\n"
    ), done.stderr
