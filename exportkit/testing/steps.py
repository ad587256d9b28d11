"""The conformance suite of a post-export step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

import exportkit
from exportkit.errors import StepFailed
from exportkit.plugin import Phase, PostStep
from exportkit.report import ExportReport
from exportkit.testing import toys
from exportkit.testing.suite import PluginSuite, content, empty, export, passes_or_refuses


class StepSuite(PluginSuite):
    """The checks of a step: subclass it and set the step; `keys` sets its keys, `config` another model than the toy.

    Attributes:
        step: the class under test.
    """

    step: ClassVar[type[PostStep]]
    group = "post"

    @property
    def plugin(self) -> type[Any]:
        return self.step

    def config(self, directory: Path) -> dict[str, Any]:
        prefix = toys.checkpoint("softmax", directory).prefix
        samples = {"serving_default": {"x": [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]}}
        post = {self.plugin.kind: {"kind": self.plugin.kind, **self.keys(directory)}}
        return toys.config(prefix, directory.parent, samples=samples, post=post)

    def check(self, directory: Path, report: ExportReport) -> None:
        """Check what else holds of the exported version and the report."""

    @pytest.fixture
    def without(self, plugins, tmp_path_factory) -> ExportReport:
        """Return the report of one export without the step."""
        place = tmp_path_factory.mktemp("without")
        return self.once("without", lambda: export({**self.config(empty(place / "given")), "post": {}}, plugins))

    def test_its_phase_is_declared(self):
        assert isinstance(self.step.phase, Phase)

    def test_its_check_finds_nothing_wrong(self, data, plugins):
        plan = exportkit.plan(data, plugins)
        assert list(self.read(plan).check(plan, plan.prepared)) == []

    def test_it_passes(self, exported):
        assert [(line.kind, line.phase, line.status) for line in exported.steps] == [
            (self.plugin.kind, self.step.phase.name, "passed")
        ]
        self.check(Path(exported.directory), exported)

    def test_its_details_are_plain_data(self, exported):
        details = exported.steps[0].details
        assert json.loads(json.dumps(details)) == _plain(details)

    def test_it_writes_what_its_phase_allows(self, exported, without):
        ours, plain = (content(Path(report.directory)) for report in (exported, without))
        assert {name: ours.get(name) for name in plain} == plain, "what was there is as it was"
        if self.step.phase in (Phase.VERIFY, Phase.PUBLISH):
            assert sorted(ours) == sorted(plain), "a step of this phase adds nothing"

    def test_the_version_answers_as_without_it(self, data, exported, without):
        signature, sample = next(iter(data["samples"].items()))
        answers = [toys.served(report.directory, signature, sample)["probs"].tolist() for report in (exported, without)]
        assert answers[0] == answers[1]

    def test_it_may_be_chosen_under_another_name(self, data, plugins):
        other = {**data, "post": {"another_name": self.at(data)}}
        assert export(other, plugins).steps[0].status == "passed"

    def test_it_runs_within_a_time_limit(self, data, plugins):
        """A step with a timeout runs in a thread of its own."""
        assert export(self.changed(data, timeout=300.0), plugins).steps[0].status == "passed"

    def test_it_runs_beside_several_meta_graphs(self, data, plugins):
        tags = {"serving": {"tags": ["serve"]}, "gpu": {"tags": ["serve", "gpu"]}}
        assert export({**data, "meta_graphs": tags}, plugins).steps[0].status == "passed"

    def test_it_runs_or_refuses_without_samples(self, data, plugins):
        passes_or_refuses({**data, "samples": {}}, plugins)

    def test_an_error_after_its_work_leaves_no_version(self, data, plugins, monkeypatch):
        def run_and_raise(step, export):
            work(step, export)
            raise RuntimeError("raised\nby the suite")

        work = self.step.run
        monkeypatch.setattr(self.step, "run", run_and_raise)
        with pytest.raises(StepFailed) as failed:
            export(data, plugins)
        reported, provider = str(failed.value), plugins.providers[self.step]
        assert reported.startswith(f"post.{self.plugin.kind} ({provider}): raised RuntimeError: raised by the suite")
        base = Path(data["export_dir"])
        assert [path.name for path in base.iterdir()] == (["1"] if self.step.phase is Phase.PUBLISH else [])

    def test_a_plan_names_it_and_its_phase(self, data, plugins):
        checks = exportkit.plan(data, plugins).checks
        assert [(line.stage, line.checked) for line in checks if line.what == self.plugin.kind] == [
            (self.step.phase.name.lower(), False)
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
