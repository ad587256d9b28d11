"""`exportkit try`: answers from samples, values, files and REST requests, and one line for each mistake."""

import base64
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import toys
import versions_made
from versions_made import EXAMPLES, X, export

from exportkit import cli
from exportkit.cli.try_version import cell, rest_text
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import Facts
from exportkit.samples import parsers
from exportkit.verifying.audit.asked import Asked
from exportkit.version import manifest

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base path of `versions_made`: predict, classify and regress, with their recorded samples."""
    checkpoint = toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)
    steps = {"manifest": {"kind": "manifest"}}
    return Path(export(versions_made.config(checkpoint, tmp_path_factory.mktemp("version"), post=steps)).directory).parent


@pytest.fixture(scope="module")
def recorded(base):
    """Signature → what the manifest recorded as outputs, as JSON values."""
    samples = manifest.read_manifest(base / "1")["samples"]
    return {key: {alias: one["values"] for alias, one in sample["outputs"].items()} for key, sample in samples.items()}


def infos(tensors):
    return {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in tensors.items()}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A model of a stranger: no manifest, no serving_default, every other kind of input and output."""
    directory = tmp_path_factory.mktemp("odd") / "7"
    with tf.Graph().as_default(), v1.Session() as session:
        word, count = v1.placeholder(tf.string, [None], "word"), v1.placeholder(tf.int64, [], "count")
        real = v1.placeholder(tf.float32, [None, 2], "real")
        signatures = {
            "shout": ({"word": word, "count": count}, {"loud": tf.strings.upper(word), "count_bytes": tf.as_string(count)}),
            "kinds": ({"real": real}, {"half": tf.cast(real, tf.bfloat16), "mean": tf.reduce_mean(real)}),
            "constant": ({}, {"five": tf.constant([5])}),
            "noise": ({"real": real}, {"noisy": real + tf.random.uniform(tf.shape(real))}),
        }
        definitions = {key: v1.saved_model.build_signature_def(*map(infos, sides)) for key, sides in signatures.items()}
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], definitions)
        builder.save()
    return directory


@pytest.fixture
def run(capsys):
    """Run `exportkit try` and return its exit code, stdout and stderr."""

    def run(*words):
        code = cli.main(["try", *map(str, words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def answer(run):
    """The body of the answer as REST gives it."""

    def answer(*words):
        code, out, err = run(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return answer


def rows_of(values):
    """A table of a signature's recorded numbers as `try` prints it."""
    return [", ".join(f"{value:.4g}" for value in row) for row in values]


# ---- samples ----


def test_the_samples_are_asked_and_their_answers_compared(run, base, recorded):
    code, out, err = run(base)
    first, second = rows_of(recorded["serving_default"]["probs"])
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines() if line and "───" not in line] == [
        f"{base}/1: serving_default (predict) answers its recorded sample; other signatures: by_class, by_value",
        "Answer",
        "row   probs",
        f"0     {first}",
        f"1     {second}",
        "equal to the recorded answer",
    ]


def test_labels_stand_beside_their_scores(run, base, recorded):
    _, out, _ = run(base / "1", "--signature", "by_class")
    classes, scores = recorded["by_class"]["classes"], recorded["by_class"]["scores"]
    assert "row   classes and scores\n" in out
    for number in (0, 1):
        pairs = zip(classes[number], scores[number], strict=True)
        assert f"\n{number}     {', '.join(f'{label} {score:.4g}' for label, score in pairs)}\n" in out


def test_another_answer_than_the_recorded_one_is_an_error(run, base, tmp_path):
    version = Path(shutil.copytree(base / "1", tmp_path / "1"))
    content = manifest.read_manifest(version)
    del content["files"]
    content["samples"]["serving_default"]["outputs"]["probs"]["values"][1][2] += 0.5
    manifest.write_manifest(version, content)
    code, out, _ = run(version)
    assert (code, out.splitlines()[-1]) == (1, "NOT the recorded answer: probs differs by up to 0.5")
    code, out, err = run(version, "--json")
    assert (code, err) == (1, "NOT the recorded answer: probs differs by up to 0.5\n")
    assert list(json.loads(out)) == ["predictions"]


def test_a_sample_that_is_none_is_one_line(run, base, tmp_path):
    version = Path(shutil.copytree(base / "1", tmp_path / "1"))
    do = "take the version from where it was published, or export it again"
    for side, alias in (("inputs", "x"), ("outputs", "probs")):
        content = manifest.read_manifest(base / "1")
        del content["files"]
        content["samples"]["serving_default"][side][alias]["values"] = [["a"]]
        manifest.write_manifest(version, content)
        problem = f"assets.extra/exportkit.json: has a sample of serving_default whose values cannot be read; {do}\n"
        assert run(version) == (1, "", problem)


def test_answers_that_were_not_recorded_are_not_called_equal(run, base, tmp_path):
    version = Path(shutil.copytree(base / "1", tmp_path / "1"))
    content = manifest.read_manifest(version)
    del content["files"]
    content["samples"]["serving_default"]["outputs"] = None
    manifest.write_manifest(version, content)
    code, out, _ = run(version)
    expected = "not compared: it answers its samples differently each time, so no answer is recorded"
    assert (code, out.splitlines()[-1]) == (0, expected)


# ---- inputs ----


def test_each_way_to_write_an_input_gives_the_same_answer(answer, base, recorded):
    np.savez("x.npz", x=X)
    np.save("x.npy", X)
    Path("x.json").write_text(json.dumps(X.tolist()))
    expected = {"predictions": np.float32(recorded["serving_default"]["probs"]).tolist()}
    for value in (json.dumps(X.tolist()), "x.npz:x", "x.npy", "x.json"):
        assert np.float32(answer(base, "--input", f"x={value}")["predictions"]).tolist() == expected["predictions"]


def test_one_row_stands_for_a_batch_of_one(answer, base, recorded):
    whole = answer(base, "--input", f"x={json.dumps(X.tolist())}")
    assert answer(base, "--input", "x=[0, 1, 2, 3]") == {"predictions": whole["predictions"][:1]}
    np.save("row.npy", X[1])
    assert answer(base, "--input", "x=row.npy") == {"predictions": whole["predictions"][1:]}


def test_a_rest_request_is_answered_in_its_form(answer, base):
    rows = X.tolist()
    Path("rows.json").write_text(json.dumps({"instances": rows}))
    Path("named.json").write_text(json.dumps({"signature_name": "serving_default", "instances": [{"x": row} for row in rows]}))
    Path("columns.json").write_text(json.dumps({"inputs": {"x": rows}}))
    Path("plain.json").write_text(json.dumps({"inputs": rows}))
    expected = answer(base)["predictions"]
    assert answer(base, "--input", "rows.json") == answer(base, "--input", "named.json") == {"predictions": expected}
    assert answer(base, "--input", "columns.json") == answer(base, "--input", "plain.json") == {"outputs": expected}


def test_tf_examples_are_written_in_every_way(answer, base, recorded):
    rows = [{"x": [1.0, 2.0, 3.0, 4.0]}, {"x": [4.0, 3.0, 2.0, 1.0]}]
    np.savez("x.npz", x=np.float32([row["x"] for row in rows]))
    Path("request.json").write_text(json.dumps({"examples": rows}))
    Path("more.json").write_text(json.dumps({"examples": [{**row, "price": 3} for row in rows]}))  # which nothing parses
    Path("context.json").write_text(json.dumps({"examples": [{}], "context": rows[0]}))
    Path("rows.json").write_text(json.dumps(rows))
    serialized = [{"b64": base64.b64encode(example).decode()} for example in EXAMPLES]
    Path("serialized.json").write_text(json.dumps(serialized))
    classes, scores = recorded["by_class"]["classes"], np.float32(recorded["by_class"]["scores"])
    by_class = [
        [[label, float(f"{score:.9g}")] for label, score in zip(*pair, strict=True)]
        for pair in zip(classes, scores, strict=True)
    ]
    ways = (
        *(
            "request.json",
            "more.json",
            "examples=request.json",
            "inputs=request.json",
            "examples=rows.json",
            "examples=serialized.json",
        ),
        'inputs={"examples": {"x": "x.npz:x"}}',
        f"examples={json.dumps({'examples': {'x': [row['x'] for row in rows]}})}",
    )
    for way in ways:
        assert answer(base, "--signature", "by_class", "--input", way) == {"results": by_class}, way
    assert answer(base, "--signature", "by_class", "--input", "context.json") == {"results": by_class[:1]}
    values = [float(f"{value:.9g}") for (value,) in np.float32(recorded["by_value"]["outputs"])]
    assert answer(base, "--signature", "by_value", "--input", "request.json") == {"results": values}


def test_texts_need_no_quotes(run, answer, odd):
    assert answer(odd, "--signature", "shout", "--input", "word=hello world", "--input", "count=3") == {
        "outputs": {"count_bytes": {"b64": "Mw=="}, "loud": ["HELLO WORLD"]}
    }
    assert answer(odd, "--signature", "shout", "--input", 'word=["a", {"b64": "/w=="}]', "--input", "count=3")["outputs"][
        "loud"
    ] == ["A", "\N{REPLACEMENT CHARACTER}"]
    _, out, _ = run(odd, "--signature", "shout", "--input", "word=5", "--input", "count=3")
    assert [line.split() for line in out.splitlines()[-2:]] == [["count_bytes", "[]", "3"], ["loud", "[1]", "5"]]


def test_a_signature_without_inputs_is_asked_without_a_sample(answer, odd):
    assert answer(odd, "--signature", "constant") == {"predictions": [5]}


# ---- mistakes ----

MISTAKES = {
    "no version": (["nosuch"], "nosuch: does not exist; name a version's directory, or a base path that holds versions"),
    "signature": (["BASE", "--signature", "by_clas"], "--signature: there is no signature 'by_clas'; did you mean by_class?"),
    "which signature": (["ODD"], "--signature: ODD has no serving_default; name one: constant, kinds, noise, shout"),
    "alias": (["BASE", "--input", "xs=[1]"], "--input: 'xs' is no input of the signature; did you mean x?"),
    "missing": (
        ["ODD", "--signature", "shout", "--input", "word=a"],
        "--input: the input count (int64 []) is missing",
    ),
    "twice": (["BASE", "--input", "x=[1,2,3,4]", "--input", "x=[1,2,3,4]"], "--input x: is given twice; give it once"),
    "shape": (["BASE", "--input", "x=[1, 2]"], "--input x: is float32 [1, 2], not float32 [?, 4]"),
    "ragged": (
        ["BASE", "--input", "x=[[1, 2, 3, 4], [1]]"],
        "--input x: is ragged: its lists are of different lengths; fill them up to one length",
    ),
    "dtype": (["BASE", "--input", 'x=["a", "b", "c", "d"]'], "--input x: is string, not float32; write float32 values"),
    "JSON": (
        ["BASE", "--input", "x=[1, 2"],
        "--input x: is '[1, 2', which is not JSON: expecting ',' delimiter at column 6; write numbers, lists of them, or "
        "FILE.npz:ARRAY",
    ),
    "a bare word": (
        ["BASE", "--input", "x=one"],
        "--input x: is 'one', which is not JSON: expecting value at column 1; write numbers, lists of them, or FILE.npz:ARRAY",
    ),
    "a text that looks like JSON": (
        ["ODD", "--signature", "shout", "--input", "word=[CLS] a", "--input", "count=1"],
        "--input word: is '[CLS] a', which is not JSON: expecting value at column 2; write a text in quotes, or lists of such",
    ),
    "no file": (["BASE", "--input", "x=gone.npz:x"], "--input x: gone.npz cannot be read: No such file or directory"),
    "no JSON file": (["BASE", "--input", "gone.json"], "--input: gone.json cannot be read: no such file or directory"),
    "no array": (["BASE", "--input", "x=x.npz:y"], "--input x: there is no array 'y' in x.npz; known: x"),
    "which array": (
        ["BASE", "--input", "x=x.npz"],
        "--input x: does not say which array of x.npz; write x.npz:ARRAY; known: x",
    ),
    "no npz": (["BASE", "--input", "x=fake.npz:x"], "--input x: fake.npz is not a .npz file of numbers or bytes"),
    "objects": (
        ["BASE", "--input", "x=pickled.npy"],
        "--input x: pickled.npy holds pickled objects, which are never loaded; save numbers or bytes",
    ),
    "neither": (
        ["BASE", "--input", "x.npz"],
        "--input: 'x.npz' is neither ALIAS=VALUE nor the .json file of a request",
    ),
    "request and more": (
        ["BASE", "--input", "list.json", "--input", "x=[1]"],
        "--input: list.json is a whole request, or an input without its alias; write ALIAS=list.json, or give nothing else",
    ),
    "request: list": (
        ["BASE", "--input", "list.json"],
        'list.json: holds a list, not an object; write {"instances": […]}, {"inputs": …} or {"examples": […]}',
    ),
    "request: broken": (
        ["BASE", "--input", "broken.json"],
        "--input: broken.json is not JSON: expecting property name enclosed in double quotes at line 2, column 1",
    ),
    "request: key": (
        ["BASE", "--input", "key.json"],
        "key.json: has none of instances, inputs, examples; did you mean instances?",
    ),
    "request: both": (["BASE", "--input", "both.json"], "both.json: has instances and inputs; write one of them"),
    "request: signature": (
        ["BASE", "--input", "signature.json"],
        "--signature: there is no signature 'by_clas'; did you mean by_class?",
    ),
    "request: another signature": (
        ["BASE", "--signature", "by_value", "--input", "signature.json"],
        "--signature: is by_value, and signature.json asks by_clas; leave one of them out",
    ),
    "request: rows": (
        ["BASE", "--input", "rows.json"],
        "rows.json: row 1 of the instances has other inputs than row 0; give x in each row",
    ),
    "request: base64": (
        ["BASE", "--signature", "by_class", "--input", "base64.json"],
        "base64.json instances.inputs: holds '!' as b64, which is not base64",
    ),
    "request: empty": (
        ["BASE", "--input", "empty.json"],
        "empty.json: has instances that are no list with a row in it; write one value, or {alias: value}, for each row",
    ),
    "features where none are taken": (
        ["BASE", "--input", 'x={"examples": {"x": [1]}}'],
        "--input x: is given features, and it takes no tf.Example; write float32 values",
    ),
    "feature": (
        ["BASE", "--signature", "by_class", "--input", 'examples=[{"xs": [1.0]}]'],
        "--input inputs: row 0: feature 'xs': the graph does not parse it; did you mean x?",
    ),
    "feature: dtype": (
        ["BASE", "--signature", "by_class", "--input", 'examples=[{"x": [1, 2, 3, 4]}]'],
        "--input inputs: row 0: feature 'x': is int64, and the graph parses float32; write 0.0, not 0: REST takes whole "
        "numbers for int64",
    ),
    "feature: several dtypes": (
        ["BASE", "--signature", "by_class", "--input", 'examples=[{"x": [1, 2.5, 3, 4]}]'],
        "--input inputs: row 0: feature 'x': holds values of several types; write all of them as floats: 0.0, not 0",
    ),
    "feature: null": (
        ["BASE", "--signature", "by_class", "--input", 'examples=[{"x": null}]'],
        "--input inputs: row 0: feature 'x': holds null; write numbers or texts, or one list of them",
    ),
    "feature: column": (
        ["BASE", "--signature", "by_class", "--input", 'inputs={"examples": {"x": [[1.0, 2.0]]}}'],
        "--input inputs: feature 'x': is float32 [1, 2], not float32 [?, 4]",
    ),
    "feature: file": (
        ["BASE", "--signature", "by_class", "--input", 'inputs={"examples": {"x": "x.npz:y"}}'],
        "--input inputs: feature 'x': there is no array 'y' in x.npz; known: x",
    ),
    "nested": (
        ["BASE", "--input", "x=" + "[" * 70 + "]" * 70],
        f"--input x: is '{'[' * 39}…', which is not JSON: it nests lists or objects more than 64 deep; write numbers, lists of "
        "them, or FILE.npz:ARRAY",
    ),
    "nested without end": (
        ["BASE", "--input", "deep.json"],
        "--input: deep.json is not JSON: it nests lists or objects more than 64 deep",
    ),
    "half a character": (
        ["ODD", "--signature", "shout", "--input", "word=\udcff", "--input", "count=1"],
        '--input word: holds a text that is not UTF-8; write {"b64": …}',
    ),
    "no samples": (
        ["ODD", "--signature", "shout"],
        "ODD: has no manifest, so no recorded samples; give its inputs: --input count=… --input word=… (count is int64 [], "
        "word is string [?])",
    ),
}


@pytest.mark.quick(8)
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(run, base, odd, case):
    np.savez("x.npz", x=X)
    np.save("pickled.npy", np.array([{}], object), allow_pickle=True)
    Path("fake.npz").write_text("fake")
    files = {
        "list": [1],
        "key": {"instance": [[1]]},
        "both": {"instances": [1], "inputs": [1]},
        "signature": {"signature_name": "by_clas", "instances": [1]},
        "rows": {"instances": [{"x": [1, 2, 3, 4]}, [1, 2, 3, 4]]},
        "base64": {"instances": [{"inputs": {"b64": "!"}}]},
        "empty": {"instances": []},
    }
    for name, body in files.items():
        Path(f"{name}.json").write_text(json.dumps(body))
    Path("broken.json").write_text("{\n")
    Path("deep.json").write_text("[" * 100_000)
    words, expected = MISTAKES[case]
    places = {"BASE": str(base), "ODD": str(odd)}
    code, out, err = run(*(places.get(word, word) for word in words))
    assert (code, out, err) == (2, "", expected.replace("ODD", str(odd)) + "\n")


def test_all_mistakes_come_at_once(run, odd):
    code, _, err = run(odd, "--signature", "shout", "--input", "words=a", "--input", "count=1.5")
    assert (code, err.splitlines()) == (
        2,
        [
            "exportkit: 2 problems",
            "--input: 'words' is no input of the signature; did you mean word?",
            "--input count: holds 1.5, which is no int64; write int64 values",
        ],
    )


def test_what_rest_cannot_answer_is_told_by_json_alone(run, odd):
    words = [odd, "--signature", "kinds", "--input", "real=[1.5, 2]"]
    code, out, _ = run(*words)
    assert (code, [line.split() for line in out.splitlines()[-2:]]) == (
        0,
        [["half", "[1,", "2]", "1.5,", "2"], ["mean", "[]", "1.75"]],
    )
    code, out, err = run(*words, "--json")
    assert (code, out) == (1, "")
    assert err == "kinds by REST: Failed to write JSON value for tensor type: bfloat16; leave out --json, or ask by gRPC\n"
    Path("rows.json").write_text(json.dumps({"signature_name": "shout", "instances": [{"word": "a", "count": 1}]}))
    code, out, err = run(odd, "--input", "rows.json", "--json")
    assert (code, err) == (2, "rows.json instances.count: is int64 [1], not int64 []\n")


def test_a_refusal_of_the_model_is_one_line(run, base):
    np.save("texts.npy", np.array(["no example"]))
    code, out, err = run(base, "--signature", "by_class", "--input", "inputs=texts.npy")
    assert (code, out) == (1, "")
    why = "Could not parse example input, value: 'no example' [[{{node inputs/example_parsed/example_parsed}}]]"
    assert err == f"{base}/1 by_class: INVALID_ARGUMENT: {why}\n"


def test_a_model_that_can_write_files_is_not_run(run, tmp_path):
    directory, target = tmp_path / "hostile" / "1", tmp_path / "written"
    with tf.Graph().as_default(), v1.Session() as session:
        text = v1.placeholder(tf.string, [], "text")
        with tf.control_dependencies([tf.io.write_file(str(target), text)]):
            out = tf.identity(text)
        builder = v1.saved_model.Builder(str(directory))
        definition = v1.saved_model.predict_signature_def({"text": text}, {"out": out})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": definition})
        builder.save()
    code, out, err = run(directory, "--input", "text=a")
    assert (code, out) == (2, "")
    assert "WriteFile" in err
    assert len(err.splitlines()) == 1
    assert not target.exists()


# ---- what is shown ----


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float32(0.25), "0.25"),
        (np.array([1, 2, 3]), "1, 2, 3"),
        (np.arange(9), "0, 1, 2, 3, 4, 5 … (9)"),
        (np.zeros((2, 4), np.float32), "0, 0, 0, 0, 0, 0 … (2 x 4)"),
        (np.array([0.1, 0.05, 0.5, 0.05, 0.05, 0.05, 0.2]), "[2] 0.5, [6] 0.2, [0] 0.1 … (largest of 7)"),
        (np.array([0.1, 0.05, 0.5, 0.05, 0.05, 0.05, -0.2]), "0.1, 0.05, 0.5, 0.05, 0.05, 0.05 … (7)"),
        (b"caf\xc3\xa9", "café"),
        (np.array([b"\x1b[31m", b"b"], object), "\\x1b[31m, b"),
        (b"x" * 100, "x" * 59 + "…"),
        (np.array([True, False]), "true, false"),
        (np.array([1.5, np.nan], ml_dtypes.bfloat16), "1.5, nan"),
        (np.array([1 + 2j], np.complex64), "1+2j"),
    ],
)
def test_a_value_is_shortened_for_people(value, shown):
    assert cell(value) == shown


def test_a_classify_signature_may_have_labels_or_scores_alone():
    asked = Asked(Path(), "a", [], "classify", {"scores": np.float32([[0.5, 0.25]])}, True)
    assert json.loads(rest_text(asked)) == {"results": [[["", 0.5], ["", 0.25]]]}
    asked = Asked(Path(), "a", [], "classify", {"classes": np.array([[b"x"]], object)}, True)
    assert json.loads(rest_text(asked)) == {"results": [[["x", 0.0]]]}


def test_the_features_of_every_parser_are_known(tmp_path):
    """Those of ParseExampleV2, of its predecessors, in a function, dense or not."""
    dense, loose = tf.io.FixedLenFeature([2], tf.float32), tf.io.VarLenFeature(tf.int64)
    with tf.Graph().as_default() as graph:
        texts = v1.placeholder(tf.string, [None], "texts")
        tf.io.parse_example(texts, {"a": dense, "b": loose, "c": tf.io.RaggedFeature(tf.string)})
        tf.io.parse_single_example(texts[0], {"d": dense, "e": loose})

        @tf.function
        def body(texts):
            return tf.io.parse_example(texts, {"f": tf.io.FixedLenFeature([], tf.string), "a": loose})

        body(texts)
        meta = v1.train.export_meta_graph(graph=graph)
    found = parsers.parsed(Graph(meta))
    assert found == {
        "a": Facts(),
        "b": Facts("int64"),
        "c": Facts("string"),
        "d": Facts("float32", (None, 2)),
        "e": Facts("int64"),
        "f": Facts("string", (None,)),
    }
    with tf.Graph().as_default() as graph:
        v1.placeholder(tf.string, [None], "texts")
        assert parsers.parsed(Graph(v1.train.export_meta_graph(graph=graph))) is None
