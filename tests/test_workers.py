"""Workers give the same answers whether they are started anew or forked from a spare."""

import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

WORKER = """
import os, signal, sys, time

def main():
    said = sys.stdin.read()
    if said == "raise":
        raise ValueError("no")
    if said == "abort":
        os.abort()
    if said == "wait":
        time.sleep(60)
    print(said.upper(), os.environ["CUDA_VISIBLE_DEVICES"], file=open(1, "w"))

if __name__ == "__main__":
    main()
"""
SCRIPT = """
import subprocess, sys, tempfile
from exportkit.processes import workers
import shouting

if sys.argv[1] == "spare":
    workers.reserve()

def ask(text, timeout=None):
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answers, tempfile.TemporaryFile() as log:
        asked.write(text.encode())
        asked.seek(0)
        process = workers.start(shouting, asked, answers, log)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            code = f"late, then {process.wait()}"
        answers.seek(0)
        log.seek(0)
        words = log.read().decode().split("\\n")[-2:]
        print(type(process).__name__, code, process.wait(), answers.read().decode().strip(), words)

for text in ("hello", "again", "raise", "abort"):
    ask(text)
ask("wait", 0.5)
ask("still there")
"""


@pytest.fixture
def said(tmp_path):
    """What the script says that asks workers, by where they come from."""
    (tmp_path / "shouting.py").write_text(WORKER)
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(kind):
        done = subprocess.run([sys.executable, "script.py", kind], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize(("kind", "name"), [("anew", "Popen"), ("spare", "_Forked")])
def test_a_worker_answers_fails_dies_and_is_killed(kind, name, said):
    assert said(kind) == [
        f"{name} 0 0 HELLO -1 ['']",
        f"{name} 0 0 AGAIN -1 ['']",
        f"{name} 1 1  ['ValueError: no', '']",
        f"{name} -6 -6  ['']",
        f"{name} late, then -9 -9  ['']",
        f"{name} 0 0 STILL THERE -1 ['']",
    ]


def test_a_spare_ends_with_its_process(said, tmp_path):
    said("spare")
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if os.readlink(process / "cwd") == str(tmp_path) and int(process.name) != os.getpid():
                left.append((process / "cmdline").read_bytes())
    assert left == []


VERIFIED = """
    import sys
    from exportkit import plan, run
    from exportkit.processes import workers
    from exportkit.verifying.parity import reference_worker
    from exportkit.processes.tensorflow import preload_tensorflow
    from exportkit.testing import toys

    preload_tensorflow()
    workers.reserve()
    workers.subprocess = None   # nothing may be started anew
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
