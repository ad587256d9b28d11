"""The conformance suite of a model source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import exportkit
from exportkit.checkpoint import Bundle
from exportkit.errors import ExportKitError
from exportkit.metagraph import Graph
from exportkit.planning.plan import wanted
from exportkit.plugin import ModelSource, Preview, SourceModel
from exportkit.testing import toys
from exportkit.testing.suite import PluginSuite, empty, export, tree


class SourceSuite(PluginSuite):
    """The checks of a source: subclass it, and set the source, its keys, and how its model is bound and called.

    Attributes:
        source: the class under test.
        bindings: as in a config.
        signatures: as in a config; the first one is tried.
        sample: alias → values of one request to the first signature.
        answer: alias → the expected answer, compared to 1e-5; empty where it is not known.
    """

    source: ClassVar[type[ModelSource]]
    bindings: ClassVar[Mapping[str, Any]]
    signatures: ClassVar[Mapping[str, Any]]
    sample: ClassVar[Mapping[str, Any]]
    answer: ClassVar[Mapping[str, Any]] = {}
    group = "source"

    @property
    def plugin(self) -> type[Any]:
        return self.source

    def config(self, directory: Path) -> dict[str, Any]:
        return {
            "name": "suite",
            "source": {"kind": self.plugin.kind, **self.keys(directory)},
            "bindings": dict(self.bindings),
            "signatures": dict(self.signatures),
            "export_dir": str(directory.parent / "exports" / "suite"),
        }

    @pytest.fixture
    def plan(self, data, plugins) -> exportkit.ExportPlan:
        return exportkit.plan(data, plugins)

    @pytest.fixture
    def model(self, plan, tmp_path) -> SourceModel:
        return built(plan, empty(tmp_path / "scratch"), wanted(plan))

    def test_a_preview_is_one(self, plan):
        preview = previewed(plan)
        assert isinstance(preview, Preview)
        assert all(isinstance(line, str) for line in [*preview.checked, *preview.when_built])

    def test_its_check_finds_nothing_wrong(self, plan):
        assert list(plan.source.check(plan, plan.prepared)) == []

    def test_it_offers_what_its_preview_said(self, plan, model):
        assert sorted((previewed(plan).tensors or {}).keys() - model.tensors.keys()) == []

    def test_it_builds_a_source_model(self, model):
        assert isinstance(model, SourceModel)
        assert len(model.meta_graph.graph_def.node) > 0

    def test_the_checkpoint_of_what_it_builds_can_be_read(self, model):
        bundle = Bundle(model.checkpoint)
        for key in bundle.entries:
            bundle.verify(key)

    def test_what_it_offers_is_in_its_graph(self, model):
        graph = Graph(model.meta_graph)
        assert [name for name, tensor in model.tensors.items() if graph.find(tensor) != tensor] == []

    def test_it_notes_plain_lines(self, model):
        assert not isinstance(model.notes, str)
        assert [note for note in model.notes if not isinstance(note, str) or "\n" in note] == []

    def test_it_writes_into_scratch_only(self, plan, tmp_path):
        before, scratch = tree(tmp_path), empty(tmp_path / "scratch")
        built(plan, scratch, wanted(plan))
        assert {path: size for path, size in tree(tmp_path).items() if scratch not in path.parents} == before

    def test_it_builds_in_graphs_of_its_own(self, plan, tmp_path):
        import tensorflow as tf

        with tf.Graph().as_default() as graph:
            graph.finalize()
            built(plan, empty(tmp_path / "scratch"), wanted(plan))

    def test_it_builds_without_anything_wanted(self, plan, tmp_path):
        assert isinstance(built(plan, empty(tmp_path / "scratch"), []), SourceModel)

    def test_it_does_not_mind_unknown_names(self, plan, tmp_path):
        try:
            model = built(plan, empty(tmp_path / "scratch"), ["no/such:0", "no_such_name"])
        except ExportKitError:
            return
        assert isinstance(model, SourceModel)

    def test_it_builds_twice(self, plan, tmp_path):
        first, second = (built(plan, empty(tmp_path / name), wanted(plan)) for name in ("first", "second"))
        ours, theirs = Bundle(first.checkpoint).entries, Bundle(second.checkpoint).entries
        assert {name: entry.crc32c for name, entry in ours.items()} == {name: entry.crc32c for name, entry in theirs.items()}

    def test_every_variable_has_a_value(self, exported):
        count = exported.weights.variables
        proof = f"{count}/{count} variables equal to the checkpoint, 0 initialised" if count else "no variables"
        assert exported.weights.proof == proof

    def test_the_version_answers(self, exported):
        signature = next(iter(self.signatures))
        answer = toys.served(exported.directory, signature, self.sample)
        for alias, expected in self.answer.items():
            _assert_near(answer[alias], expected)

    def test_every_loader_answers_the_same(self, exported):
        signature = next(iter(self.signatures))
        answers = toys.served(exported.directory, signature, self.sample)
        for alias, value in toys.served_eagerly(exported.directory, signature, self.sample).items():
            _assert_near(answers[alias], value)

    def test_two_tags_share_its_variables(self, data, plugins):
        tags = {"serving": {"tags": ["serve"]}, "gpu": {"tags": ["serve", "gpu"]}}
        assert len(export({**data, "meta_graphs": tags}, plugins).meta_graphs) == 2


def previewed(plan: exportkit.ExportPlan) -> Preview:
    """Return the source's preview in a plan."""
    return next(iter(plan.resolved.values())).preview


def built(plan: exportkit.ExportPlan, scratch: Path, wanted: Sequence[str]) -> SourceModel:
    """Return what the source yields for a plan."""
    return plan.source.build(previewed(plan), scratch, wanted)


def _assert_near(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected.astype(found.dtype))
