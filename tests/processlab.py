"""What the tests of processes run in them, importable by a child: functions, and whole programs."""

import atexit
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from exportkit.errors import ConfigError, Problem
from exportkit.processes import call_apart, inside, send_message


def interruptible():
    """In a child, before it becomes a program: have Ctrl-C end it, even where this process was started to ignore it.

    Shells start what runs in the background of a script so, and nohup and cron do.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def add(one, other):
    return one + other


def abort():
    print("said before", flush=True)
    os.abort()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def realtime():
    os.kill(os.getpid(), 40)


def refuse():
    raise ConfigError(Problem("key", "is wrong", "fix it"))


def lingering():
    """Leave a thread behind that the interpreter would wait for."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "done"


def leave(code):
    sys.exit(code)


def leave_at_once(code):
    os._exit(code)


def fail():
    raise ValueError("no\ngood")


class Unreadable:
    """Can be pickled, and not be read."""

    def __reduce__(self):
        return int, ("x",)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("mine alone")


def unpicklable():
    return Unpicklable()


def unreadable():
    return Unreadable()


def sleep_with_child(place):
    """Leave the ids of this process and of its child in `place`, and stay."""
    sleeping = subprocess.Popen(["sleep", "600"])
    Path(place, f"{os.getpid()}-{sleeping.pid}").touch()
    sleeping.wait()


def leave_a_child(place):
    Path(place, str(subprocess.Popen(["sleep", "600"]).pid)).touch()


DAEMON = """
import os, signal, sys, time
os.setsid()
if os.fork():
    os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
os.chdir("/")
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
time.sleep(600)
"""


def leave_a_daemon(place, then=None):
    """Start what moves to a session of its own and is nobody's child, as daemons do; wait until it has."""
    subprocess.run([sys.executable, "-c", DAEMON, str(place)], env={}, check=True)
    until(lambda: any(place.iterdir()))
    if then is not None:
        then()


def sleep_with_daemon(place):
    leave_a_daemon(place, lambda: time.sleep(600))


def print_much(first, last):
    os.write(1, b"a" * 100 + b"\n")
    for _ in range(first):
        os.write(1, b"b" * 999 + b"\n")
    os.write(2, last.encode())


def print_for_ever():
    while True:
        os.write(1, b"yes\n" * 16000)


def speak(text):
    """To both streams, by Python, by C and by a child."""
    print(f"{text} on stdout")
    print(f"{text} on stderr", file=sys.stderr)
    sys.stdout.flush()
    os.write(1, f"{text} raw\n".encode())
    subprocess.run(["echo", f"{text} of a child"], check=True)


def tell_stages():
    send_message("build")
    send_message("ü" * 3000)
    return inside()


def show_progress():
    from exportkit.cli.progress import progress

    with progress("digits") as stage:
        stage("build")


def change_state():
    """Change whatever a process has."""
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()
    os.environ["CHANGED"] = "yes"
    os.chdir("/")
    sys.path.insert(0, "/changed")
    sys.modules["changed"] = sys


def state():
    import tensorflow as tf

    return tf.executing_eagerly(), os.environ.get("CHANGED"), os.getcwd(), "/changed" in sys.path, "changed" in sys.modules


def inherited(pipe, modules):
    """Return which of some files this process has open, by inode, and which of some modules are imported."""
    inodes = {os.stat(f"/proc/self/fd/{number}").st_ino for number in os.listdir("/proc/self/fd") if is_open(int(number))}
    return sorted(inodes & set(pipe)), [name for name in modules if name in sys.modules]


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def run_core(value):
    """Run one session of the C++ core, without TensorFlow's Python."""
    from exportkit.core.graph import Graph, Session
    from exportkit.protos import GraphDef

    assert "exportkit.core.capi" in sys.modules and "tensorflow" not in sys.modules
    graph_def = GraphDef()
    constant = graph_def.node.add(name="value", op="Const")
    constant.attr["dtype"].type = constant.attr["value"].tensor.dtype = 3
    constant.attr["value"].tensor.tensor_shape.SetInParent()
    constant.attr["value"].tensor.int_val.append(3 * value)
    with Graph() as graph:
        graph.import_(graph_def.SerializeToString())
        with Session(graph) as session:
            return int(session.run({}, ["value"])[0])


def run_session(value):
    """One session and one eager operation."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        doubled = int(session.run(tf.constant(value) * 2))
    return doubled + int(tf.constant(value))


def temporary():
    import tempfile

    (Path(tempfile.gettempdir()) / "left").touch()
    return tempfile.gettempdir()


def draws():
    import numpy

    return random.random(), numpy.random.random()


def stay(seconds):
    """Stay for a while; when that began and ended."""
    begun = time.time()
    time.sleep(seconds)
    return begun, time.time()


def stay_until_two_have_begun(place):
    """Stay until another task is or was here too, and a while longer; when that began and ended."""
    begun = time.time()
    Path(place, str(os.getpid())).touch()
    until(lambda: len(os.listdir(place)) > 1, 60)
    time.sleep(0.2)
    return begun, time.time()


def threaded():
    """Leave threads and hooks behind."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    atexit.register(time.sleep, 600)
    return "done"


def server():
    """The id of the process that this one's keeper was forked from."""
    return parent_of(os.getppid())


def parent_of_a_worker():
    """The id of the process that a worker was forked from."""
    return call_apart("os:getppid")


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_server():
    os.kill(server(), signal.SIGKILL)
    time.sleep(600)


def is_gone(pid):
    """Whether a process has ended; whether its parent has asked is another matter."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "did not come to pass"
        time.sleep(0.02)
    return found
