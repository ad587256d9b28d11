"""Claiming and committing versions: many at once, killed ones, full disks, and names that are taken."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exportkit.errors import ConfigError, EnvironmentFailed
from exportkit.version import claim as versions
from exportkit.version.claim import Claim, numbers, remove_stale, rename_exclusively, staging


def no_space(path):
    return OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.fixture
def base(tmp_path):
    return tmp_path / "exports" / "model"


def write(claim):
    (claim.directory / "variables").mkdir()
    (claim.directory / "variables" / "variables.index").write_bytes(b"1")
    (claim.directory / "saved_model.pb").write_bytes(b"2")
    return claim


def names(path):
    return sorted(os.listdir(path))


def refusal(kind, function, *args):
    with pytest.raises(kind) as caught:
        function(*args)
    return str(caught.value)


def start(code, *args):
    """A Python process of its own that has `versions` and `sys`; its output is text."""
    code = "import os, sys, time\nfrom pathlib import Path\nfrom exportkit import versions\n" + code
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(root)})


# One after the other


def test_a_version_appears_whole_and_leaves_nothing_beside_it(base):
    claim = write(Claim(base, "auto"))
    assert (claim.number, claim.directory.parent) == (1, base / ".1.staging")
    assert numbers(base) == set()
    assert claim.commit() == base / "1"
    assert names(base) == ["1"]
    assert names(base / "1") == ["saved_model.pb", "variables"]
    assert (base / "1/variables/variables.index").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("there", "number"),
    [
        ([], 1),
        (["1", "3"], 4),
        (["0"], 1),
        (["0001"], 2),
        ([".7.staging.old", "tmp-9", "9.tmp", "v9", "+9", "-9", "٣"], 1),
        (["9223372036854775808"], 1),
        (["1" * 200], 1),
    ],
)
def test_auto_is_one_more_than_the_server_sees(there, number, base):
    for name in there:
        (base / name).mkdir(parents=True)
    assert Claim(base, "auto").number == number


def test_timestamp_is_the_second_and_never_one_that_is_there(base, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1700000000.9)
    assert write(Claim(base, "timestamp")).commit().name == "1700000000"
    assert write(Claim(base, "timestamp")).commit().name == "1700000001"


def test_an_explicit_version_is_taken_as_it_is(base):
    assert write(Claim(base, 0)).commit() == base / "0"


@pytest.mark.parametrize("there", ["7", "0007", "a file"])
def test_an_explicit_version_that_is_there_is_refused(there, base):
    base.mkdir(parents=True)
    (base / "7").write_text("") if there == "a file" else (base / there).mkdir()
    assert refusal(ConfigError, Claim, base, 7) == (
        f"version: 7 exists in {base}; a version is never overwritten: write version=auto"
    )
    assert names(base) == ["7" if there == "a file" else there]


def test_an_explicit_version_in_the_making_is_refused(base):
    live = Claim(base, 7)
    assert refusal(ConfigError, Claim, base, 7) == (
        f"version: 7 is being written by another process in {base}; a version is never overwritten: write version=auto"
    )
    assert write(live).commit() == base / "7"


def test_auto_steps_over_a_version_in_the_making(base):
    first, second = Claim(base, "auto"), Claim(base, "auto")
    assert (first.number, second.number) == (1, 2)
    assert write(second).commit().name == "2"
    assert write(first).commit().name == "1"
    assert names(base) == ["1", "2"]


def test_abandoned_leaves_nothing(base):
    write(Claim(base, "auto")).abandon()
    assert names(base) == []
    assert Claim(base, "auto").number == 1


@pytest.mark.parametrize(("version", "number"), [("auto", 2), (1, None)])
def test_a_number_taken_while_writing(version, number, base):
    """Even by an empty directory, which a plain rename would replace."""
    claim = write(Claim(base, version))
    (base / "1").mkdir()
    if number:
        assert claim.commit() == base / str(number)
        assert names(base / "1") == []
        assert names(base) == ["1", "2"]
    else:
        assert refusal(ConfigError, claim.commit).startswith(f"version: 1 exists in {base};")
        claim.abandon()
        assert names(base) == ["1"]


# Renaming


@pytest.fixture(params=["renameat2", "fallback"])
def renaming(request, monkeypatch):
    """Both ways to rename: the system's, and the one for systems without it."""
    if request.param == "fallback":
        monkeypatch.setattr(versions, "_renameat2", lambda old, new: False)


@pytest.mark.usefixtures("renaming")
def test_a_rename_replaces_nothing(tmp_path):
    for name in ("old", "empty", "full/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("empty", "full", "file", "dangling"):
        with pytest.raises(FileExistsError):
            rename_exclusively(tmp_path / "old", tmp_path / name)
    rename_exclusively(tmp_path / "old", tmp_path / "new")
    assert names(tmp_path) == ["dangling", "empty", "file", "full", "new"]


@pytest.mark.usefixtures("renaming")
def test_a_rename_of_what_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        rename_exclusively(tmp_path / "old", tmp_path / "new")


def test_a_system_without_the_call(monkeypatch, tmp_path):
    monkeypatch.setattr(versions.ctypes, "CDLL", lambda *args, **kwargs: object())
    assert versions._renameat2(tmp_path / "a", tmp_path / "b") is False


# What dead runs left


def test_stale_staging_is_swept_and_a_live_one_kept(base):
    live = write(Claim(base, "auto"))
    (staging(base, 5) / "version").mkdir(parents=True)
    (staging(base, 5) / "lock").touch()
    staging(base, 6).mkdir()
    assert remove_stale(base) == [staging(base, 5), staging(base, 6)]
    assert names(base) == [".1.staging"]
    assert live.commit() == base / "1"


def test_only_what_is_ours_is_swept(base):
    for name in (".mine.staging", ".5.staging.bak", "5.staging"):
        (base / name).mkdir(parents=True)
    (base / ".9.staging").touch()
    (base / ".8.staging").symlink_to(base / "5.staging")
    assert Claim(base, "auto").number == 1
    assert names(base) == [".1.staging", ".5.staging.bak", ".8.staging", ".9.staging", ".mine.staging", "5.staging"]
    assert names(base / "5.staging") == []


def test_another_users_staging_blocks_nothing(base, monkeypatch):
    staging(base, 1).mkdir(parents=True)
    real = os.open

    def guarded(path, *args, **kwargs):
        if ".1.staging" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded)
    assert write(Claim(base, "auto")).commit() == base / "2"


KILLED = """
claim = versions.Claim(Path(sys.argv[1]), "auto")
(claim.directory / "saved_model.pb").touch()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("version", ["auto", 1])
def test_a_kill_leaves_nothing_that_a_server_sees_and_blocks_nothing(version, base):
    process = start(KILLED, base)
    with process:
        assert process.stdout.readline() == "ready\n"
        assert names(base) == [".1.staging"]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert numbers(base) == set()
    claim = Claim(base, version)
    assert names(claim.directory) == []
    assert write(claim).commit() == base / "1"
    assert names(base) == ["1"]


def test_the_lock_of_a_live_process_holds_against_others(base):
    claim = Claim(base, 3)
    code = "try: versions.Claim(Path(sys.argv[1]), 3)\nexcept Exception as error: print(error)"
    told = start(code, base).communicate()[0]
    assert told.startswith(f"version: 3 is being written by another process in {base};")
    assert write(claim).commit() == base / "3"


# Many at once

CLAIMS = """
base, each = Path(sys.argv[1]), int(sys.argv[2])
children = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        for _ in range(each):
            claim = versions.Claim(base, sys.argv[3])
            (claim.directory / "saved_model.pb").write_text(f"{os.getpid()} {claim.number}")
            claim.commit()
        os._exit(0)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 20)
"""


@pytest.mark.parametrize("version", ["auto", "timestamp"])
def test_parallel_claims_get_versions_of_their_own(version, base):
    assert start(CLAIMS, base, 5, version).communicate()[0] == "True\n"
    found = names(base)
    assert len(found) == 100
    assert all(name.isdigit() and names(base / name) == ["saved_model.pb"] for name in found)
    contents = {(base / name / "saved_model.pb").read_text() for name in found}
    assert len(contents) == 100


ONE = """
base, children = Path(sys.argv[1]), []
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            claim = versions.Claim(base, 4)
            time.sleep(2)
            claim.commit()
        except versions.ConfigError:
            os._exit(2)
        os._exit(0)
    children.append(child)
print(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == [0] + [2] * 19)
"""


def test_of_parallel_claims_to_one_version_one_wins(base):
    assert start(ONE, base).communicate()[0] == "True\n"
    assert names(base) == ["4"]


# What the machine refuses


def test_an_export_dir_under_a_file(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(EnvironmentFailed, Claim, tmp_path / "file/model", "auto") == (
        f"{tmp_path}/file/model: not a directory; choose another directory"
    )
    assert refusal(EnvironmentFailed, Claim, tmp_path / "file", "auto") == (
        f"{tmp_path}/file: file exists; choose another directory"
    )


@pytest.mark.parametrize(
    ("number", "what", "do"),
    [
        (errno.EACCES, "permission denied", "make it writable, or choose another directory"),
        (errno.EPERM, "operation not permitted", "make it writable, or choose another directory"),
        (errno.EROFS, "read-only file system", "choose another directory"),
        (errno.ENOSPC, "no space left on device", "free some space"),
        (errno.EDQUOT, "disk quota exceeded", "free some space"),
    ],
)
def test_a_directory_that_cannot_be_made(number, what, do, base, monkeypatch):
    base.mkdir(parents=True)

    def refuse(path, mode=0o777):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    assert refusal(EnvironmentFailed, Claim, base, "auto") == f"{base}/.1.staging: {what}; {do}"
    assert names(base) == []


def test_a_disk_that_fills_while_claiming(base, monkeypatch):
    real = os.mkdir

    def refuse(path, *args, **kwargs):
        if "/version-" in str(path):
            raise no_space(path)
        real(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
    assert refusal(EnvironmentFailed, Claim, base, "auto").endswith(": no space left on device; free some space")
    assert names(base) == []
    monkeypatch.undo()
    assert Claim(base, "auto").number == 1


@pytest.mark.parametrize("refused", ["fsync", "rename"])
def test_a_commit_that_the_disk_refuses(refused, base, monkeypatch):
    claim = write(Claim(base, "auto"))

    def refuse(*args):
        raise no_space(base / "1")

    if refused == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        monkeypatch.setattr(versions, "rename_exclusively", refuse)
    assert refusal(EnvironmentFailed, claim.commit).endswith(": no space left on device; free some space")
    claim.abandon()
    assert names(base) == []


def test_a_base_that_cannot_be_synced_as_some_file_systems_have_it_is_no_failure(base, monkeypatch):
    claim = write(Claim(base, "auto"))
    real = os.fsync

    def refuse(descriptor):
        if os.path.samestat(os.fstat(descriptor), os.stat(base)):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    assert claim.commit() == base / "1"
    assert names(base) == ["1"]


def test_a_failure_after_the_number_moved_on_leaves_nothing(base, monkeypatch):
    claim = write(Claim(base, "auto"))
    (base / "1").mkdir()
    real = rename_exclusively

    def refuse(old, new):
        if new.name == "2":
            raise no_space(new)
        real(old, new)

    monkeypatch.setattr(versions, "rename_exclusively", refuse)
    assert refusal(EnvironmentFailed, claim.commit) == f"{base}/2: no space left on device; free some space"
    claim.abandon()
    assert names(base) == ["1"]


def test_a_base_that_goes_away_does_not_hang(base, monkeypatch):
    monkeypatch.setattr(versions, "remove_stale", shutil.rmtree)
    assert refusal(EnvironmentFailed, Claim, base, "auto").startswith(f"{base}/.1.staging: no such file or directory;")


def test_everything_is_on_disk_before_the_rename(base, monkeypatch):
    claim, order = write(Claim(base, "auto")), []
    monkeypatch.setattr(versions, "_sync_one", lambda path: order.append(str(path.relative_to(base))))
    monkeypatch.setattr(versions, "rename_exclusively", lambda old, new: order.append(f"rename to {new.name}"))
    claim.commit()
    inside = str(claim.directory.relative_to(base))
    assert sorted(order[:2]) == [f"{inside}/variables", f"{inside}/variables/variables.index"]
    assert order[2:] == [f"{inside}/saved_model.pb", inside, "rename to 1", "."]
