"""`exportkit verify`: what it says of sound versions, of damaged and broken ones, and of those of strangers."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys
import versions_made
from versions_made import X, export

from exportkit import cli
from exportkit.capabilities import audit
from exportkit.checkpoint import Bundle, BundleWriter, tensorproto
from exportkit.errors import ConfigError
from exportkit.metagraph import read_saved_model
from exportkit.serving import warmup
from exportkit.serving.prediction_log import Logged
from exportkit.verifying.audit import capabilities as audit_capabilities
from exportkit.verifying.audit import variables as audit_variables
from exportkit.verifying.audit import verify_version
from exportkit.version import manifest

v1 = tf.compat.v1
pytestmark = pytest.mark.quick(24)
STEPS = {"warmup": {"kind": "warmup", "batch_sizes": [1, 4]}, "manifest": {"kind": "manifest"}}
RESTORE = "take the version from where it was published, or export it again"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


@pytest.fixture(scope="module")
def published(tmp_path_factory, checkpoint):
    return Path(export(versions_made.config(checkpoint, tmp_path_factory.mktemp("version"), post=STEPS)).directory)


@pytest.fixture
def version(published, tmp_path):
    """A copy, elsewhere."""
    return Path(shutil.copytree(published, tmp_path / "elsewhere" / "1"))


@pytest.fixture
def bare(version):
    """A copy without what exportkit puts beside a SavedModel."""
    shutil.rmtree(version / "assets.extra")
    return version


def lines(directory, *arguments, **options):
    return [str(finding) for finding in verify_version(directory, *arguments, **options)]


def failed(directory, *arguments, **options):
    return [str(f) for f in verify_version(directory, *arguments, **options) if f.passed is False]


def edited(directory, edit):
    """Change the saved_model.pb of a version by `edit`, which is given its first meta graph."""
    saved_model = read_saved_model(directory)
    edit(saved_model.meta_graphs[0])
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return directory


# ---- sound ----


def test_a_published_version_passes_anywhere(version):
    nodes = len(read_saved_model(version).meta_graphs[0].graph_def.node)
    assert lines(version) == [
        "[v] files: 5 files have the digests (SHA-256) in the manifest",
        "[-] signature: there is none, and only a signature guards against somebody who can write to the version: whoever "
        "changes a file can change its digest; export with post=[…,manifest,sign]",
        "[v] variables: 2 tensors, 60 bytes: every checksum holds",
        f"[v] graph: tagged [serve]: {nodes} nodes, written by TensorFlow {tf.__version__}, "
        "signatures by_class, by_value, serving_default",
        "[v] signature by_class: a server can answer it (classify)",
        "[v] signature by_value: a server can answer it (regress)",
        "[v] signature serving_default: a server can answer it (predict)",
        "[v] assets: labels.txt: there, and nothing is read from elsewhere",
        "[v] init op: 'init_tables' assigns no weight",
        "[v] capabilities: it can read its assets (InitializeTableFromTextFileV2), restore its variables (RestoreV2), "
        "save its variables (SaveV2), as the manifest states",
        "[v] run by_class: its recorded outputs come out exactly: classes string [2, 2], scores float32 [2, 2]",
        "[v] run by_value: its recorded outputs come out exactly: outputs float32 [2, 1]",
        "[v] run serving_default: its recorded outputs come out exactly: probs float32 [2, 3]",
        "[v] warmup: 6 records, each answered",
    ]


def test_without_a_manifest_made_up_input_is_tried(bare):
    found = lines(bare)
    assert found[0] == (
        "[-] manifest: there is none, so what nothing else guards can have been changed; export with post=[…,manifest]"
    )
    assert found[-3:] == [
        "[v] run by_class: answers made-up input with classes string [2, 2], scores float32 [2, 2]",
        "[v] run by_value: answers made-up input with outputs float32 [2, 1]",
        "[v] run serving_default: answers made-up input with probs float32 [2, 3]",
    ]


def test_what_is_not_to_be_run_is_not(version):
    assert not [line for line in lines(version, run=False) if "run" in line.split(":")[0]]


def test_a_name_that_no_server_sees_is_told(version):
    assert lines(version.rename(version.parent / "one"), run=False)[0] == (
        "[-] name: a server takes no notice of one, which is no integer; publish it as BASE_PATH/1"
    )


# ---- damaged ----


def _positions(size, most=80):
    return sorted({*range(0, size, max(1, size // most)), size - 1})


@contextmanager
def flipped(path, at, bits):
    """A file of which some bits of one byte are others, in place: one that is emptied first goes to the disk each time."""
    with open(path, "r+b", buffering=0) as file:
        whole = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([whole[0] ^ bits]), at)
        yield
        os.pwrite(file.fileno(), whole, at)


def test_one_flipped_byte_anywhere_is_found(version):
    files = [path for path in sorted(version.rglob("*")) if path.is_file()]
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        for number, at in enumerate(_positions(len(whole))):
            name = path.relative_to(version).as_posix()
            with flipped(path, at, 1 << number % 8):
                assert any(name in line for line in failed(version)), (name, at)
        assert path.read_bytes() == whole
    assert failed(version) == []


def test_one_flipped_byte_of_the_weights_is_found_without_a_manifest(bare):
    path = bare / "variables" / "variables.data-00000-of-00001"
    for at in range(path.stat().st_size):
        with flipped(path, at, 1):
            found = failed(bare, run=False)
        assert len(found) == 1
        assert found[0].startswith("[x] variables: ")


def test_what_was_changed_is_not_run(version):
    (version / "assets" / "labels.txt").write_text("b\na\nc\n")
    (version / "assets" / "more.txt").write_text("")
    (version / "variables" / "variables.index").unlink()
    found = lines(version)
    assert found[:3] == [
        f"[x] files: assets/labels.txt: was changed: it does not have its digest; {RESTORE}",
        "[x] files: assets/more.txt: is not part of the version; remove it",
        f"[x] files: variables/variables.index: is missing; {RESTORE}",
    ]
    assert found[-1] == "[-] run: not tried, as its files are not what was published"


def test_a_changed_manifest_is_told(version):
    with open(version / manifest.FILE, "a") as file:
        file.write("\n")
    assert failed(version) == [
        f"[x] manifest: assets.extra/exportkit.json: was changed: it does not have its digest; {RESTORE}"
    ]


def test_a_missing_index_is_told_though_the_loader_does_not(bare):
    (bare / "variables" / "variables.index").unlink()
    found = failed(bare)
    assert found[0] == (
        "[x] variables: variables.index is missing, and the graph has 2 variables: it loads all the same, and every request "
        "fails; take the version from where it was published"
    )
    assert [line.split(": ")[0] for line in found[1:]] == ["[x] run by_class", "[x] run by_value", "[x] run serving_default"]
    assert "FAILED_PRECONDITION" in found[1]


def test_an_index_that_goes_meanwhile_is_a_finding(bare, monkeypatch):
    index = bare / "variables/variables.index"
    check = audit_variables.check

    def check_and_lose(*arguments):
        yield from check(*arguments)
        index.unlink()
        index.mkdir()

    monkeypatch.setattr(audit_variables, "check", check_and_lose)
    assert failed(bare, run=False)[0] == f"[x] variables: {index}: cannot be read: it is a directory"


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_truncated_graph_is_told(bare, size):
    (bare / "saved_model.pb").write_bytes((bare / "saved_model.pb").read_bytes()[:size])
    found = failed(bare)
    assert len(found) == 1 and found[0].startswith("[x] saved_model.pb: ")


def test_where_there_is_no_version(published, tmp_path):
    with pytest.raises(ConfigError) as error:
        verify_version(published.parent)
    assert str(error.value) == f"{published.parent}: has no saved_model.pb; name one of the versions in it: 1"
    with pytest.raises(ConfigError) as error:
        verify_version(tmp_path / "nowhere")
    assert str(error.value) == f"{tmp_path / 'nowhere'}: has no saved_model.pb; there is no such directory"


# ---- broken ----


def test_a_missing_asset(bare):
    (bare / "assets" / "labels.txt").unlink()
    found = failed(bare)
    assert found[0] == "[x] assets: assets/labels.txt: is missing; take the version from where it was published"
    assert found[1].startswith("[x] run by_class: ") and "NOT_FOUND" in found[1]


def test_an_asset_of_the_training_machine(bare, published):
    def bake(meta):
        del meta.collection_def["saved_model_assets"]
        del meta.asset_file_def[:]

    named, run, *_ = failed(edited(bare, bake))
    file = published.parents[2] / "labels.txt"
    assert named == (
        "[x] assets: outputs/text_file_init/InitializeTableFromTextFileV2: "
        f"reads {file} of the training machine; export it again"
    )
    assert run.startswith("[x] run ")
    assert f"{file}; Permission denied" in run


def _saved_by_hand(directory, main_op, build=toys.dense):
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        build()
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def(
            {"x": graph.get_tensor_by_name("x:0")}, {"probs": graph.get_tensor_by_name("probs:0")}
        )
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=main_op())
        builder.save()
    return directory


def test_an_init_op_that_forgets_the_weights(tmp_path):
    (only,) = failed(_saved_by_hand(tmp_path / "1", v1.global_variables_initializer))
    assert only.startswith("[x] init op: 'init_1' assigns beta1_power, beta2_power, dense/bias, dense/bias/Adam, ")
    assert only.endswith(
        "after the restore, so the weights in the files are not those that answer; "
        "export it again, with the tables' initialisers for a main_op and nothing else"
    )


class _Words(tf.Module):
    """A table whose vocabulary is an Asset, which is a variable of the same name as that of the weights."""

    def __init__(self, vocabulary):
        self.asset = tf.saved_model.Asset(vocabulary)
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        content = tf.lookup.TextFileInitializer(self.asset, tf.string, whole, tf.int64, line)
        self.table = tf.lookup.StaticHashTable(content, 0)
        self.weights = tf.Variable(np.eye(3, dtype=np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def embedded(self, words):
        return {"embedded": tf.gather(self.weights, self.table.lookup(words))}


def test_an_init_op_may_set_the_path_of_a_vocabulary(tmp_path):
    (tmp_path / "words.txt").write_text("red\ngreen\nblue\n")
    module = _Words(str(tmp_path / "words.txt"))
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.embedded)
    assert Bundle(tmp_path / "1/variables/variables").aliases == {"Variable": "weights/.ATTRIBUTES/VARIABLE_VALUE"}
    assert failed(tmp_path / "1") == []


def test_an_init_op_may_set_local_variables(tmp_path):
    def build():
        toys.dense()
        v1.get_variable("count", [], collections=[v1.GraphKeys.LOCAL_VARIABLES])

    assert failed(_saved_by_hand(tmp_path / "1", v1.local_variables_initializer, build)) == []


def test_python_in_the_graph(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        v1.get_variable("v", [4])
        tf.identity(v1.py_func(lambda a: a, [x], tf.float32), "probs")

    found = failed(_saved_by_hand(tmp_path / "1", lambda: None, build))
    assert found[0] == (
        "[x] signature serving_default: graph: PyFunc (PyFunc) runs Python of the training program, which no server has; "
        "export it again"
    )


SIGNATURES = {
    "an alias that classify has not": (
        lambda m: m.signature_def["by_class"].inputs["examples"].CopyFrom(m.signature_def["by_class"].inputs.pop("inputs")),
        ["[x] signature by_class: inputs: classify takes exactly 'inputs', not 'examples'; "
         "write {inputs: …} with a parse_example binding, or method: predict"],
    ),
    "scores of another dtype": (
        lambda m: m.signature_def["by_class"].outputs["scores"].CopyFrom(m.signature_def["by_class"].outputs["classes"]),
        ["[x] signature by_class: outputs.scores: 'outputs/classes/LookupTableFindV2:0' is string [?, 2], "
         "classify needs float32 [N, k]; "
         "bind a float32 tensor"],
    ),
    "a tensor that is not there": (
        lambda m: setattr(m.signature_def["serving_default"].outputs["probs"], "name", "prob:0"),
        ["[x] signature serving_default: outputs.probs: the graph has no tensor prob:0; did you mean probs:0?"],
    ),
    "another dtype than the graph's": (
        lambda m: setattr(m.signature_def["serving_default"].inputs["x"], "dtype", 9),
        ["[x] signature serving_default: inputs.x: inputs/x:0 is float32, and the signature says int64; export it again"],
    ),
    "a method of nobody": (
        lambda m: setattr(m.signature_def["by_value"], "method_name", "regress"),
        ["[x] signature by_value: method: no server knows 'regress'; write one of predict, classify, regress"],
    ),
    "none at all": (
        lambda m: m.signature_def.clear(),
        ["[x] graph: tagged [serve] has no signature, so a server cannot be asked anything; export it again"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_that_a_server_cannot_answer(bare, name):
    edit, expected = SIGNATURES[name]
    assert failed(edited(bare, edit), run=False) == expected


def test_a_fixed_first_dimension_and_a_device_are_worth_knowing(bare):
    def edit(meta):
        meta.signature_def["serving_default"].inputs["x"].tensor_shape.dim[0].size = 2
        for node in meta.graph_def.node:
            if node.name == "MatMul":
                node.device = "/device:GPU:0"

    found = lines(edited(bare, edit))
    assert [line for line in found if line.startswith("[x]")] == []
    assert (
        "[-] signature serving_default: the first dimension of input x is 2, so requests cannot be batched; "
        "leave it open in its binding: null"
    ) in found
    assert (
        "[-] devices: 1 nodes are pinned to /device:GPU:0: a server without that does not load them; export with clear_devices"
    ) in found
    assert "[v] run serving_default: answers made-up input with probs float32 [2, 3]" in found


def test_a_server_that_would_die_is_an_error_here(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [None, 4], "x")
        v1.get_variable("v", [4])
        checked = tf.raw_ops.Abort(error_msg="gone", exit_without_error=False)
        with tf.control_dependencies([checked]):
            tf.identity(x, "probs")

    directory = _saved_by_hand(tmp_path / "1", lambda: None, build)
    assert failed(directory) == [
        "[x] run: not run, as it can end its process: Abort (Abort); if it may do that: --allow aborts"
    ]
    (only,) = failed(directory, allowed=["aborts"])
    assert only.startswith("[x] run serving_default: ") and "died" in only


def test_other_capabilities_than_the_manifest_states_are_reported(version):
    meta = read_saved_model(version).meta_graphs[0]
    capabilities = {"reads_assets": ["InitializeTableFromTextFileV2"], "network": ["RpcClient"]}
    (only,) = audit_capabilities.check(read_saved_model(version), {"capabilities": capabilities})
    assert str(only) == (
        "[x] capabilities: it can read its assets (InitializeTableFromTextFileV2), restore its variables (RestoreV2), save its "
        "variables (SaveV2), and the manifest states reads_assets (InitializeTableFromTextFileV2), network (RpcClient); "
        "export it again, or ask who published it"
    )
    (sound,) = audit_capabilities.check(read_saved_model(version), {"capabilities": audit(meta).by_capability()})
    assert sound.passed


@pytest.mark.parametrize(
    "requests, text",
    [
        (
            [Logged("predict", "serving_defautl", {"x": X})],
            "[x] warmup: record 0: there is no signature 'serving_defautl'; did you mean serving_default?",
        ),
        (
            [Logged("predict", "serving_default", {"x": X.astype(int)})],
            "[x] warmup: record 0 (serving_default): INVALID_ARGUMENT: inputs/x:0 is float32 and is fed int64",
        ),
    ],
)
def test_a_warmup_file_that_fails(bare, requests, text):
    warmup.write_warmup(bare, "toy", requests)
    assert failed(bare) == [text]


def test_made_up_input_that_does_not_fit_is_no_verdict(tmp_path):
    def build():
        x = v1.placeholder(tf.string, [None], "x")
        v1.get_variable("v", [4])
        tf.identity(tf.cast(tf.strings.length(tf.io.decode_base64(x)), tf.float32), "probs")

    found = lines(_saved_by_hand(tmp_path / "1", lambda: None, build))
    assert found[-1].startswith("[-] run serving_default: refuses made-up input: INVALID_ARGUMENT: ")
    assert found[-1].endswith("; export with samples")


# ---- recorded outputs ----


def _recorded(version, change):
    (version / warmup.FILE).unlink(missing_ok=True)
    content = manifest.read_manifest(version)
    probs = tensorproto.from_json(content["samples"]["serving_default"]["outputs"]["probs"])
    content["samples"]["serving_default"]["outputs"]["probs"] = change(probs)
    manifest.write_manifest(version, content)


def test_other_outputs_than_the_recorded_ones(version):
    _recorded(version, lambda probs: tensorproto.to_json(probs + np.float32(1e-3)))
    (only,) = failed(version)
    assert only == (
        "[x] run serving_default: its recorded outputs do not come out: probs differs by up to 0.001; "
        "on another kind of processor the last bits may differ: --rtol 1e-5 allows that"
    )
    assert lines(version, atol=2e-3)[-1] == (
        "[v] run serving_default: its recorded outputs come out within atol 0.002, rtol 0: probs float32 [2, 3]"
    )


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda probs: tensorproto.to_json(probs[:1]), "probs is float32 [2, 3], and was float32 [1, 3]"),
        (lambda probs: {"dtype": "float32", "shape": [2, 3], "sha256": "0"}, "probs has another digest"),
    ],
)
def test_ways_to_differ(version, change, text):
    _recorded(version, change)
    (only,) = failed(version)
    assert f"do not come out: {text};" in only


def test_large_outputs_are_compared_by_digest(version):
    _recorded(version, lambda probs: {"dtype": "float32", "shape": [2, 3], "sha256": tensorproto.digest(probs)})
    assert failed(version) == []


def test_the_manifests_tolerances_hold(version):
    content = manifest.read_manifest(version)
    content["tolerances"] = {"atol": 1e-2, "rtol": 0.0}
    manifest.write_manifest(version, content)
    _recorded(version, lambda probs: tensorproto.to_json(probs + np.float32(1e-3)))
    assert failed(version) == []


# ---- weights ----


def test_weights_are_compared_with_a_checkpoint(version, checkpoint, tmp_path):
    assert f"[v] weights: 2/2 tensors have the checksums of {checkpoint}" in lines(version, checkpoint, run=False)
    assert f"[v] weights: 2/2 tensors have the checksums of {checkpoint}" in lines(
        version, os.path.dirname(checkpoint), run=False
    )
    (tmp_path / "other").mkdir()
    other = toys.saved(tmp_path / "other", toys.dense, seed=8)
    assert failed(version, other, run=False) == [
        f"[x] weights: '{name}' is not the tensor '{name}' of {other}; export again" for name in ("dense/kernel", "dense/bias")
    ]


def test_another_models_checkpoint_is_one_line(version, tmp_path):
    with BundleWriter(tmp_path / "clicks") as writer:
        writer.add("clicks/kernel", np.zeros([2, 2], np.float32))
    assert failed(version, str(tmp_path / "clicks"), run=False) == [
        f"[x] weights: {tmp_path}/clicks is of another model: none of the 2 tensors (dense/bias, dense/kernel) is in it; "
        "name the checkpoint of this version; that one holds clicks/kernel"
    ]


def test_renamed_weights_are_compared_under_the_configs_rules(tmp_path):
    def build():
        with v1.variable_scope("tower"):
            toys.dense()

    prefix = toys.saved(tmp_path, toys.dense)
    (tmp_path / "renamed").mkdir()
    renamed = toys.saved(tmp_path / "renamed", build)
    data = toys.config(
        prefix,
        tmp_path,
        source={"kind": "meta_graph", "checkpoint": renamed, "meta": f"{prefix}.meta"},
        weights={"names": [{"variable": "(.*)", "key": r"tower/\1"}]},
        post={"manifest": {"kind": "manifest"}},
    )
    directory = Path(export(data).directory)
    assert f"[v] weights: 2/2 tensors have the checksums of {renamed}" in lines(directory, renamed, run=False)
    (only,) = failed(directory, prefix, run=False)
    assert only.startswith(
        f"[x] weights: {prefix} is of another model: none of the 2 tensors (dense/bias, dense/kernel) is in it; "
    )


# ---- strangers ----


class Scale(tf.Module):
    """A TensorFlow 2 model with a table, whose variables are known by objects."""

    def __init__(self):
        self.factor = tf.Variable([2.0, 3.0], name="factor")
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)

    @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.string)])
    def __call__(self, x, name):
        return {"y": x * self.factor, "id": self.table.lookup(name)}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    base = tmp_path_factory.mktemp("stranger")
    model = Scale()
    tf.saved_model.save(model, str(base / "1"), {"serving_default": model.__call__})
    tf.train.Checkpoint(factor=model.factor).write(str(base / "objects"))
    return base


def test_a_model_of_tensorflow_2(stranger):
    assert failed(stranger / "1", str(stranger / "objects")) == []
    found = lines(stranger / "1", str(stranger / "objects"))
    assert f"[v] weights: 1/1 tensors have the checksums of {stranger / 'objects'}" in found
    assert found[-1] == "[v] run serving_default: answers made-up input with id int32 [2], y float32 [2, 2]"


def test_a_model_of_tensorflow_2_against_other_weights(stranger, tmp_path):
    other = tf.train.Checkpoint(factor=tf.Variable([2.0, 4.0], name="factor")).write(str(tmp_path / "other"))
    assert failed(stranger / "1", other, run=False)[0].startswith("[x] weights: 'factor/.ATTRIBUTES/VARIABLE_VALUE' is not ")


@pytest.mark.parametrize(
    "path, expected",
    [
        (
            "saved_models/saved_model_half_plus_three/123",
            ["[x] signature tensorflow/serving/regress: inputs.inputs: tf_example:0 is string, and the signature says float32; "
             "export it again"],
        ),
        (
            "saved_models/saved_model_half_plus_two_cpu/123",
            ["[x] signature regress_x2_to_y3: inputs.inputs: 'x2:0' is float32 [?, 1], regress needs string [N]; "
             "feed it a parse_example binding"],
        ),
        (
            "saved_models/saved_model_half_plus_two_gpu/123",
            ["[x] signature classify_x2_to_y3: inputs.inputs: 'x2:0' is float32 [?, 1], classify needs string [N]; "
             "feed it a parse_example binding",
             "[x] signature regress_x2_to_y3: inputs.inputs: 'x2:0' is float32 [?, 1], regress needs string [N]; "
             "feed it a parse_example binding",
             "[x] init op: 'group_deps_1' assigns a, b, c after the restore, so the weights in the files are not those that "
             "answer; export it again, with the tables' initialisers for a main_op and nothing else"],
        ),
        ("saved_models/saved_model_half_plus_two_tf2_cpu/123", []),
        ("iterator-estimator/saved_model", []),
    ],
)  # fmt: skip
def test_public_models(corpus, path, expected):
    assert failed(corpus / path) == expected


def test_an_estimators_export_has_the_weights_of_its_checkpoint(corpus):
    base = corpus / "iterator-estimator"
    found = lines(base / "saved_model", str(base / "model.ckpt-1000"), run=False)
    assert f"[v] weights: 21/21 tensors have the checksums of {base / 'model.ckpt-1000'}" in found


# ---- the command ----


def test_the_command_prints_and_gates(version, capsys):
    assert cli.main(["verify", str(version)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{version}: 13 passed, 1 note"
    (version / "assets" / "labels.txt").write_text("")
    assert cli.main(["verify", str(version), "--no-run"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"[x] files: assets/labels.txt: was changed: it does not have its digest; {RESTORE}"
    assert out[-1] == f"{version}: 8 passed, 1 failed, 1 note"


def test_the_command_needs_no_tensorflow(version):
    code = "import sys; from exportkit import cli; code = cli.main(sys.argv[1:]); sys.exit(code or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, "verify", str(version)], capture_output=True).returncode == 0
