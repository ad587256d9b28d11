"""What is said of signatures over the graph that they reach."""

import numpy as np
import pytest
import tensorflow as tf
import toys

from exportkit.planning.plan import plan
from exportkit.testing.graphs import variable

v1 = tf.compat.v1


def halves():
    """The second half of x, as it is and scaled; an input that nothing reads, and one that is only waited for."""
    x = v1.placeholder(tf.float32, [None, 4], "x")
    v1.placeholder(tf.float32, [None], "unread")
    waited = v1.placeholder(tf.float32, [None], "waited")
    _, second = tf.split(x, 2, axis=1, name="halves")
    scale = variable("scale", np.float32(2))
    tf.multiply(second, scale, name="y")
    with tf.control_dependencies([waited]):
        tf.identity(second, name="z")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return toys.save(halves, tmp_path_factory.mktemp("halves")).prefix


@pytest.mark.parametrize(
    ("inputs", "output", "idle"),
    [
        ({"x": "x:0"}, "y:0", []),
        ({"x": "x"}, "y:0", []),
        ({"second": "halves:1"}, "y:0", []),
        ({"first": "halves:0", "second": "halves:1"}, "y:0", ["first"]),
        ({"x": "x:0"}, "x:0", []),
        ({"x": "x:0", "unread": "unread:0"}, "y:0", ["unread"]),
        ({"x": "x:0", "waited": "waited:0"}, "z:0", ["waited"]),
        ({"x": "x:0", "second": "halves:1"}, "y:0", ["x"]),
    ],
)
def test_an_input_that_changes_no_output_is_warned_of_and_no_other(inputs, output, idle, prefix, tmp_path):
    bindings = {**{name: {"placeholder": tensor} for name, tensor in inputs.items()}, "answer": output}
    signature = {"inputs": {name: name for name in inputs}, "outputs": {"answer": "answer"}}
    planned = plan(toys.config(prefix, tmp_path, bindings=bindings, signatures={"serving_default": signature}))
    warned = [warning for warning in planned.warnings if "changes none" in warning]
    assert warned == [f"signatures.serving_default: input '{name}' changes none of the outputs" for name in idle]


def scaled(name):
    return lambda: tf.multiply(v1.placeholder(tf.float32, [None], "x"), variable(name, np.float32(2)), name="y")


def test_each_meta_graphs_variables_are_those_of_its_own_checkpoint(tmp_path):
    """Neither checkpoint has the other's variable."""
    first, second = (toys.save(scaled(name), tmp_path / name).prefix for name in ("first", "second"))
    graphs = {"serving": {"tags": ["serve"]}, "other": {"tags": ["serve", "gpu"], "source": {"checkpoint": second}}}
    planned = plan(toys.config(first, tmp_path, bindings={"x": "x:0", "probs": "y:0"}, meta_graphs=graphs))
    lines = [check.what for check in planned.checks if check.stage == "weights"]
    assert lines == [f"checkpoint {first}", "every variable has one value in the checkpoint, or an initialize rule"]
