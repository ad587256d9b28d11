"""The source `saved_model`: what others exported, read without TensorFlow, exported again, and compared in its own loader."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import saved_models_made
from toys import export, served, served_eagerly

import exportkit
from exportkit.checkpoint import Bundle
from exportkit.errors import BindingError, ConfigError
from exportkit.metagraph import open_saved_model, read_saved_model
from exportkit.metagraph.restoring import restored, slice_info
from exportkit.registry import load_plugins
from exportkit.version.identity import identity

pytestmark = pytest.mark.quick(20)

X = [[1.0, 2.0, 3.0, 4.0], [0.0, -1.0, 0.5, 2.0]]
KEY = "{}/.ATTRIBUTES/VARIABLE_VALUE"
SPARSE = (
    "has a sparse or composite tensor, 's', which no request can hold (bindings can take its parts: sparse.inputs.s.indices …)"
)


@pytest.fixture(scope="session")
def models(saved_model):
    return saved_model


@pytest.fixture
def edited(models, tmp_path):
    """A factory of copies whose meta graph a function has changed: ``edited("module", change)``."""

    def edit(name, change=None):
        target = tmp_path / f"edited_{name}"
        shutil.copytree(models(name), target)
        if change is not None:
            model = read_saved_model(target)
            change(model.meta_graphs[0])
            (target / "saved_model.pb").write_bytes(model.SerializeToString())
        return target

    return edit


def config(directory, base, source=(), **changes):
    return {
        "name": "adopted",
        "source": {"kind": "saved_model", "saved_model": str(directory), **dict(source)},
        "export_dir": str(base / "exports" / "adopted"),
        **changes,
    }


def verified(directory, base, source=(), **changes):
    """Export with verify; return the report and what verify found of the meta graph `serving`."""
    post = {"verify": {"kind": "verify"}, "manifest": {"kind": "manifest"}}
    report = export(config(directory, base, source, post=post, **changes))
    details = next(step.details for step in report.steps if step.kind == "verify")
    return report, details["meta_graphs"]["serving"]


def refused(directory, base, source=(), **changes):
    with pytest.raises(ConfigError) as caught:
        exportkit.plan(config(directory, base, source, **changes), load_plugins())
    assert not (base / "exports").exists()
    return [str(problem) for problem in caught.value.problems]


# Reading


def test_a_model_of_tensorflow_2_is_read(models):
    model = open_saved_model(models("module"))
    assert model.tags == ("serve",)
    assert {key: (one.method, dict(one.inputs), sorted(one.outputs)) for key, one in model.signatures.items()} == {
        "bias": ("predict", {}, ["b"]),
        "lookup": ("predict", {"words": "lookup_words:0"}, ["feel", "ids"]),
        "repeat": ("predict", {"double": "repeat_double:0", "n": "repeat_n:0"}, ["total"]),
        "serving_default": ("predict", {"x": "serving_default_x:0"}, ["logits", "probs"]),
        "train": ("predict", {"x": "train_x:0"}, ["step"]),
    }
    assert model.tensors["serving_default.inputs.x"] == "serving_default_x:0"
    assert model.assets == (models("module") / "assets" / "words.txt",)
    assert model.files() == [models("module") / "saved_model.pb", models("module") / "assets" / "words.txt"]


def test_variables_have_the_keys_that_the_restore_function_gives_them(models):
    model = open_saved_model(models("module"))
    saved = Bundle(model.checkpoint)
    assert {op: saved.entries[place.key].size for op, place in restored(model.graph).items()} == {
        "b": 12,
        "unused": 4000,
        "w": 48,
        next(op for op in restored(model.graph) if op.startswith("Variable")): 4,
    }
    assert restored(model.graph)["w"].key == KEY.format("w")
    needed = model.needed(["serving_default", "lookup"])
    assert sorted(variable.name for variable in needed.variables) == [KEY.format("b"), KEY.format("w")]
    assert len(needed.tables) == 2
    assert needed.files == (str(models("module") / "assets" / "words.txt"),)
    assert model.unrestored() == []


def test_a_model_of_tensorflow_1_is_read(models):
    model = open_saved_model(models("session"))
    assert {key: one.misfit for key, one in model.signatures.items() if one.misfit} == {
        "odd": "has the method 'mine/odd', and servers know tensorflow/serving/classify, tensorflow/serving/predict, "
        "tensorflow/serving/regress",
        "sparse": SPARSE,
    }
    assert [variable.full_name for variable in model.needed(["rows"]).variables] == ["rows", "rows"]
    assert restored(model.graph) == {}


def test_the_newest_version_below_a_base_path(models, tmp_path):
    for name in ("3", "12", "x7"):
        shutil.copytree(models("constant"), tmp_path / "base" / name)
    (tmp_path / "base" / "99").mkdir()
    for path in (tmp_path / "base", tmp_path / "base" / "12", tmp_path / "base" / "12" / "saved_model.pb"):
        assert open_saved_model(path, ["gpu", "serve"]).directory == tmp_path / "base" / "12"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 7 0,2:0,7", ([4, 7], [0, 0], [2, 7])),
        ("4 7 2,2:-", ([4, 7], [2, 0], [2, 7])),
        ("9 3,6", ([9], [3], [6])),
        ("4 7 0,2", None),
        ("4 x 0,2:0,7", None),
        ("4 7 0,2,3:0,7", None),
        ("", None),
    ],
)
def test_slices_are_read(text, expected):
    found = slice_info("v", text)
    assert (found and (list(found.full_shape), list(found.var_offset), list(found.var_shape))) == expected


def test_restored_slices_are_parts_of_one_variable(edited):
    def slice_w(meta):
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if node.op == "RestoreV2":
                    names = {inner.name: inner for inner in function.node_def}
                    keys, parts = (names[name.split(":")[0]].attr["value"].tensor for name in node.input[1:3])
                    place = list(keys.string_val).index(KEY.format("w").encode())
                    parts.string_val[:] = [b"8 3 4,4:0,3" if n == place else b"" for n in range(len(keys.string_val))]

    model = open_saved_model(edited("module", slice_w))
    (part,) = [variable for variable in model.graph.variables.values() if variable.full_name == KEY.format("w")]
    assert (part.name, part.shape, part.full_shape, list(part.slice.var_offset)) == ("w", (4, 3), (8, 3), [4, 0])


# Exports


@pytest.fixture(scope="session")
def adopted(models, tmp_path_factory):
    """The export of `module` with all that servers need, and what verify found: made once, only read."""
    base = tmp_path_factory.mktemp("adopted")
    return verified(models("module"), base, {"signatures": ["serving_default", "lookup", "repeat", "bias"]})


def test_kept_signatures_answer_as_the_model_in_its_own_loader(adopted, models):
    report, found = adopted
    assert found["training graph"] == f"{models('module')}, loaded as a model server loads it"
    outputs = {f"{key}.{alias}": one for key, s in found["signatures"].items() for alias, one in s["outputs"].items()}
    assert sorted(outputs) == [
        "bias.b",
        "lookup.feel",
        "lookup.ids",
        "repeat.total",
        "serving_default.logits",
        "serving_default.probs",
    ]
    assert {(one["max_abs_diff"], one["mismatches"]) for one in outputs.values()} == {(0.0, 0)}
    assert all(one["compared"] > 0 for one in outputs.values())
    assert report.warnings == []


def test_every_loader_answers_the_same(adopted):
    directory = adopted[0].directory
    expected = np.array(X, np.float32) @ saved_models_made.WEIGHTS + saved_models_made.BIAS
    for ask in (served, served_eagerly):
        np.testing.assert_array_equal(ask(directory, "serving_default", {"x": X})["logits"], expected)
        found = ask(directory, "lookup", {"words": ["blue", "red", "pink"]})
        assert (found["ids"].tolist(), found["feel"].tolist()) == ([2, 0, -1], [b"cold", b"warm", b"none"])
        assert ask(directory, "repeat", {"n": [1, 5], "double": True})["total"].tolist() == [6, 30]


def test_what_serving_does_not_need_is_left_out(adopted, models):
    directory = Path(adopted[0].directory)
    before, after = (Bundle(str(place / "variables" / "variables")) for place in (models("module"), directory))
    assert sorted(after.entries) == [KEY.format("b"), KEY.format("w")]
    assert all(after.entries[key].crc32c == before.entries[key].crc32c for key in after.entries)
    (meta,) = read_saved_model(directory).meta_graphs
    names = [function.signature.name for function in meta.graph_def.library.function]
    assert [name for name in names if "train" in name or "traced" in name or "creator" in name] == []
    assert (directory / "assets" / "words.txt").read_text() == "red\ngreen\nblue\n"
    assert str(models("module")) not in str([node.name for node in meta.graph_def.node])


def test_a_manifest_states_the_model_and_is_verified(adopted, models):
    directory = Path(adopted[0].directory)
    manifest = json.loads((directory / "assets.extra" / "exportkit.json").read_text())
    assert sorted(manifest["identity"]["files"]) == ["source, file 0 (saved_model.pb)", "source, file 1 (words.txt)"]
    assert adopted[0].weights.proof == "2/2 variables equal to the checkpoint, 0 initialised"


def test_new_signatures_beside_a_kept_one(models, tmp_path):
    Path("labels.txt").write_text("low\nmid\nhigh\n")
    report, found = verified(
        models("module"),
        tmp_path,
        {"signatures": ["serving_default"]},
        bindings={
            "x": "serving_default.inputs.x",
            "examples": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}},
            "top": {"top_k": "serving_default.outputs.probs", "k": 2},
            "labels": {"lookup": "top.indices", "vocabulary": "labels.txt"},
        },
        signatures={
            "classify": {
                "method": "classify",
                "inputs": {"inputs": "examples"},
                "outputs": {"classes": "labels", "scores": "top.values"},
            }
        },
    )
    assert sorted(found["signatures"]) == ["classify", "serving_default"]
    assert {one["max_abs_diff"] for s in found["signatures"].values() for one in s["outputs"].values()} == {0.0}
    (kept,) = [s for s in report.meta_graphs[0].signatures if s.key == "serving_default"]
    assert [(tensor.alias, tensor.binding) for tensor in (*kept.inputs, *kept.outputs)] == [
        ("x", "x"),
        ("logits", "serving_default.outputs.logits"),
        ("probs", "serving_default.outputs.probs"),
    ]


def test_the_configs_signature_replaces_a_kept_one_of_its_key(models, tmp_path):
    plan = exportkit.plan(
        config(
            models("module"),
            tmp_path,
            {"signatures": ["serving_default", "bias"]},
            bindings={"x": "serving_default.inputs.x", "scores": "serving_default.outputs.logits"},
            signatures={"serving_default": {"inputs": {"image": "x"}, "outputs": {"scores": "scores"}}},
        ),
        load_plugins(),
    )
    assert {key: (one.inputs, one.outputs) for key, one in plan.signatures.items()} == {
        "serving_default": ({"image": "x"}, {"scores": "scores"}),
        "bias": ({}, {"b": "bias.outputs.b"}),
    }


def test_a_model_of_tensorflow_1_keeps_its_signatures(models, tmp_path):
    report, found = verified(models("session"), tmp_path)
    assert found["training graph"] == f"{models('session')}, loaded as a model server loads it"
    assert sorted(found["signatures"]) == ["rated", "regress", "rows", "serving_default"]
    assert {one["max_abs_diff"] for s in found["signatures"].values() for one in s["outputs"].values()} == {0.0}
    assert report.warnings == [
        "signatures.file: is not kept, as it takes the path of an asset (asset_path) at every request, and an export has it "
        "only while it loads",
        "signatures.floats: is not kept, as it cannot be served: 'floats.inputs.inputs' is float32 [?, 1], regress needs "
        "string [N]",
        "signatures.odd: is not kept, as it has the method 'mine/odd', and servers know tensorflow/serving/classify, "
        "tensorflow/serving/predict, tensorflow/serving/regress",
        f"signatures.sparse: is not kept, as it {SPARSE}",
    ]
    assert sorted(Bundle(f"{report.directory}/variables/variables").aliases or ["rows"]) == ["rows"]
    assert served(report.directory, "rated", {"x": [[3.0]], "rate": 2.0})["y"].tolist() == [[6.0]]
    assert served(report.directory, "serving_default", {"x": [[3.0]]})["y"].tolist() == [[1.5]]


def test_a_tensor_that_one_signature_feeds_and_another_computes(models, tmp_path):
    """Both are served: fed, it is the request's; otherwise what the tf.Example holds."""
    from toys import example

    directory = export(config(models("session"), tmp_path, {"signatures": ["serving_default", "regress"]})).directory
    assert served(directory, "serving_default", {"x": [[3.0]]})["y"].tolist() == [[1.5]]
    assert served(directory, "regress", {"inputs": [example(x=[5.0])]})["outputs"].tolist() == [[2.5]]


def test_the_parts_of_a_sparse_tensor_are_names_for_bindings(models, tmp_path):
    parts = {part: f"sparse.inputs.s.{part}" for part in ("indices", "values", "dense_shape")}
    report, found = verified(
        models("session"),
        tmp_path,
        {"signatures": []},
        bindings=parts | {"sum": "sparse.outputs.sum"},
        signatures={"dense": {"inputs": {part: part for part in parts}, "outputs": {"sum": "sum"}}},
        samples={"dense": {"indices": [[0, 1], [1, 0], [1, 2]], "values": [2.0, 3.0, 4.0], "dense_shape": [2, 3]}},
    )
    assert found["signatures"]["dense"]["outputs"]["sum"]["max_abs_diff"] == 0.0
    sent = {"indices": [[1, 2]], "values": [5.0], "dense_shape": [2, 3]}
    assert served(report.directory, "dense", sent)["sum"].tolist() == [0.0, 5.0]


def test_a_feeder_and_the_graph_cannot_both_compute_a_tensor(models, tmp_path):
    found = refused(
        models("session"),
        tmp_path,
        {"signatures": ["regress"]},
        bindings={
            "x": {"placeholder": "serving_default.inputs.x"},
            "ex": {"parse_example": {"x": {"dtype": "float32", "shape": [1]}}},
            "y": "serving_default.outputs.y",
        },
        signatures={"parsed": {"inputs": {"examples": "ex"}, "outputs": {"y": "y"}}},
    )
    assert found == [
        "signatures.regress: needs 'x:0' as the graph computes it, and in other signatures 'ex' feeds it; leave it out: "
        "source.signatures: []"
    ]


@pytest.mark.slow
def test_a_model_behind_links_is_loaded_by_its_own_loader(models, tmp_path):
    """As caches of downloads keep them: each file is a link to a file of a pool."""
    (tmp_path / "pool").mkdir()
    linked = tmp_path / "linked"
    for number, path in enumerate(path for path in sorted(models("mutable").rglob("*")) if path.is_file()):
        shutil.copy(path, tmp_path / "pool" / str(number))
        link = linked / path.relative_to(models("mutable"))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "pool" / str(number))
    found = verified(linked, tmp_path, samples={"serving_default": {"words": ["red"]}})[1]
    assert found["training graph"] == f"{linked}, loaded as a model server loads it"


def test_a_mutable_table_has_the_content_of_the_checkpoint(models, tmp_path):
    found = verified(models("mutable"), tmp_path, samples={"serving_default": {"words": ["red", "green", "blue"]}})[1]
    outputs = found["signatures"]["serving_default"]["outputs"]
    assert (outputs["ids"]["max_abs_diff"], outputs["ids"]["mismatches"]) == (0.0, 0)
    directory = str(tmp_path / "exports" / "adopted" / "1")
    assert served(directory, "serving_default", {"words": ["red", "green", "blue"]})["ids"].tolist() == [7, -1, 8]


def test_a_table_that_requests_change_stays_mutable_and_is_refused(edited, tmp_path):
    def insert(meta):
        meta.graph_def.library.function[0].node_def.add(name="insert", op="LookupTableInsertV2")

    (found,) = refused(edited("mutable", insert), tmp_path)
    assert found.startswith("signatures.serving_default: MutableHashTable (MutableHashTableV2), which ")
    assert " is a mutable table, whose content no variable holds; leave it out: source.signatures: []" in found


def test_a_model_without_variables(models, tmp_path):
    report, _ = verified(models("constant"), tmp_path, {"tags": ["serve", "gpu"]})
    assert report.weights.variables == 0
    assert served(report.directory, "serving_default", {"x": [[3.0, 4.0]]})["y"].tolist() == [[11.0]]


# Identity


def test_the_identity_is_that_of_the_models_files(edited, tmp_path):
    directory = edited("module")

    def digests():
        found = identity(exportkit.plan(config(directory, tmp_path), load_plugins()))
        return found["sha256"], found["files"], found["checkpoints"], found["graphs"]

    first, again = digests(), digests()
    (directory / "assets" / "words.txt").write_text("red\ngreen\ngrey\n")
    assert first == again
    changed = digests()
    assert changed[0] != first[0] and changed[1] != first[1] and changed[2:] == first[2:]


# Refusals


def test_tags_that_no_meta_graph_has(models, tmp_path):
    assert refused(models("constant"), tmp_path) == [
        f"source.tags: {models('constant')}: no meta graph has the tags [serve]: it has [gpu, serve]; write tags: [gpu, serve]"
    ]


def test_a_signature_that_the_model_does_not_have(models, tmp_path):
    where = models("module")
    assert refused(where, tmp_path, {"signatures": ["serving_defalt", "bias"]}) == [
        f"source.signatures[0]: {where} has no signature 'serving_defalt'; did you mean serving_default?"
    ]
    assert refused(models("session"), tmp_path, {"signatures": ["sparse"]}) == [
        f"source.signatures[0]: 'sparse' cannot be kept: it {SPARSE}; leave it out"
    ]
    assert refused(where, tmp_path, {"signatures": "all"}) == [
        "source.signatures: is 'all'; write keep, or a list of keys: [serving_default]"
    ]


def test_without_the_index_of_its_variables(edited, tmp_path):
    directory = edited("module")
    os.remove(directory / "variables" / "variables.index")
    (found,) = refused(directory, tmp_path, {"signatures": ["serving_default"]})
    assert found.startswith(f"source.saved_model: {directory} has no variables/variables.index, and its graph needs ")
    assert found.endswith("; copy the whole directory")


def renamed(op, new):
    """Return a change that gives the nodes of a signature's function another op."""

    def change(meta):
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                node.op = new if node.op == op else node.op

    return change


def test_an_op_of_a_custom_library(edited, tmp_path):
    (found,) = refused(edited("module", renamed("Softmax", "MyOp")), tmp_path, {"signatures": ["serving_default"]})
    assert found.startswith("meta_graphs.serving: can do what is not known: Softmax in function __inference_score_")
    assert "(MyOp)" in found


def test_a_signature_that_runs_python(models, tmp_path):
    """The other one is kept. It is compared with the graph, for the model as a whole may not be loaded."""
    (found,) = refused(models("python"), tmp_path)
    assert found.startswith("signatures.serving_default: EagerPyFunc (EagerPyFunc) in the function __inference_call_")
    assert found.endswith(
        " runs Python of the training program, which no server has; leave it out: source.signatures: [triple]"
    )
    _, found = verified(models("python"), tmp_path, {"signatures": ["triple"]})
    assert "; the model as a whole cannot be loaded: can run Python: EagerPyFunc in function " in found["training graph"]
    assert found["signatures"]["triple"]["outputs"]["y"]["max_abs_diff"] == 0.0


def test_a_signature_of_tpus(edited, tmp_path):
    directory = edited("module", renamed("Softmax", "TPUPartitionedCall"))
    (found,) = refused(directory, tmp_path, {"signatures": ["serving_default", "bias", "repeat"]})
    assert found.startswith("signatures.serving_default: Softmax (TPUPartitionedCall) in the function __inference_score_")
    assert found.endswith(", runs on TPUs only; leave it out: source.signatures: [bias, repeat]")


def test_of_a_newer_tensorflow(edited, tmp_path):
    def newer(meta):
        meta.graph_def.versions.min_consumer = 99999

    with pytest.raises(BindingError, match="GraphDef min consumer version 99999 above current version"):
        export(config(edited("module", newer), tmp_path, {"signatures": ["bias"]}))
    assert list((tmp_path / "exports" / "adopted").glob("*")) == []


def test_an_asset_outside_of_the_model(edited, tmp_path):
    directory = edited("module")
    secret = Path("/etc/hostname")
    os.remove(directory / "assets" / "words.txt")
    (directory / "assets" / "words.txt").symlink_to(secret)
    (found,) = refused(directory, tmp_path, {"signatures": ["lookup"]})
    assert found.startswith("source: the graph takes an asset that is outside the working directory")
    shutil.rmtree(directory)

    def lead_out(meta):
        meta.asset_file_def[0].filename = "../../secret"

    (found,) = refused(edited("module", lead_out), tmp_path)
    assert found == (
        f"source.saved_model: {directory}: names the asset '../../secret', which is no file of its directory assets; "
        "it was made by hand: copy it again"
    )


def test_a_signature_of_a_tensor_that_is_not_there(edited, tmp_path):
    def lead_nowhere(meta):
        meta.signature_def["bias"].outputs["b"].name = "nowhere:0"

    directory = edited("module", lead_nowhere)
    assert refused(directory, tmp_path, {"signatures": ["bias"]}) == [
        "source.signatures[0]: 'bias' cannot be kept: it names the tensor nowhere:0, which its graph does not have; "
        "leave it out"
    ]


def test_a_signature_whose_name_cannot_be_printed(edited, tmp_path):
    def rename(meta):
        meta.signature_def["a\nexported"].CopyFrom(meta.signature_def["bias"])

    plan = exportkit.plan(config(edited("module", rename), tmp_path), load_plugins())
    assert sorted(plan.signatures) == ["bias", "lookup", "repeat", "serving_default", "train"]
    assert "signatures.a exported: is not kept, as it has a name that cannot be printed" in plan.warnings


def test_what_is_no_saved_model(tmp_path):
    (tmp_path / "tflite").mkdir()
    (tmp_path / "tflite" / "m.tflite").write_bytes(b"")
    (tmp_path / "js").mkdir()
    (tmp_path / "js" / "model.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3rest")
    (tmp_path / "m.h5").write_bytes(b"\x89HDF\r\n\x1a\nrest")
    (tmp_path / "m.txt").write_text("nothing")
    a_directory = "name the directory of a SavedModel"
    for name, expected in {
        "tflite": "holds m.tflite, a TensorFlow Lite model; name the SavedModel that it was converted from",
        "js": "is a model of TensorFlow.js; name the SavedModel that it was converted from",
        "empty": "is no SavedModel: it has no saved_model.pb, and no version with one; it is empty; name the directory of one",
        "m.tflite": f"is a TensorFlow Lite model, and no SavedModel; {a_directory}",
        "m.h5": f"is an HDF5 file of Keras, and no SavedModel; {a_directory}",
        "m.txt": f"is a file, and no SavedModel; {a_directory}",
        "empti": "no such file or directory; did you mean empty?",
    }.items():
        with pytest.raises(BindingError) as caught:
            open_saved_model(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {expected}".replace("mean empty", f"mean {tmp_path / 'empty'}")


@pytest.mark.slow
def test_a_model_whose_own_loader_leaves_variables_without_values(edited, tmp_path):
    """Its variables have the names that its checkpoint's object graph gives the values, but the restore assigns others."""

    def forget(meta):
        name = meta.saver_def.restore_op_name
        (restore,) = [node for node in meta.graph_def.node if node.name == name]
        restore.input[:] = ["unused" if edge == "w" else edge for edge in restore.input]

    directory = edited("module", forget)
    assert open_saved_model(directory).unrestored() == ["w"]
    report, found = verified(directory, tmp_path, {"signatures": ["serving_default"]})
    assert found["training graph"].startswith("whole graph of ")
    assert report.warnings == [
        "source.saved_model: its own loader gives w no value, so that it answers no request; the export takes the values of "
        "these names from its checkpoint"
    ]
