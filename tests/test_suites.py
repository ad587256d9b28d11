"""The conformance suites find what is wrong with a plugin. (That good plugins pass them, other tests show.)"""

import pytest
import tensorflow as tf

from exportkit.testing import SourceSuite, StepSuite

pytest_plugins = ["pytester"]

STEP = '''
import os, sys, tempfile, time
from dataclasses import dataclass
from exportkit.plugin import Phase, PostStep, hookimpl


@dataclass(kw_only=True)
class Faulty(PostStep):
    """Does something."""

    kind: str = "faulty"
    phase = Phase.AUGMENT

    size: int = 1
    """How much."""

    done = []

    def run(self, export):
        ...


@hookimpl
def exportkit_post_steps():
    return [Faulty]
'''
STEPS = {
    "has a kind that shouts": ('"faulty"', '"Faulty"', "its_kind_is_a_name_for_an_option"),
    "can be made from positions": ("(kw_only=True)", "", "it_is_a_dataclass_of_keywords"),
    "has no docstring": ('    """Does something."""', "", "its_summary_is_a_sentence_on_one_line"),
    "has a field without docs": ('    """How much."""', "", "every_field_is_documented"),
    "imports TensorFlow": (
        "import os",
        "from exportkit.plugin import import_tensorflow; import_tensorflow()\nimport os",
        "importing_it_imports_no_tensorflow",
    ),
    "prints when imported": ("@hookimpl", "print('hello')\n@hookimpl", "importing_it_imports_no_tensorflow"),
    "changes its defaults": ("done =", "def __post_init__(self): self.size = 7\n    done =", "defaults_are_those_of_the_class"),
    "writes beside the version": (
        "...",
        "(export.directory.parents[1] / 'notes').touch()",
        "an_export_changes_nothing_but_its_directory",
    ),
    "writes where exportkit was started": ("...", "open('notes', 'w').close()", "an_export_changes_nothing_but_its_directory"),
    "leaves temporary files": ("...", "tempfile.mkstemp()", "an_export_changes_nothing_but_its_directory"),
    "sets a variable of the environment": ("...", "os.environ['ACME'] = 'on'", "an_export_leaves_the_process_as_it_was"),
    "changes the plan": ("...", "export.plan.name = 'mine'", "an_export_leaves_its_plan_as_it_was"),
    "writes the time": (
        "...",
        "(export.directory / 'when').write_text(str(time.time_ns()))",
        "two_exports_are_the_same_bytes",
    ),
    "needs samples and does not say so": (
        "...",
        "export.samples['serving_default']",
        "it_runs_or_refuses_without_samples",
    ),
    "works once": ("...", "self.done.append(1); assert len(self.done) == 1", "two_exports_are_the_same_bytes"),
}
SOURCE = '''
import os, random
from dataclasses import dataclass
from exportkit.plugin import ModelSource, Preview, capture, hookimpl


@dataclass(kw_only=True)
class Faulty(ModelSource):
    """Builds something."""

    kind: str = "faulty"

    size: int = 1
    """How much."""

    def preview(self):
        return Preview()

    def build(self, preview, scratch, wanted):
        import tensorflow as tf
        v1 = tf.compat.v1
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            x = v1.placeholder(tf.float32, [None], "x")
            y = tf.multiply(v1.get_variable("factor", initializer=2.0), x, "y")
            session.run(v1.global_variables_initializer())
            return capture(graph, session, scratch, tensors={"x": x.name, "y": y.name}, wanted=wanted)


@hookimpl
def exportkit_model_sources():
    return [Faulty]
'''
SOURCES = {
    "imports TensorFlow for a preview": (
        "return Preview()",
        "from exportkit.plugin import import_tensorflow; import_tensorflow(); return Preview()",
        "planning_imports_no_tensorflow",
    ),
    "takes its time": (
        "return Preview()",
        "import time; end = time.process_time() + 1.1\n        while time.process_time() < end: pass\n        return Preview()",
        "planning_is_quick",
    ),
    "writes for a preview": ("return Preview()", "open('cache', 'w').close(); return Preview()", "planning_writes_nothing"),
    "previews at random": ("Preview()", "Preview(checked=[str(random.random())])", "planning_twice_is_the_same"),
    "previews what is no line": ("Preview()", "Preview(checked=[3])", "a_preview_is_one"),
    "cannot travel": (
        "def preview",
        "def __post_init__(self): self.f = lambda: 0\n\n    def preview",
        "a_plan_travels_to_another_process",
    ),
    "draws its values": ("initializer=2.0", "initializer=random.random()", "it_builds_twice"),
    "needs something wanted": ("import tensorflow", "wanted[0]; import tensorflow", "it_builds_without_anything_wanted"),
    "looks up what is wanted": (
        "import tensorflow",
        "[{'x': 1, 'y': 2}[name] for name in wanted]; import tensorflow",
        "it_does_not_mind_unknown_names",
    ),
    "uses the default graph": (
        "with tf.Graph().as_default() as graph",
        "graph = v1.get_default_graph()\n        with graph.as_default()",
        "it_builds_in_graphs_of_its_own",
    ),
    "writes where exportkit was started": (
        "import tensorflow",
        "open('w', 'w').write('w'); import tensorflow",
        "it_writes_into_scratch_only",
    ),
    "answers something else": ("initializer=2.0", "initializer=3.0", "the_version_answers"),
}


SUITES = {
    "post": """
from acme import Faulty
from exportkit.testing import StepSuite

class TestFaulty(StepSuite):
    step = Faulty
""",
    "source": """
from acme import Faulty
from exportkit.testing import SourceSuite

class TestFaulty(SourceSuite):
    source = Faulty
    bindings = {"x": "x", "y": "y"}
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}}
    sample = {"x": [3.0]}
    answer = {"y": [6.0]}
""",
}


@pytest.fixture
def check(install, pytester):
    """Install acme and run checks of its suite; returns whether they passed, and what was said."""

    def run(group, code, *names):
        assert tf.executing_eagerly()  # it is imported here once: pytester forgets what is imported inside
        install("acme", code)
        pytester.makepyfile(test_acme=SUITES[group])
        ran = pytester.runpytest_inprocess("-q", *(f"test_acme.py::TestFaulty::test_{name}" for name in names))
        assert "error" not in ran.parseoutcomes(), ran.stdout
        return ran.ret == 0, ran.stdout.str()

    return run


def spoiled(code, old, new):
    assert old in code
    return code.replace(old, new)


@pytest.mark.quick(5)
@pytest.mark.parametrize("way", STEPS)
def test_a_faulty_step_is_found(way, check):
    old, new, name = STEPS[way]
    passed, said = check("post", spoiled(STEP, old, new), name)
    assert not passed, said


@pytest.mark.quick(5)
@pytest.mark.parametrize("way", SOURCES)
def test_a_faulty_source_is_found(way, check):
    old, new, name = SOURCES[way]
    passed, said = check("source", spoiled(SOURCE, old, new), name)
    assert not passed, said


@pytest.mark.parametrize(("group", "code", "ways"), [("post", STEP, STEPS), ("source", SOURCE, SOURCES)])
def test_without_its_fault_each_passes_the_same_checks(group, code, ways, check):
    passed, said = check(group, code, *(name for *_, name in ways.values()))
    assert passed, said


def test_a_variable_of_the_environment_is_named(check):
    passed, said = check("post", spoiled(STEP, "...", "os.environ['ACME'] = 'on'"), "an_export_leaves_the_process_as_it_was")
    assert not passed
    assert "['environment variable ACME']" in said


@pytest.mark.parametrize(("group", "code"), [("post", STEP), ("source", SOURCE)])
def test_a_field_may_be_called_data(group, code, check):
    field = '    data: str = "a"\n    """What."""\n\n'
    code = spoiled(
        code,
        "    def run" if group == "post" else "    def build",
        field + ("    def run" if group == "post" else "    def build"),
    )
    passed, said = check(group, code, "a_misspelt_key_gets_its_neighbour", "a_wrong_type_is_told_with_its_path")
    assert passed, said


PUBLISHER = """
    to: Path | None = None
    \"\"\"Where it publishes.\"\"\"

    def run(self, export):
        (self.to / "published").write_text("1")
        {more}
"""


@pytest.mark.parametrize(("more", "passes"), [("...", True), ("open('elsewhere', 'w').close()", False)])
def test_a_step_may_publish_below_its_directory(more, passes, check, monkeypatch):
    code = STEP.replace("AUGMENT", "PUBLISH").replace("import os,", "from pathlib import Path\nimport os,")
    code = spoiled(code, "\n    def run(self, export):\n        ...\n", PUBLISHER.format(more=more))
    keys = "    def keys(self, directory): return {'to': str(directory)}\n"
    monkeypatch.setitem(SUITES, "post", SUITES["post"] + keys)
    passed, said = check("post", code, "an_export_changes_nothing_but_its_directory")
    assert passed is passes, said


@pytest.mark.parametrize("suite", [SourceSuite, StepSuite])
def test_a_suite_has_enough_checks(suite):
    assert len([name for name in dir(suite) if name.startswith("test_")]) >= 30
