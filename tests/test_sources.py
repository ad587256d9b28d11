"""The built-in sources: what they call, with what, and that the values they yield are bit for bit the right ones."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from exportkit import metagraph
from exportkit.capture import compare
from exportkit.checkpoint import Bundle
from exportkit.errors import BindingError, ConfigError, ExportKitError, WeightsError
from exportkit.plugin import SourceModel, capture
from exportkit.sources.encoder import EncoderSource, ModelConfig
from exportkit.sources.graph_builder import GraphBuilder
from exportkit.sources.meta_graph import MetaGraphSource
from exportkit.testing.graphs import ramp

v1 = tf.compat.v1

HEADER = """
import numpy as np
import tensorflow as tf
from exportkit.testing import graphs
from exportkit.testing.graphs import ramp, variable
v1 = tf.compat.v1
called = []

def restore(session):
    session.run(v1.global_variables_initializer())
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A factory of modules of the user: ``code("def build(): ...")`` is importable as ``user_code``."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_code", raising=False)

    def make(text):
        (tmp_path / "user_code.py").write_text(HEADER + text)
        importlib.invalidate_caches()
        return "user_code"

    yield make
    sys.modules.pop("user_code", None)


@pytest.fixture
def scratch(tmp_path):
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def refusal(kind, function, *args, **kwargs):
    with pytest.raises(kind) as caught:
        function(*args, **kwargs)
    assert type(caught.value) is kind
    return str(caught.value)


def values(model):
    bundle = Bundle(model.checkpoint)
    return {name: bundle.read(name) for name in bundle.entries}


def assert_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert found[name].tobytes() == value.tobytes(), name


def builder(module, **fields):
    """A graph_builder source of the user's `build`."""
    return GraphBuilder(kind="graph_builder", builder=f"{module}:build", **fields)


def built(source, scratch, wanted):
    """What a source builds of what it told of."""
    return source.build(source.preview(), scratch, wanted)


def called():
    """What the user's module says it was called with."""
    return sys.modules["user_code"].called


# meta_graph


def test_a_meta_graph_is_what_lies_on_disk(checkpoint, scratch):
    saved = checkpoint("dense")
    source = MetaGraphSource(kind="meta_graph", checkpoint=Path(saved.prefix).parent)
    model = built(source, scratch, [])
    assert model == SourceModel(metagraph.read(saved.meta), saved.prefix)
    assert list(scratch.iterdir()) == []
    preview = source.preview()
    assert (preview.checkpoint, preview.problems, preview.checked) == (saved.prefix, [], [f"graph {saved.meta}"])
    assert preview.meta_graph == model.meta_graph


def test_a_meta_of_another_name(checkpoint, copied, scratch):
    prefix = copied("dense")
    Path(f"{prefix}.meta").rename("graph.pb")
    source = MetaGraphSource(kind="meta_graph", checkpoint=prefix, meta=Path("graph.pb"))
    assert built(source, scratch, []).meta_graph == metagraph.read(checkpoint("dense").meta)


# graph_builder: what a builder may return


@pytest.mark.parametrize(
    ("returned", "tensors", "captured"),
    [
        ("None", {}, False),
        ("graphs.averaged()", {}, False),
        ("{'in': x, 'out': 'y:0', 'slope': slope}", {"in": "x:0", "out": "y:0", "slope": "slope:0"}, False),
        ("restore", {}, True),
        ("({'out': y}, restore)", {"out": "y:0"}, True),
        ("({'out': y}, None)", {"out": "y:0"}, False),
        ("(None, restore)", {}, True),
        ("(None, None)", {}, False),
    ],
)
def test_what_a_builder_may_return(returned, tensors, captured, code, checkpoint, scratch):
    module = code(f"""
def build():
    x = v1.placeholder(tf.float32, [None], "x")
    slope = variable("slope", np.float32(9))
    y = tf.multiply(x, slope, name="y")
    return {returned.replace("graphs.averaged()", "None")}
""")
    given = checkpoint("averaged").prefix
    model = built(builder(module, checkpoint=Path(given)), scratch, ["y:0"])
    assert model.tensors == tensors
    assert (model.checkpoint == given) is not captured
    if captured:
        assert_bits(values(model), {"slope": np.float32(9)})
        assert model.notes == ["0/1 equal to the checkpoint, 1 set by restore_fn (slope)"]


PARTS = "return a mapping of names to tensors, a restore function, both as a pair, or nothing"


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (
            "3",
            "builder: user_code:build returned an int; " + PARTS,
        ),
        (
            "(restore, {})",
            "builder: user_code:build returned a tuple; " + PARTS,
        ),
        ("{'a': 3, 'b': x}", "builder: user_code:build returned an int as 'a'; return tensors or their names"),
        (
            "{'a': 'y:0'}",
            "builder: user_code:build returned 'y:0' as 'a', which is no tensor of the graph; did you mean x:0?",
        ),
        (
            "{'a': type('OfAnotherGraph', (), {'name': 'x:0', 'graph': tf.Graph()})()}",
            "builder: user_code:build returned 'x:0' as 'a', which is no tensor of the graph; "
            "return tensors of the graph that is the default when it is called",
        ),
    ],
)
def test_what_a_builder_may_not_return(returned, text, code, checkpoint, scratch):
    module = code(f"def build():\n    x = tf.constant(1.0, name='x')\n    return {returned}")
    source = builder(module, checkpoint=Path(checkpoint("dense").prefix))
    assert refusal(ConfigError, built, source, scratch, []) == text


def test_a_builder_has_its_params_and_a_fresh_graph(code, checkpoint, scratch):
    module = code("def build(size, *, names=()):\n    called.append((size, names))\n    tf.constant(1.0, name='x')")
    before = tf.compat.v1.get_default_graph()
    params = {"size": 3, "names": ["a"]}
    prefix = Path(checkpoint("dense").prefix)
    for _ in range(2):
        model = built(builder(module, params=params, checkpoint=prefix), scratch, [])
        assert [node.name for node in model.meta_graph.graph_def.node] == ["x"]
    assert called() == [(3, ["a"]), (3, ["a"])]
    assert tf.compat.v1.get_default_graph() is before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def build():\n    1 / 0", "builder: raised ZeroDivisionError: division by zero ({file}:12)"),
        ("build = 3", "builder: is an int and cannot be called; name a function or class"),
        (
            "def build(size): ...",
            "builder: raised TypeError: build() missing 1 required positional argument: 'size'",
        ),
        ("import sys\ndef build():\n    sys.exit(4)", "builder: raised SystemExit: 4 ({file}:13)"),
        (
            "def build():\n    return tf.zeros(2).numpy()",
            "builder: raised AttributeError: 'SymbolicTensor' object has no attribute 'numpy' ({file}:12)",
        ),
        (
            "def build():\n    with tf.Graph().as_default(): tf.constant(1.0)",
            "builder: left an empty graph; "
            "build in the graph that is the default when it is called, not in a tf.Graph of its own",
        ),
        (
            "x = 1",
            "builder: importing 'user_code:build' raised AttributeError: module 'user_code' has no attribute 'build'",
        ),
    ],
)
def test_a_builder_that_fails(text, told, code, scratch, tmp_path):
    source = builder(code(text))
    assert refusal(ConfigError, built, source, scratch, []) == told.format(file=tmp_path / "user_code.py")


@pytest.mark.parametrize(
    ("line", "do"),
    [
        (
            "import tensorflow; tensorflow.placeholder('float')",
            "it is code of TensorFlow 1: write import tensorflow.compat.v1 as tf",
        ),
        (
            "import tensorflow; tensorflow.contrib.layers",
            "TensorFlow 2 has no tf.contrib: pip install tf_slim for contrib.layers, slim and framework; contrib.rnn is "
            "tf.compat.v1.nn.rnn_cell; contrib.training.HParams can be a class of your own",
        ),
        (
            "tf.zeros([3, 2]).shape[0].value",
            "set source.v2_tensorshape=false: the code reads shape[i].value, as TensorFlow 1 has it",
        ),
        (
            "raise AttributeError('`dense` is not available with Keras 3.')",
            "pip install tf-keras: exportkit then sets TF_USE_LEGACY_KERAS=1, which tf.compat.v1.layers and rnn_cell need",
        ),
    ],
)
def test_code_of_tensorflow_1_is_told_what_it_needs(line, do, code, scratch):
    source = builder(code(f"def build():\n    {line}"))
    assert refusal(ConfigError, built, source, scratch, []).endswith(f"user_code.py:12); {do}")


def test_dimensions_are_objects_where_the_config_says_so(code, checkpoint, scratch):
    text = "def build():\n    graphs.averaged()\n    tf.zeros([tf.zeros([3, 2]).shape[0].value], name='three')"
    source = builder(code(text), checkpoint=Path(checkpoint("averaged").prefix), v2_tensorshape=False)
    model = built(source, scratch, [])
    assert metagraph.Graph(model.meta_graph).shape("three:0") == (3,)
    assert type(tf.zeros([3]).shape[0]) is int


def test_values_have_to_come_from_somewhere(code, scratch):
    source = builder(code("build = graphs.averaged"))
    assert refusal(ConfigError, built, source, scratch, []) == (
        "checkpoint: is not set, and the builder returned no restore function; set it"
    )


# Captured values


@pytest.mark.parametrize("name", ["dense", "resources", "partitioned", "queued", "averaged", "integers"])
def test_captured_values_are_bit_for_bit_those_of_the_session(name, code, checkpoint, scratch):
    module = code(f"def build():\n    graphs.{name}()\n    return restore")
    saved = checkpoint(name)
    source = builder(module, checkpoint=Path(saved.prefix))
    model = built(source, scratch, [])
    assert_bits(values(model), saved.values)
    assert model.notes == [f"{len(saved.values)}/{len(saved.values)} equal to the checkpoint"]


def test_without_a_checkpoint_the_note_says_so(code, scratch):
    source = builder(code("def build():\n    graphs.dense()\n    return restore"))
    assert built(source, scratch, []).notes == ["values as restore_fn left them"]


def test_only_what_is_wanted_is_captured(code, scratch):
    module = code("def build():\n    return graphs.dense(), restore")
    source = builder(module)
    assert_bits(
        values(built(source, scratch, ["scores", "x:0"])), {"dense/kernel": ramp(4, 3), "dense/bias": ramp(3, start=5.0)}
    )


def test_what_a_wanted_operation_needs_is_captured(code, scratch):
    module = code("def build():\n    return graphs.dense(), restore")
    source = builder(module)
    assert sorted(values(built(source, scratch, ["scores", "train"]))) == [
        "beta1_power",
        "beta2_power",
        "dense/bias",
        "dense/bias/Adam",
        "dense/bias/Adam_1",
        "dense/kernel",
        "dense/kernel/Adam",
        "dense/kernel/Adam_1",
    ]


def test_a_name_that_is_not_there_is_left_to_binding(code, scratch):
    module = code("def build():\n    return graphs.averaged() or restore")
    source = builder(module)
    assert sorted(values(built(source, scratch, ["y:0", "nothing:0"]))) == ["offset", "slope"]


def in_session(build, restore=None, **options):
    """What `capture` makes of a graph that `build` builds, in a session after `restore`."""
    scratch = Path("captured_here")
    scratch.mkdir()
    with tf.Graph().as_default() as graph:
        built = build()
        if options.pop("finalize", False):
            graph.finalize()
        with v1.Session(graph=graph) as session:
            if restore:
                restore(session)
            return capture(graph, session, scratch, **options), graph, built


def load(**named):
    """A restore function that sets variables without adding to the graph."""

    def restore(session):
        for variable in v1.global_variables() + v1.local_variables():
            variable.load(named[variable.op.name], session) if variable.op.name in named else None

    return restore


def test_local_variables_are_captured():
    def build():
        local = v1.get_variable("count", initializer=np.int64(0), collections=[v1.GraphKeys.LOCAL_VARIABLES])
        tf.add(local, 1, name="y")

    model, _, _ = in_session(build, load(count=41))
    assert_bits(values(model), {"count": np.int64(41)})


@pytest.mark.parametrize("resource", [True, False])
def test_variables_of_no_collection_are_captured(resource):
    def build():
        tf.add(v1.get_variable("w", initializer=2.5, collections=[], use_resource=resource), 1, name="y")

    def restore(session):
        session.run("w/Assign")

    model, _, _ = in_session(build, restore)
    assert_bits(values(model), {"w": np.float32(2.5)})


def test_a_finalized_graph_is_captured_and_nothing_is_added():
    def build():
        return tf.multiply(v1.get_variable("w", initializer=2.5), 2.0, name="y")

    model, graph, _ = in_session(build, lambda session: session.run("w/Assign"), finalize=True)
    assert graph.finalized
    assert len(graph.get_operations()) == len(model.meta_graph.graph_def.node)
    assert_bits(values(model), {"w": np.float32(2.5)})


@pytest.mark.parametrize("resource", [True, False])
def test_all_uninitialised_variables_are_named(resource):
    def build():
        a, b, c = (v1.get_variable(name, initializer=1.0, use_resource=resource) for name in "abc")
        tf.add(a * b, c, name="y")

    assert refusal(WeightsError, in_session, build, lambda session: session.run("b/Assign")) == (
        "variable 'a': has no value in the session; restore or initialise it in restore_fn\n"
        "variable 'c': has no value in the session; restore or initialise it in restore_fn"
    )


def test_an_uninitialised_variable_that_nothing_needs_is_none_of_our_business():
    def build():
        v1.get_variable("unused", initializer=1.0)
        tf.multiply(v1.get_variable("w", initializer=2.5), 2.0, name="y")

    model, _, _ = in_session(build, lambda session: session.run("w/Assign"), wanted=["y"])
    assert_bits(values(model), {"w": np.float32(2.5)})


def test_a_mutable_table_is_refused_by_name():
    def build():
        table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1, name="words")
        tf.identity(table.lookup(tf.constant(["a"])), name="ids")
        tf.constant(1.0, name="other")

    text = refusal(BindingError, in_session, build, wanted=["ids:0"])
    assert text == "words: is a MutableHashTableV2, whose content no checkpoint holds; bake its content into an immutable table"
    Path("captured_here").rmdir()
    in_session(build, wanted=["other:0"])


def test_a_resource_variable_that_only_a_branch_reads():
    def build():
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="w", name="w")
        tf.raw_ops.AssignVariableOp(resource=handle, value=1.0)
        v1.cond(
            v1.placeholder_with_default(True, []),
            lambda: tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32),
            lambda: 0.0,
            name="y",
        )

    assert refusal(WeightsError, in_session, build) == (
        "variable 'w': is read nowhere outside of branches and functions; read it once at the top (variable.read_value())"
    )


# Comparing with the checkpoint


def bundle(tmp_path, name, **arrays):
    from exportkit.checkpoint import BundleWriter

    with BundleWriter(tmp_path / name) as writer:
        for key, array in arrays.items():
            writer.add(key, array)
    return str(tmp_path / name)


def test_a_comparison_names_what_is_different(tmp_path):
    same = {f"layer_{i}": ramp(3, start=i) for i in range(27)}
    ours = bundle(tmp_path, "ours", **same, a=np.float32(1), b=np.zeros(2), c=np.int32(1), d=np.float32(0), e=np.float32(5))
    theirs = bundle(tmp_path, "theirs", **same, a=np.float32(2), b=np.zeros((1, 2)), c=np.int64(1), d=np.float32(-0.0))
    assert compare(ours, ours) == "32/32 equal to the checkpoint"
    assert compare(ours, theirs) == "27/32 equal to the checkpoint, 5 set by restore_fn (a, b, c, d, e)"


def test_a_long_list_of_differences_is_shortened(tmp_path):
    ours = bundle(tmp_path, "ours", **{f"v{i}": np.float32(i) for i in range(9)})
    theirs = bundle(tmp_path, "theirs", other=np.float32(0))
    assert compare(ours, theirs) == "0/9 equal to the checkpoint, 9 set by restore_fn (v0, v1, v2, v3, v4 and 4 more)"


def test_a_variable_saved_in_parts_is_compared_by_value(tmp_path, checkpoint):
    theirs = checkpoint("partitioned").prefix
    assert compare(bundle(tmp_path, "a", **{"embedding/table": ramp(7, 2)}), theirs) == "1/1 equal to the checkpoint"
    assert compare(bundle(tmp_path, "b", **{"embedding/table": ramp(7, 2, start=1)}), theirs) == (
        "0/1 equal to the checkpoint, 1 set by restore_fn (embedding/table)"
    )


def test_a_restore_function_that_changes_some(code, checkpoint, scratch):
    module = code(
        """
def build():
    graphs.dense()
    saver = v1.train.Saver()
    def restore(session):
        saver.restore(session, CHECKPOINT)
        for variable in v1.global_variables():
            if "bias" in variable.op.name and "Adam" not in variable.op.name:
                variable.load([0.0, 0.0, 1.0], session)
    return restore
""".replace("CHECKPOINT", repr(checkpoint("dense").prefix))
    )
    source = builder(module, checkpoint=Path(checkpoint("dense").prefix))
    model = built(source, scratch, [])
    assert model.notes == ["7/8 equal to the checkpoint, 1 set by restore_fn (dense/bias)"]
    assert_bits(values(model), checkpoint("dense").values | {"dense/bias": np.array([0, 0, 1], np.float32)})


def test_a_restore_function_that_raises(code, scratch, tmp_path):
    module = code("def build():\n    graphs.averaged()\n    return lambda session: 1 / 0")
    source = builder(module)
    assert refusal(ConfigError, built, source, scratch, []) == (
        f"builder (restore function): raised ZeroDivisionError: division by zero ({tmp_path}/user_code.py:13)"
    )


# encoder

ENCODER = """
class Encoder:
    def __init__(self, size=1):
        self.size = size

    def one(self, config):
        called.append((config,))
        self.graph(config.dim)

    def two(self, config, checkpoint_path):
        called.append((config, checkpoint_path))
        self.graph(config["dim"])

    def three(self, model_config, track_config, checkpoint_path=None):
        called.append((model_config, track_config, checkpoint_path))
        self.graph(model_config.inner.dim)

    def defaulted(self, config, mode="serve", *, quick=True):
        called.append((config, mode, quick))
        self.graph(config.get("dim"))

    def graph(self, dim):
        tf.multiply(v1.get_variable("w", initializer=ramp(dim)), self.size, name="y")

    def restored(self, config):
        self.one(config)
        return restore

    def finalized(self, config):
        self.one(config)
        init = v1.global_variables_initializer()
        v1.get_default_graph().finalize()
        return lambda session: session.run(init)

    def broken(self, config):
        return config.dimm

    def odd(self, config):
        self.one(config)
        return "restore"

    @staticmethod
    def static(config):
        called.append((config,))
        tf.constant(1.0)
"""


@pytest.fixture
def encoder(code, checkpoint):
    """A factory of encoder sources: a method's name, its config, and other fields."""
    code(ENCODER)

    def make(method, config, **fields):
        fields = {"checkpoint": Path(checkpoint("dense").prefix)} | fields
        return EncoderSource(kind="encoder", encoder="user_code:Encoder", method=method, config=config, **fields)

    return make


def test_an_encoder_is_called_with_its_config(encoder, scratch):
    built(encoder("one", {"dim": 3}, args={"size": 2}), scratch, [])
    assert called() == [({"dim": 3},)]


def test_an_encoder_is_called_with_the_checkpoints_prefix(encoder, scratch, checkpoint):
    prefix = checkpoint("dense").prefix
    built(encoder("two", {"dim": 3}, checkpoint=Path(prefix).parent), scratch, [])
    assert called() == [({"dim": 3}, prefix)]


@pytest.mark.parametrize("given", [True, False])
def test_an_encoder_is_called_with_two_configs(given, encoder, scratch, checkpoint):
    config = {"model_config": {"inner": {"dim": 3}}, "track_config": {"size": 1}}
    prefix = checkpoint("dense").prefix
    source = encoder("three", config, checkpoint=Path(prefix) if given else None)
    if given:
        built(source, scratch, [])
    else:
        assert refusal(ConfigError, built, source, scratch, []).startswith("checkpoint: is not set, and three returned no")
    assert called() == [({"inner": {"dim": 3}}, {"size": 1}, prefix if given else None)]


def test_defaults_of_other_parameters_hold(encoder, scratch):
    built(encoder("defaulted", {"dim": 3}), scratch, [])
    assert called() == [({"dim": 3}, "serve", True)]


def test_a_static_method_will_do(encoder, scratch):
    built(encoder("static", {"dim": 3}), scratch, [])
    assert called() == [({"dim": 3},)]


@pytest.mark.parametrize("method", ["restored", "finalized"])
def test_what_restore_fn_leaves_is_captured(method, encoder, scratch):
    model = built(encoder(method, {"dim": 3}, checkpoint=None), scratch, ["y:0"])
    assert_bits(values(model), {"w": ramp(3)})
    assert model.notes == ["values as restore_fn left them"]


def test_without_a_restore_function_the_checkpoint_is_the_values(encoder, scratch, checkpoint):
    model = built(encoder("one", {"dim": 3}), scratch, ["y:0"])
    assert (model.checkpoint, model.notes) == (checkpoint("dense").prefix, ())


@pytest.mark.parametrize(
    ("method", "fields", "text"),
    [
        (
            "broken",
            {},
            "method (broken): raised AttributeError: the config has no 'dimm'; did you mean dim? ({file}:46)",
        ),
        ("odd", {}, "method: user_code:Encoder.odd returned a str; return a function of a session, or None"),
        ("on", {}, "method: user_code:Encoder has no method 'on'; did you mean one?"),
        ("two", {"checkpoint": None}, "checkpoint: is not set, and two needs it; set it"),
        (
            "one",
            {"args": {"sise": 1}},
            "encoder: raised TypeError: Encoder.__init__() got an unexpected keyword argument 'sise'",
        ),
    ],
)
def test_an_encoder_that_fails(method, fields, text, encoder, scratch, tmp_path):
    told = refusal(ConfigError, built, encoder(method, {"dim": 3}, **fields), scratch, [])
    assert told == text.format(file=tmp_path / "user_code.py")


def test_a_model_config_is_read_by_attribute_and_by_item():
    config = ModelConfig({"dim": 3, "layers": [{"size": 1}], "inner": {"rate": 0.5}, 7: "seven"})
    assert (config.dim, config["dim"], config.get("none", 4)) == (3, 3, 4)
    assert (config.layers[0].size, config.inner.rate, config["inner"]["rate"]) == (1, 0.5, 0.5)
    assert (hasattr(config, "dim"), hasattr(config, "none"), "dim" in config) == (True, False, True)
    config.dim = 5
    assert config["dim"] == 5
    assert dict(**{k: v for k, v in config.items() if isinstance(k, str)})["inner"] == {"rate": 0.5}
    with pytest.raises(AttributeError, match=r"^the config has no 'dmi'; did you mean dim\?$"):
        _ = config.dmi


def test_errors_of_sources_are_plain(encoder, scratch):
    """What leaves a source has no traceback of TensorFlow in it and can be pickled."""
    import pickle

    with pytest.raises(ExportKitError) as caught:
        built(encoder("broken", {"dim": 3}), scratch, [])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
