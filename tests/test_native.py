"""SavedModels in TensorFlow's C++ core: values of every dtype, what is refused and in which words, and what dies without us."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from exportkit.core import capi, tensors, worker
from exportkit.core.capi import StatusError
from exportkit.core.graph import Graph, Session
from exportkit.core.host import Host
from exportkit.errors import BindingError, EnvironmentFailed, Problem, StepFailed
from exportkit.processes import Sandbox, spare
from exportkit.protos import ConfigProto, SavedModel
from exportkit.serving import native, running
from exportkit.serving.loading import Request
from exportkit.serving.remembered import Remembered, request_key
from exportkit.serving.running import Refusal, Running

pytestmark = pytest.mark.quick(45)

v1 = tf.compat.v1
SERVE = ["serve"]
DEFAULT = "serving_default"
DTYPES = [
    *(np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn),
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, ml_dtypes.int4, ml_dtypes.uint4),
    *(np.bool_, np.complex64, np.complex128),
]


# ---- the models ----


def write(directory, *tag_sets, **signatures):
    """Write the default graph and its variables; a signature is ``(inputs, outputs)``."""
    definitions = {key: v1.saved_model.predict_signature_def(*sides) for key, sides in signatures.items()}
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(directory))
        options = {
            "assets_collection": v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            "main_op": tf.group(*v1.get_collection(v1.GraphKeys.TABLE_INITIALIZERS)),
        }
        first, *others = tag_sets or [SERVE]
        builder.add_meta_graph_and_variables(session, first, definitions, **options)
        for tags in others:
            builder.add_meta_graph(tags, definitions)
        builder.save()
    return directory


@pytest.fixture
def fresh_interpreters(monkeypatch):
    """Workers are started as where there is no process to fork them from, which takes half a second each."""
    monkeypatch.setattr(spare, "_spare", None)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def line(models):
    """3x + 2 with both in variables, and twice that; two tag sets."""
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None], "x")
        weight, bias = (v1.get_variable(n, initializer=v, use_resource=False) for n, v in {"weight": 3.0, "bias": 2.0}.items())
        y = tf.add(weight * x, bias, "y")
        twice = tf.multiply(y, 2.0, "twice")
        sides = {"x": x}, {"y": y, "twice": twice}
        return write(models / "line", SERVE, ["serve", "gpu"], serving_default=sides, only_y=({"x": x}, {"y": y}))


@pytest.fixture(scope="module")
def mirrors(models):
    """Identities of every dtype, and of a string."""
    with tf.Graph().as_default():
        inputs = {np.dtype(dtype).name: v1.placeholder(dtype, None, np.dtype(dtype).name) for dtype in DTYPES}
        inputs["string"] = v1.placeholder(tf.string, None, "string")
        signatures = {name: ({"in": x}, {"out": tf.identity(x)}) for name, x in inputs.items()}
        return write(models / "mirrors", **signatures)


@pytest.fixture(scope="module")
def words(models):
    """A vocabulary in an asset, word → line number; the file that it was made of is gone."""
    vocabulary = models / "words.txt"
    vocabulary.write_text("one\ntwo\n")
    with tf.Graph().as_default():
        initializer = tf.lookup.TextFileInitializer(
            str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        word = v1.placeholder(tf.string, [None], "word")
        table = tf.lookup.StaticHashTable(initializer, -1)
        write(models / "words", serving_default=({"word": word}, {"line": table.lookup(word)}))
    vocabulary.unlink()
    return models / "words"


@pytest.fixture(scope="module")
def traps(models):
    """What a request can do: kill the process, never end, take all memory, print; and arithmetic that grappler rearranges."""
    with tf.Graph().as_default():
        image = v1.placeholder(tf.float32, [None, 4, 4, 1], "image")
        x = v1.placeholder(tf.float32, [], "x")
        shape = v1.placeholder(tf.int64, [None], "shape")
        kernel = v1.get_variable("kernel", [3, 3, 1, 2], use_resource=True)
        endless = tf.while_loop(lambda i: i > -1.0, lambda i: [i * 1.0], [x])[0]
        printed = v1.Print(x, [x], "seen:")
        with tf.control_dependencies([tf.print("printed", x, output_stream=sys.stdout)]):
            stdout = tf.identity(x)
        return write(
            models / "traps",
            convolve=({"image": image}, {"features": tf.nn.conv2d(image, kernel, 1, "SAME")}),
            loop=({"x": x}, {"y": endless}),
            fill=({"shape": shape}, {"filled": tf.fill(shape, 1.0)}),
            rearranged=({"x": x}, {"y": tf.multiply(x * 1e30, 1e-30, "rearranged")}),
            loud=({"x": x}, {"stdout": stdout, "stderr": printed}),
        )


def ask(directory, signature=DEFAULT, allowed=(), **inputs):
    """The outputs of one request."""
    return native.run_signatures(directory, SERVE, [Request(signature, inputs)], allowed=allowed).outputs[0]


def problems(error, call, *arguments, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return list(caught.value.problems)


def copied(directory, tmp_path):
    return Path(shutil.copytree(directory, tmp_path / "copy"))


# ---- values ----


@pytest.mark.usefixtures("fresh_interpreters")
def test_signatures_answer_by_alias(line):
    requests = [Request(DEFAULT, {"x": np.float32([1, 2])}), Request("only_y", {"x": np.float32([0])})]
    served = native.run_signatures(line, SERVE, requests)
    first, second = served.outputs
    assert {alias: value.tolist() for alias, value in first.items()} == {"y": [5, 8], "twice": [10, 16]}
    assert {alias: value.tolist() for alias, value in second.items()} == {"y": [2]}
    assert 0 < served.load_seconds < 60
    assert len(served.run_seconds) == 2 and all(0 < seconds < 60 for seconds in served.run_seconds)


def test_raw_runs_name_tensors(line):
    served = native.run(line, SERVE, [({"x:0": np.float32([1])}, ["y:0", "weight"]), ({"y": np.float32([4])}, ["twice:0"])])
    assert [[value.tolist() for value in values] for values in served.outputs] == [[[5], 3], [[8]]]


def test_reference_variables_are_fed_by_value(line):
    feeds = {"x:0": np.float32([1]), "weight:0": np.float32(10)}
    assert native.run(line, SERVE, [(feeds, ["y:0"])]).outputs[0][0].tolist() == [12]


def test_no_requests_is_a_load(line):
    assert native.run_signatures(line, SERVE, []).outputs == []


def test_tags_choose_the_meta_graph(line):
    served = native.run_signatures(line, ["gpu", "serve"], [Request("only_y", {"x": np.float32([1])})])
    assert served.outputs[0]["y"].tolist() == [5]


@pytest.fixture(scope="module")
def mirrored(mirrors):
    """Per dtype what went in and what came back: a matrix, a scalar, and an empty array."""
    values = {
        np.dtype(dtype).name: [
            np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype),
            np.array(1).astype(dtype),
            np.zeros((2, 0, 3), dtype),
        ]
        for dtype in DTYPES
    }
    values["string"] = [
        np.array([[b"", b"short"], [b"\0\xff\n", b"long " * 1000]], object),
        np.array(b"scalar", object),
        np.zeros((2, 0, 3), object),
    ]
    requests = [Request(name, {"in": value}) for name, three in values.items() for value in three]
    answers = iter(native.run_signatures(mirrors, SERVE, requests).outputs)
    return {name: [(value, next(answers)["out"]) for value in three] for name, three in values.items()}


@pytest.mark.parametrize("name", [*(np.dtype(dtype).name for dtype in DTYPES), "string"])
def test_every_dtype_there_and_back(mirrored, name):
    for sent, received in mirrored[name]:
        assert (received.dtype, received.shape) == (sent.dtype, sent.shape)
        assert received.tolist() == sent.tolist()


def test_arrays_are_fed_by_value_not_by_layout(mirrors):
    matrix = np.arange(6, dtype=np.int32).reshape(2, 3)
    requests = [Request("int32", {"in": value}) for value in (matrix.T, matrix.astype(">i4"), matrix[:, ::-1])]
    outputs = native.run_signatures(mirrors, SERVE, requests).outputs
    assert [output["out"].tolist() for output in outputs] == [matrix.T.tolist(), matrix.tolist(), matrix[:, ::-1].tolist()]


@pytest.mark.parametrize("value", [np.array(["ä", "b"]), np.array(["ä".encode(), b"b"]), np.array(["ä", b"b"], object)])
def test_strings_are_bytes_or_text(mirrors, value):
    assert ask(mirrors, "string", **{"in": value})["out"].tolist() == ["ä".encode(), b"b"]


def test_answers_can_be_written_to(line):
    assert ask(line, x=np.float32([1]))["y"].flags.writeable


def test_tables_are_initialised_from_assets(words):
    assert ask(words, word=np.array([b"two", b"three"], object))["line"].tolist() == [1, -1]


def test_relative_directories(line, monkeypatch):
    monkeypatch.chdir(line.parent)
    assert ask("line", "only_y", x=np.float32([1]))["y"].tolist() == [5]


@pytest.mark.usefixtures("fresh_interpreters")
def test_the_graphs_own_printing_is_no_answer(traps):
    assert ask(traps, "loud", x=np.float32(7)) == {"stdout": 7, "stderr": 7}


# ---- the session's config ----


def test_unoptimized_computes_the_graph_as_it_is_written(traps):
    request = [Request("rearranged", {"x": np.float32(1e10)})]
    optimized = native.run_signatures(traps, SERVE, request)
    literal = native.run_signatures(traps, SERVE, request, config=running.unoptimized())
    assert optimized.outputs[0]["y"] == np.float32(1e10)
    assert literal.outputs[0]["y"] == np.inf


def test_config_reaches_the_session(traps):
    config = ConfigProto(operation_timeout_in_ms=200)
    (problem,) = problems(
        StepFailed, native.run_signatures, traps, SERVE, [Request("loop", {"x": np.float32(1)})], timeout=60, config=config
    )
    assert problem.what == "request 0 (loop): DEADLINE_EXCEEDED: Timed out waiting for notification"


# ---- refusals ----


def test_requests_that_fit_no_signature_come_all_together(line):
    x = np.float32([1])
    requests = [Request("serving", {"x": x}), Request(DEFAULT, {"X": x}), Request(DEFAULT, {"x": x})]
    assert problems(StepFailed, native.run_signatures, line, SERVE, requests) == [
        Problem(str(line), "request 0 (serving): no such signature", "did you mean serving_default?"),
        Problem(str(line), "request 1 (serving_default): the input x is missing"),
        Problem(str(line), "request 1 (serving_default): X is no input of the signature", "did you mean x?"),
    ]


def test_sparse_tensors_are_in_no_request(line, tmp_path):
    copy = copied(line, tmp_path)
    saved = SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    saved.meta_graphs[0].signature_def["only_y"].outputs["y"].coo_sparse.values_tensor_name = "y:0"
    (copy / "saved_model.pb").write_bytes(saved.SerializeToString())
    requests = [Request("only_y", {"x": np.float32([1])})]
    assert problems(StepFailed, native.run_signatures, copy, SERVE, requests) == [
        Problem(
            str(copy),
            "request 0 (only_y): y is not a dense tensor",
            "give its parts, such as indices and values, aliases of their own",
        )
    ]


def test_unknown_tags_name_the_known_ones(line):
    assert problems(StepFailed, native.run, line, ["train"], []) == [
        Problem(str(line), "no meta graph has the tags [train]", "it has [gpu, serve], [serve]")
    ]


def test_what_tensorflow_refuses_comes_all_together_in_its_words(line):
    x = np.float32([1])
    runs = [({"x:0": x}, ["x:0"]), ({}, ["y:0"]), ({"x:0": x}, ["y:0"]), ({"x:0": x}, ["z"]), ({"x:0": x}, ["y:1"])]
    first, second, third, fourth = problems(StepFailed, native.run, line, SERVE, runs)
    assert first == Problem(str(line), "run 0: INVALID_ARGUMENT: x:0 is both fed and fetched.")
    assert second.what.startswith(
        "run 1: INVALID_ARGUMENT: You must feed a value for placeholder tensor 'x' with dtype float and shape [?]"
    )
    assert third == Problem(str(line), "run 3: NOT_FOUND: z is not in the graph")
    assert fourth == Problem(str(line), "run 4: NOT_FOUND: y:1 is not in the graph")
    assert not any("\n" in problem.what for problem in (first, second, third, fourth))


@pytest.mark.parametrize(
    ("signature", "value", "text"),
    [
        ("float32", np.float64(1), "float32:0 is float32 and is fed float64"),
        ("float32", np.datetime64("2020-01-01"), "float32:0 is float32 and is fed datetime64[D]"),
        ("float32", np.array(b"1"), "float32:0 is float32 and is fed string"),
        ("string", np.int64(1), "string:0 is string and is fed int64"),
        ("string", np.array([b"1", None], object), "None is neither bytes nor str"),
    ],
)
def test_wrong_dtypes_are_refused(mirrors, signature, value, text):
    (problem,) = problems(StepFailed, ask, mirrors, signature, **{"in": value})
    assert problem == Problem(str(mirrors), f"request 0 ({signature}): INVALID_ARGUMENT: {text}")


def test_handles_are_not_fetched(words):
    with v1.Session(graph=tf.Graph()) as session:
        tf.compat.v1.saved_model.load(session, SERVE, str(words))
        table = next(op.outputs[0].name for op in session.graph.get_operations() if op.type == "HashTableV2")
    (problem,) = problems(StepFailed, native.run, words, SERVE, [({}, [table])])
    assert problem.what == f"run 0: UNIMPLEMENTED: {table} is a handle, not an array"


# ---- broken SavedModels ----


def broken(directory, allowed=(), **inputs):
    """The one thing that is said of a broken SavedModel, which is named by its directory."""
    (problem,) = problems(StepFailed, partial(ask, allowed=allowed), directory, **inputs)
    assert problem.where == str(directory)
    assert "\n" not in problem.what
    return problem.what


def test_missing_variables_load_and_then_fail(line, tmp_path):
    copy = copied(line, tmp_path)
    (copy / "variables" / "variables.index").unlink()
    native.run(copy, SERVE, [])
    said = broken(copy, x=np.float32([1]))
    assert said.startswith("request 0 (serving_default): FAILED_PRECONDITION: ")


def test_a_flipped_byte_fails_the_load(line, tmp_path):
    copy = copied(line, tmp_path)
    shard = copy / "variables" / "variables.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[0] ^= 1
    shard.write_bytes(data)
    said = broken(copy, x=np.float32([1]))
    assert said.startswith("loading: DATA_LOSS: ") and "Checksum does not match" in said


def test_truncated_variables_fail_the_load(line, tmp_path):
    copy = copied(line, tmp_path)
    os.truncate(copy / "variables" / "variables.data-00000-of-00001", 3)
    assert broken(copy, x=np.float32([1])).startswith("loading: OUT_OF_RANGE: ")


def test_a_missing_asset_fails_the_load(words, tmp_path):
    copy = copied(words, tmp_path)
    (copy / "assets" / "words.txt").unlink()
    said = broken(copy, word=np.array([b"one"], object))
    assert said.startswith("loading: NOT_FOUND: ") and "words.txt; No such file or directory" in said


def test_a_truncated_graph_is_not_loaded(line, tmp_path):
    copy = copied(line, tmp_path)
    os.truncate(copy / "saved_model.pb", (copy / "saved_model.pb").stat().st_size - 7)
    (problem,) = problems(BindingError, native.run, copy, SERVE, [])
    assert problem.where == str(copy / "saved_model.pb") and problem.what.startswith(
        "is truncated: at least 7 bytes are missing"
    )


def test_no_saved_model(tmp_path):
    (problem,) = problems(BindingError, native.run, tmp_path, SERVE, [])
    assert (problem.where, problem.what) == (str(tmp_path / "saved_model.pb"), "no such file")


def test_unknown_ops_fail_the_load(line, tmp_path):
    copy = copied(line, tmp_path)
    saved = SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    for meta in saved.meta_graphs:
        meta.graph_def.node.add(name="odd", op="GatherTreeOfTheDead")
    (copy / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(BindingError, match=r"can do what is not known: odd \(GatherTreeOfTheDead\); "):
        ask(copy, x=np.float32([1]))
    said = broken(copy, allowed=["unknown"], x=np.float32([1]))
    assert said.startswith("loading: NOT_FOUND: ") and "GatherTreeOfTheDead" in said


# ---- what dies ----


@pytest.mark.usefixtures("fresh_interpreters")
def test_a_failed_check_kills_only_the_worker(traps):
    good = Request("convolve", {"image": np.zeros((1, 4, 4, 1), np.float32)})
    wrong_rank = Request("convolve", {"image": np.zeros((4, 4), np.float32)})
    (problem,) = problems(StepFailed, native.run_signatures, traps, SERVE, [good, wrong_rank, good])
    assert problem.where == str(traps)
    assert problem.what.startswith(
        "request 1 (convolve): the process that served it died of SIGABRT; its last line: Check failed: index >= 0"
    )
    assert problem.do == "a model server would die as well: let the graph check what it is fed"


def test_a_refusal_before_the_death_is_said_too(traps):
    runs = [({}, ["nothing"]), ({"image:0": np.zeros((4, 4), np.float32)}, ["Conv2D:0"])]
    refused, died = problems(StepFailed, native.run, traps, SERVE, runs)
    assert refused.what == "run 0: NOT_FOUND: nothing is not in the graph"
    assert died.what.startswith("run 1: the process that served it died of SIGABRT; its last line: Check failed:")


@pytest.mark.usefixtures("fresh_interpreters")
def test_a_run_that_never_ends_is_ended(traps):
    requests = [Request("rearranged", {"x": np.float32(1)}), Request("loop", {"x": np.float32(1)})]
    assert problems(StepFailed, native.run_signatures, traps, SERVE, requests, timeout=5) == [
        Problem(
            str(traps),
            "request 1 (loop): the process that served it took longer than 5 s",
            "raise the timeout, or look for a loop or a queue that waits for ever",
        )
    ]


def test_a_run_does_not_outlive_its_parent(traps):
    run = f"native.run({str(traps)!r}, ['serve'], [({{'x:0': np.float32(1)}}, ['while:0'])])"
    code = f"import numpy as np; from exportkit.serving import native; {run}"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        worker = eventually(lambda: Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())[0]
        eventually(lambda: "libtensorflow_cc" in Path(f"/proc/{worker}/maps").read_text())
        parent.kill()
    assert eventually(lambda: state(worker) in "XZ")


def eventually(condition, seconds=60):
    """What `condition` gives as soon as it is true."""
    for _ in range(seconds * 20):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("in vain")


def state(process):
    """The state of a process: R, S, Z …; X where it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@pytest.mark.slow
def test_more_memory_than_there_is(traps):
    (problem,) = problems(StepFailed, ask, traps, "fill", shape=np.int64([2**40, 2**10]))
    assert problem.what.startswith(
        "request 0 (fill): RESOURCE_EXHAUSTED: OOM when allocating tensor with shape[1099511627776,1024]"
    )


@pytest.fixture
def worker_that(fresh_interpreters, monkeypatch, tmp_path):
    """Puts an ml_dtypes on the worker's path that does something else when it is imported."""

    def install(code):
        (tmp_path / "ml_dtypes.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def test_killed_from_outside(line, worker_that):
    worker_that("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert problems(EnvironmentFailed, native.run, line, SERVE, []) == [
        Problem(
            str(line),
            "loading: the process that served it was killed by SIGKILL, most likely because memory ran out",
            "free some memory",
        )
    ]


def test_dead_without_a_word(line, worker_that):
    noise = "E0000 00:00:1.2 3 cuda_platform.cc:52] failed call to cuInit"
    worker_that(f"import os, signal; os.write(2, b'{noise}'); os.kill(os.getpid(), signal.SIGSEGV)")
    (problem,) = problems(StepFailed, native.run, line, SERVE, [])
    assert problem.what == "loading: the process that served it died of SIGSEGV"


def test_a_worker_that_cannot_start(line, worker_that):
    worker_that("raise ImportError('no such luck')")
    assert problems(EnvironmentFailed, native.run, line, SERVE, []) == [
        Problem(
            str(line), "loading: the process that served it ended with exit code 1; its last line: ImportError: no such luck"
        )
    ]


# ---- the session in this process ----


def test_session_raises_the_status(line, tmp_path):
    with Graph() as graph, Session.load(graph, str(line), SERVE) as session, pytest.raises(StatusError) as caught:
        session.run({"x:0": np.float32([1])}, ["z:0"])
    assert caught.value.args == ("NOT_FOUND", "z:0 is not in the graph")
    with pytest.raises(StatusError) as caught:
        Session.load(Graph(), str(tmp_path), SERVE)
    assert caught.value.args[0] == "NOT_FOUND" and str(tmp_path) in caught.value.args[1]
    with pytest.raises(StatusError) as caught:
        Session.load(Graph(), str(line), SERVE, b"\xff")
    assert caught.value.args == ("INVALID_ARGUMENT", "Unparseable ConfigProto")


def test_quantized_values_travel_as_integers(tmp_path):
    with tf.Graph().as_default():
        x = v1.placeholder(tf.qint8, [2], "x")
        write(tmp_path / "model", serving_default=({"x": x}, {"y": tf.identity(x)}))
    answer = ask(tmp_path / "model", x=np.int8([-3, 4]))["y"]
    assert (answer.dtype, answer.tolist()) == (np.int8, [-3, 4])


def test_dtype_numbers_are_tensorflows():
    names = {number: tf.dtypes.as_dtype(number).name for number in tensors.ARRAYS}
    ours = {number: np.dtype(dtype).name for number, dtype in tensors.ARRAYS.items()}
    assert {n: name for n, name in ours.items() if name != names[n].removeprefix("q")} == {}
    assert tf.string.as_datatype_enum == tensors.STRING


def test_code_names_are_tensorflows():
    from tensorflow.core.protobuf import error_codes_pb2

    assert list(capi.CODES) == [error_codes_pb2.Code.Name(number) for number in range(len(capi.CODES))]


def test_the_worker_imports_neither_tensorflow_nor_more_of_this_package_than_its_core():
    code = f"import runpy, sys; runpy.run_path({worker.__file__!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "ml_dtypes" in modules
    assert not {"tensorflow", "google.protobuf"} & set(modules)
    ours = [
        "core",
        "core.capi",
        "core.graph",
        "core.tensors",
        "errors",
        "lazy",
        "printable",
        "processes",
        "processes.tensorflow",
    ]
    assert sorted(name for name in modules if "exportkit." in name) == [f"exportkit.{name}" for name in ours]


# ---- strangers' models ----


@pytest.fixture(scope="module")
def corpus():
    if "EXPORTKIT_CORPUS" not in os.environ:
        pytest.skip("EXPORTKIT_CORPUS names no folder of SavedModels")
    return Path(os.environ["EXPORTKIT_CORPUS"])


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("half_plus_two_cpu", [[1], [2]], [[2.5], [3]]),
        ("half_plus_two_tf2_cpu", [1, 2], [2.5, 3]),
        ("half_plus_three", [1, 2], [3.5, 4]),
    ],
)
def test_half_plus(corpus, name, x, y):
    assert ask(corpus / f"saved_models/saved_model_{name}/123", x=np.float32(x))["y"].tolist() == y


def test_examples_of_half_plus_two(corpus):
    examples = np.array([example(x=float(x)) for x in (1, 2)], object)
    directory = corpus / "saved_models/saved_model_half_plus_two_cpu/123"
    assert ask(directory, "regress_x_to_y", inputs=examples)["outputs"].tolist() == [[2.5], [3]]


def test_a_gpu_pin_on_a_cpu_server(corpus):
    said = broken(corpus / "saved_models/saved_model_half_plus_two_gpu/123", x=np.float32([[1]]))
    assert "INVALID_ARGUMENT: Cannot assign a device for operation" in said


def test_an_estimator_with_vocabularies(corpus):
    directory = corpus / "iterator-estimator/saved_model"
    answer = ask(directory, "predict", examples=np.array([example()] * 2, object))
    assert answer["probabilities"].shape == (2, 2)
    np.testing.assert_allclose(answer["probabilities"].sum(axis=1), 1, rtol=1e-6)
    assert answer["classes"].tolist() == [[str(n).encode()] for n in answer["class_ids"][:, 0]]


def example(**features):
    values = {key: tf.train.Feature(float_list=tf.train.FloatList(value=[value])) for key, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


# ---- one process for several models ----


def test_a_process_has_one_model_after_the_other(line, traps):
    with Host(Sandbox([line, traps])) as host:
        first, second = (Running(line, ["serve"], host=host) for _ in range(2))
        fed = {"x": np.array([2.0], np.float32)}
        asked = [
            model.ask("serving_default", {"x": np.array([2.0], np.float32)})["y"].tolist() for model in (first, first, second)
        ]
        assert asked == [[8.0], [8.0], [8.0]]
        assert (first.loads, second.loads, host.holder is second) == (1, 1, True)
        optimized = second.configured(running.unoptimized())
        optimized.load()
        assert (optimized.loads, second.loads, host.holder is optimized) == (1, 1, True)
        first.load()
        first.renew()
        assert host.holder is first  # it has answered nothing since it was loaded
        first.run({}, [])
        first.renew()
        assert (first.loads, host.holder) == (2, None)
        assert [answer["y"].tolist() for answer in first.answers([Request("serving_default", fed)] * 2)] == [[8.0], [8.0]]
        with pytest.raises(StepFailed) as refused:
            first.answers([Request("serving_default", fed), Request("serving_default", {}), Request("none", fed, "mine")])
        assert str(refused.value).splitlines() == [
            f"{line}: request 1 (serving_default): the input x is missing",
            f"{line}: mine: no such signature",
        ]


def test_a_process_that_dies_is_started_again(line, tmp_path):
    with Host(Sandbox([line])) as host, pytest.MonkeyPatch.context() as patch:
        model = Running(line, ["serve"], host=host)
        model.load()
        os.kill(host._worker._process.pid, signal.SIGKILL)
        with pytest.raises(EnvironmentFailed, match="was killed by SIGKILL"):
            model.run({}, [])
        assert model.ask("serving_default", {"x": np.array([2.0], np.float32)})["y"].tolist() == [8.0]
        assert model.loads == 2
        patch.setattr("exportkit.core.host.conversation", None)  # none is started for what is refused before
        with pytest.raises(StepFailed, match="no meta graph has the tags"):
            Running(line, ["gpu"], host=host)


def test_answers_are_remembered_where_that_is_asked_for(line):
    with Host(Sandbox([line])) as host, pytest.MonkeyPatch.context() as patch:
        model = Running(line, ["serve"], host=host)
        remembering, runs, run = model.configured(ConfigProto(), remembers=True), [], Running.run
        patch.setattr(Running, "run", lambda self, feeds, fetches: runs.append(self) or run(self, feeds, fetches))
        two, one = {"x": np.array([2.0, 3.0], np.float32)}, {"x": np.array([[2.0, 3.0]], np.float32)}
        first = remembering.ask("serving_default", two)
        assert remembering.answer("serving_default", two, 0) is first
        again = remembering.answer("serving_default", two, 1)
        assert (again is first, again["y"].tolist()) == (False, first["y"].tolist())
        assert remembering.answers([Request("serving_default", two)], 1) == [again]
        assert len(runs) == 2
        remembering.answer("serving_default", one, 0)  # the same bytes in another shape
        assert len(runs) == 3
        assert isinstance(remembering.answer("none", two, 0), Refusal)
        model.ask("serving_default", two)
        model.answer("serving_default", two, 0)
        assert runs == [*[remembering] * 3, *[model] * 2]


def test_large_answers_are_not_remembered(monkeypatch):
    value, request = {"y": np.zeros(8, np.float32)}, request_key("serving_default", {"x": np.float32(1)})
    monkeypatch.setattr("exportkit.serving.remembered._MOST", 64)
    known = Remembered()
    for _ in range(3):
        known.add(request, value)
    assert known.to(request) == [value, value]


def test_a_host_that_was_killed_is_started_anew(line):
    with Host(Sandbox([line])) as host:
        (version, ops), _, error = host.call("describe")
        host.kill()
        assert host.holder is None
        assert host.call("describe")[0] == (version, ops)
    assert error is None
