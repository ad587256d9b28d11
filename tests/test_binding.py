"""What bindings and signatures mean: references, TensorFlow Serving's rules, and the tensors of a real graph."""

from dataclasses import replace

import pytest

from exportkit import metagraph
from exportkit.config.values import unfit
from exportkit.metagraph.tensors import Facts
from exportkit.operations.bindings import Bindings
from exportkit.operations.lookup import Lookup
from exportkit.operations.parse_example import Feature, ParseExample
from exportkit.operations.top_k import TopK
from exportkit.planning import serving_rules
from exportkit.planning.wiring import Wiring, facts_of, wire
from exportkit.spec import Constant, MetaGraph, Placeholder, Signature, Tensor

BOUND = Bindings(
    {
        "images": Tensor(tensor="x:0"),
        "probs": Tensor(tensor="probs:0"),
        "flag": Constant(constant=False, replaces="is_training:0"),
        "example": ParseExample(parse_example={"images": Feature(dtype="float32", shape=[4])}),
        "top": TopK(top_k="probs", k=2),
        "classes": Lookup(lookup="top.indices", vocabulary="labels.txt"),
        "broken": None,
    }
)


NAME_ONE = "name a tensor or a computed binding"


def predict(inputs="images", outputs="probs", method="predict", **aliases):
    """A signature of one input and one output."""
    return Signature(inputs={aliases.get("input", "x"): inputs}, outputs={aliases.get("output", "y"): outputs}, method=method)


def checked(bindings=(), signature=None):
    return [str(p) for p in serving_rules.check(Bindings(BOUND | dict(bindings)), {"s": signature or predict()})]


# References


def test_offers_every_name_with_its_binding():
    assert BOUND.offers() == {
        "images": "images",
        "probs": "probs",
        "example": "example",
        "top.values": "top",
        "top.indices": "top",
        "classes": "classes",
        "broken": "broken",
        "broken.values": "broken",
        "broken.indices": "broken",
    }


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("probs", ("probs",)),
        ("top.values", ("probs",)),
        ("classes", ("probs",)),
        ("broken.values", None),
        ("flag", None),
        ("zzz", None),
    ],
)
def test_the_tensors_behind_a_reference(ref, name):
    assert BOUND.leaves(ref) == name


@pytest.mark.parametrize(("inputs", "names"), [("images", ["images"]), ("example", ["images"])])
def test_what_a_signature_feeds(inputs, names):
    assert BOUND.fed(predict(inputs)) == names


def test_used_follows_references():
    assert BOUND.used([predict("example", "classes")]) == {"example", "images", "classes", "top", "probs"}
    assert BOUND.used([predict("images", "broken.values")]) == {"images", "broken"}
    assert BOUND.used([predict("zzz", "yyy")]) == set()


@pytest.mark.parametrize(
    ("bindings", "texts"),
    [
        ({}, []),
        ({"top": TopK(top_k="prbs", k=2)}, ["bindings.top.top_k: there is no binding 'prbs'; did you mean probs?"]),
        ({"top": TopK(top_k="probs", k=0)}, ["bindings.top.k: is 0; write 1 or more"]),
        (
            {"top": TopK(top_k="example", k=2)},
            [f"bindings.top.top_k: 'example' is a parse_example and offers no values; {NAME_ONE}"],
        ),
        (
            {"top": TopK(top_k="flag", k=2)},
            [f"bindings.top.top_k: 'flag' is a constant and offers no values; {NAME_ONE}"],
        ),
        (
            {"classes": Lookup(lookup="top", vocabulary="v")},
            ["bindings.classes.lookup: 'top' is a top_k, which has two parts; write top.values or top.indices"],
        ),
        ({"classes": Lookup(lookup="broken", vocabulary="v")}, []),
        (
            {"classes": Lookup(lookup="classes", vocabulary="v")},
            ["bindings.classes.lookup: leads back to itself: classes → classes; name a tensor binding"],
        ),
        (
            {"a": TopK(top_k="b.values", k=1), "b": TopK(top_k="a.values", k=1), "c": TopK(top_k="a.values", k=1)},
            [
                "bindings.a.top_k: leads back to itself: a → b → a; name a tensor binding",
                "bindings.b.top_k: leads back to itself: b → a → b; name a tensor binding",
            ],
        ),
        (
            {"example": ParseExample(parse_example={"image": Feature(dtype="float32")})},
            ["bindings.example.parse_example.image.to: there is no binding 'image'; did you mean images?"],
        ),
        (
            {"example": ParseExample(parse_example={"a": Feature(dtype="float32", to="top")})},
            ["bindings.example.parse_example.a.to: 'top' is a top_k and cannot be fed; name a tensor or placeholder binding"],
        ),
        ({"example": ParseExample(parse_example={"a": Feature(dtype="float32", to="broken")})}, []),
        (
            {
                "example": ParseExample(
                    parse_example={"a": Feature(dtype="float32", to="images"), "b": Feature(dtype="float32", to="images")}
                )
            },
            ["bindings.example.parse_example.b.to: 'images' is fed by feature 'a' already; feed it once"],
        ),
    ],
)
def test_references_between_bindings(bindings, texts):
    assert checked(bindings) == texts


def test_a_tensor_is_parsed_from_one_binding_in_all_signatures():
    other = {"other": ParseExample(parse_example={"pixels": Feature(dtype="float32", to="images")})}
    unused = checked(other)
    signatures = {"a": predict("example"), "b": predict("other"), "broken": None}
    assert unused == []
    assert [str(problem) for problem in serving_rules.check(Bindings(BOUND | other), signatures)] == [
        "bindings.other.parse_example.pixels: 'images' is fed by the parse_example 'example' already; "
        "use one of the two in all signatures"
    ]


@pytest.mark.parametrize(
    ("signature", "texts"),
    [
        (predict("image"), ["signatures.s.inputs.x: there is no binding 'image'; did you mean images?"]),
        (predict("flag"), ["signatures.s.inputs.x: 'flag' is a constant and cannot be fed; name a tensor or a placeholder"]),
        (predict("top"), ["signatures.s.inputs.x: 'top' is a top_k and cannot be fed; name a tensor or a placeholder"]),
        (predict("broken", "broken"), []),
        (predict("example", "classes"), []),
        (
            predict(outputs="example"),
            [f"signatures.s.outputs.y: 'example' is a parse_example and offers no values; {NAME_ONE}"],
        ),
        (
            predict(outputs="top"),
            ["signatures.s.outputs.y: 'top' is a top_k, which has two parts; write top.values or top.indices"],
        ),
        (predict(outputs="top.value"), ["signatures.s.outputs.y: there is no binding 'top.value'; did you mean top.values?"]),
        (Signature(inputs={"x": "images"}, outputs={}), ["signatures.s.outputs: is empty; name at least one output"]),
        (
            Signature(inputs={"x": "images", "e": "example"}, outputs={"y": "probs"}),
            ["signatures.s.inputs.e: 'images' is fed by 'x' already; feed it once"],
        ),
        (predict("example", "classes", "classify", input="inputs", output="classes"), []),
        (predict("example", "probs", "regress", input="inputs", output="outputs"), []),
        (
            predict("example", "classes", "classify", output="classes"),
            [
                "signatures.s.inputs: classify takes exactly 'inputs', not 'x'; "
                "write {inputs: …} with a parse_example binding, or method: predict"
            ],
        ),
        (
            predict("example", "probs", "regress", input="inputs", output="value"),
            ["signatures.s.outputs.value: regress gives only outputs; drop it, or write method: predict"],
        ),
        (
            predict("example", "probs", "classify", input="inputs", output="value"),
            ["signatures.s.outputs.value: classify gives only classes and scores; drop it, or write method: predict"],
        ),
    ],
)
def test_references_of_signatures(signature, texts):
    assert checked(signature=signature) == texts


# TensorFlow Serving's rules


@pytest.mark.parametrize(
    ("method", "alias", "facts", "text"),
    [
        ("predict", "classes", Facts("int64", ()), None),
        ("classify", "classes", Facts("string", (None, 3)), None),
        ("classify", "classes", Facts(), None),
        (
            "classify",
            "classes",
            Facts("int64", (None, 3)),
            "classes: 'b' is int64 [?, 3], classify needs string [N, k]; turn indices into labels with a lookup binding",
        ),
        (
            "classify",
            "classes",
            Facts("string", (None,)),
            "classes: 'b' is string [?], classify needs string [N, k]; bind a tensor of shape [N, k], or write method: predict",
        ),
        (
            "classify",
            "scores",
            Facts("float64", None),
            "scores: 'b' is float64 of unknown rank, classify needs float32 [N, k]; bind a float32 tensor",
        ),
        ("regress", "outputs", Facts("float32", (None,)), None),
        ("regress", "outputs", Facts("float32", (None, 1)), None),
        (
            "regress",
            "outputs",
            Facts("float32", (8, 3)),
            "outputs: 'b' is float32 [8, 3], regress needs float32 [N] or [N, 1]; "
            "bind a tensor of shape [N] or [N, 1], or write method: predict",
        ),
        (
            "regress",
            "outputs",
            Facts("float32", ()),
            "outputs: 'b' is float32 [], regress needs float32 [N] or [N, 1]; "
            "bind a tensor of shape [N] or [N, 1], or write method: predict",
        ),
    ],
)
def test_rules_of_outputs(method, alias, facts, text):
    signature = Signature(inputs={}, outputs={alias: "b"}, method=method)
    texts = [str(p) for p in serving_rules.demands("signatures.s", signature, {"b": facts})]
    assert texts == ([] if text is None else [f"signatures.s.outputs.{text}"])


def test_rules_of_inputs():
    signature = Signature(inputs={"inputs": "b"}, outputs={}, method="classify")
    assert [str(p) for p in serving_rules.demands("s", signature, {"b": Facts("float32", (None, 4))})] == [
        "s.inputs.inputs: 'b' is float32 [?, 4], classify needs string [N]; feed it a parse_example binding"
    ]


@pytest.mark.parametrize(
    ("facts", "texts"),
    [
        ({"top.indices": Facts("int32", (None, 2)), "probs": Facts("float32", (None, 3))}, []),
        ({"top.indices": Facts(), "probs": Facts()}, []),
        (
            {"top.indices": Facts("float32", None)},
            ["bindings.classes.lookup: 'top.indices' is float32, not integers; look up the indices of a top_k"],
        ),
        (
            {"probs": Facts("float32", (None, 1))},
            ["bindings.top.k: is 2, but 'probs' has 1 entries in its last axis; write 1 or less"],
        ),
        ({"probs": Facts("float32", ())}, ["bindings.top.k: is 2, but 'probs' is a scalar; name a binding of rank 1 or more"]),
        (
            {"images": Facts("float32", (None, 5))},
            [
                "bindings.example.parse_example.images.shape: 'images' is float32 [?, 5], "
                "which the parsed float32 [?, 4] does not fit; fix the feature's shape"
            ],
        ),
        (
            {"images": Facts("string", (None, 4))},
            [
                "bindings.example.parse_example.images.dtype: 'images' is string [?, 4], which a float32 cannot feed; "
                "write dtype: string"
            ],
        ),
    ],
)
def test_what_cannot_be_computed(facts, texts):
    assert [str(p) for p in serving_rules.computed(BOUND, facts)] == texts


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (False, "bool", None),
        (1, "bool", "w: 1 cannot be of dtype bool; write true or false"),
        ("no", "bool", "w: 'no' cannot be of dtype bool; write true or false"),
        (1, "float32", None),
        ([[1.5], [2]], "float32", None),
        (True, "float32", "w: true cannot be of dtype float32; write a number"),
        (1.5, "int32", "w: 1.5 cannot be of dtype int32; write an integer"),
        ([1, None], "uint8", "w: [1, None] cannot be of dtype uint8; write an integer"),
        ("a", "string", None),
        (1, "string", "w: 1 cannot be of dtype string; write a text"),
        (256, "uint8", "w: 256 is out of the range of uint8; write 0 to 255"),
        ([0, -129], "int8", "w: [0, -129] is out of the range of int8; write -128 to 127"),
        (2**31 - 1, "int32", None),
        (2**31, "int32", f"w: {2**31} is out of the range of int32; write {-(2**31)} to {2**31 - 1}"),
        ("anything", None, None),
    ],
)
def test_values_of_a_dtype(value, dtype, text):
    assert [str(p) for p in unfit("w", value, dtype)] == ([] if text is None else [text])


# On a graph


@pytest.fixture(scope="module")
def graph(checkpoint):
    return metagraph.Graph(metagraph.read(checkpoint("dense").meta))


OFFERED = {"features": "x:0", "scores": "probs:0"}
SIGNATURES = {"serving_default": predict(), "classify": predict("example", "classes")}


def wired(graph, bindings=(), meta_graph=None, signatures=SIGNATURES):
    bound = Bindings({k: b for k, b in (BOUND | dict(bindings)).items() if b is not None})
    wiring, problems = wire("serving", meta_graph or MetaGraph(tags=["serve"]), bound, signatures, graph, OFFERED)
    return wiring, [str(p) for p in problems]


def test_wires_names_cuts_and_constants(graph):
    assert wired(graph) == (
        Wiring(
            names={"images": "x:0", "probs": "probs:0", "flag": "is_training:0"},
            inputs={"images": "x:0"},
            constants={"is_training:0": False},
            signatures=["serving_default", "classify"],
        ),
        [],
    )


def test_names_that_the_source_offers(graph):
    wiring, problems = wired(graph, {"images": Tensor(tensor="features"), "probs": Tensor(tensor="scores")})
    assert problems == []
    assert (wiring.names["images"], wiring.names["probs"]) == ("x:0", "probs:0")


@pytest.mark.parametrize(
    ("meta_graph", "expected"),
    [
        (MetaGraph(tags=["serve"], constants={"flag": True}), {"constants": {"is_training:0": True}}),
        (MetaGraph(tags=["serve"], constants={"flag": None}), {"constants": {}}),
        (MetaGraph(tags=["serve"], signatures=["classify"]), {"signatures": ["classify"]}),
        (
            MetaGraph(tags=["serve"], signatures=[], train_op="train"),
            {"signatures": [], "inputs": {}, "train_op": "train"},
        ),
    ],
)
def test_a_meta_graph_has_its_own_way(meta_graph, expected, graph):
    wiring, problems = wired(graph, meta_graph=meta_graph)
    assert problems == []
    assert wiring == replace(wired(graph)[0], **expected)


@pytest.mark.parametrize(
    ("bindings", "text"),
    [
        ({"probs": Tensor(tensor="prob:0")}, "bindings.probs.tensor: the graph has no tensor prob:0; did you mean probs:0?"),
        (
            {"probs": Tensor(tensor="score")},
            "bindings.probs.tensor: the graph has no tensor score; did you mean scores? (the source offers features, scores)",
        ),
        (
            {"probs": Tensor(tensor="zzz")},
            "bindings.probs.tensor: the graph has no tensor zzz; the source offers features, scores",
        ),
        (
            {"images": Placeholder(placeholder="X:0")},
            "bindings.images.placeholder: the graph has no tensor X:0; did you mean x:0?",
        ),
        (
            {"flag": Constant(constant=False, replaces="training:0")},
            "bindings.flag.replaces: the graph has no tensor training:0; did you mean is_training:0, "
            "train:0 or train/Assign:0?",
        ),
        (
            {"probs": Tensor(tensor="probs:1")},
            "bindings.probs.tensor: probs:1 is not a tensor: probs (Softmax) returns 1 tensor; write probs:0",
        ),
        (
            {"probs": Tensor(tensor="train")},
            "bindings.probs.tensor: train is not a tensor: train (NoOp) returns no tensors; name an op that returns one "
            "(the source offers features, scores)",
        ),
        (
            {"images": Tensor(tensor="x:0", dtype="int64")},
            "bindings.images.dtype: the tensor is float32, not int64; write float32",
        ),
        (
            {"images": Tensor(tensor="x:0", shape=[None, 5])},
            "bindings.images.shape: the tensor is float32 [?, 4], which [null, 5] does not fit; write [null, 4]",
        ),
        (
            {"images": Tensor(tensor="x:0", shape=[4])},
            "bindings.images.shape: the tensor is float32 [?, 4], which [4] does not fit; write [null, 4]",
        ),
        (
            {"flag": Constant(constant=0, replaces="is_training:0")},
            "bindings.flag.constant: 0 cannot be of dtype bool; write true or false",
        ),
        (
            {"flag": Constant(constant=[True, False], replaces="is_training:0")},
            "bindings.flag.constant: [True, False] has shape [2], and 'is_training:0' is bool []; write one value",
        ),
        (
            {"flag": Constant(constant=[[1.0], [2.0, 3.0]], replaces="logits:0")},
            "bindings.flag.constant: [[1.0], [2.0, 3.0]] is ragged: its lists are of different lengths; "
            "write lists of one length",
        ),
        (
            {"images": Tensor(tensor="logits:0")},
            "bindings.images.tensor: 'logits:0' is the output of a AddV2, not a placeholder, and is fed by "
            "signatures.serving_default; to cut the graph there write {placeholder: logits:0}",
        ),
        (
            {"flag": Constant(constant=1.0, replaces="x:0")},
            "bindings.images: 'x:0' is baked as a constant and cannot be fed; drop one",
        ),
    ],
)
def test_what_does_not_fit_the_graph(bindings, text, graph):
    assert wired(graph, bindings)[1] == [text]


def test_a_wrong_constant_of_a_meta_graph_is_told_where_it_stands(graph):
    meta_graph = MetaGraph(tags=["train"], constants={"flag": "yes"}, train_op="trian")
    assert wired(graph, meta_graph=meta_graph)[1] == [
        "meta_graphs.serving.constants.flag: 'yes' cannot be of dtype bool; write true or false",
        "meta_graphs.serving.train_op: there is no operation 'trian' in the graph; did you mean train?",
    ]


def test_one_tensor_is_fed_by_one_binding(graph):
    signatures = {"s": Signature(inputs={"a": "images", "b": "twin"}, outputs={"y": "probs"})}
    assert wired(graph, {"twin": Tensor(tensor="x:0")}, signatures=signatures)[1] == [
        "bindings.twin: 'x:0' is bound as 'images' already; feed one of the two"
    ]


def test_facts_are_derived_through_bindings(graph):
    wiring, _ = wired(graph)
    assert facts_of(BOUND, wiring, graph) == {
        "images": Facts("float32", (None, 4)),
        "probs": Facts("float32", (None, 3)),
        "example": Facts("string", (None,)),
        "top.values": Facts("float32", (None, 2)),
        "top.indices": Facts("int32", (None, 2)),
        "classes": Facts("string", (None, 2)),
    }


@pytest.mark.parametrize(
    ("bound", "shape"),
    [
        (Tensor(tensor="x:0", shape=[8, None]), (8, 4)),
        (Placeholder(placeholder="x:0"), (None, 4)),
        (Placeholder(placeholder="x:0", shape=[2, 4]), (2, 4)),
    ],
)
def test_a_declared_shape_adds_to_the_graphs(bound, shape, graph):
    bindings = Bindings({"images": bound})
    wiring, _ = wired(graph, bindings)
    assert facts_of(bindings, wiring, graph)["images"] == Facts("float32", shape)
