"""The way of the data: order, failure at every stage, and what a model server would see."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import toys

import exportkit
from exportkit.errors import ConfigError, EnvironmentFailed, PluginError, Problem, StepFailed
from exportkit.exporting import savedmodel
from exportkit.exporting.pipeline import build
from exportkit.plugin import ModelSource, Phase, PostStep, hookimpl
from exportkit.registry import load_plugins

LOG = []


@dataclass(kw_only=True)
class Note(PostStep):
    """Notes what it sees."""

    kind: str = "note"
    phase = Phase.VERIFY
    say: str = ""

    def run(self, export):
        LOG.append((self.say, self.phase.name, export.directory.name[:8], export.directory.exists()))
        return {"said": self.say}


@dataclass(kw_only=True)
class Augment(Note):
    kind: str = "augment"
    phase = Phase.AUGMENT


@dataclass(kw_only=True)
class Publish(Note):
    kind: str = "publish"
    phase = Phase.PUBLISH


@dataclass(kw_only=True)
class Refuse(PostStep):
    kind: str = "refuse"
    phase = Phase.VERIFY

    def run(self, export):
        raise StepFailed(Problem("post.refuse", "said no", "ask again"))


@dataclass(kw_only=True)
class Crash(PostStep):
    kind: str = "crash"
    phase = Phase.VERIFY

    def run(self, export):
        raise RuntimeError("boom\nin two lines")


CRASH = f"{__file__}:{Crash.run.__code__.co_firstlineno + 1}"


@dataclass(kw_only=True)
class Junk(ModelSource):
    kind: str = "junk"

    def build(self, preview, scratch, wanted):
        return {"graph": None}


class Plugin:
    def __init__(self):
        self.finished = []

    @hookimpl
    def exportkit_post_steps(self):
        return [Note, Augment, Publish, Refuse, Crash]

    @hookimpl
    def exportkit_model_sources(self):
        return [Junk]

    @hookimpl
    def exportkit_export_finished(self, report):
        self.finished.append((report.status, report.version, report.error))
        raise RuntimeError("an observer's own trouble")


OBSERVER = Plugin()


@pytest.fixture
def plugins():
    OBSERVER.finished.clear()
    LOG.clear()
    return load_plugins({"test": OBSERVER})


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("dense"), toys.dense)


def run(data, plugins):
    return exportkit.run(exportkit.plan(data, plugins), plugins)


def versions(tmp_path):
    base = tmp_path / "exports" / "toy"
    return sorted(path.name for path in base.iterdir()) if base.exists() else []


def test_stages_in_order_and_a_whole_version(dense, tmp_path, plugins):
    stages = []
    report = exportkit.run(exportkit.plan(toys.config(dense, tmp_path), plugins), plugins, stages.append)
    assert stages == ["build", "bind", "write", "prove", "commit"]
    assert list(report.stages) == stages
    assert (report.status, report.version, report.error) == ("exported", 1, None)
    assert versions(tmp_path) == ["1"]
    assert report.bytes == sum(p.stat().st_size for p in Path(report.directory).rglob("*") if p.is_file())
    assert report.server_command == (
        f"tensorflow_model_server --rest_api_port=8501 --model_name=toy --model_base_path={tmp_path}/exports/toy"
    )


def test_versions_count_up_and_an_explicit_one_is_never_overwritten(dense, tmp_path, plugins):
    assert [run(toys.config(dense, tmp_path), plugins).version for _ in range(2)] == [1, 2]
    assert run(toys.config(dense, tmp_path, version=7), plugins).version == 7
    assert run(toys.config(dense, tmp_path), plugins).version == 8
    with pytest.raises(ConfigError) as refused:
        run(toys.config(dense, tmp_path, version=7), plugins)
    assert str(refused.value) == (
        f"version: 7 exists in {tmp_path}/exports/toy; a version is never overwritten: write version=auto"
    )


def test_steps_run_by_phase_then_in_the_config_s_order(dense, tmp_path, plugins):
    post = {
        "last": {"kind": "publish", "say": "c"},
        "b": {"kind": "note", "say": "b"},
        "a": {"kind": "note", "say": "a"},
        "first": {"kind": "augment", "say": "z"},
    }
    report = run(toys.config(dense, tmp_path, post=post), plugins)
    assert [(say, phase) for say, phase, *_ in LOG] == [("z", "AUGMENT"), ("b", "VERIFY"), ("a", "VERIFY"), ("c", "PUBLISH")]
    assert [(name, there) for *_, name, there in LOG] == [("version-", True)] * 3 + [("1", True)]
    assert [(s.kind, s.status, s.details) for s in report.steps][-1] == ("publish", "passed", {"said": "c"})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("refuse", "post.refuse: said no; ask again"),
        ("crash", f"post.crash (plugin test of this process): raised RuntimeError: boom in two lines ({CRASH})"),
    ],
)
def test_a_step_that_fails_leaves_no_version(kind, text, dense, tmp_path, plugins):
    post = {kind: {"kind": kind}, "publish": {"kind": "publish", "say": "never"}}
    with pytest.raises(StepFailed) as refused:
        run(toys.config(dense, tmp_path, post=post, report={"path": str(tmp_path / "report.json")}), plugins)
    assert str(refused.value) == text
    assert versions(tmp_path) == [] and LOG == []
    assert OBSERVER.finished == [("failed", None, text)]
    assert '"status": "failed"' in (tmp_path / "report.json").read_text()
    assert run(toys.config(dense, tmp_path), plugins).version == 1


def test_a_source_that_breaks_its_contract_is_named(dense, tmp_path, plugins):
    with pytest.raises(PluginError) as refused:
        run(toys.config(dense, tmp_path, source={"kind": "junk"}), plugins)
    assert str(refused.value) == "source (plugin test of this process): build returned a dict, not a SourceModel"


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_line_and_leaves_nothing(call, dense, tmp_path, plugins, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    if call == "write":
        monkeypatch.setattr(savedmodel, "write", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFailed, match=r"(?i)no space left on device; free some space"):
        run(toys.config(dense, tmp_path), plugins)
    assert versions(tmp_path) == []


def test_an_interrupt_leaves_nothing_and_is_reported(dense, tmp_path, plugins, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(savedmodel, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(toys.config(dense, tmp_path), plugins)
    assert versions(tmp_path) == []
    assert OBSERVER.finished == [("failed", None, "KeyboardInterrupt")]


def test_build_binds_and_writes_nothing(dense, tmp_path, plugins):
    report = build(exportkit.plan(toys.config(dense, tmp_path), plugins), plugins)
    assert report.status == "built"
    assert [t.shape for t in report.meta_graphs[0].signatures[0].outputs] == [[None, 3]]
    assert not (tmp_path / "exports").exists()


def test_the_report_as_json_is_what_it_is(dense, tmp_path, plugins):
    report = run(toys.config(dense, tmp_path, report={"path": str(tmp_path / "deep" / "report.json")}), plugins)
    assert (tmp_path / "deep" / "report.json").read_text() == report.to_json()
