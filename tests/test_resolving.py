"""A source is resolved once: whatever training saves, overwrites or deletes meanwhile, an export says what it was made from."""

import gc
import os
import pickle
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import toys

import exportkit
from exportkit import metagraph
from exportkit.checkpoint import Bundle, held, open_checkpoint
from exportkit.checkpoint.held import HeldFile
from exportkit.errors import ConfigError, PluginError, StepFailed, WeightsError
from exportkit.planning import prepare
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl
from exportkit.registry import load_plugins
from exportkit.verifying.audit import verify_version
from exportkit.version.identity import identity
from exportkit.version.manifest import read_manifest

pytestmark = pytest.mark.quick(18)

STEPS = {"manifest": {"kind": "manifest"}}
AGAIN = "export again, or name another checkpoint"
CODE = """
import glob, os, shutil
import tensorflow as tf
from exportkit.testing import graphs

v1 = tf.compat.v1
asked = []
meanwhile = lambda: None

def build():
    graphs.softmax()
    meanwhile()

def restoring():
    graphs.softmax()
    meanwhile()
    return lambda session: session.run(v1.global_variables_initializer())

class Encoder:
    def build_graph_from_config(self, config, checkpoint_path):
        asked.append(checkpoint_path)
        graphs.softmax()
"""

SUMMARY = "max abs diff 0, mismatches 0; signatures 1, outputs 1; on random values: serving_default"


@pytest.fixture
def run_of(tmp_path):
    """A training run's directory with the checkpoint model.ckpt-1, and a function that saves there again."""

    def save(step, seed=7):
        return toys.save(toys.dense, tmp_path / "run", seed=seed, step=step).prefix

    save(1)
    return save


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The user's module `trained`; what its `meanwhile` does happens while the graph is built."""
    (tmp_path / "trained.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: __import__("trained")
    sys.modules.pop("trained", None)


def config(tmp_path, kind="meta_graph", **changes):
    keys = {
        "meta_graph": {},
        "graph_builder": {"builder": "trained:build"},
        "encoder": {"encoder": "trained:Encoder"},
    }[kind]
    source = {"kind": kind, "checkpoint": str(tmp_path / "run"), **keys}
    return toys.config("", tmp_path, **{"source": source, "post": STEPS, **changes})


SERVED = ("dense/bias", "dense/kernel")


def values(prefix):
    """The served values of a checkpoint; training has more."""
    bundle = Bundle(prefix)
    return {name: bundle.read(name).tobytes() for name in SERVED}


def stated(report):
    manifest = read_manifest(Path(report.directory))
    return manifest["checkpoint"]["prefix"], manifest["checkpoint"]["digest"], manifest["identity"]["checkpoints"]


def delete(prefix):
    for path in Path(prefix).parent.glob(f"{Path(prefix).name}*"):
        path.unlink()


def data(prefix):
    return Path(f"{prefix}.data-00000-of-00001")


def flip(prefix):
    """Change a byte of a served tensor in place."""
    path, at = data(prefix), Bundle(prefix).entry("dense/bias").parts[0].offset
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 1]))
    os.utime(path, ns=(0, 0))  # whatever the clock of the file system can tell apart


def refusal(error, plan):
    with pytest.raises(error) as caught:
        exportkit.run(plan)
    assert type(caught.value) is error
    assert not [path for path in plan.export_dir.glob("*") if path.name.isdecimal()]
    return str(caught.value)


KINDS = ["meta_graph", "graph_builder", "encoder"]

# between plan and build


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_after_the_plan_is_the_next_export(kind, run_of, code, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    was, digest = values(prefix), Bundle(prefix).digest
    plan = exportkit.plan(config(tmp_path, kind))
    later = run_of(2, seed=8)
    report = exportkit.run(plan)
    assert stated(report) == (prefix, digest, [digest])
    assert values(f"{report.directory}/variables/variables") == was
    assert read_manifest(Path(report.directory))["identity"] == identity(plan)
    following = exportkit.plan(config(tmp_path, kind))
    assert identity(following)["sha256"] != identity(plan)["sha256"]
    report = exportkit.run(following)
    assert stated(report) == (later, Bundle(later).digest, [Bundle(later).digest])
    assert values(f"{report.directory}/variables/variables") == values(later)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_deleted_after_the_plan_is_exported(kind, run_of, code, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    was, digest = values(prefix), Bundle(prefix).digest
    steps = {"verify": {"kind": "verify"}, **STEPS} if kind == "meta_graph" else STEPS
    plan = exportkit.plan(config(tmp_path, kind, post=steps))
    delete(prefix)
    report = exportkit.run(plan)
    assert report.weights.proof == "2/2 variables equal to the checkpoint, 0 initialised"
    assert kind != "meta_graph" or report.steps[0].details["summary"] == SUMMARY
    assert stated(report) == (prefix, digest, [digest])
    assert values(f"{report.directory}/variables/variables") == was


def test_a_checkpoint_that_is_replaced_after_the_plan_is_exported_as_it_was(run_of, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    was, digest = values(prefix), Bundle(prefix).digest
    plan = exportkit.plan(config(tmp_path))
    other = toys.save(toys.dense, tmp_path / "other", seed=8, step=1).prefix
    for path in (data(prefix), Path(f"{prefix}.index")):
        os.replace(Path(other).parent / path.name, path)
    assert values(prefix) != was
    report = exportkit.run(plan)
    assert stated(report) == (prefix, digest, [digest])
    assert values(f"{report.directory}/variables/variables") == was


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_overwritten_after_the_plan_is_refused(kind, run_of, code, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    plan = exportkit.plan(config(tmp_path, kind))
    flip(prefix)
    assert refusal(WeightsError, plan) == f"{prefix}: was written to after it was planned; {AGAIN}"


def test_an_encoder_is_given_what_was_planned(run_of, code, tmp_path):
    plan = exportkit.plan(config(tmp_path, "encoder"))
    run_of(2)
    exportkit.run(plan)
    assert code().asked == [str(tmp_path / "run" / "model.ckpt-1")]


# a plan in another process


def test_a_plan_in_another_process_opens_its_checkpoint_again(run_of, tmp_path):
    plan = exportkit.plan(config(tmp_path))
    travelled = pickle.loads(pickle.dumps(plan))
    assert travelled == plan
    assert (travelled.resolved["serving"].bundle, travelled.prepared) == (None, None)
    run_of(2)
    report = exportkit.run(travelled)
    assert stated(report)[:2] == (str(tmp_path / "run" / "model.ckpt-1"), plan.resolved["serving"].digest)


def test_a_plan_in_another_process_finds_another_save(run_of, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    travelled = pickle.loads(pickle.dumps(exportkit.plan(config(tmp_path))))
    run_of(1, seed=8)
    assert refusal(WeightsError, travelled) == f"{prefix}: was saved anew after it was planned; {AGAIN}"
    delete(prefix)
    assert refusal(WeightsError, travelled).splitlines() == [
        f"{prefix}: cannot be opened any more after it was planned; {AGAIN}",
        f"{prefix}: no checkpoint is there; {os.path.dirname(prefix)} holds checkpoint",
    ]


# while it is built, and between build and write


@pytest.mark.parametrize("prove", [True, False])
def test_bytes_that_change_while_they_are_copied(prove, run_of, code, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    plan = exportkit.plan(config(tmp_path, "graph_builder", weights={"prove": prove}))
    code().meanwhile = lambda: flip(prefix)
    assert refusal(WeightsError, plan) == f"{prefix}: was written to while it was exported; {AGAIN}"


def test_bytes_that_change_unseen_are_found_by_their_checksums(run_of, code, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")

    def meanwhile():
        status = data(prefix).stat()
        flip(prefix)
        os.utime(data(prefix), ns=(status.st_atime_ns, status.st_mtime_ns))

    plan = exportkit.plan(config(tmp_path, "graph_builder"))
    code().meanwhile = meanwhile
    mixed = "its index and its data are of two different saves, or it was damaged: copy both again"
    text = f"{data(prefix)}: is damaged: the bytes of 'dense/bias' do not have their checksum; {mixed}"
    assert refusal(WeightsError, plan) == text


def test_values_of_a_restore_function_that_may_be_of_two_saves(run_of, code, tmp_path):
    data_ = config(tmp_path, "graph_builder")
    data_["source"]["builder"] = "trained:restoring"
    plan = exportkit.plan(data_)
    code().meanwhile = lambda: shutil.copy(data(prefix), f"{prefix}.new") and os.replace(f"{prefix}.new", data(prefix))
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    assert refusal(WeightsError, plan) == f"{prefix}: was saved anew while it was exported; {AGAIN}"


def test_a_restore_function_whose_checkpoint_is_deleted(run_of, code, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    data_ = config(tmp_path, "graph_builder")
    data_["source"]["builder"] = "trained:restoring"
    plan = exportkit.plan(data_)
    code().meanwhile = lambda: delete(prefix)
    assert refusal(WeightsError, plan).splitlines() == [
        f"{prefix}: no checkpoint is there; {os.path.dirname(prefix)} holds checkpoint",
        f"{prefix}: was deleted while it was exported; {AGAIN}",
    ]


def test_code_and_files_that_change_while_they_are_exported(run_of, code, tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    data_ = config(tmp_path, "encoder")
    data_["source"]["config"] = {"words": str(tmp_path / "words.txt")}
    plan = exportkit.plan(data_)

    def meanwhile():
        (tmp_path / "words.txt").write_text("b\n")
        (tmp_path / "trained.py").write_text(CODE + "# edited\n")

    trained = code()
    trained.graphs = type("Graphs", (), {"softmax": lambda: (toys.dense(), meanwhile())})
    assert refusal(StepFailed, plan).splitlines() == [
        "source.config.words: was changed while it was exported (post.manifest); export again",
        "the code that builds the graph: was changed while it was exported (post.manifest); export again",
    ]


# what a directory means


def test_a_state_file_that_names_a_deleted_checkpoint(run_of, tmp_path):
    delete(tmp_path / "run" / "model.ckpt-1")
    run = tmp_path / "run"
    with pytest.raises(ConfigError) as caught:
        exportkit.plan(config(tmp_path))
    assert str(caught.value) == f"source.checkpoint: {run}/checkpoint: names '{run}/model.ckpt-1', which is not there"


def test_a_state_file_that_is_being_rewritten(run_of, tmp_path):
    state = tmp_path / "run" / "checkpoint"
    whole = state.read_bytes()
    state.write_bytes(b"")
    writer = threading.Timer(0.1, state.write_bytes, [whole])
    writer.start()
    try:
        assert exportkit.plan(config(tmp_path)).resolved["serving"].preview.checkpoint == str(tmp_path / "run" / "model.ckpt-1")
    finally:
        writer.join()
    state.write_bytes(b"")
    os.utime(state, (0, 0))
    with pytest.raises(ConfigError, match="it has no line `model_checkpoint_path"):
        exportkit.plan(config(tmp_path))


def test_a_meta_that_comes_after_its_state_file(run_of, tmp_path):
    meta = Path(run_of(2) + ".meta")
    meta.rename(tmp_path / "later")
    writer = threading.Timer(0.1, (tmp_path / "later").rename, [meta])
    writer.start()
    try:
        plan = exportkit.plan(config(tmp_path))
    finally:
        writer.join()
    assert plan.resolved["serving"].preview.checkpoint == str(tmp_path / "run" / "model.ckpt-2")


def test_data_that_are_still_being_written(run_of, tmp_path):
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    size = data(prefix).stat().st_size
    os.truncate(data(prefix), size - 4)
    with pytest.raises(ConfigError) as caught:
        exportkit.plan(config(tmp_path))
    assert str(caught.value) == (
        f"source.checkpoint: {data(prefix)}: has {size - 4} bytes, and the index needs {size}; it is still being written or "
        "was cut short, or index and data are of two different saves: wait, or copy both again"
    )


def test_a_link_that_is_pointed_elsewhere(run_of, tmp_path):
    toys.save(toys.dense, tmp_path / "other", seed=8, step=1)
    link = tmp_path / "latest"
    link.symlink_to("run")
    digest = Bundle(tmp_path / "run" / "model.ckpt-1").digest
    plan = exportkit.plan(config(tmp_path, source={"kind": "meta_graph", "checkpoint": str(link)}))
    link.unlink()
    link.symlink_to("other")
    assert stated(exportkit.run(plan)) == (str(tmp_path / "run" / "model.ckpt-1"), digest, [digest])


def test_verify_against_a_directory_in_which_training_saves(run_of, tmp_path):
    report = exportkit.run(exportkit.plan(config(tmp_path)))
    found = verify_version(Path(report.directory), str(tmp_path / "run"), run=False)
    told = [str(finding) for finding in found]
    assert any(f"2/2 tensors have the checksums of {tmp_path}/run/model.ckpt-1" in line for line in told), told
    assert open_checkpoint(tmp_path / "run").prefix == str(tmp_path / "run" / "model.ckpt-1")


# what a plugin may do


@dataclass(kw_only=True)
class Stale(ModelSource):
    """Looks for the latest checkpoint twice."""

    kind: str = "stale"
    first: str
    then: str

    def preview(self):
        return Preview(checkpoint=self.first)

    def build(self, preview, scratch, wanted):
        return SourceModel(metagraph.read(f"{self.then}.meta"), self.then)


class Plugin:
    @hookimpl
    def exportkit_model_sources(self):
        return [Stale]


def test_a_source_that_looks_again_is_refused(run_of, tmp_path):
    plugins = load_plugins({"bad": Plugin()})
    first, then = (run_of(step) for step in (2, 3))
    plan = exportkit.plan(config(tmp_path, source={"kind": "stale", "first": first, "then": then}), plugins)
    with pytest.raises(PluginError) as caught:
        exportkit.run(plan, plugins)
    assert str(caught.value) == (
        f"source (plugin bad of this process): build returned the checkpoint {then}, and its preview named {first}"
    )


# what it costs


def test_a_meta_is_read_and_prepared_once(run_of, tmp_path, monkeypatch):
    done = []

    def counted(name, function):
        return lambda *args, **kwargs: done.append(name) or function(*args, **kwargs)

    monkeypatch.setattr(metagraph, "read", counted("read", metagraph.read))
    monkeypatch.setattr(sys.modules["exportkit.planning.plan"], "prepare", counted("prepare", prepare.prepare))
    monkeypatch.setattr(prepare, "prepare", counted("prepare", prepare.prepare))
    tags = {"serving": {"tags": ["serve"]}, "gpu": {"tags": ["serve", "gpu"]}}
    exportkit.run(exportkit.plan(config(tmp_path, meta_graphs=tags)))
    assert done == ["read", "prepare"]


def test_one_plan_can_be_run_twice(run_of, tmp_path):
    plan = exportkit.plan(config(tmp_path))
    one, other = (Path(exportkit.run(plan).directory) for _ in range(2))
    for name in ("saved_model.pb", "assets.extra/exportkit.json", "variables/variables.index"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_a_plan_that_is_gone_holds_nothing(run_of, tmp_path):
    exportkit.plan(config(tmp_path))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    plan = exportkit.plan(config(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del plan
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_beyond_so_many_descriptors_files_are_not_held(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(held, "_MOST", 0)
    path = tmp_path / "file"
    path.write_bytes(b"was")
    file = HeldFile(str(path))
    with file.open() as descriptor:
        assert os.pread(descriptor, 3, 0) == b"was"
    assert file.place == str(path)
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", path)
    with pytest.raises(OSError, match="another file has its name by now"), file.open():
        pass


@pytest.mark.parametrize("most", [0, 256])
def test_a_pipe_in_place_of_data_does_not_block(most, run_of, tmp_path, monkeypatch):
    monkeypatch.setattr(held, "_MOST", most)
    prefix = str(tmp_path / "run" / "model.ckpt-1")
    data(prefix).unlink()
    os.mkfifo(data(prefix))
    with pytest.raises(WeightsError, match=r"cannot be read: it is a FIFO \(named pipe\), not a regular file"):
        Bundle(prefix)
