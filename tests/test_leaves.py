"""Bindings, signatures, meta graphs and samples: what config data becomes, and the text of what cannot become anything."""

from pathlib import Path

import numpy as np
import pytest

from exportkit.config import sections
from exportkit.config.reader import Reader
from exportkit.operations.builtin import OPERATIONS
from exportkit.operations.lookup import Lookup
from exportkit.operations.parse_example import Feature, ParseExample
from exportkit.operations.top_k import TopK
from exportkit.spec import (
    BINDINGS,
    Constant,
    Examples,
    File,
    Literal,
    MetaGraph,
    Placeholder,
    Random,
    Signature,
    Tensor,
)

EACH = ", ".join([*BINDINGS, *OPERATIONS])


@pytest.fixture(autouse=True)
def files(tmp_path):
    """Files to name: a vocabulary, digits of two arrays, and some that are not what they are called."""
    Path("labels.txt").write_text("zero\none\n")
    Path("empty.txt").touch()
    Path("pointer.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    Path("text.npz").write_text("no archive")
    np.savez("digits.npz", images=np.zeros(2), labels=np.zeros(2))
    np.save("one.npy", np.zeros(2))
    return tmp_path


def told(read, *args):
    """What `read` returns, and its problems as texts with the temporary directory taken out."""
    reader = Reader(Path.cwd())
    value = read(*args[:1], reader, *([OPERATIONS] if read is sections.bindings else args[1:]))
    return value, [str(problem).replace(f"{Path.cwd()}/", "") for problem in reader.problems]


@pytest.mark.parametrize(
    ("data", "binding"),
    [
        ("x:0", Tensor(tensor="x:0")),
        ({"tensor": "x:0", "dtype": "float32", "shape": [None, 4]}, Tensor(tensor="x:0", dtype="float32", shape=[None, 4])),
        ({"placeholder": "q:1", "shape": [None]}, Placeholder(placeholder="q:1", shape=[None])),
        ({"constant": False, "replaces": "t:0"}, Constant(constant=False, replaces="t:0")),
        ({"constant": 0, "replaces": "t:0"}, Constant(constant=0, replaces="t:0")),
        ({"top_k": "p", "k": 3}, TopK(top_k="p", k=3)),
        (
            {"parse_example": {"f": {"dtype": "int64", "shape": [2], "default": [1, 2]}}},
            ParseExample(parse_example={"f": Feature(dtype="int64", shape=[2], default=[1, 2])}),
        ),
    ],
)
def test_a_binding_is_read(data, binding):
    assert told(sections.bindings, {"b": data}) == ({"b": binding}, [])


def test_a_vocabulary_becomes_absolute(files):
    data = {"b": {"lookup": "i", "vocabulary": "labels.txt"}}
    assert told(sections.bindings, data) == ({"b": Lookup(lookup="i", vocabulary=files / "labels.txt", default="")}, [])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (3, f"is neither a tensor's name nor a mapping; write one of {EACH}"),
        (None, f"is neither a tensor's name nor a mapping; write one of {EACH}"),
        ({}, f"has no operation; write exactly one of {EACH}"),
        ({"zzz": 1}, f"has no operation; write exactly one of {EACH}"),
        ({"tensr": "x:0"}, ".tensr: no such key; did you mean tensor?"),
        ({"topk": "x", "k": 1}, ".topk: no such key; did you mean top_k?"),
        ({"tensor": "x:0", "top_k": "p", "k": 1}, f"has tensor and top_k; write exactly one of {EACH}"),
        ({"tensor": "x:0", "dtyp": "int64"}, ".dtyp: no such key; did you mean dtype?"),
        ({"tensor": 3}, ".tensor: is the integer 3, not a text; put it in quotes"),
        ("", ".tensor: is empty; write a tensor's name, op:0"),
        ({"constant": 1, "replaces": ""}, ".replaces: is empty; write a tensor's name, op:0"),
        (
            {"tensor": "x:0", "dtype": "float"},
            ".dtype: there is no dtype 'float'; did you mean float16, float32 or float64?",
        ),
        ({"tensor": "x:0", "dtype": "int46"}, ".dtype: there is no dtype 'int46'; did you mean int4, int16 or int64?"),
        ({"tensor": "x:0", "shape": [-1, 4]}, ".shape[0]: is -1; write null for a size that is not known"),
        ({"tensor": "x:0", "shape": ["None"]}, ".shape[0]: is the text 'None', not an integer; write an integer or null"),
        ({"constant": None, "replaces": "t:0"}, ".constant: is null; write the value to bake"),
        ({"constant": 1}, ".replaces: is not set; set it to a text"),
        ({"top_k": "p", "k": "3"}, ".k: is the text '3', not an integer; write an integer"),
        ({"top_k": "p"}, ".k: is not set; set it to an integer"),
        ({"lookup": "i", "vocabulary": "label.txt"}, ".vocabulary: there is no file label.txt; did you mean labels.txt?"),
        (
            {"lookup": "i", "vocabulary": "far/zzz"},
            ".vocabulary: there is no file far/zzz; paths are relative to where exportkit was started",
        ),
        ({"lookup": "i", "vocabulary": "empty.txt"}, ".vocabulary: empty.txt is empty; name another file"),
        (
            {"lookup": "i", "vocabulary": "pointer.txt"},
            ".vocabulary: pointer.txt is a Git LFS pointer, not the file itself; run git lfs pull",
        ),
        ({"lookup": "i"}, ".vocabulary: is not set; set it to a path"),
        ({"parse_example": {}}, ".parse_example: is empty; write {FEATURE: {dtype: …, shape: […]}}"),
        ({"parse_example": "f"}, ".parse_example: is the text 'f', not a mapping; write {NAME: …}"),
        ({"parse_example": {"f": {}}}, ".parse_example.f.dtype: is not set; set it to a text"),
        (
            {"parse_example": {"f": {"dtype": "float64"}}},
            ".parse_example.f.dtype: there is no dtype 'float64' in a tf.Example; did you mean float32?",
        ),
        (
            {"parse_example": {"f": {"dtype": "int64", "shape": [-1]}}},
            ".parse_example.f.shape[0]: is -1; write sizes, without that of the batch",
        ),
        (
            {"parse_example": {"f": {"dtype": "int64", "default": 1.5}}},
            ".parse_example.f.default: 1.5 cannot be of dtype int64; write an integer",
        ),
        (
            {"parse_example": {"f": {"dtype": "string", "default": [1]}}},
            ".parse_example.f.default: [1] cannot be of dtype string; write a text",
        ),
        (
            {"parse_example": {"f": {"dtype": "int64", "shape": [2], "default": [1, 2, 3]}}},
            ".parse_example.f.default: [1, 2, 3] does not fill the shape [2]; write one value, or lists of the shape [2]",
        ),
        (
            {"parse_example": {"f": {"dtype": "string", "shape": [2, 2], "default": [["a"], ["b", "c"]]}}},
            ".parse_example.f.default: [['a'], ['b', 'c']] does not fill the shape [2, 2]; "
            "write one value, or lists of the shape [2, 2]",
        ),
        (
            {"parse_example": {"f": {"dtype": "float32", "default": [1.0]}}},
            ".parse_example.f.default: [1.0] does not fill the shape []; write one value, or lists of the shape []",
        ),
        (
            {"parse_example": {"f": {"dtype": "int64", "shape": [2], "default": [1, 2**63]}}},
            ".parse_example.f.default: [1, 9223372036854775808] is out of the range of int64; "
            "write -9223372036854775808 to 9223372036854775807",
        ),
        (
            {"parse_example": {"f": {"dtype": "float32", "default": 1e39}}},
            ".parse_example.f.default: 1e+39 is out of the range of float32; write a smaller number",
        ),
    ],
)
def test_a_broken_binding_is_told_and_keeps_its_name(data, text):
    assert told(sections.bindings, {"b": data}) == ({"b": None}, [f"bindings.b{text if text[0] == '.' else ': ' + text}"])


@pytest.mark.parametrize("name", ["top.values", "my images", "_x", ""])
def test_a_name_that_cannot_be_one(name):
    do = "write letters, digits, _, - and /, a letter or digit first"
    assert told(sections.bindings, {name: "x:0"})[1] == [f"bindings.{name}: '{name}' cannot be a binding's name; {do}"]


def test_bindings_that_are_no_mapping():
    assert told(sections.bindings, ["x:0"]) == ({}, ["bindings: is the list [x:0], not a mapping; write {NAME: …}"])
    assert told(sections.bindings, None) == ({}, [])


def test_a_key_that_yaml_read_as_a_boolean():
    assert told(sections.bindings, {True: "x:0"})[1] == [
        "bindings.true: the key is the boolean true, not a text; put it in quotes"
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, ": is null, not a mapping; write {inputs: …, outputs: …}"),
        ({"outputs": {}}, ".inputs: is not set; set it to a mapping"),
        ({"inputs": {}, "ouputs": {}}, ".ouputs: no such key; did you mean outputs?"),
        ({"inputs": {"a": 1}, "outputs": {}}, ".inputs.a: is the integer 1, not a text; put it in quotes"),
        ({"inputs": {}, "outputs": {}, "method": "clasify"}, ".method: there is no method 'clasify'; did you mean classify?"),
        (
            {"inputs": {}, "outputs": {}, "method": "tensorflow/serving/predict"},
            ".method: there is no method 'tensorflow/serving/predict'; did you mean predict?",
        ),
        (
            {"inputs": {}, "outputs": {}, "method": "zzz"},
            ".method: there is no method 'zzz'; known: classify, predict, regress",
        ),
    ],
)
def test_a_broken_signature_is_told_and_keeps_its_key(data, text):
    assert told(sections.signatures, {"s": data}) == ({"s": None}, [f"signatures.s{text}"])


def test_a_signature_is_read():
    data = {"inputs": {"x": "images"}, "outputs": {"y": "probs"}}
    assert told(sections.signatures, {"s": data}) == ({"s": Signature(**data, method="predict")}, [])


def test_a_signature_under_a_key_of_tensorflow():
    data = {"inputs": {}, "outputs": {}}
    assert told(sections.signatures, {"__saved_model_init_op": data})[1] == [
        "signatures.__saved_model_init_op: TensorFlow keeps such keys for itself; choose another key"
    ]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ({"a": {"tags": ["serve"]}, "b": {"tags": ["serve", "gpu"], "device": "/device:GPU:0"}}, []),
        (None, ["meta_graphs: is empty; write {serving: {tags: [serve]}}"]),
        ({}, ["meta_graphs: is empty; write {serving: {tags: [serve]}}"]),
        ({"a": {"tags": "serve"}}, ["meta_graphs.a.tags: is the text 'serve', not a list; write [serve]"]),
        ({"a": {"tags": []}}, ["meta_graphs.a.tags: are empty; write [serve]"]),
        (
            {"a": {"tags": ["serve,tpu"]}},
            ["meta_graphs.a.tags: 'serve,tpu' cannot be a tag, for a server splits its tags at commas; write [serve, tpu]"],
        ),
        (
            {"a": {"tags": ["serve", ""]}},
            ["meta_graphs.a.tags: '' cannot be a tag, for a server splits its tags at commas; write [serve]"],
        ),
        ({"a": {"tag": ["serve"]}}, ["meta_graphs.a.tag: no such key; did you mean tags?"]),
        (
            {"a": {"tags": ["serve", "gpu"]}, "b": {"tags": ["gpu", "serve"]}},
            ["meta_graphs.b.tags: are those of meta graph 'a'; a loader finds a meta graph by its tags alone"],
        ),
        (
            {"a": {"tags": ["x"], "signatures": ["serving", "predict"]}},
            ["meta_graphs.a.signatures[0]: there is no signature 'serving'; did you mean serving_default?"],
        ),
        (
            {"a": {"tags": ["x"], "signatures": []}},
            ["meta_graphs.a.signatures: is empty, and there is no train_op; name one, or leave the key out for all"],
        ),
        ({"a": {"tags": ["x"], "signatures": [], "train_op": "train"}}, []),
        (
            {"a": {"tags": ["x"], "constants": {"is_trainin": True}}},
            ["meta_graphs.a.constants.is_trainin: there is no such constant binding; did you mean is_training?"],
        ),
        (
            {"a": {"tags": ["x"], "device": "gpu"}},
            ["meta_graphs.a.device: 'gpu' is not a device; write /device:GPU:0 or the like"],
        ),
        ({"a": {"tags": ["x"], "device": "/job:worker/task:1/gpu:0"}}, []),
    ],
)
def test_meta_graphs(data, texts):
    found, problems = told(sections.meta_graphs, data, {"serving_default": None, "predict": None}, ["is_training"])
    assert problems == texts
    assert all(type(meta_graph) is MetaGraph for meta_graph in found.values())


SIGNATURES = {
    "s": Signature(inputs={"x": "images", "y": "flags"}, outputs={}),
    "e": Signature(inputs={"inputs": "example"}, outputs={}),
    "broken": None,
}
BOUND = {
    "images": Tensor(tensor="x:0"),
    "flags": Tensor(tensor="y:0"),
    "example": ParseExample(parse_example={"pixels": Feature(dtype="float32")}),
}


def samples(data):
    return told(sections.samples, data, SIGNATURES, BOUND)


@pytest.mark.parametrize(
    ("data", "sample"),
    [
        ([[1, 2]], Literal(value=[[1, 2]])),
        (0, Literal(value=0)),
        ("some text", Literal(value="some text")),
        ({"random": {"seed": 3, "high": 2}}, Random(seed=3, low=0.0, high=2.0)),
        ({"random": None}, Random()),
    ],
)
def test_a_sample_is_read(data, sample):
    assert samples({"s": {"x": data, "y": 1}}) == ({"s": {"x": sample, "y": Literal(value=1)}}, [])


def test_samples_from_files_become_absolute(files):
    assert samples({"s": {"x": "digits.npz:images", "y": "one.npy"}}) == (
        {"s": {"x": File(path=files / "digits.npz", array="images"), "y": File(path=files / "one.npy", array=None)}},
        [],
    )


def test_examples_are_read(files):
    assert samples({"e": {"inputs": {"examples": {"pixels": "digits.npz:images"}}}}) == (
        {"e": {"inputs": Examples(features={"pixels": File(path=files / "digits.npz", array="images")})}},
        [],
    )


NEITHER = "write values, file[:array], {random: …} or {examples: …}"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"z": {}}, "samples.z: there is no signature 'z'; known: broken, e, s"),
        ({"s": [1]}, "samples.s: is the list [1], not a mapping; write {NAME: …}"),
        ({"s": {"x": 1}}, "samples.s: gives no value for y; a signature is run on all of its inputs"),
        ({"s": {"x": 1, "y": 1, "zz": 1}}, "samples.s.zz: signature 's' has no input 'zz'; known: x, y"),
        ({"e": {"input": 1}}, "samples.e.input: signature 'e' has no input 'input'; did you mean inputs?"),
        ({"s": {"x": None, "y": 1}}, f"samples.s.x: is null; {NEITHER}"),
        ({"s": {"x": {"file": "a"}, "y": 1}}, f"samples.s.x: is neither values nor a file; {NEITHER}"),
        ({"s": {"x": {"random": {}, "seed": 1}, "y": 1}}, f"samples.s.x: is neither values nor a file; {NEITHER}"),
        ({"s": {"x": {"random": {"sed": 1}}, "y": 1}}, "samples.s.x.random.sed: no such key; did you mean seed?"),
        ({"s": {"x": {"random": 0}, "y": 1}}, "samples.s.x.random: is the integer 0, not a mapping; write {…}"),
        (
            {"s": {"x": {"random": {"low": 1}}, "y": 1}},
            "samples.s.x.random.high: is 1.0, not above low (1.0); values are drawn from [low, high)",
        ),
        ({"s": {"x": "digit.npz:images", "y": 1}}, "samples.s.x: there is no file digit.npz; did you mean digits.npz?"),
        (
            {"s": {"x": "digits.npz", "y": 1}},
            "samples.s.x: does not say which array of digits.npz; write digits.npz:NAME; known: images, labels",
        ),
        ({"s": {"x": "digits.npz:image", "y": 1}}, "samples.s.x: digits.npz has no array 'image'; did you mean images?"),
        ({"s": {"x": "text.npz:a", "y": 1}}, "samples.s.x: text.npz is not an .npz file; write one with numpy.savez"),
        (
            {"e": {"inputs": {"examples": {"pixel": [1]}}}},
            "samples.e.inputs.examples.pixel: binding 'example' parses no feature 'pixel'; did you mean pixels?",
        ),
        (
            {"s": {"x": {"examples": {"pixels": [1]}}, "y": 1}},
            "samples.s.x.examples: binding 'images' takes no tf.Example; write values, or file[:array]",
        ),
    ],
)
def test_a_broken_sample_is_told(data, text):
    assert samples(data)[1] == [text]


def test_samples_of_a_broken_signature_are_not_judged():
    assert samples({"broken": {"anything": 1}}) == ({"broken": {"anything": Literal(value=1)}}, [])
