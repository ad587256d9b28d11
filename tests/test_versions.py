"""Claiming and committing versions: many at once, killed ones, full disks, and names that are taken."""

import ctypes
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
from exportkit.version.nearby import meant


def test_what_a_path_without_versions_was_meant_to_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("exports/mnist/1", "exports/clicks/2", "exports/empty", "exports/mnist/x"):
        os.makedirs(name)
    Path("exports/mnist/1/file").touch()
    assert {path: meant(Path(path)) for path in ("exports/mnsit", "exprots", "exports", "exports/empty", "far/away")} == {
        "exports/mnsit": "did you mean exports/mnist?",
        "exprots": "did you mean exports?",
        "exports": "name one of the models in it: exports/clicks, exports/mnist",
        "exports/empty": "",
        "far/away": "",
    }
    assert meant(Path("exports/mnist/1/file")) == ""


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
    code = "import os, sys, time\nfrom pathlib import Path\nfrom exportkit.version import claim as versions\n" + code
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


def test_a_clock_that_goes_backwards_does_not_make_a_version_that_no_server_takes_to(base, monkeypatch):
    clock = iter([1700000000.0, 1600000000.0, 1600000001.0, 1700000009.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    made = [write(Claim(base, "timestamp")).commit().name for _ in range(4)]
    assert made == ["1700000000", "1700000001", "1700000002", "1700000009"]


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
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: object())
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


def open_files():
    """What this process has open, by descriptor."""
    return {name: os.readlink(path) for name in os.listdir("/proc/self/fd") if os.path.lexists(path := f"/proc/self/fd/{name}")}


def refused_claim(base):
    assert "7 is being written by another process" in refusal(ConfigError, Claim, base, 7)


def stepped_over(base):
    write(Claim(base, "auto")).commit()


def swept(base):
    (staging(base, 5) / "version").mkdir(parents=True)
    (staging(base, 5) / "lock").touch()
    assert remove_stale(base) == [staging(base, 5)]


def made_by_a_stranger(base, monkeypatch):
    """The version appears between the look at the numbers and the lock."""
    flock = versions.fcntl.flock

    def late(*arguments):
        flock(*arguments)
        (base / "9").mkdir(exist_ok=True)

    monkeypatch.setattr(versions.fcntl, "flock", late)
    assert "9 exists" in refusal(ConfigError, Claim, base, 9)
    monkeypatch.undo()
    assert not staging(base, 9).exists()
    shutil.rmtree(base / "9")


def swept_while_it_locked(base, monkeypatch):
    """The lock that was opened is not the one that stands there any more."""
    flock, seen = versions.fcntl.flock, []

    def late(*arguments):
        if not seen:
            seen.append((staging(base, 9) / "lock").unlink())
        flock(*arguments)

    monkeypatch.setattr(versions.fcntl, "flock", late)
    Claim(base, 9).abandon()
    assert seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
@pytest.mark.parametrize("contend", [refused_claim, stepped_over, swept, made_by_a_stranger, swept_while_it_locked])
def test_contended_claims_leave_nothing_open(contend, base, monkeypatch):
    live = [Claim(base, 1), Claim(base, 7)]
    before = open_files()
    contend(base, monkeypatch) if contend.__code__.co_argcount == 2 else contend(base)
    assert open_files() == before
    for claim in live:
        claim.abandon()
    assert len(open_files()) == len(before) - 2 * len(live)


# What others do meanwhile


def test_an_explicit_version_that_a_stranger_made_is_refused(base):
    claim = Claim(base, 5)
    (base / "5").mkdir()
    with pytest.raises(ConfigError, match=r"^version: 5 exists in "):
        claim.commit()
    claim.abandon()
    assert os.listdir(base) == ["5"] and os.listdir(base / "5") == []


def test_the_number_of_a_live_claim_is_not_taken(base):
    claim = Claim(base, "auto")
    other = Claim(base, 2)
    (base / "1").mkdir()
    assert claim.commit() == base / "3"
    assert other.commit() == base / "2"
    assert sorted(os.listdir(base)) == ["1", "2", "3"]


@pytest.mark.parametrize("failing", ["sync", "rename"])
def test_giving_up_a_number_that_was_raised_leaves_the_claim_of_another(failing, base, monkeypatch):
    claim = Claim(base, "auto")
    (base / "1").mkdir()
    other = Claim(base, "auto")

    def refuse(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if failing == "sync":
        monkeypatch.setattr(versions, "_sync_one", lambda path: refuse() if path == base else None)
    else:
        rename = versions.rename_exclusively
        monkeypatch.setattr(versions, "rename_exclusively", lambda old, new: rename(old, new) if new.name == "1" else refuse())
    with pytest.raises(EnvironmentFailed):
        claim.commit()
    claim.abandon()
    monkeypatch.undo()
    assert sorted(os.listdir(base)) == [".2.staging", "1"]
    assert other.commit() == base / "2"


def test_a_version_whose_rename_is_not_known_to_be_on_disk_is_taken_back(base, monkeypatch):
    claim = Claim(base, "auto")
    sync, visible = versions._sync_one, []

    def refuse(path):
        if path == base:
            visible.append((base / "1").is_dir())
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        sync(path)

    monkeypatch.setattr(versions, "_sync_one", refuse)
    with pytest.raises(EnvironmentFailed, match="input/output error"):
        claim.commit()
    claim.abandon()
    assert os.listdir(base) == [] and visible == [True, False]


def test_directories_that_cannot_be_synced_are_no_failure_and_files_are(base, monkeypatch):
    fsync, refused = os.fsync, []

    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}") or refused:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    claim = Claim(base, "auto")
    (claim.directory / "saved_model.pb").write_bytes(b"")
    assert claim.commit() == base / "1"
    refused.append("files too")
    claim = Claim(base, "auto")
    (claim.directory / "saved_model.pb").write_bytes(b"")
    with pytest.raises(EnvironmentFailed, match=r"saved_model\.pb: invalid argument"):
        claim.commit()
    claim.abandon()


def test_what_another_removes_is_gone_as_a_whole_at_once(base, monkeypatch):
    """A sweep that took a live claim for dead, its lock being deleted, can break the commit but not make it publish a part."""
    claim = Claim(base, "auto")
    for name in "ab":
        (claim.directory / name).write_bytes(b"")
    (base / ".1.staging" / "lock").unlink()
    rmtree, seen = shutil.rmtree, []

    def slowly(path, **options):
        with pytest.raises(EnvironmentFailed):
            claim.commit()
        seen.append(path)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    assert versions.remove_stale(base) == [base / ".1.staging"]
    monkeypatch.undo()
    claim.abandon()
    assert len(seen) == 1 and os.listdir(base) == []


def test_a_claim_waits_for_a_sweep_to_let_go(base, monkeypatch):
    staged = versions.staging(base, 7)
    staged.mkdir(parents=True)
    lock, sleep = versions._lock(staged), versions.time.sleep
    monkeypatch.setattr(versions.time, "sleep", lambda seconds: (os.close(lock), monkeypatch.undo(), sleep(seconds)))
    assert Claim(base, 7).commit() == base / "7"


def test_a_live_claim_of_an_explicit_version_refuses_another(base):
    claim = Claim(base, 7)
    with pytest.raises(ConfigError, match="7 is being written by another process"):
        Claim(base, 7)
    assert claim.commit() == base / "7"
    assert os.listdir(base) == ["7"]


def test_what_cannot_be_swept_blocks_nothing(base):
    (base / ".3.staging").mkdir(parents=True)
    (base / ".4.staging").write_bytes(b"a file")
    (base / ".3.staging" / "lock").mkdir()
    assert Claim(base, "auto").commit() == base / "1"


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


# Who may commit, and which numbers there are


def in_a_fork(work):
    """The exit code of a forked copy of this process that does some work."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_takes_nothing_back(base):
    claim = write(Claim(base, "auto"))
    assert in_a_fork(lambda: claim.abandon() or 7) == 7
    assert names(claim.directory) == ["saved_model.pb", "variables"]
    assert claim.commit() == base / "1"
    assert in_a_fork(lambda: claim.abandon() or 7) == 7
    assert names(base) == ["1"]


def test_a_forked_child_takes_nothing_back_while_the_version_becomes_visible(base, monkeypatch):
    claim = write(Claim(base, "auto"))
    codes = []

    def fork(path):
        if path == base:
            codes.append(in_a_fork(lambda: claim.abandon() or 7))

    monkeypatch.setattr(versions, "_sync_one", fork)
    assert claim.commit() == base / "1"
    assert (codes, names(base / "1")) == ([7], ["saved_model.pb", "variables"])


def test_a_forked_child_commits_nothing(base):
    claim = write(Claim(base, "auto"))
    text = (
        f"{claim.directory}: was claimed by another process; end a process that was forked, such as a builder's, with os._exit"
    )
    assert in_a_fork(lambda: int(refusal(EnvironmentFailed, claim.commit) == text)) == 1
    assert numbers(base) == set()


USED_UP = (
    "version: 9223372036854775807 is in use in {base}, and TensorFlow Serving sees no larger one; "
    "write an integer that is free, or choose another export_dir"
)


def test_auto_never_passes_the_largest_number(base):
    (base / str(2**63 - 1)).mkdir(parents=True)
    assert refusal(ConfigError, Claim, base, "auto") == USED_UP.format(base=base)
    assert names(base) == ["9223372036854775807"]


def test_a_number_that_is_lost_to_a_race_is_not_followed_by_one_too_large(base):
    (base / str(2**63 - 2)).mkdir(parents=True)
    claim = write(Claim(base, "auto"))
    (base / str(2**63 - 1)).mkdir()
    assert refusal(ConfigError, claim.commit) == USED_UP.format(base=base)
    claim.abandon()
    assert names(base) == ["9223372036854775806", "9223372036854775807"]


@pytest.mark.parametrize("version", ["auto", 1])
@pytest.mark.parametrize("kind", ["a file", "a dangling link", "a link to a directory", "a pipe"])
def test_what_has_the_name_of_a_staging_directory_stands_in_nobodys_way(kind, version, base):
    base.mkdir(parents=True)
    (base.parent / "other").mkdir()
    (base.parent / "other/file").touch()
    taken = base / ".1.staging"
    if kind == "a file":
        taken.write_text("mine")
    elif kind == "a pipe":
        os.mkfifo(taken)
    else:
        taken.symlink_to(base.parent / ("nowhere" if kind == "a dangling link" else "other"))
    claim = write(Claim(base, version))
    assert claim.directory.parent == base / ".01.staging"
    assert claim.commit() == base / "1"
    assert names(base) == [".1.staging", "1"]
    assert names(base.parent) == ["model", "other"]
    assert names(base.parent / "other") == ["file"]


@pytest.mark.parametrize(("mask", "private"), [(0o077, True), (0o027, False), (0o022, False)])
def test_a_version_that_only_its_owner_can_read(mask, private, base):
    before = os.umask(mask)
    try:
        assert versions.is_private(Claim(base, "auto").directory) is private
    finally:
        os.umask(before)
