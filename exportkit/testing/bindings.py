"""The conformance suite of a binding that is computed from others, or feeds others."""

import pickle
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

import exportkit
from exportkit.errors import ConfigError
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Feeder, Operation
from exportkit.operations.bindings import offered_by
from exportkit.registry import Plugins, load_plugins
from exportkit.testing import toys
from exportkit.testing.suite import LINE, content, empty, export

NAME = "of_the_suite"
ROWS = [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [0.0, -1.0, 0.5, 9.0]]  # of x


class BindingSuite:
    """The checks of a binding that is computed from others, or feeds others.

    Subclass it and set the class, and `keys` if it has more than its reference.

    Attributes:
        operation: the class under test, an Operation or a Feeder.
        of: the value of its field `kind`: what it is computed from, ``probs``, float32 [?, 3], or ``x``, float32 [?, 4],
            both of the toy `softmax`; of a feeder what it feeds, which is to be ``x``.
        sample: values that a feeder takes; None: what it draws.
    """

    operation: ClassVar[type[Operation] | type[Feeder]]
    of: ClassVar[Any] = "probs"
    sample: ClassVar[Any] = None

    def keys(self, directory: Path) -> dict[str, Any]:
        """Return the keys that a config sets beside the reference; what they name is written below the empty `directory`."""
        return {}

    @pytest.fixture(autouse=True)
    def _own_place(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    @pytest.fixture
    def plugins(self) -> Plugins:
        return load_plugins()

    @pytest.fixture
    def data(self, tmp_path) -> dict[str, Any]:
        """Return a config whose signature outputs all values of the binding, or takes it as its input, and verifies them."""
        given = empty(tmp_path / "given")
        binding = {self.operation.kind: self.of, **self.keys(given)}
        made = self.operation(**binding)
        inputs, parts, sample = {"x": "x"}, ["probs"], ROWS
        if isinstance(made, Operation):
            parts = offered_by(NAME, made)
        else:
            inputs, sample = {"x": NAME}, self.sample
        return toys.config(
            toys.checkpoint("softmax", given).prefix,
            tmp_path,
            bindings={"x": "x:0", "probs": "probs:0", NAME: binding},
            signatures={"serving_default": {"inputs": inputs, "outputs": {ref.replace(".", "_"): ref for ref in parts}}},
            samples={} if sample is None else {"serving_default": {"x": sample}},
            post={"verify": {"kind": "verify"}},
        )

    def refused(self, data: dict[str, Any], plugins: Plugins, **changes: Any) -> list[str]:
        """Return the problems for which a plan is refused when keys of the binding are changed."""
        binding = {**data["bindings"][NAME], **changes}
        with pytest.raises(ConfigError) as refusal:
            exportkit.plan({**data, "bindings": {**data["bindings"], NAME: binding}}, plugins)
        return str(refusal.value).splitlines()

    def test_it_is_found_by_its_kind(self, plugins):
        found = plugins.bindings.get(self.operation.kind)
        assert found is self.operation, "is it installed, with an entry point and a hook that offers it?"

    def test_it_is_a_dataclass_of_keywords(self):
        assert "__dataclass_fields__" in vars(self.operation), "put @dataclass(kw_only=True) above the class"
        assert [field.name for field in fields(self.operation) if not field.kw_only] == []
        assert self.operation.kind in [field.name for field in fields(self.operation)]

    def test_its_summary_is_a_sentence_on_one_line(self):
        summary = (self.operation.__doc__ or "").strip().partition("\n")[0]
        assert not summary.startswith(f"{self.operation.__name__}("), "it has no docstring of its own"
        assert summary.endswith((".", "?", "!")) and len(summary) <= LINE

    def test_a_misspelt_key_gets_its_neighbour(self, data, plugins):
        for field in fields(self.operation):
            reported = self.refused(data, plugins, **{f"{field.name}{field.name[-1]}": None})
            expected = f"bindings.{NAME}.{field.name}{field.name[-1]}: no such key; did you mean"
            assert any(line.startswith(expected) for line in reported), reported

    def test_a_missing_key_is_told_with_its_path(self, data, plugins):
        for field in fields(self.operation):
            if field.default is MISSING and field.default_factory is MISSING and field.name != self.operation.kind:
                reported = self.refused(data, plugins, **{field.name: "???"})
                assert any(line.startswith(f"bindings.{NAME}.{field.name}") for line in reported), reported

    def test_a_reference_to_nothing_is_told(self, data, plugins):
        old = "x" if issubclass(self.operation, Feeder) else self.of if isinstance(self.of, str) else self.of[0]
        reported = self.refused(data, plugins, **{self.operation.kind: _renamed(self.of, old, "probz")})
        where = f"bindings.{NAME}.{self.operation.kind}"
        expected = ": there is no binding 'probz'; did you mean probs?"
        assert any(line.startswith(where) and line.endswith(expected) for line in reported), reported

    def test_a_plan_travels_to_another_process(self, data, plugins):
        plan = exportkit.plan(data, plugins)
        assert pickle.loads(pickle.dumps(plan)) == plan

    def test_importing_it_imports_no_tensorflow(self):
        code = f"import sys, {self.operation.__module__}; print('tensorflow.python' in sys.modules)"
        command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"

    def test_nothing_known_of_its_tensors_is_no_problem(self, data, plugins):
        binding = exportkit.plan(data, plugins).bindings[NAME]
        if isinstance(binding, Feeder):
            assert list(binding.problems({})) == []
            return
        assert isinstance(binding, Operation)
        unknown = [Facts() for _ in binding.refs()]
        assert list(binding.problems(unknown)) == []
        assert len(binding.facts(unknown)) == len(binding.parts() or [NAME])

    def test_it_is_verified_and_has_the_dtype_and_shape_that_it_said(self, data, plugins):
        plan = exportkit.plan(data, plugins)
        report = export(data, plugins)
        assert (report.steps[0].status, report.unverified) == ("passed", [])
        if isinstance(binding := plan.bindings[NAME], Feeder):
            assert [Facts(t.dtype, None if t.shape is None else tuple(t.shape)) for t in _inputs(report)] == [binding.taken]
            return
        said = plan.bindings.derive({"x": Facts("float32", (None, 4)), "probs": Facts("float32", (None, 3))})
        found = {t.binding: Facts(t.dtype, None if t.shape is None else tuple(t.shape)) for t in _outputs(report)}
        assert {ref: said[ref].dtype for ref in found} == {ref: facts.dtype for ref, facts in found.items()}
        for ref, facts in found.items():
            assert said[ref].shape in (None, facts.shape), f"{ref} is {facts}, and facts() said {said[ref]}"

    def test_two_exports_are_the_same_bytes(self, data, plugins):
        first, second = (content(Path(export(data, plugins).directory or "")) for _ in range(2))
        assert first == second


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return a config's value with a binding's name replaced, wherever it stands."""
    if isinstance(value, dict):
        return {_renamed(key, old, new): _renamed(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, old, new) for inner in value]
    return new if value == old else value


def _inputs(report: exportkit.ExportReport) -> list[Any]:
    return [taken for graph in report.meta_graphs for signature in graph.signatures for taken in signature.inputs]


def _outputs(report: exportkit.ExportReport) -> list[Any]:
    return [output for graph in report.meta_graphs for signature in graph.signatures for output in signature.outputs]
