"""Exports that are killed, starved and meddled with: never is anything visible that is not whole, and the next one completes.

The whole campaign, every kind of fault at every point, is ``benchmarks/faults.py``; here most kinds are put at some points.
"""

import errno
import os
from functools import partial

import faultlab
import pytest
import syscalls
from faultlab import ACTS, KILLED, Lab
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with faultlab.forking():
        yield Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def points(lab):
    if not syscalls.available():
        pytest.skip("this machine cannot stop a process at its system calls")
    return lab.points()


@pytest.fixture
def base(tmp_path):
    return tmp_path / "base"


def cases(lab, points, kind, stride):
    act, onwards = ACTS[kind]
    return [lab.case(act, at, onwards) for at in range(len(points) - 1, -1, -stride)]


def bad(found):
    return [(str(case.point), case) for case in found]


def test_a_killed_export_leaves_nothing_half_visible_and_blocks_nothing(lab, points, breadth):
    stride = breadth(15, 1)
    found = cases(lab, points, "killed", stride)
    # a keeper that is killed ends its task, which is one line of the process that waits
    assert bad(case for case in found if case.outcome.code != KILLED and not case.is_one_line) == []
    assert [case.half for case in found if case.half] == []
    assert bad(case for case in found if not case.completes) == []
    renamed = next(i for i, point in enumerate(points) if point.call == "renameat2")
    every = [[]] * (renamed + 1) + [["1"]] * (len(points) - renamed - 1)
    assert [case.versions for case in found] == every[::-stride]


@pytest.mark.parametrize(("kind", "stride"), [("disk full, once", 3), ("disk full, from there on", 4)])
def test_a_full_disk_is_one_line_and_leaves_nothing(kind, stride, lab, points, breadth):
    found = cases(lab, points, kind, stride * breadth(6, 1))
    assert bad(case for case in found if case.half or not case.completes or case.left) == []
    failed = [case for case in found if case.outcome.code]
    assert len(failed) > breadth(0, 5)
    assert bad(case for case in failed if not (case.is_one_line and case.outcome.code == 1 and not case.versions)) == []
    texts = {str(case.point): case.outcome.text for case in failed}
    # tempfile tries directories by writing; a worker on a full disk may have no room for its own last line
    reasons = ("no space left on device; free some space", "No usable temporary directory found in ", "ended with exit code 1")
    assert {point: text for point, text in texts.items() if not any(reason in text for reason in reasons)} == {}


@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        ("read-only, from there on", 7),
        ("staging directory removed", 5),
        ("base path removed", 7),
        ("lock removed, swept by another", 5),
        ("version made by a stranger", 7),
        ("number usurped by another", 5),
    ],
)
def test_who_meddles_breaks_an_export_at_most(kind, stride, lab, points, breadth):
    found = cases(lab, points, kind, stride * breadth(8, 1))
    assert bad(case for case in found if case.half or not case.completes) == []
    assert bad(case for case in found if case.outcome.code and not case.is_one_line) == []


@pytest.mark.parametrize("call", ["sendfile", "openat saved_model.pb"])
def test_a_staging_directory_that_tensorflow_would_make_anew(call, lab, points):
    """TensorFlow makes the directories that it misses, so without its asset, or without its variables, all seems well."""
    at = next(i for i, point in enumerate(points) if all(word in str(point) for word in call.split()))
    case = lab.case(faultlab.remove_staging, at)
    assert case.outcome.text.endswith("export again") and "was removed while it was being written" in case.outcome.text
    assert (case.half, case.versions, case.left) == ([], [], [])


@pytest.mark.quick(3)
@pytest.mark.parametrize("options", ["size=8k", "size=20k", "size=32k", "size=40k", "nr_inodes=4", "nr_inodes=10"])
def test_a_small_disk(options, lab):
    case = lab.small_disk(options)
    if case is None:
        pytest.skip("mounting a file system is not allowed")
    assert case.is_one_line and case.outcome.code == 1
    assert case.outcome.text.endswith("no space left on device; free some space")
    assert (case.half, case.versions, case.left, case.completes) == ([], [], [], True)


def test_a_read_only_base_path(lab):
    case = lab.small_disk("ro")
    if case is None:
        pytest.skip("mounting a file system is not allowed")
    assert case.is_one_line and case.outcome.code == 2  # the plan tells it, before anything is built
    assert case.outcome.text.endswith(" is not writable; make it writable, or choose another one")
    assert case.completes


@pytest.mark.parametrize(("file", "version"), [("saved_model.pb", "auto"), ("labels.txt", "3"), ("index.tmp", "auto")])
def test_the_command_says_one_line_when_the_disk_is_full(file, version, lab, points, base):
    (base.parent / "conf" / "model").mkdir(parents=True)
    config = {"defaults": [{"override /source": "meta_graph"}], **lab.config(base)}
    config["source"].pop("kind")
    config.pop("post")
    (base.parent / "conf" / "model" / "toy.yaml").write_text("# @package _global_\n" + OmegaConf.to_yaml(config))
    arguments = [f"--config-dir={base.parent}/conf", "model=toy", f"version={version}", "hydra/launcher=basic"]
    work = partial(faultlab.command, arguments)

    def full(pid, point):
        return errno.ENOSPC if point.path.endswith(file) else None

    outcome = lab.disturbed(base, full, 0, True, work)
    *stages, line = outcome.text.splitlines()
    assert stages == []
    assert line.endswith(f"{file}: no space left on device; free some space") and outcome.code == 1
    assert os.listdir(base) == []


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_before_the_end(lab, points):
    base = str(lab.directory / "case" / "base")
    calls = [(point.call, point.path) for point in points]
    commit = calls.index(("renameat2", f"{base}/1"))
    staged = next(os.path.dirname(path) for _, path in calls if path.endswith("saved_model.pb"))
    for name in ["", *lab.whole]:
        path = os.path.normpath(f"{staged}/{name}")
        changes = [i for i, call in enumerate(calls[:commit]) if call[0] not in syscalls.SYNCS and changed(call[1], path)]
        synced = [i for i, call in enumerate(calls[:commit]) if call == ("fsync", path)]
        assert changes and synced and max(changes) < max(synced) < commit, path
    order = [os.path.relpath(path, staged) for call, path in calls[:commit] if call == "fsync" and "variables.data" not in path]
    tail = order[-len(lab.whole) :]
    assert all(tail.index(os.path.dirname(name) or ".") > tail.index(name) for name in lab.whole if name in tail)
    assert calls[commit - 1] == ("fsync", staged) and calls[commit + 1] == ("fsync", base)
    made = calls.index(("mkdir", base))
    assert calls[made + 1] == ("fsync", os.path.dirname(base))
    assert not any(path.startswith(f"{base}/1") for _, path in calls[commit + 1 :])


def changed(path, what):
    """Whether a call on `path` changes `what`: the file itself, or the directory that it stands in."""
    return path == what or os.path.dirname(path) == what or path == f"{what}.tmp"


def test_a_version_is_verified_while_it_is_exported_and_deleted(lab):
    base = lab.fresh()

    def run():
        for _ in range(4):
            assert lab.export(base).code == 0
            for old in sorted(map(int, faultlab.served(base)))[:-1]:
                faultlab.remove_slowly(base / str(old))

    found = faultlab.verified(base, run)
    assert found["passed"] > 0
    assert set(found) <= {"passed", "files missing", "gone before", "gone meanwhile"}


def test_an_export_that_is_killed_in_publish_is_not_marked_as_published(tmp_path_factory, points, breadth):
    lab = Lab(tmp_path_factory.mktemp("sending"), sends=True)
    every = lab.points()
    renamed = next(i for i, point in enumerate(every) if point.call == "renameat2")
    publishing = [i for i in range(renamed + 1, len(every)) if "sent" in every[i].path or faultlab.PUBLISHED in every[i].path]
    found = [lab.case(faultlab.kill, at) for at in publishing[:: breadth(12, 3)]]
    assert len(found) > breadth(1, 3)
    assert bad(case for case in found if case.half or case.marked or not case.completes or case.versions != ["1"]) == []


def test_ten_exports_at_once_get_ten_versions(lab):
    base = lab.fresh()
    outcomes = []

    def race():
        running = [faultlab.start(lab.config(base)) for _ in range(10)]
        outcomes.extend(map(faultlab.finish, running))

    looked, half = faultlab.observed(lab, base, race)
    assert [outcome.text for outcome in outcomes if outcome.code] == []
    numbers = {outcome.version for outcome in outcomes}
    assert len(numbers) == 10 and set(map(str, numbers)) == set(os.listdir(base))
    assert looked > 10 and half == [] and lab.half(base) == []


def test_ten_exports_of_one_version_and_one_wins(lab):
    base = lab.fresh()
    outcomes = []

    def race():
        running = [faultlab.start(lab.config(base, version=5)) for _ in range(10)]
        outcomes.extend(map(faultlab.finish, running))

    _, half = faultlab.observed(lab, base, race)
    assert sorted(outcome.code for outcome in outcomes) == [0] + [2] * 9
    assert all(outcome.text.endswith("write version=auto") for outcome in outcomes if outcome.code)
    assert os.listdir(base) == ["5"] and half == [] and lab.half(base) == []
