"""A power cut at any point of an export, of its deletion, or of a sweep's end: a server finds something whole, or nothing."""

import os
from pathlib import Path

import powerloss
import pytest
import toys
import versions_made
from powerloss import recorded

from exportkit.cli.sweep.job_record import Job
from exportkit.cli.sweep.server_config import FILE, write_server_configs
from exportkit.cli.sweep.sweep_record import read_sweep, write_sweep
from exportkit.errors import EnvironmentFailed
from exportkit.protos import SavedModel
from exportkit.version import claim
from exportkit.version.claim import Claim

pytestmark = pytest.mark.quick(6)
RENAMES = {claim: "_renameat2"}


def versions(tree):
    """What a model server would find: number → files."""
    return {name: inner for name, inner in tree.items() if name.isdecimal()}


def half(disk, whole):
    """Where a power cut would leave a version that is not `whole` (number → files)."""
    return [
        f"{where}: {name}"
        for where, tree in disk.seen.values()
        for name, inner in versions(tree.get("base", {})).items()
        if inner != whole.get(name)
    ]


def tree_of(path):
    return {p.name: tree_of(p) if p.is_dir() else p.read_bytes() for p in sorted(path.iterdir())}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export, recorded: the disk, and the version that it made beside an older one."""
    root = tmp_path_factory.mktemp("power")
    steps = {"warmup": {"kind": "warmup", "batch_sizes": [1]}, "manifest": {"kind": "manifest"}}
    (root / "elsewhere").mkdir()
    (root / "place" / "base" / "1").mkdir(parents=True)
    (root / "place" / "base" / "1" / "saved_model.pb").write_bytes(b"older")
    data = versions_made.config(toys.saved(root / "elsewhere", toys.dense), root / "labels", post=steps)
    plan = versions_made.plan({**data, "export_dir": str(root / "place" / "base")})
    with recorded(root / "place", RENAMES) as disk:
        report = versions_made.exportkit.run(plan, versions_made.PLUGINS)
    assert report.version == 2
    return disk, tree_of(root / "place" / "base")


def test_a_server_finds_the_whole_version_or_none(exported):
    disk, now = exported
    assert sorted(name for name in now if name.isdecimal()) == ["1", "2"]
    assert half(disk, versions(now)) == []
    kinds = {operation.split()[0] for operation in disk.operations}
    assert {"fsync", "mkdir", "_renameat2"} <= kinds
    found = [versions(tree["base"]).keys() for _, tree in disk.seen.values()]
    assert {"1"} in found and {"1", "2"} in found and len(found) > 100  # it does look at different states


def test_what_a_power_cut_leaves_does_not_stand_in_the_way_of_the_next_export(exported, tmp_path):
    disk, _ = exported
    for number, (where, tree) in enumerate(list(disk.seen.values())[::7]):
        base = powerloss.written(tree["base"], tmp_path / str(number))
        next_one = Claim(base, "auto")
        assert next_one.number == max(map(int, versions(tree["base"]))) + 1, where
        next_one.abandon()
        assert versions(tree_of(base)) == tree_of(base), where


def test_the_recorder_finds_a_version_that_is_renamed_before_it_is_synced(tmp_path, monkeypatch):
    """Without the syncs of `commit` there are states that are half: the test above can fail."""
    (tmp_path / "base").mkdir()
    monkeypatch.setattr(claim, "sync", lambda directory: None)
    with recorded(tmp_path, RENAMES) as disk:
        made = Claim(tmp_path / "base", "auto")
        (made.directory / "saved_model.pb").write_bytes(b"graph")
        made.commit()
    assert half(disk, versions(tree_of(tmp_path / "base"))) != []


def test_a_version_that_is_taken_back_is_whole_or_gone(tmp_path, monkeypatch):
    """Where the last sync of a commit fails, what became visible is renamed, that is synced, and only then removed."""
    (tmp_path / "base").mkdir()
    original, calls = claim._sync_one, []

    def failing(path: Path) -> None:
        original(path)
        calls.append(path)
        if path == tmp_path / "base" and calls.count(path) == 1:
            raise OSError(5, "Input/output error", str(path))

    with recorded(tmp_path, RENAMES) as disk:
        made = Claim(tmp_path / "base", "auto")
        for name in ("saved_model.pb", "more"):
            (made.directory / name).write_bytes(b"graph")
        monkeypatch.setattr(claim, "_sync_one", failing)
        with pytest.raises(EnvironmentFailed):
            made.commit()
        made.abandon()
    assert os.listdir(tmp_path / "base") == []
    assert half(disk, {"1": {"saved_model.pb": b"graph", "more": b"graph"}}) == []


@pytest.fixture
def swept(tmp_path):
    """The end of a sweep: two models, with a file for the models of an older sweep in its directory."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / FILE).write_text("older")
    (tmp_path / "sweep" / "models.gpu.config").write_text("older")
    jobs = []
    for number, name in enumerate(("a", "b")):
        version = tmp_path / name / "1"
        version.mkdir(parents=True)
        (version / "saved_model.pb").write_bytes(_graph())
        jobs.append(Job(number=number, name=name, status="exported", base=str(version.parent)))
    return tmp_path / "sweep", jobs


def _graph():
    saved_model = SavedModel()
    saved_model.meta_graphs.add().meta_info_def.tags.append("serve")
    return saved_model.SerializeToString()


def test_a_server_always_finds_models_config_whole(swept):
    directory, jobs = swept
    with recorded(directory) as disk:
        (config,), _ = write_server_configs(directory, jobs)
    new = config.file.read_bytes()
    found = [tree.get(FILE) for _, tree in disk.seen.values()]
    assert set(found) == {b"older", new}
    assert not (directory / "models.gpu.config").exists()


def test_the_record_of_a_sweep_is_whole(swept, tmp_path):
    directory, jobs = swept
    write_sweep(directory, jobs)
    with recorded(directory) as disk:
        write_sweep(directory, jobs, seconds=3.0)
    assert len(disk.seen) > 3  # old, new, and an old one beside a part of the new one
    for number, (_, tree) in enumerate(disk.seen.values()):
        assert [job.name for job in read_sweep(powerloss.written(tree, tmp_path / f"cut-{number}"))] == ["a", "b"]
