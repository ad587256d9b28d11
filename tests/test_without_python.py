"""An export of a .meta imports no Python of TensorFlow, in no process: its default steps run in TensorFlow's C++ core."""

import json
import os
import subprocess
import sys

import pytest
import toys

REFUSING = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("tensorflow.python") or name == "keras":
            raise ImportError(f"{name} was to be imported")

sys.meta_path.insert(0, Refusing())
"""

PROGRAM = """
import json, sys
import exportkit

report = exportkit.run(exportkit.plan(json.loads(sys.argv[1])))
ours = [name for name in sys.modules if name == "tensorflow" or name.startswith(("tensorflow.python", "keras", "hydra"))]
print(json.dumps([report.status, [step.status for step in report.steps], ours]))
"""


def exported(config, tmp_path):
    """The status, the steps' and the modules of an export where importing TensorFlow's Python fails, in any process."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(REFUSING)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", PROGRAM, json.dumps(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("dense"), toys.dense)


def test_an_export_with_its_default_steps(dense, tmp_path):
    post = {"verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}, "warmup": {"kind": "warmup"}}
    samples = {"serving_default": {"x": [[1, 2, 3, 4]]}}
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    bindings = {
        "x": "x:0",
        "probs": "probs:0",
        "top": {"top_k": "probs", "k": 2},
        "classes": {"lookup": "top.indices", "vocabulary": str(tmp_path / "labels.txt")},
    }
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"classes": "classes", "scores": "top.values"}}}
    config = toys.config(
        dense,
        tmp_path,
        post=post,
        samples=samples,
        bindings=bindings,
        signatures=signatures,
        weights={"initialize": ["dense/bias"]},
    )
    assert exported(config, tmp_path) == ["exported", ["passed"] * 3, []]


def test_a_source_of_code_does_import_it(dense, tmp_path):
    source = {"kind": "graph_builder", "builder": "exportkit.testing.graphs:softmax", "checkpoint": dense}
    with pytest.raises(
        AssertionError, match=r"tensorflow: cannot be imported: ImportError: tensorflow\.python was to be imported"
    ):
        exported(toys.config(dense, tmp_path, source=source), tmp_path)
