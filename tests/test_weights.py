"""Every variable gets its value from one declared place: keys, rules, averages, initialisers, and what is refused."""

import time

import numpy as np
import pytest

from exportkit import metagraph
from exportkit.checkpoint import Bundle, BundleWriter
from exportkit.metagraph import Variable
from exportkit.planning import weights
from exportkit.spec import NameRule, Weights


@pytest.fixture
def bundle(tmp_path):
    """A factory of checkpoints with tensors of the given shapes, float32 but for those named step."""

    def make(**shapes):
        with BundleWriter(tmp_path / "model.ckpt") as writer:
            for name, shape in shapes.items():
                writer.add(name, np.zeros(shape, np.int64 if name == "step" else np.float32))
        return Bundle(tmp_path / "model.ckpt")

    return make


def variable(name, shape=(2,), dtype="float32"):
    return Variable(name, name, dtype, shape, False, None, name, shape, None, True, (), None)


def covered(bundle, variables, **config):
    hits, spec = set(), Weights(**config)
    coverage, problems = weights.cover([variable(v) if isinstance(v, str) else v for v in variables], bundle, spec, hits)
    problems += weights.unused(spec, hits)
    return coverage, [str(problem).replace(bundle.prefix, "CKPT") for problem in problems]


def rules(*pairs):
    return [NameRule(variable=pattern, key=key) for pattern, key in pairs]


EMA = "/ExponentialMovingAverage"


# Where values come from


def test_keys_of_their_own_names(bundle):
    saved = bundle(**{"a/kernel": (2,), "a/bias": (2,), "a/kernel/Adam": (2,)})
    coverage, problems = covered(saved, ["a/kernel", "a/bias"])
    assert problems == []
    assert coverage.keys == {"a/kernel": "a/kernel", "a/bias": "a/bias"}
    assert (coverage.summary(), coverage.notes) == ("2/2 variables from the checkpoint, 0 initialised", [])


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ([("^dnn/(.*)$", r"tower/dnn/\1")], "tower/dnn/w"),
        ([("dnn/(?P<leaf>.*)", r"tower/dnn/\g<leaf>")], "tower/dnn/w"),
        ([("dnn/w", "first"), ("dnn/.*", "second")], "first"),
        ([("dnn", "first"), ("dnn/w", "second")], "second"),
        ([("(?i)DNN/W", "first")], "first"),
    ],
)
def test_rules_match_whole_names_and_the_first_wins(pairs, key, bundle):
    saved = bundle(**{"tower/dnn/w": (2,), "first": (2,), "second": (2,)})
    coverage, _ = covered(saved, ["dnn/w"], names=rules(*pairs))
    assert coverage.keys == {"dnn/w": key}


def test_moving_averages_are_taken_where_there_are_some(bundle):
    saved = bundle(**{"a": (2,), f"a{EMA}": (2,), "b": (2,)})
    coverage, problems = covered(saved, ["a", "b"], moving_average=True)
    assert (coverage.keys, problems) == ({"a": f"a{EMA}", "b": "b"}, [])
    assert coverage.notes == ["1 moving averages taken, none for b"]


def test_moving_averages_that_are_not_used_are_mentioned(bundle):
    coverage, _ = covered(bundle(**{"a": (2,), f"a{EMA}": (2,), "b": (2,)}), ["a", "b"])
    assert coverage.keys == {"a": "a", "b": "b"}
    assert coverage.notes == ["1 moving averages not used; weights.moving_average=true takes them"]


def test_a_moving_average_of_a_mapped_name(bundle):
    coverage, problems = covered(bundle(**{f"t/a{EMA}": (2,)}), ["a"], moving_average=True, names=rules(("(.*)", r"t/\1")))
    assert (coverage.keys, problems) == ({"a": f"t/a{EMA}"}, [])


def test_initialised_only_where_the_config_says_so(bundle):
    coverage, problems = covered(bundle(a=(2,)), ["a", "head/w", "head/b"], initialize=["head/.*"])
    assert problems == []
    assert (coverage.keys, coverage.initialized) == ({"a": "a"}, ["head/w", "head/b"])
    assert coverage.summary() == "1/3 variables from the checkpoint, 2 initialised"


def test_parts_of_a_partitioned_variable_are_one(checkpoint):
    model = checkpoint("partitioned")
    graph = metagraph.Graph(metagraph.read(model.meta))
    saved = metagraph.saved_variables(graph.variables.values())
    assert {name: (v.shape, len(v.parts), v.trainable) for name, v in saved.items()} == {"embedding/table": ((7, 2), 3, True)}
    coverage, problems = weights.cover(graph.variables.values(), Bundle(model.prefix), Weights(), set())
    assert (coverage.keys, problems) == ({"embedding/table": "embedding/table"}, [])


def test_a_checkpoint_saved_by_objects_is_read_by_names(tmp_path):
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        kernel = tf.compat.v1.get_variable("dense/kernel", initializer=[1.0, 2.0], use_resource=True)
        session.run(kernel.initializer)
        prefix = tf.train.Checkpoint(layer=kernel).write(str(tmp_path / "objects"))
    coverage, problems = covered(Bundle(prefix), ["dense/kernel"])
    assert problems == []
    assert coverage.keys == {"dense/kernel": "layer/.ATTRIBUTES/VARIABLE_VALUE"}


def test_the_union_of_several_meta_graphs():
    first, second, twin = variable("a"), variable("b"), variable("a", (3,))
    assert weights.by_name([{"a": first}, {"b": second, "a": twin}]) == [first, second]


# What is refused

MAP = "map it with weights.names, or list it in weights.initialize"
ONE_RUN = "take the graph and the checkpoint of one run"


@pytest.mark.parametrize(
    ("variables", "config", "texts"),
    [
        (["zzz"], {}, [f"CKPT: variable 'zzz' is not in the checkpoint; {MAP}"]),
        (
            ["dens/kernel"],
            {},
            [f"CKPT: variable 'dens/kernel' is not in the checkpoint; its nearest keys: dense/kernel; {MAP}"],
        ),
        (["bias"], {}, [f"CKPT: variable 'bias' is not in the checkpoint; its nearest keys: dense/bias; {MAP}"]),
        (
            ["a"],
            {"names": rules(("a", "dense/kernal"))},
            [f"CKPT: variable 'a' (as 'dense/kernal') is not in the checkpoint; its nearest keys: dense/kernel; {MAP}"],
        ),
        (
            [variable("dense/kernel", (2, None))],
            {},
            [f"CKPT: variable 'dense/kernel' is [2, ?] in the graph and [4, 3] in the checkpoint; {ONE_RUN}"],
        ),
        ([variable("dense/kernel", (4, None))], {}, []),
        ([variable("dense/kernel", None)], {}, []),
        (
            [variable("dense/kernel", (4,))],
            {},
            [f"CKPT: variable 'dense/kernel' is [4] in the graph and [4, 3] in the checkpoint; {ONE_RUN}"],
        ),
        (
            [variable("count", (), "int32")],
            {"names": rules(("count", "step"))},
            [f"CKPT: variable 'count' (as 'step') is int32 in the graph and int64 in the checkpoint; {ONE_RUN}"],
        ),
        (
            [variable("dense/bias", (3,))],
            {"names": rules(("nothing", "x")), "initialize": ["nor_this"]},
            [
                "weights.names[0].variable: 'nothing' matches no variable; fix or drop the rule",
                "weights.initialize[0]: 'nor_this' matches no variable; fix or drop the pattern",
            ],
        ),
        (
            [variable("dense/bias", (3,))],
            {"initialize": ["dense"]},
            ["weights.initialize[0]: 'dense' matches no variable; fix or drop the pattern"],
        ),
    ],
)
def test_what_does_not_fit_is_told(variables, config, texts, bundle):
    saved = bundle(**{"dense/kernel": (4, 3), "dense/bias": (3,), "step": ()})
    assert covered(saved, variables, **config)[1] == texts


def test_the_wrong_checkpoint_is_told_shortly_and_at_once(bundle):
    saved = bundle(**{f"tower_{i % 7}/block_{i}/layer/kernel": (1,) for i in range(3000)})
    names = [f"model/stage_{i}/conv/weights" for i in range(1000)]
    started = time.process_time()
    problems = covered(saved, names)[1]
    assert time.process_time() - started < 5
    assert len(problems) == 11
    assert problems[10] == (
        "CKPT: 990 more variables are not in the checkpoint: model/stage_10/conv/weights, model/stage_11/conv/weights, "
        "model/stage_12/conv/weights, model/stage_13/conv/weights, model/stage_14/conv/weights and 985 more; is it the "
        "checkpoint of another model? it holds tower_0/block_0/layer/kernel, tower_0/block_1001/layer/kernel, "
        "tower_0/block_1008/layer/kernel, tower_0/block_1015/layer/kernel, tower_0/block_1022/layer/kernel and 2995 more"
    )


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        ({"names": rules(("^dnn/(.*)$", r"t/\1")), "initialize": ["head/.*"]}, []),
        ({"names": rules(("(?i)dnn/(?P<leaf>.*)", r"t/\g<leaf>"))}, []),
        (
            {"names": rules(("dnn/(", "x"))},
            [
                "weights.names[0].variable: 'dnn/(' is not a regular expression: "
                "missing ), unterminated subpattern at position 4; fix it"
            ],
        ),
        (
            {"names": rules(("dnn", r"t/\1"))},
            [
                r"weights.names[0].key: 't/\1' does not fit the expression: invalid group reference 1 at position 3; "
                r"write \1 for its first group"
            ],
        ),
        (
            {"names": rules(("a", "b"), ("(?P<x>a)", r"\g<y>"))},
            [
                r"weights.names[1].key: '\g<y>' does not fit the expression: unknown group name 'y'; "
                r"write \1 for its first group"
            ],
        ),
        (
            {"initialize": ["ok", "*"]},
            ["weights.initialize[1]: '*' is not a regular expression: nothing to repeat at position 0; fix it"],
        ),
    ],
)
def test_expressions_are_checked_before_any_graph(config, texts):
    assert [str(problem) for problem in weights.check(Weights(**config))] == texts
