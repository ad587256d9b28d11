"""The source `keras`: a file becomes a SavedModel in a process of its own, and nothing of a stranger's file is run."""

import json
import shutil
import zipfile
from pathlib import Path

import keras_made
import numpy as np
import pytest
from keras_made import MODULE

import exportkit
from exportkit.checkpoint import Bundle
from exportkit.errors import ConfigError
from exportkit.sources import _keras_file, _keras_worker, keras
from exportkit.sources.keras import KerasSource
from exportkit.testing import toys

pytestmark = pytest.mark.needs("keras", "h5py")

KERNEL = np.arange(8, dtype=np.float32).reshape(4, 2) / 8


@pytest.fixture(scope="module")
def files(shared):
    """A directory of files that Keras wrote; what is exported of them is shared by all tests."""
    place = shared("keras", keras_made.make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras, "EXPORTS", place / "exports")
        yield place


def config(model, **keys):
    bindings = {
        "examples": {"parse_example": {"x": {"dtype": "float32", "shape": [4], "to": "serving_default.inputs.x"}}},
        "scores": "serving_default.outputs.output_0",
    }
    signatures = {"classify": {"method": "classify", "inputs": {"inputs": "examples"}, "outputs": {"scores": "scores"}}}
    source = {"kind": "keras", "model": str(model), "signatures": ["serving_default"], **keys}
    return toys.config("", Path.cwd(), source=source, bindings=bindings, signatures=signatures)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


ROWS = np.float32([[1, 2, 3, 4], [0, 1, 0, 0]])
EXAMPLES = np.array([toys.example(x=row) for row in ROWS], object)


@pytest.mark.slow
def test_a_model_of_keras_becomes_a_version(files):
    post = {name: {"kind": name} for name in ("verify", "manifest")}
    report = toys.export(config(files / "dense.keras") | {"post": post})
    assert report.weights.proof == "1/1 variables equal to the checkpoint, 0 initialised"
    bundle = Bundle(Path(report.directory) / "variables" / "variables")
    (key,) = bundle.entries
    assert bundle.read(key).tobytes() == KERNEL.tobytes()
    for signature, inputs, alias in (
        ("classify", {"inputs": EXAMPLES}, "scores"),
        ("serving_default", {"x": ROWS}, "output_0"),
    ):
        for ask in (toys.served, toys.served_eagerly):
            np.testing.assert_allclose(ask(report.directory, signature, inputs)[alias], softmax(ROWS @ KERNEL), rtol=1e-6)
    named = json.loads((Path(report.directory) / "assets.extra/exportkit.json").read_text())["identity"]["files"]
    from exportkit.version.identity import file_digest

    assert named["source.model"] == file_digest(files / "dense.keras")


@pytest.mark.slow
def test_keras_exports_a_file_once(files, monkeypatch):
    first = exportkit.plan(config(files / "dense.h5"))
    monkeypatch.setattr("exportkit.processes.exchange", None)
    assert exportkit.plan(config(files / "dense.h5")).checks == first.checks
    assert first.checks[0].what.startswith(f"model {files / 'dense.h5'}, exported by Keras 3.")


@pytest.mark.slow
def test_classes_of_the_users_own(files, tmp_path, monkeypatch):
    (tmp_path / "their_layers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    report = toys.export(config(files / "twice.keras", custom_objects=["their_layers:Twice"]))
    answer = toys.served(report.directory, "serving_default", {"x": ROWS})["output_0"]
    np.testing.assert_allclose(answer, softmax(2 * ROWS @ KERNEL), rtol=1e-6)


def refusal(model, **keys):
    with pytest.raises(ConfigError) as caught:
        exportkit.plan(config(model, **keys))
    return str(caught.value).replace(str(model), "FILE")


REFUSED = {
    "dense.weights.h5": (
        "holds weights alone, and no model; load them into the model in Python, and save that whole: model.save('model.keras')"
    ),
    "twice.keras": (
        "needs Twice of their_layers, which is not Keras's; if you trust it, name your own: "
        "custom_objects: [their_layers:Twice]"
    ),
    "lambda.keras": (
        "holds Python code, which its layer Lambda would run; if you trust it, allow that by name: "
        "custom_objects: [keras.layers:Lambda]"
    ),
    "lambda.h5": (
        "holds Python code, which its layer Lambda would run; if you trust it, allow that by name: "
        "custom_objects: [keras.layers:Lambda]"
    ),
    "none.keras": "no such file; name a file that model.save wrote: model.keras or model.h5",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_one_line(name, files):
    assert refusal(files / name) == f"source.model: FILE: {REFUSED[name]}"


def test_references_are_checked_without_an_import(files):
    assert (
        refusal(files / "twice.keras", custom_objects=["no_such_module:Twice"])
        .splitlines()[-1]
        .startswith("source.custom_objects[0]: there is no module 'no_such_module'")
    )


def test_the_signatures_that_are_kept_are_keep_or_a_list():
    with pytest.raises(ConfigError, match="signatures: is 'all'; write keep, or a list of keys"):
        KerasSource(model=Path("model.keras"), signatures="all")


# Files of strangers: no Keras is needed to refuse them


def archive(path, members, *, compress=False):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as made:
        for name, content in members.items():
            made.writestr(name, content if isinstance(content, str | bytes) else json.dumps(content))
    return path


BROKEN = {
    "no model": (
        {"model.txt": "hello"},
        "is an archive without a config.json, and no model: it holds model.txt; name a file that",
    ),
    "no JSON": ({"config.json": "{"}, "is damaged: its configuration cannot be read; copy it again"),
    "a list": ({"config.json": []}, "is damaged: its configuration cannot be read; copy it again"),
    "too deep": ({"config.json": "[" * 100_000}, "is damaged: its configuration cannot be read; copy it again"),
    "a name outside": ({"config.json": {}, "../evil": "x"}, "holds '../evil', which lies outside of it; it was made by hand"),
    "an absolute name": (
        {"config.json": {}, "/etc/evil": "x"},
        "holds '/etc/evil', which lies outside of it; it was made by hand",
    ),
    "a bomb": (
        {"config.json": {}, "zeros": bytes(32 << 20)},
        "bytes and would unpack to 33,554,434 in 2 files; it was made by",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive_is_refused(name, tmp_path):
    members, what = BROKEN[name]
    path = archive(tmp_path / "model.keras", members, compress=name == "a bomb")
    with pytest.raises(ConfigError) as caught:
        _keras_file.read_archive(path)
    assert what in str(caught.value)


def described(name, module, config=None, registered=None):
    return {"class_name": name, "module": module, "config": {} if config is None else config, "registered_name": registered}


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (described("Dense", "keras.layers"), None),
        (described("Functional", "keras.src.models.functional", registered="Functional"), None),
        (described("Sequential", "keras"), None),
        (described("function", "builtins", "relu", "function"), None),
        (described("function", "keras.activations", "relu", "relu"), None),
        ({"class_name": "Dense", "config": {}}, None),
        ({"class_name": "__tensor__", "config": {"value": [1], "dtype": "float32"}}, None),
        (described("system", "os"), "needs system of os"),
        (described("Popen", "subprocess", registered="Dense"), "needs Popen of subprocess"),
        (described("get_file", "keras.utils"), "needs get_file of keras.utils"),
        (described("load_model", "keras.models"), "needs load_model of keras.models"),
        (described("function", "keras.utils", "get_file", "get_file"), "needs get_file of keras.utils"),
        (described("function", "os", "system", "system"), "needs system of os"),
        (described("Dense", "keras.layers", registered="evil>Dense"), "needs Dense of keras.layers"),
        ({"class_name": "evil>Layer", "config": {}}, "needs Layer"),
        (described("Lambda", "keras.layers"), "holds Python code, which its layer Lambda would run"),
        ({"class_name": "__lambda__", "config": {"value": ""}}, "holds Python code, which its layer Lambda would run"),
        (described("TFSMLayer", "keras.layers"), "holds another SavedModel, which its layer TFSMLayer would run"),
        (described("TorchModuleWrapper", "keras.layers"), "holds a pickle, which its layer TorchModuleWrapper would run"),
        ({"class_name": "__typespec__", "module": "os", "config": []}, "needs __typespec__ of os"),
    ],
)
def test_what_keras_would_import_is_refused_at_any_depth(node, what):
    nested = {"class_name": "Sequential", "module": "keras", "config": {"layers": [{"inner": [node]}]}, "registered_name": None}
    found = [problem for problem, _ in _keras_file.refusals(nested, [])]
    assert found == [] if what is None else [text.split(", which is not")[0] for text in found] == [what]


def test_what_is_named_is_loaded():
    nodes = [described("Mine", "ours", registered="pkg>Mine"), described("function", "builtins", "act", "pkg>act")]
    assert _keras_file.refusals(nodes, ["ours:Mine", "ours:act"]) == []
    assert _keras_file.own_names(nodes, "Mine") == {"Mine", "pkg>Mine"}
    assert _keras_file.refusals([described("Lambda", "keras.layers")], ["keras.layers:Lambda"]) == []
    assert len(_keras_file.refusals([described("system", "os", registered="Mine2")], ["ours:Mine"])) == 1


@pytest.mark.parametrize(
    ("legacy", "do"),
    [
        ("", "if it is yours, name it: custom_objects: [package.module:Mine]"),
        (
            _keras_worker._legacy("2.4.0"),
            "if it is yours, name it: custom_objects: [package.module:Mine]; if not, Keras 2.4.0 wrote it, and Keras 3 does "
            "not read all of those: load it with tf_keras (pip install tf_keras), write model.export(DIRECTORY), and name that "
            "(source=saved_model)",
        ),
    ],
)
def test_what_keras_does_not_know_is_named(legacy, do):
    why = "ValueError: Unknown layer: 'ours>Mine'. Please ensure you are using a `keras.utils.custom_object_scope` …"
    assert _keras_worker._unloadable("3.15.1", why, legacy) == ("needs Mine, which Keras 3.15.1 does not have", do)
    assert _keras_worker._unloadable("3.15.1", "ValueError: no", "") == (
        "cannot be loaded by Keras 3.15.1: ValueError: no",
        "does keras.models.load_model load it, with the same classes?",
    )


@pytest.mark.slow
def test_a_class_of_keras_2_that_keras_3_does_not_have(files, tmp_path):
    import h5py

    old = tmp_path / "old.h5"
    shutil.copy(files / "dense.h5", old)
    layer = {"class_name": "CuDNNLSTM", "config": {"name": "lstm", "units": 3}}
    with h5py.File(old, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "old", "layers": [layer]}})
        file.attrs["keras_version"] = "2.4.0"
    text = refusal(old)
    assert text.startswith("source.model: FILE: needs CuDNNLSTM, which Keras 3.")
    assert text.endswith(_keras_worker._legacy("2.4.0"))


def test_a_model_that_takes_keras_too_long_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr(keras, "EXPORTS", tmp_path)
    monkeypatch.setattr(keras, "_SECONDS", 0.01)
    assert refusal(files / "dense.keras") == (
        "source.model: FILE: Keras's process took longer than 0.01 s; does Keras load it?"
    )
    assert not list(tmp_path.iterdir())


def test_how_a_model_was_compiled_is_not_looked_at():
    config = {"class_name": "Sequential", "module": "keras", "config": {}, "compile_config": described("Loss", "theirs")}
    assert _keras_file.refusals(config, []) == []
