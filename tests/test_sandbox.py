"""What a worker in a sandbox can reach: a plain Python child, and graphs that read, write and print to files."""

import ctypes
import errno
import io
import json
import os
import pickle
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toys

from exportkit.core import tensors
from exportkit.processes import Sandbox, WorkerDied, conversation, exchange, not_sandboxed, sandbox, spare, workers
from exportkit.processes.replies import ValuesUnpickler
from exportkit.protos import ConfigProto
from exportkit.serving import running
from exportkit.verifying.audit import verify_version
from exportkit.verifying.parity import reference

REFUSED = (
    "a process that runs a graph may open only the version, the checkpoint and the assets; EXPORTKIT_SANDBOX=off lifts that"
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """Skips where this kernel or container has no sandbox for an ordinary user, and says why."""
    code = "import sys; from exportkit.processes.sandbox import *; print(enter(Sandbox([]).message(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path_factory.mktemp("scratch"))]
    if lacks := subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip():
        pytest.skip(f"NO SANDBOX HERE: {lacks}")


def child(code, reads=(), links=None, before=""):
    """The lines that a child prints: `code` runs in a sandbox, `before` ahead of it."""
    script = f"""if True:
        import json, os, socket, subprocess, sys, tempfile
        from exportkit.processes import sandbox
        reads, links, scratch = json.loads(sys.argv[1])
        def tried(function, *arguments, **keywords):
            try:
                return function(*arguments, **keywords)
            except OSError as error:
                return error.strerror
        {before}
        lacks = sandbox.enter(sandbox.Sandbox(reads, links).message(scratch))
        {code}
    """
    os.makedirs("scratch", exist_ok=True)
    given = json.dumps([list(map(str, reads)), links or {}, os.path.abspath("scratch")])
    done = subprocess.run([sys.executable, "-c", script, given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret.txt"
    file.write_text("a password\n")
    return file


def test_a_child_opens_what_it_needs_and_nothing_else(closed, secret, tmp_path):
    (tmp_path / "needed").mkdir()
    (tmp_path / "needed" / "a.txt").write_text("needed")
    code = f"""
        print(open({str(tmp_path / "needed" / "a.txt")!r}).read())
        print(tried(open, {str(secret)!r}))
        print(tried(os.listdir, {str(tmp_path)!r}))
        print(tried(open, {str(tmp_path / "needed" / "b.txt")!r}, "w"))
        print(tried(os.unlink, {str(secret)!r}), tried(os.truncate, {str(secret)!r}, 0))
        print(tried(open, "/proc/self/environ"), tried(open, "/etc/passwd"), tried(open, "/proc/1/environ"))
        print(repr(lacks))
    """
    assert child(code, [tmp_path / "needed"]) == [
        "needed",
        "Permission denied",
        "Permission denied",
        "Permission denied",
        "Permission denied Permission denied",
        "Permission denied Permission denied Permission denied",
        "''",
    ]
    assert secret.read_text() == "a password\n"
    assert sorted(os.listdir(tmp_path / "needed")) == ["a.txt"]


def test_temporary_files_and_what_a_process_knows_of_itself_stay(closed):
    code = """
        with tempfile.NamedTemporaryFile("w+") as file:
            print(os.path.dirname(file.name) == scratch, file.write("x"))
        print(os.environ["TMPDIR"] == os.environ["HOME"] == scratch)
        os.mkdir(f"{scratch}/a"); os.rename(f"{scratch}/a", f"{scratch}/b"); os.rmdir(f"{scratch}/b")
        for path in ("/proc/self/maps", "/proc/self/cmdline", "/proc/cpuinfo", "/proc/meminfo", "/dev/zero", "/dev/urandom"):
            assert open(path, "rb").read(1), path
        open("/dev/null", "w").write("x")
        assert os.listdir("/sys/devices/system/cpu") and os.cpu_count()
        import decimal, sqlite3  # modules of the library, with their shared libraries
        print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout)
    """
    assert child(code) == ["True 1", "True", "1", ""]


def test_there_is_no_network(closed):
    code = """
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                print(tried(socket.socket, family, kind))
        print(tried(socket.create_connection, ("127.0.0.1", 9)))
        one, other = socket.socketpair()
        one.send(b"within"); print(other.recv(6))
    """
    assert child(code) == ["Operation not permitted"] * 7 + ["b'within'"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of x86-64")
@pytest.mark.parametrize("number", [41, 425, 41 | 0x40000000])
def test_no_other_way_leads_to_a_socket(closed, number):
    code = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        print(libc.syscall({number}, 2, 1, 0), ctypes.get_errno())
    """
    assert child(code) == [f"-1 {errno.EPERM}"]


def test_what_a_child_starts_is_in_the_sandbox_too(closed, secret):
    connect = "import socket\ntry: socket.socket()\nexcept OSError as error: print(error.strerror)"
    code = f"""
        done = subprocess.run(["cat", {str(secret)!r}], capture_output=True, text=True)
        print(done.returncode, done.stderr.split(": ")[-1].strip())
        print(subprocess.run([sys.executable, "-c", {connect!r}], capture_output=True, text=True).stdout.strip())
        sys.stdout.flush()
        if not os.fork():
            print(tried(open, {str(secret)!r}), tried(socket.socket), flush=True)
            os._exit(0)
        os.wait()
        import threading
        thread = threading.Thread(target=lambda: print(tried(open, {str(secret)!r}), tried(socket.socket)))
        thread.start(); thread.join()
    """
    both = "Permission denied Operation not permitted"
    assert child(code) == ["1 Permission denied", "Operation not permitted", both, both]


def test_a_link_leads_to_the_file_that_was_opened_for_it(closed, secret):
    """Also where it is deleted by then, and its path one of another process's descriptors."""
    with open(secret) as held:
        secret.unlink()
        place = f"/proc/{os.getpid()}/fd/{held.fileno()}"
        link = os.path.abspath("scratch/room/a.txt")
        code = f"print(open({link!r}).read().strip(), tried(open, {place!r}))"
        assert child(code, [place, os.path.abspath("scratch")], {link: place}) == ["a password Permission denied"]


class Refusing:
    """A C library whose system calls fail with an error number."""

    def __init__(self, number, only):
        self._number, self._only, self._real = number, only, ctypes.CDLL(None, use_errno=True)

    def __getattr__(self, name):
        return self._refuse if name == self._only else getattr(self._real, name)

    def _refuse(self, *_):
        ctypes.set_errno(self._number)
        return -1


@pytest.mark.parametrize(
    ("give_up", "only", "number", "text"),
    [
        (sandbox._give_up_files, "syscall", errno.ENOSYS, "the kernel has no Landlock (function not implemented)"),
        (sandbox._give_up_files, "syscall", errno.EPERM, "the kernel has no Landlock (operation not permitted)"),
        (sandbox._give_up_network, "prctl", errno.EINVAL, "seccomp is refused (invalid argument)"),
    ],
)
def test_a_kernel_that_refuses_is_named(give_up, only, number, text, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "_libc", lambda: Refusing(number, only))
    message = Sandbox([]).message(tmp_path)
    with pytest.raises(OSError, match=re.escape(text)):
        give_up(message)


def test_a_child_goes_on_without_a_sandbox_and_says_so(secret):
    before = "sandbox._CREATE_RULESET, sandbox._SET_SECCOMP = 9999, 9999"
    lines = child(f"print(lacks); print(tried(open, {str(secret)!r}).read().strip())", before=before)
    files = "files: the kernel has no Landlock (function not implemented)"
    assert lines == [f"{files}; network: seccomp is refused (invalid argument)", "a password"]


@pytest.mark.parametrize(
    ("patched", "text"),
    [
        (
            "sys.platform, sandbox.platform.system = 'darwin', lambda: 'Darwin'",
            "Darwin has no such means for an ordinary user",
        ),
        ("sandbox.platform.machine = lambda: 'riscv64'", "network: no system call numbers of riscv64 are known"),
        ("os.environ['EXPORTKIT_SANDBOX'] = 'off'", "EXPORTKIT_SANDBOX=off"),
    ],
)
def test_where_there_is_no_sandbox_the_reason_is_named(patched, text, closed):
    assert child("print(lacks)", before=patched) == [text]


WORKER = """
import os, pickle, sys

def main():
    replies = os.fdopen(os.dup(1), "wb")
    path = pickle.load(sys.stdin.buffer)
    try:
        pickle.dump(open(path).read(), replies)
    except OSError as error:
        pickle.dump(error.strerror, replies)
    replies.flush()
"""


@pytest.fixture
def reading(tmp_path, monkeypatch):
    """The module of a worker that reads a file."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "reading_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(spare, "_spare", None)  # it does not find what is written now
    import reading_worker

    yield reading_worker
    del sys.modules["reading_worker"]


def test_a_worker_is_in_the_sandbox_that_it_is_started_with(closed, reading, secret):
    assert exchange(reading, [str(secret)], 60) == (["a password\n"], None)
    assert exchange(reading, [str(secret)], 60, Sandbox([])) == (["Permission denied"], None)
    assert exchange(reading, [str(secret)], 60, Sandbox([secret])) == (["a password\n"], None)
    assert not_sandboxed() == ""


def test_what_is_not_sandboxed_is_known_afterwards(reading, secret, monkeypatch):
    monkeypatch.setattr(workers, "_lacks", [])
    monkeypatch.setenv("EXPORTKIT_SANDBOX", "off")
    for _ in range(2):
        assert exchange(reading, [str(secret)], 60, Sandbox([])) == (["a password\n"], None)
    assert not_sandboxed() == "EXPORTKIT_SANDBOX=off"


FORGING = """
import os, pickle, sys

class Call:
    def __reduce__(self):
        return open, ("forged.txt", "w")

def main():
    replies = os.fdopen(os.dup(1), "wb")
    pickle.load(sys.stdin.buffer)
    pickle.dump(Call(), replies)
    replies.flush()
"""


def test_a_reply_is_data_and_calls_nothing(tmp_path, monkeypatch):
    (tmp_path / "forging_worker.py").write_text(FORGING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(spare, "_spare", None)  # it does not find what is written now
    import forging_worker

    replies, death = exchange(forging_worker, ["x"], 60, Sandbox([]))
    assert (replies, str(death)) == ([], "wrote a reply that is no value")
    with conversation(forging_worker, Sandbox([])) as worker, pytest.raises(WorkerDied, match="wrote a reply that is no value"):
        worker.send("x")
        worker.receive(60)
    assert not (tmp_path / "forged.txt").exists()


@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_are_read_as_they_are(protocol):
    values = [*(np.ones((2, 3), dtype) for dtype in tensors.ARRAYS.values()), np.array([b"a"], object), np.float32(1)]
    for value in [*values, np.ones((4, 4))[::2], np.zeros((0, 3)), ("text", 1.5, None)]:
        read = ValuesUnpickler(io.BytesIO(pickle.dumps(value, protocol))).load()
        assert np.array_equal(np.asarray(read, object), np.asarray(value, object))
        assert getattr(read, "dtype", None) == getattr(value, "dtype", None)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A SavedModel whose signatures read, write and print to files; with the file that one of them names."""
    import tensorflow as tf

    v1, base = tf.compat.v1, tmp_path_factory.mktemp("hostile")
    graph, printed = tf.Graph(), base / "printed.txt"
    with graph.as_default(), v1.Session() as session:
        path = v1.placeholder(tf.string, [], "path")
        content = tf.identity(tf.io.read_file(path), "content")
        with tf.control_dependencies([tf.io.write_file(path, "written")]):
            written = tf.identity(path, "written")
        with tf.control_dependencies([tf.raw_ops.PrintV2(input=path, output_stream=f"file://{printed}")]):
            shown = tf.identity(path, "shown")
        info = tf.compat.v1.saved_model.build_tensor_info
        signatures = {
            key: v1.saved_model.build_signature_def({"path": info(path)}, {"y": info(tensor)}, "tensorflow/serving/predict")
            for key, tensor in {"read": content, "write": written, "print": shown}.items()
        }
        builder = v1.saved_model.Builder(str(base / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
        builder.save()
        meta = v1.train.export_meta_graph(graph=graph)
    return base / "1", printed, meta


def ask(model, key, path):
    return model.ask(key, {"path": np.array(os.fsencode(path), object)})


def test_a_served_graph_reads_and_writes_no_file_of_its_own_choice(closed, hostile, secret, tmp_path):
    version, printed, _ = hostile
    with running.Running(version, ["serve"], timeout=120, allowed=["host_files"]) as model:
        refused = ask(model, "read", secret)
        assert isinstance(refused, running.Refusal)
        assert refused.text == f"PERMISSION_DENIED: {secret}; Permission denied [[{{{{node ReadFile}}}}]] ({REFUSED})"
        assert isinstance(ask(model, "read", "/proc/self/environ"), running.Refusal)
        assert ask(model, "read", version / "saved_model.pb")["y"].item() == (version / "saved_model.pb").read_bytes()
        assert isinstance(ask(model, "write", tmp_path / "new.txt"), running.Refusal)
        assert isinstance(ask(model, "write", secret), running.Refusal)
        assert isinstance(ask(model, "write", version / "saved_model.pb"), running.Refusal)
        ask(model, "print", secret)
    assert not (tmp_path / "new.txt").exists()
    assert not printed.exists()
    assert secret.read_text() == "a password\n"


def test_the_training_graph_reads_and_writes_no_file_of_its_own_choice(closed, hostile, secret, tmp_path):
    _, printed, meta = hostile
    job = reference.Job(
        meta_graph=meta,
        feeds={"path:0": "string"},
        restores=[],
        init_ops=[],
        config=ConfigProto(),
        checkpoints={},
        reads=[],
        scratch=tmp_path,
        allowed=["host_files"],
    )
    with reference.started(job, 120) as running:
        assert running.start() is None
        for fetch in ("content:0", "written:0"):
            refused = running.run({"path:0": np.array(os.fsencode(secret), object)}, [fetch])
            assert "Permission denied" in refused.text
            assert refused.text.endswith(f"({REFUSED})")
        running.run({"path:0": np.array(os.fsencode(secret), object)}, ["shown:0"])
    assert not printed.exists()
    assert secret.read_text() == "a password\n"


@pytest.mark.slow
def test_an_export_without_a_sandbox_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_lacks", [])
    monkeypatch.setenv("EXPORTKIT_SANDBOX", "off")
    data = toys.config(toys.saved(tmp_path, toys.dense), tmp_path, post={"verify": {"kind": "verify"}})
    report = toys.export({**data, "report": {"path": str(tmp_path / "report.json")}})
    assert report.steps[0].details["not_sandboxed"] == "EXPORTKIT_SANDBOX=off"
    assert json.loads((tmp_path / "report.json").read_text())["not_sandboxed"] == "EXPORTKIT_SANDBOX=off"
    found = [str(finding) for finding in verify_version(Path(report.directory))]
    assert "[-] sandbox: not sandboxed: EXPORTKIT_SANDBOX=off" in found


def test_the_installation_is_not_the_whole_machine():
    places = sandbox.installation()
    assert "/" not in places
    assert {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()} <= {Path(place) for place in places}
    assert not any(Path.home().resolve().is_relative_to(place) for place in places)
