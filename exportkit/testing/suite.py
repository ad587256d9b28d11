"""The checks that sources and steps have in common: how a class describes itself, and how a config is read into it."""

import json
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

import exportkit
from exportkit.cli import hydra_app, main
from exportkit.cli.fielddocs import field_docs
from exportkit.config.reader import choices
from exportkit.errors import ConfigError, ExportKitError, PluginError
from exportkit.plugin import Phase
from exportkit.processes.tensorflow import import_tensorflow
from exportkit.registry import Plugins, load_plugins
from exportkit.testing import planner

LINE = 120
QUICK = 1.0  # seconds of CPU time that a plan may take, on any machine; two more would be TensorFlow's import
T = TypeVar("T")
_MADE: dict[tuple[type, str], Any] = {}


class PluginSuite:
    """Checks and helpers that `SourceSuite` and `StepSuite` share.

    Attributes:
        group: the config group that it is of.
        varies: patterns of files in a version whose bytes may differ from export to export, as those of a signature do.
    """

    group: ClassVar[str]
    varies: ClassVar[Sequence[str]] = ()

    @property
    def plugin(self) -> type[Any]:
        """The class under test."""
        raise NotImplementedError

    def keys(self, directory: Path) -> dict[str, Any]:
        """Return the keys that a config sets, without `kind`; what they name on disk is written below the empty `directory`."""
        return {}

    def config(self, directory: Path) -> dict[str, Any]:
        """Return a whole config that exports with the plugin, everything that it reads below `directory`."""
        raise NotImplementedError

    # What the checks use

    @pytest.fixture(autouse=True)
    def _own_place(self, tmp_path, monkeypatch):
        """Give each check a directory, temporary files and an environment of its own."""
        hydra_app.plugins.cache_clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", str(empty(tmp_path / "temp")))
        environment = dict(os.environ)
        yield
        os.environ.clear()
        os.environ.update(environment)

    @pytest.fixture
    def plugins(self) -> Plugins:
        return self.once("plugins", load_plugins)

    @pytest.fixture
    def data(self, tmp_path) -> dict[str, Any]:
        return self.config(empty(tmp_path / "given"))

    @pytest.fixture
    def outcome(self, tmp_path_factory) -> planner.Outcome:
        """Return what importing the module and planning come to in a process without TensorFlow."""
        return self.once("outcome", lambda: self._planned_elsewhere(tmp_path_factory.mktemp("plan")))

    @pytest.fixture
    def exported(self, plugins, tmp_path_factory) -> exportkit.ExportReport:
        """Return the report of one export, for checks that only read it."""
        place = tmp_path_factory.mktemp("exported")
        return self.once("exported", lambda: export(self.config(empty(place / "given")), plugins))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returned when it was first asked for in this class."""
        key = type(self), name
        if key not in _MADE:
            _MADE[key] = make()
        made: T = _MADE[key]
        return made

    def _planned_elsewhere(self, directory: Path) -> planner.Outcome:
        data = self.config(empty(directory / "given"))
        code, printed, outcome = planner.plan(self.plugin.__module__, data, directory)
        assert (code, printed) == (0, "") and outcome, "importing and planning is silent, and passes"
        return outcome

    def at(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of a config that is read into the plugin's class."""
        part: dict[str, Any] = data["source"] if self.group == "source" else data["post"][self.plugin.kind]
        assert part["kind"] == self.plugin.kind
        return part

    def changed(self, data: Mapping[str, Any], /, **keys: Any) -> dict[str, Any]:
        """Return the config with other keys for the plugin."""
        part = {**self.at(data), **keys}
        return {**data, "source": part} if self.group == "source" else {**data, "post": {self.plugin.kind: part}}

    @property
    def where(self) -> str:
        return "source" if self.group == "source" else f"post.{self.plugin.kind}"

    def refused(self, data: Mapping[str, Any], plugins: Plugins) -> list[str]:
        """Return the problems for which a plan is refused."""
        with pytest.raises(ConfigError) as refusal:
            exportkit.plan(data, plugins)
        return str(refusal.value).splitlines()

    def own_fields(self) -> list[Field[Any]]:
        return [field for field in fields(self.plugin) if field.name != "kind"]

    # How the class describes itself

    def test_it_is_found_by_its_kind(self, plugins):
        known = plugins.sources if self.group == "source" else plugins.steps
        assert known.get(self.plugin.kind) is self.plugin, "is it installed, with an entry point and a hook that offers it?"

    def test_its_distribution_is_known(self, plugins):
        provider = plugins.providers[self.plugin]
        assert provider.distribution and provider.version

    def test_its_kind_is_a_name_for_an_option(self):
        kind = self.plugin.kind
        assert kind.isidentifier() and kind == kind.lower() and kind.isascii()

    def test_it_is_a_dataclass_of_keywords(self):
        assert "__dataclass_fields__" in vars(self.plugin), "put @dataclass(kw_only=True) above the class"
        assert [field.name for field in fields(self.plugin) if not field.kw_only] == []

    def test_its_summary_is_a_sentence_on_one_line(self):
        summary = (self.plugin.__doc__ or "").strip().partition("\n")[0]
        assert not summary.startswith(f"{self.plugin.__name__}("), "it has no docstring of its own"
        assert summary.endswith((".", "?", "!")) and len(summary) <= LINE

    def test_every_field_is_documented(self):
        undocumented = [doc.name for doc in field_docs(self.plugin) if doc.name != "kind" and not doc.doc]
        assert undocumented == [], "write a text in quotes below each field"

    def test_the_command_line_shows_every_field(self, capsys):
        assert main(["plugins", self.plugin.kind]) == 0
        shown = capsys.readouterr().out
        assert [field.name for field in self.own_fields() if field.name not in shown] == []

    # How a config is read into it

    def test_its_config_composes_as_an_option(self, data, tmp_path, capsys):
        composed = self._composed(data, tmp_path, capsys)
        assert self.at(composed) == {**_defaults(self.plugin), **self.at(data)}

    def test_a_composed_config_means_the_same(self, data, plugins, tmp_path, capsys):
        composed = exportkit.plan(self._composed(data, tmp_path, capsys), plugins)
        written = exportkit.plan(data, plugins)
        assert (composed.source, composed.post) == (written.source, written.post)

    def test_the_command_line_refuses_an_unknown_key(self, data, tmp_path, capsys):
        self._written(data, tmp_path)
        assert main(["model=suite", f"{self.where}.no_such_key=1", "--cfg", "job"]) == 2
        assert "no_such_key" in capsys.readouterr().err

    def test_defaults_are_those_of_the_class(self, data, plugins):
        read = self.read(exportkit.plan(data, plugins))
        for field in self.own_fields():
            if field.name not in self.at(data) and field.default is not MISSING:
                assert getattr(read, field.name) == field.default

    def test_a_misspelt_key_gets_its_neighbour(self, data, plugins):
        for field in self.own_fields():
            misspelt = f"{field.name}{field.name[-1]}"
            reported = self.refused(self.changed(data, **{misspelt: None}), plugins)
            assert any(line.startswith(f"{self.where}.{misspelt}: no such key; did you mean") for line in reported), reported

    def test_a_wrong_type_is_told_with_its_path(self, data, plugins):
        hints = get_type_hints(self.plugin)
        for field in self.own_fields():
            for wrong in _wrong(hints[field.name]):
                reported = self.refused(self.changed(data, **{field.name: wrong}), plugins)
                assert any(line.startswith(f"{self.where}.{field.name}") for line in reported), reported

    def test_a_missing_key_is_told_with_its_path(self, data, plugins):
        for field in self.own_fields():
            if field.default is MISSING and field.default_factory is MISSING:
                reported = self.refused(self.changed(data, **{field.name: "???"}), plugins)
                assert any(line.startswith(f"{self.where}.{field.name}: is not set") for line in reported), reported

    def read(self, plan: exportkit.ExportPlan) -> Any:
        """Return the plugin's instance in a plan."""
        return plan.source if self.group == "source" else plan.post[self.plugin.kind]

    def _written(self, data: Mapping[str, Any], directory: Path) -> None:
        chosen = {"override /source": data["source"]["kind"]}, {"override /post": list(data.get("post", {}))}
        path = directory / "conf" / "model" / "suite.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# @package _global_\n" + yaml.safe_dump({"defaults": list(chosen), **data}, sort_keys=False))

    def _composed(self, data: Mapping[str, Any], directory: Path, capsys: Any) -> dict[str, Any]:
        """Return what the command line makes of the config, as plain data again."""
        self._written(data, directory)
        code = main(["model=suite", "--cfg", "job"])
        reported = capsys.readouterr()
        assert code == 0, reported.err
        return yaml.safe_load(reported.out)

    # What planning does

    def test_importing_it_imports_no_tensorflow(self, outcome):
        assert outcome.early is False, "import it inside the methods that use it"

    def test_planning_imports_no_tensorflow(self, outcome):
        assert outcome.late is False

    def test_planning_is_quick(self, outcome):
        assert outcome.seconds < QUICK

    def test_planning_writes_nothing(self, data, plugins, tmp_path):
        before = tree(tmp_path)
        exportkit.plan(data, plugins)
        assert tree(tmp_path) == before

    def test_planning_twice_is_the_same(self, data, plugins):
        assert exportkit.plan(data, plugins) == exportkit.plan(data, plugins)

    def test_a_plan_travels_to_another_process(self, data, plugins):
        plan = exportkit.plan(data, plugins)
        assert pickle.loads(pickle.dumps(plan)) == plan

    # What exporting does; the first sees a process in which nothing was exported yet

    def test_an_export_leaves_the_process_as_it_was(self, data, plugins):
        with unchanged():
            export(data, plugins)

    def test_an_export_changes_nothing_but_its_directory(self, data, plugins, tmp_path):
        before = tree(tmp_path)
        report = export(data, plugins)
        base, given = Path(report.base_path or ""), tmp_path / "given"
        places = [base, given] if self.publishes else [base]
        left = {path: size for path, size in tree(tmp_path).items() if not set(places) & set(path.parents) or path in before}
        assert left == before
        assert {path.name for path in base.iterdir()} - {".published"} == {"1"}

    def test_an_export_leaves_its_plan_as_it_was(self, data, plugins):
        plan = exportkit.plan(data, plugins)
        before = pickle.dumps(plan)
        exportkit.run(plan, plugins)
        assert pickle.dumps(plan) == before

    def test_two_exports_are_the_same_bytes(self, data, plugins):
        first, second = (content(Path(export(data, plugins).directory or "")) for _ in range(2))
        assert sorted(first) == sorted(second)
        differ = [name for name in first if first[name] != second[name]]
        assert [name for name in differ if not any(fnmatch(name, pattern) for pattern in self.varies)] == []

    def test_the_report_is_plain_data(self, exported):
        assert json.loads(exported.to_json())["status"] == "exported"

    @property
    def publishes(self) -> bool:
        """Whether it writes to the outside, which in this suite is the directory that `keys` is given."""
        return getattr(self.plugin, "phase", None) is Phase.PUBLISH

    def test_what_is_missing_is_told_in_lines(self, data, plugins, tmp_path):
        for path in sorted((tmp_path / "given").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        passes_or_refuses(data, plugins)


def export(data: Mapping[str, Any], plugins: Plugins) -> exportkit.ExportReport:
    """Plan and run."""
    return exportkit.run(exportkit.plan(data, plugins), plugins)


def passes_or_refuses(data: Mapping[str, Any], plugins: Plugins) -> None:
    """Export, and accept a refusal that the plugin raised on purpose; any other exception fails the check."""
    try:
        assert all(line.status == "passed" for line in export(data, plugins).steps)
    except ExportKitError as refusal:
        assert not isinstance(refusal, PluginError), refusal
        assert [problem for problem in refusal.problems if problem.what.startswith("raised ")] == []


def tree(directory: Path) -> dict[Path, int]:
    """Return the files below a directory, and their sizes."""
    return {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def content(directory: Path) -> dict[str, bytes]:
    """Return the bytes of the files below a directory by their names in it."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@contextmanager
def unchanged() -> Iterator[None]:
    """Check that working directory, environment, threads and TensorFlow's mode are the same afterwards."""
    import_tensorflow()
    import tensorflow as tf

    def state() -> dict[str, Any]:
        return {
            "working directory": os.getcwd(),
            **{f"environment variable {name}": value for name, value in os.environ.items()},
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "eager execution": tf.executing_eagerly(),
            "resource variables": tf.compat.v1.resource_variables_enabled(),
            "default graph": len(tf.compat.v1.get_default_graph().get_operations()),
        }

    before = state()
    yield
    after = state()
    assert sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)) == []


def empty(directory: Path) -> Path:
    """Make a directory and return it."""
    directory.mkdir()
    return directory


def _defaults(cls: type) -> dict[str, Any]:
    """Return what a composed config has for keys that are not given."""
    found = {}
    for field in fields(cls):
        value = field.default_factory() if field.default_factory is not MISSING else field.default
        found[field.name] = "???" if value is MISSING else _written(value)
    return found


def _written(value: Any) -> Any:
    """Return a default as a config writes it."""
    return value.name if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


def _wrong(hint: Any) -> list[Any]:
    """Return values that a field of this type cannot hold."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _wrong(next(kind for kind in inner if kind is not type(None)))
    if choices(hint):
        return ["no such choice", ["a", "list"]]
    if hint in (str, Path):
        return [["a", "list"], {"a": "mapping"}]
    if hint in (int, float, bool):
        return ["a text", ["a", "list"]]
    return [] if hint is Any else [3, "a text"]
