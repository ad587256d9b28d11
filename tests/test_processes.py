"""Tasks in processes of their own: each death is one task's, and nothing of a task is left."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import closing
from pathlib import Path

import processlab as lab
import pytest
from processlab import is_gone, until

from exportkit import processes
from exportkit.cli.sweep.process_launcher import preload
from exportkit.processes import Died, Ended, Reported, Started, Task, output, run, server
from exportkit.processes.scratch import PREFIX, remove_stale, scratch

PRELOAD = preload(uses_tensorflow=True)
LIGHT = preload(uses_tensorflow=False)


@pytest.fixture(autouse=True, scope="module")
def _own_server():
    """The server imports what its first task asks for; an earlier test's may have asked for less."""
    server.end_server()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Directories for temporary files below the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path / "tmp"
    assert list((tmp_path / "tmp").glob(f"{PREFIX}*")) == []


@pytest.fixture
def light_server():
    """The tests after this one have a server that imports TensorFlow again."""
    server.end_server()
    yield
    server.end_server()


def came(*functions, timeout=None, n_jobs=2, log=None, preload=PRELOAD):
    """What became of calls, in their order: a value, or why there is none."""
    calls = [call if isinstance(call, tuple) else (call,) for call in functions]
    tasks = [Task(n, call[0], call[1:], log and log / f"{n}.log") for n, call in enumerate(calls)]
    ends = [event for event in run(tasks, n_jobs, timeout, preload) if isinstance(event, Ended | Died)]
    return [end.value if isinstance(end, Ended) else str(end) for end in sorted(ends, key=lambda end: end.number)]


def pids(place):
    return [int(pid) for path in place.iterdir() for pid in path.name.split("-")]


def test_a_task_starts_tells_and_ends():
    events = list(run([Task(7, lab.tell_stages)], preload=PRELOAD))
    assert events[:3] == [Started(7), Reported(7, "build"), Reported(7, "ü" * 500)]
    assert (events[3].number, events[3].value, len(events)) == (7, True, 4)
    assert 0 < events[3].seconds < 60


def test_the_stages_of_an_export_are_told(capfd):
    events = list(run([Task(0, lab.show_progress)], preload=PRELOAD))
    assert events[1] == Reported(0, "build")
    assert capfd.readouterr() == ("", "")


def test_what_is_told_outside_of_a_task_is_told_to_nobody():
    processes.send_message("build")
    assert not processes.inside()


def test_each_death_is_one_tasks():
    assert came(
        (lab.add, 1, 2),
        lab.abort,
        lab.killed,
        (lab.leave, 3),
        (lab.leave, None),
        (lab.leave_at_once, 255),
        lab.fail,
        (lab.add, 3, 4),
    ) == [
        3,
        "died of SIGABRT",
        "was killed by SIGKILL, most likely because memory ran out",
        "ended with exit code 3",
        "ended with exit code 0 before its work was done",
        "ended with exit code 255",
        "ValueError: no good",
        7,
    ]


def test_a_death_is_told_with_its_last_words(tmp_path):
    assert came(lab.abort, lab.killed, log=tmp_path) == [
        "died of SIGABRT; its last line: said before; its output: 0.log",
        "was killed by SIGKILL, most likely because memory ran out",
    ]
    assert "in abort" in (tmp_path / "0.log").read_text()


def test_a_value_that_cannot_be_handed_over_is_its_tasks_failure():
    assert came(lab.unpicklable, lab.unreadable, (lab.add, 1, 1)) == [
        "its value cannot be pickled: TypeError: mine alone",
        "its value cannot be read: ValueError: invalid literal for int() with base 10: 'x'",
        2,
    ]


def test_a_task_that_cannot_be_handed_over_has_not_started():
    first, second, third = run([Task(0, len, (lab.Unpicklable(),)), Task(1, lab.add, (1, 1))], 1, preload=PRELOAD)
    assert str(first) == "could not be started: TypeError: mine alone"
    assert (second, third.value) == (Started(1), 2)


def test_a_task_whose_log_cannot_be_written_has_not_started(tmp_path):
    (tmp_path / "logs").touch()
    (died,) = came((lab.add, 1, 1), log=tmp_path / "logs")
    assert died == f"could not be started: FileExistsError: [Errno 17] File exists: '{tmp_path / 'logs'}'"


def test_too_long_is_told_and_kills_all_that_was_started(tmp_path):
    (tmp_path / "pids").mkdir()
    died, added = came((lab.sleep_with_child, tmp_path / "pids"), (lab.add, 1, 1), timeout=5)
    assert (died, added) == ("took longer than 5 s", 2)
    (both,) = [pids(tmp_path / "pids")]
    assert len(both) == 2
    until(lambda: all(map(is_gone, both)))


def test_nothing_that_a_task_started_outlives_it(tmp_path):
    (tmp_path / "pids").mkdir()
    assert came((lab.leave_a_child, tmp_path / "pids")) == [None]
    until(lambda: all(map(is_gone, pids(tmp_path / "pids"))))


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands over orphans")


@linux
@pytest.mark.parametrize("then", [None, lab.abort, lab.fail, lab.killed], ids=["returns", "crashes", "raises", "is killed"])
def test_a_daemon_that_a_task_started_does_not_outlive_it(then, tmp_path):
    (tmp_path / "pids").mkdir()
    came((lab.leave_a_daemon, tmp_path / "pids", then))
    (daemon,) = pids(tmp_path / "pids")
    assert is_gone(daemon)


@linux
def test_a_daemon_of_a_task_that_takes_too_long_is_ended(tmp_path):
    (tmp_path / "pids").mkdir()
    assert came((lab.sleep_with_daemon, tmp_path / "pids"), timeout=5) == ["took longer than 5 s"]
    (daemon,) = pids(tmp_path / "pids")
    assert is_gone(daemon)


@linux
def test_no_daemon_outlives_a_parent_that_was_killed(tmp_path, temporary):
    (tmp_path / "pids").mkdir()
    with program(tmp_path, f"run([Task(0, lab.sleep_with_daemon, (lab.Path({str(tmp_path / 'pids')!r}),))])") as parent:
        until(lambda: pids(tmp_path / "pids"))
        parent.kill()
    (daemon,) = pids(tmp_path / "pids")
    until(lambda: is_gone(daemon))
    assert len(remove_stale(temporary)) == 1


def test_a_log_has_its_beginning_and_its_end_and_says_what_was_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "FIRST", 201)
    monkeypatch.setattr(output, "LAST", 2000)
    (died,) = came((lab.print_much, 40, "the last line\n"), log=tmp_path)
    assert died is None
    log = (tmp_path / "0.log").read_bytes()
    head, rest = log.split(b"\n[exportkit: the log ends here at 201 bytes; the last ones follow when the job has ended]\n")
    assert head == b"a" * 100 + b"\n" + b"b" * 100
    dropped, tail = re.fullmatch(rb"\[exportkit: (\d+) bytes were dropped here\]\n(.*)", rest, re.DOTALL).groups()
    assert tail.endswith(b"b" * 999 + b"\nthe last line\n") and len(tail) == 2000
    assert len(head) + int(dropped) + len(tail) == 101 + 40 * 1000 + len("the last line\n")


def test_a_log_below_the_limit_is_as_it_was_printed(tmp_path):
    assert came((lab.print_much, 3000, "end"), log=tmp_path) == [None]
    assert (tmp_path / "0.log").read_bytes() == b"a" * 100 + b"\n" + (b"b" * 999 + b"\n") * 3000 + b"end"


ESCAPES = b"\x1b]0;title\x07 \xff \xe2\x80\xae na\xc3\xafve\r\n50 %\r100 %\n\x1b[31mred\x1b[0m\t\x9b2J"
PRINTED = b"\\x1b]0;title\\x07 \\xff \\u202e na\xc3\xafve\n50 %\n100 %\nred\t\\x9b2J"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_log_can_be_shown_in_a_terminal(size, tmp_path):
    log = output.Output(tmp_path / "log")
    for at in range(0, len(ESCAPES), size):
        log._take(ESCAPES[at : at + size])
    log.close()
    assert (tmp_path / "log").read_bytes() == PRINTED


@pytest.mark.parametrize("first", [0, 1, 20, 50])
def test_the_end_of_a_log_can_be_shown_too(first, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "FIRST", first)
    log = output.Output(tmp_path / "log")
    for at in range(len(ESCAPES)):
        log._take(ESCAPES[at : at + 1])
    log.close()
    head, tail = (tmp_path / "log").read_bytes().split(b"\n[exportkit: the log ends here at %d bytes; " % first)
    assert head + tail.split(b" has ended]\n")[1] == PRINTED


def test_a_log_of_escapes_has_its_limits_too(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "FIRST", 202)
    monkeypatch.setattr(output, "LAST", 1000)
    assert came((lab.print_much, 3, "\x1b" * 9000), log=tmp_path) == [None]
    log = (tmp_path / "0.log").read_text()
    assert log.startswith("a" * 100 + "\n" + "b" * 101 + "\n[exportkit: ")
    assert log.endswith(" bytes were dropped here]\n" + "\\x1b" * 250)


def test_what_prints_for_ever_fills_no_disk_and_its_end_is_told(tmp_path):
    (died,) = came((lab.print_for_ever,), timeout=3, log=tmp_path)
    assert died == "took longer than 3 s; its last line: yes; its output: 0.log"
    assert (tmp_path / "0.log").stat().st_size < output.FIRST + output.LAST + (1 << 17)


def test_all_that_is_written_goes_to_the_log(tmp_path, capfd):
    came((lab.speak, "one"), (lab.speak, "two"), log=tmp_path / "logs")
    lines = ["one on stdout", "one on stderr", "one raw", "one of a child"]
    assert (tmp_path / "logs/0.log").read_text().splitlines() == lines
    assert capfd.readouterr() == ("", "")


def test_without_a_log_it_goes_where_this_process_writes(capfd):
    came((lab.speak, "one"))
    assert capfd.readouterr() == ("one on stdout\none raw\none of a child\n", "one on stderr\n")


def test_no_state_reaches_the_next_task(tmp_path):
    unchanged = (True, None, str(tmp_path), False, False)
    assert came(lab.state, lab.change_state, lab.state, n_jobs=1) == [unchanged, None, unchanged]


def test_a_task_finds_what_this_process_has_at_that_time(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("CHANGED", "here")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend("/changed")
    assert came(lab.state) == [(True, "here", str(tmp_path / "elsewhere"), True, False)]


def test_a_module_in_the_working_directory_is_found_and_not_by_the_server(tmp_path, monkeypatch):
    (tmp_path / "users_own.py").write_text("import os\n\ndef where(): return os.path.abspath(__file__)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import users_own

    modules = "sorted(__import__('sys').modules)"
    where, known = came(users_own.where, (eval, modules), n_jobs=1)
    assert where == str(tmp_path / "users_own.py")
    assert {"tensorflow", "exportkit.exporting.pipeline"} <= set(known)
    assert not {"users_own", "processlab", "pytest", "_pytest", "keras"} & set(known)


def test_a_module_that_hides_the_servers_own_is_not_seen_by_it(tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "hydra.py").write_text("raise SystemExit('the wrong one')\n")
    program = textwrap.dedent("""
        from exportkit.processes import Task, run
        if __name__ == "__main__":
            for event in run([Task(0, len, ((1, 2),))], preload=["exportkit.cli.sweep.preload"]):
                print(event)
    """)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.pop(0); sys.path.remove(sys.argv[1]); " + program, str(tmp_path)],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "Started(number=0)", done.stderr
    assert "value=2" in done.stdout
    assert done.stderr == ""


def test_temporary_files_are_a_tasks_own_and_go_with_it(temporary):
    first, second = came(lab.temporary, lab.temporary)
    assert first != second
    assert Path(first).parents[2] == temporary
    assert not Path(first).exists()


def test_the_server_has_not_asked_for_devices():
    """A GPU that it held would not survive the fork."""
    context = "__import__('sys').modules['tensorflow.python.eager.context']._context"
    assert came((eval, f"{context} is None or {context}._physical_devices is None")) == [True]


def test_random_numbers_are_not_the_same_in_each():
    first, second = came(lab.draws, lab.draws)
    assert not set(first) & set(second)


def test_no_more_run_at_a_time_than_may(tmp_path):
    (tmp_path / "begun").mkdir()
    spans = came(*[(lab.stay_until_two_have_begun, tmp_path / "begun")] * 6, n_jobs=2)
    most = max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans)
    assert most == 2


def test_tasks_are_taken_when_they_can_start():
    taken = []

    def tasks():
        for number in range(4):
            taken.append(number)
            yield Task(number, lab.add, (number, 0))

    with closing(run(tasks(), 1, preload=PRELOAD)) as events:
        assert taken == []
        assert next(events) == Started(0)
        assert taken == [0]
        assert [event.value for event in events if isinstance(event, Ended)] == [0, 1, 2, 3]


def test_no_task_is_no_process():
    assert list(run([], preload=PRELOAD)) == []


def test_who_stops_listening_ends_the_tasks(tmp_path):
    (tmp_path / "pids").mkdir()
    with closing(run([Task(0, lab.sleep_with_child, (tmp_path / "pids",))], preload=PRELOAD)) as events:
        assert next(events) == Started(0)
        until(lambda: pids(tmp_path / "pids"))
    until(lambda: all(map(is_gone, pids(tmp_path / "pids"))))


def test_a_hundred_forks_after_the_import_of_tensorflow(breadth):
    forks = range(breadth(20, 100))
    assert came(*[(lab.run_session, n) for n in forks], timeout=120) == [3 * n for n in forks]


def test_forks_of_a_server_that_holds_the_c_library_alone(tmp_path):
    call = 'run([Task(n, lab.run_core, (n,)) for n in range(20)], 2, 120, ["exportkit.cli.sweep.preload"])'
    out, _ = program(tmp_path, call).communicate(timeout=120)
    values = sorted(int(value) for value in re.findall(r"^Ended\(number=\d+, value=(\d+),", out, re.MULTILINE))
    assert values == [3 * n for n in range(20)]


def test_a_task_that_leaves_threads_behind_ends():
    assert came(lab.threaded, timeout=60) == ["done"]


@pytest.mark.usefixtures("light_server")
def test_a_server_that_is_ended_is_dead_before_the_next_task():
    for _ in range(3):
        (before,) = came(lab.server, preload=LIGHT)
        server.end_server()
        assert os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    (after,) = came(lab.server, preload=LIGHT)
    assert after != before


@pytest.mark.usefixtures("light_server")
def test_a_server_that_was_killed_takes_its_tasks_along_and_is_started_again():
    first, killed, second = came(lab.server, lab.kill_server, lab.server, n_jobs=1, preload=LIGHT)
    assert killed == "lost the process that had started it, which was killed, most likely because memory ran out"
    assert first != second


def test_a_server_that_cannot_start_is_told_by_each_task(tmp_path):
    (tmp_path / "deadly.py").write_text("import os\nos.abort()\n")
    done = program(tmp_path, 'run([Task(n, len, ("a",)) for n in range(2)], preload=["deadly"])')
    said = done.communicate(timeout=60)[0]
    reason = "could not be started: the process that starts the others died, and did so again when it was started anew"
    assert said.splitlines() == [reason, reason]


EARLY = """
from pathlib import Path
import processlab as lab
from exportkit.processes import Ended, Task, prestarted, run

with prestarted(["early"]):
    lab.until(lambda: Path("early").exists() and Path("early").read_text())
    pid = int(Path("early").read_text())
    if {used}:
        print(*(event.value == pid for event in run([Task(0, lab.server)]) if isinstance(event, Ended)))
lab.until(lambda: {used} or lab.is_gone(pid))
print([*run([Task(0, len, ("ab",))])][-1].value)
"""


@pytest.mark.parametrize(("used", "printed"), [(True, ["True", "2"]), (False, ["2"])])
def test_a_server_that_was_started_early_forks_the_tasks_or_is_killed(used, printed, tmp_path):
    (tmp_path / "early.py").write_text("import os, pathlib\npathlib.Path('early').write_text(str(os.getpid()))\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(lab.__file__).parent), str(tmp_path)])}
    command = [sys.executable, "-c", EARLY.format(used=used)]
    (tmp_path / "here").mkdir()
    done = subprocess.run(command, env=environment, cwd=tmp_path / "here", capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines(), done.stderr) == (printed, "")


FORKED = """
import os, sys, types
import processlab as lab
from exportkit.processes import Ended, Task, prestarted, run

sys.modules["imported"] = types.ModuleType("imported")
ends = os.pipe()
with prestarted(["early"]):
    sys.modules["later"] = sys
    for event in run([Task(0, lab.inherited, ([os.fstat(end).st_ino for end in ends], ["imported", "later"]))]):
        if isinstance(event, Ended):
            print(event.value)
print(os.write(ends[1], b"pipe"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is started anew elsewhere")
def test_a_server_that_is_started_early_has_this_process_modules_and_none_of_its_files():
    environment = {**os.environ, "PYTHONPATH": str(Path(lab.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines(), done.stderr) == (["([], ['imported'])", "4"], "")


HERE = """
import os, signal, sys
from pathlib import Path
from exportkit.processes import Ended, Task, run, single_threaded

known = []
known.append(known)  # neither can be pickled
assert single_threaded() and "numpy" not in sys.modules

def work():
    print("to the log")
    handlers = {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    leads, own = os.getsid(0) == os.getpid(), os.environ["TMPDIR"] != was
    return known[0] is known, leads, handlers == {signal.SIG_DFL}, len(blocked), own

was = os.environ.setdefault("TMPDIR", "/tmp")
for call in (lambda: work(), os.abort, lambda: 1 / 0):
    for event in run([Task(0, call, log=Path("log"), here=True)], 1, 60):
        if hasattr(event, "value") or hasattr(event, "death"):
            print(event.value if isinstance(event, Ended) else event.death.reason)
print(Path("log").read_text().splitlines()[0], single_threaded())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted there alone")
def test_a_task_that_is_a_fork_of_this_process_has_its_objects_and_nothing_else_of_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", HERE], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines(), done.stderr) == (
        ["(True, True, True, 0, True)", "died of SIGABRT", "ZeroDivisionError: division by zero", "to the log True"],
        "",
    )


EARLY_SPARE = """
import os
import processlab as lab
from exportkit.processes import Ended, Task, early, run, shared
from exportkit.processes import spare

before = dict(os.environ)
with early("early"):
    pid = spare._pid
    with early("none"):  # there is one
        pass
    lab.until(lambda: open("early").read() == str(pid))
    for here in (False, True):
        print(*(event.value == pid for event in run([Task(0, lab.parent_of_a_worker, here=here)]) if isinstance(event, Ended)))
    print(lab.parent_of_a_worker() == pid, os.environ["OPENBLAS_NUM_THREADS"])
print(lab.is_gone(pid), shared(), dict(os.environ) == before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted there alone")
def test_tasks_fork_their_workers_from_the_spare_of_the_process_that_started_them(tmp_path):
    (tmp_path / "early.py").write_text(
        "import os\nopen('early.part', 'w').write(str(os.getpid()))\nos.rename('early.part', 'early')\n"
    )
    (tmp_path / "early").touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(lab.__file__).parent), str(tmp_path)])}
    environment.pop("OPENBLAS_NUM_THREADS", None)
    command = [sys.executable, "-c", EARLY_SPARE]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines(), done.stderr) == (["True", "True", "True 1", "True None True"], "")


# What ends the parent


def program(tmp_path, call):
    """A program that prints what it hears, in a process group of its own."""
    code = f"from exportkit.processes import Task, run\nimport processlab as lab\nfor e in {call}: print(e, flush=True)\n"
    paths = [str(Path(lab.__file__).parent), str(tmp_path / "modules")]
    (tmp_path / "modules").mkdir()
    for module in tmp_path.glob("*.py"):
        module.rename(tmp_path / "modules" / module.name)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=lab.interruptible, **pipes)


@pytest.fixture
def sleeping(tmp_path):
    """A program that runs two tasks, each with a child, and the ids of the four."""
    (tmp_path / "pids").mkdir()
    call = f"run([Task(n, lab.sleep_with_child, ({str(tmp_path / 'pids')!r},)) for n in range(2)], 2)"
    with program(tmp_path, call) as parent:
        until(lambda: len(pids(tmp_path / "pids")) == 4)
        yield parent, pids(tmp_path / "pids")
        parent.kill()


def test_ctrl_c_ends_all(sleeping, temporary):
    parent, tasks = sleeping
    os.killpg(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    assert parent.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1  # its own
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert all(map(is_gone, tasks))
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_sigterm_ends_all(sleeping, temporary):
    parent, tasks = sleeping
    parent.terminate()
    assert parent.communicate(timeout=60)[1] == ""
    assert parent.returncode == 128 + signal.SIGTERM
    assert all(map(is_gone, tasks))
    assert list(temporary.glob(f"{PREFIX}*")) == []


def test_no_task_outlives_a_parent_that_was_killed(sleeping, temporary):
    parent, tasks = sleeping
    parent.kill()
    until(lambda: all(map(is_gone, tasks)))
    assert parent.communicate(timeout=60)[1] == ""
    (left,) = temporary.glob(f"{PREFIX}*")
    assert remove_stale(temporary) == [left]
    assert not left.exists()


def test_ctrl_c_while_the_server_starts_is_quiet(tmp_path, temporary):
    (tmp_path / "slow.py").write_text("import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(3)\n")
    with program(tmp_path, 'run([Task(0, lab.stay, (0,))], preload=["slow"])') as parent:
        until((tmp_path / "started").exists)
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=60)
    assert out == ""
    assert (err.count("Traceback"), err.splitlines()[-1]) == (1, "KeyboardInterrupt")


def test_what_is_held_is_not_swept(temporary):
    with scratch() as held:
        (temporary / f"{PREFIX}file").touch()
        (temporary / f"{PREFIX}link").symlink_to(held)
        assert remove_stale(temporary) == []
        assert held.is_dir()
    (temporary / f"{PREFIX}file").unlink()
    (temporary / f"{PREFIX}link").unlink()


def test_a_long_temporary_directory_does_not_stand_in_the_way(tmp_path):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    script = (
        "from exportkit.processes import Task, run\n"
        "print([e.value for e in run([Task(0, len, ('four',))]) if hasattr(e, 'value')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(long)}, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[4]\n", "")
    assert list(long.iterdir()) == []
