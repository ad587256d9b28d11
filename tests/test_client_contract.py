"""The contract of a version with its clients, and that nothing of a stranger's manifest becomes code unchecked."""

import copy
import hashlib
import json

import pytest
import versions_made
from fake_server import made_version

from exportkit.cli import main
from exportkit.clients import languages, names
from exportkit.clients.contract import from_manifest, read_contract
from exportkit.errors import StepFailed
from exportkit.version.manifest import FILE, read_manifest, write_manifest


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return made_version(tmp_path_factory)


@pytest.fixture
def manifest(version):
    return copy.deepcopy(read_manifest(version))


def test_it_states_signatures_examples_and_the_digest_of_the_manifest(version):
    stated = read_contract(version).to_json()
    assert list(stated) == ["generator", "schema", "model", "version", "digest", "signatures"]
    assert [stated[key] for key in ("generator", "schema", "model", "version")] == ["exportkit client", 1, "toy", 1]
    assert stated["digest"] == hashlib.sha256((version / FILE).read_bytes()).hexdigest()
    recorded = read_manifest(version)["samples"]["serving_default"]
    assert stated["signatures"]["serving_default"] == {
        "method": "predict",
        "inputs": {"x": {"dtype": "float32", "shape": [None, 4]}},
        "outputs": {"probs": {"dtype": "float32", "shape": [None, 3]}},
        "by_rows": True,
        "example": {"inputs": recorded["inputs"], "outputs": recorded["outputs"]},
    }
    assert recorded["inputs"]["x"]["values"] == versions_made.X.tolist()
    by_class = stated["signatures"]["by_class"]
    assert by_class["method"] == "classify"
    assert by_class["inputs"] == {
        "inputs": {
            "dtype": "string",
            "shape": [None],
            "features": {"x": {"dtype": "float32", "shape": [4], "required": True}},
        }
    }
    assert by_class["outputs"] == {
        "classes": {"dtype": "string", "shape": [None, 2]},
        "scores": {"dtype": "float32", "shape": [None, 2]},
    }


def test_a_base_path_is_its_newest_version(version, tmp_path):
    for number in (2, 10):
        (tmp_path / str(number)).symlink_to(version)
    (tmp_path / "11").mkdir()
    found = read_contract(tmp_path)
    assert (found.version, found.digest) == (10, read_contract(version).digest)


def test_a_sample_that_was_answered_differently_has_no_outputs(manifest):
    manifest["samples"]["serving_default"]["outputs"] = None
    example = from_manifest(manifest, 1, "").signatures["serving_default"].example
    assert example.outputs is None
    assert example.inputs["x"].tolist() == versions_made.X.tolist()


def test_a_large_sample_is_no_example(manifest):
    del manifest["samples"]["serving_default"]["inputs"]["x"]["values"]
    manifest["samples"]["serving_default"]["inputs"]["x"]["sha256"] = "0" * 64
    assert from_manifest(manifest, 1, "").signatures["serving_default"].example is None


def changed(path, value):
    """A function that sets what a path of keys leads to."""

    def change(manifest):
        inner = manifest
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


FIRST = ("meta_graphs", 0, "signatures", 0)
HOSTILE = {
    "name": (changed(["name"], "a\nimport os"), r"has 'a\nimport os' as the model's name"),
    "no name": (changed(["name"], ""), "has '' as the model's name"),
    "key": (changed([*FIRST, "key"], 'x"\n'), r"""has 'x"\n' as the key of a signature"""),
    "long key": (changed([*FIRST, "key"], "k" * 201), f"has '{'k' * 78}… as the key of a signature"),
    "key twice": (
        changed(["meta_graphs", 0, "signatures", 1, "key"], "serving_default"),
        "has 'serving_default' as the key of a signature twice",
    ),
    "method": (changed([*FIRST, "method"], "eval"), "states a signature 'serving_default' of the method 'eval'"),
    "method of other tensors": (
        changed([*FIRST, "method"], "classify"),
        "states a signature 'serving_default' of method classify whose inputs are not serialized tf.Examples alone",
    ),
    "no outputs": (changed([*FIRST, "outputs"], []), "states a signature 'serving_default' without outputs"),
    "alias": (changed([*FIRST, "inputs", 0, "alias"], "\u202ex"), r"has '\u202ex' as an alias of 'serving_default'"),
    "dtype": (changed([*FIRST, "inputs", 0, "dtype"], "__import__"), "has '__import__' as the dtype of 'x'"),
    "shape": (changed([*FIRST, "inputs", 0, "shape"], [None, "4"]), "has [None, '4'] as the shape of 'x'"),
    "negative size": (changed([*FIRST, "inputs", 0, "shape"], [-1, 4]), "has [-1, 4] as the shape of 'x'"),
    "no dtype": (changed([*FIRST, "inputs", 0], {"alias": "x"}), "states a part of its signatures without its dtype"),
    "tensors": (changed([*FIRST, "inputs"], {}), "states a part of its signatures without its inputs"),
    "no signatures": (changed(["meta_graphs", 0, "signatures"], []), "lists no signatures"),
    "no meta graphs": (changed(["meta_graphs"], []), "lists no meta graphs"),
    "meta graph": (changed(["meta_graphs"], ["x"]), "states a part of its signatures without its key"),
    "feature": (
        changed(["config", "bindings", "example", "parse_example", "x", "dtype"], "int8"),
        "has a feature 'x' of 'inputs' that no tf.Example can have",
    ),
    "sample of others": (
        changed(["samples", "serving_default", "inputs"], {}),
        "has a sample of 'serving_default' that is not of its tensors",
    ),
    "values": (
        changed(["samples", "serving_default", "inputs", "x", "values"], [["a"]]),
        "has a sample of 'serving_default' whose values cannot be read",
    ),
    "values of another shape": (
        changed(["samples", "serving_default", "inputs", "x", "values"], [[1.0]]),
        "has a sample of 'serving_default' whose values cannot be read",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_is_refused(name, manifest, tmp_path):
    change, text = HOSTILE[name]
    change(manifest)
    do = "take the version from where it was published, or export it again"
    with pytest.raises(StepFailed) as refused:
        from_manifest(manifest, 1, "")
    assert str(refused.value) == f"assets.extra/exportkit.json: {text}; {do}"


def test_the_command_writes_the_files_and_lists_them(version, tmp_path, capsys):
    assert main(["client", str(version), "--lang", "python", "--lang", "curl", "--lang", "python", "--out", "made/here"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "made/here/contract.json",
        "made/here/toy_client.py",
        "made/here/toy.sh",
    ]
    assert json.loads((tmp_path / "made/here/contract.json").read_text()) == read_contract(version).to_json()
    assert [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "made/here").iterdir())] == [0o644, 0o755, 0o644]


@pytest.mark.parametrize("language", languages.LANGUAGES)
def test_what_is_generated_may_be_generated_again(language, version, tmp_path, capsys):
    command = ["client", str(version), "--lang", language, "--out", str(tmp_path)]
    assert [main(command), main(command)] == [0, 0]
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(command) == 0
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_no_file_of_somebody_else_is_replaced(version, tmp_path, capsys):
    (tmp_path / "toy.sh").write_text("echo mine\n")
    (tmp_path / "contract.json").mkdir()
    assert main(["client", str(version), "--lang", "curl", "--out", str(tmp_path)]) == 2
    end = "was not generated by exportkit; move it away, or choose another directory"
    assert capsys.readouterr().err.splitlines() == [
        "exportkit: 2 problems",
        f"{tmp_path}/contract.json: {end}",
        f"{tmp_path}/toy.sh: {end}",
    ]
    assert (tmp_path / "toy.sh").read_text() == "echo mine\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contract.json", "toy.sh"]


PLACE = "name a version's directory, or a base path that holds versions"


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("nowhere", f"nowhere: does not exist; {PLACE}"),
        ("file", f"file: is no directory; {PLACE}"),
        ("empty", f"empty: has no version; {PLACE}"),
        (
            "bare",
            "bare/3: has no manifest (assets.extra/exportkit.json), from which clients are made; "
            "export it with the step manifest, which post has by default",
        ),
    ],
)
def test_where_there_is_no_version_is_one_line(place, text, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "3").mkdir(parents=True)
    (tmp_path / "bare" / "3" / "saved_model.pb").touch()
    assert main(["client", place, "--lang", "curl", "--out", "out"]) == 2
    assert capsys.readouterr().err == f"{text}\n"
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_was_changed_makes_no_client(version, manifest, tmp_path, capsys):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    write_manifest(tmp_path / "1", manifest)
    path = tmp_path / "1" / FILE
    path.write_bytes(path.read_bytes().replace(b'"toy"', b'"tox"', 1))
    assert main(["client", "1", "--lang", "curl", "--out", "out"]) == 1
    assert "was changed: it does not have its digest" in capsys.readouterr().err


def test_names_become_identifiers_without_a_clash():
    assert names.identifiers(["a b", "a_b", "a-b", "1", "", "_x", "é", "class"], {"class"}) == {
        "a b": "a_b",
        "a_b": "a_b_",
        "a-b": "a_b_2",
        "1": "x_1",
        "": "x_",
        "_x": "x_x",
        "é": "x__",
        "class": "class_",
    }
    assert names.class_names(["predict_images", "predictImages", "Client"], {"Client"}) == {
        "predict_images": "PredictImages",
        "predictImages": "PredictImages_",
        "Client": "Client_",
    }
