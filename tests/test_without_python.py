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


MODEL = """\
# @package _global_
defaults: [override /source: meta_graph]
name: dense
source: {{checkpoint: {checkpoint}}}
bindings: {{x: "x:0", probs: "probs:0"}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}}}
"""


def run_refusing(words, tmp_path):
    """Run Python in a directory where importing TensorFlow's Python fails, in any process; return what it printed."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(REFUSING)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def exported(config, tmp_path):
    """The status, the steps' and the modules of an export where importing TensorFlow's Python fails, in any process."""
    return json.loads(run_refusing(["-c", PROGRAM, json.dumps(config)], tmp_path))


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


@pytest.mark.parametrize("sweep", [(), ("-m",)])
def test_the_command_with_its_default_steps(dense, tmp_path, sweep):
    model = tmp_path / "conf" / "model" / "dense.yaml"
    model.parent.mkdir(parents=True)
    model.write_text(MODEL.format(checkpoint=dense))
    report = tmp_path / "report.json"
    run_refusing(["-m", "exportkit", *sweep, "model=dense", f"report.path={report}"], tmp_path)
    found = json.loads(report.read_text())
    steps = [(step["kind"], step["status"]) for step in found["steps"]]
    assert (found["status"], steps) == ("exported", [("verify", "passed"), ("manifest", "passed")])


def test_a_source_of_code_does_import_it(dense, tmp_path):
    source = {"kind": "graph_builder", "builder": "exportkit.testing.graphs:softmax", "checkpoint": dense}
    with pytest.raises(
        AssertionError, match=r"tensorflow: cannot be imported: ImportError: tensorflow\.python was to be imported"
    ):
        exported(toys.config(dense, tmp_path, source=source), tmp_path)


IMPORTS = """
import os, sys

class Listing:
    forks = 0

    def find_spec(self, name, path=None, target=None):
        if self.forks == 3:
            with open(FILE, "a") as file:
                file.write(f"{name}\\n")

    def forked(self):
        self.forks += 1
        if "exportkit.core.warm" in sys.modules:
            self.forks = 9  # a try of the process that workers are forked from, or a worker
        if self.forks == 3:
            with open(FILE, "a") as file:
                file.write("a job\\n")

listing = Listing()
sys.meta_path.insert(0, listing)
os.register_at_fork(after_in_child=listing.forked)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the server is no fork")
def test_a_job_of_a_sweep_imports_nothing(dense, tmp_path):
    """It is a fork of its keeper, which is one of the server, which is one of the sweep's process."""
    for name in ("a", "b"):
        model = tmp_path / "conf" / "model" / f"{name}.yaml"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(MODEL.format(checkpoint=dense))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"FILE = {str(tmp_path / 'imports')!r}\n{IMPORTS}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    words = ["-m", "exportkit", "-m", "model=a,b", "export_dir=exports/m${hydra:job.num}"]
    done = subprocess.run([sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imports").read_text().splitlines() == ["a job", "a job"]
