"""The graph that the reference runs: fed, rewired and restored on the protos, and run by TensorFlow's C++ core."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import toys

from exportkit.core.graph import Graph, Session
from exportkit.protos import MetaGraphDef
from exportkit.verifying.parity.reference_graph import ReferenceGraph, Restore

v1 = tf.compat.v1
ROW = np.float32([[1, 2]])


def meta_graph(build):
    with tf.Graph().as_default():
        build()
        return v1.train.export_meta_graph()


def answer(made, feeds, fetch):
    """The value of one tensor, where `feeds` are by the names of the training graph."""
    with Graph() as graph:
        graph.import_(made.graph_def.SerializeToString())
        with Session(graph) as session:
            session.run({}, [], made.restoring)
            fed = {made.placeholders[tensor]: value for tensor, value in feeds.items()}
            return session.run(fed, [made.placeholders.get(fetch, fetch)])[0].tolist()


def test_a_fed_tensor_takes_any_shape_and_is_not_computed():
    def waiting():
        x = v1.placeholder(tf.float32, [3, 2], "x")
        broken = tf.debugging.Assert(False, ["computed"], name="broken")
        with tf.control_dependencies([broken]):
            scaled = tf.multiply(x, 10.0, name="scaled")
        with tf.control_dependencies([scaled.op]):
            tf.add(scaled, 1.0, name="y")

    made = ReferenceGraph(meta_graph(waiting), {"scaled:0": "float32"}, {}, [])
    assert answer(made, {"scaled:0": ROW}, "y:0") == [[2, 3]]


def test_a_tensor_takes_the_place_of_another():
    def branches():
        x = v1.placeholder(tf.float32, [None, 2], "x")
        raw, clean = tf.identity(x, name="raw"), tf.multiply(x, 10.0, name="clean")
        tf.add(raw, 1.0, name="y")
        tf.add(raw, clean, name="both")

    meta = meta_graph(branches)
    plain, replaced = (ReferenceGraph(meta, {"x:0": "float32"}, new, []) for new in ({}, {"raw:0": "clean:0"}))
    assert [answer(made, {"x:0": ROW}, "y:0") for made in (plain, replaced)] == [[[2, 3]], [[11, 21]]]
    assert answer(replaced, {"x:0": ROW}, "both:0") == [[20, 40]]
    fed = ReferenceGraph(meta, {"x:0": "float32", "raw:0": "float32"}, {"clean:0": "raw:0"}, [])
    assert answer(fed, {"x:0": ROW, "raw:0": ROW + 1}, "both:0") == [[4, 6]]


def variables():
    v1.get_variable("resource", [2], initializer=tf.constant_initializer([1.0, 2.0]), use_resource=True)
    v1.get_variable("ref", [2], initializer=tf.constant_initializer([3.0, 4.0]), use_resource=False)
    read = v1.get_variable("part", [4], partitioner=v1.fixed_size_partitioner(2), use_resource=True)
    tf.add_n([v1.get_default_graph().get_tensor_by_name("ref:0"), list(read)[1]], name="sum")


def test_variables_are_restored(tmp_path):
    prefix = toys.saved(tmp_path, variables)
    meta = MetaGraphDef.FromString(Path(f"{prefix}.meta").read_bytes())
    reader = tf.train.load_checkpoint(prefix)
    place = {"dtype": "float32", "prefix": prefix}
    restores = [
        Restore(operation="ref", resource=False, key="ref", **place),
        Restore(operation="part/part_1", resource=True, key="part", slice="4 2,2", **place),
    ]
    made = ReferenceGraph(meta, {}, {}, restores)
    assert made.restoring == ["reference_0/restore_0", "reference_0/restore_1"]
    expected = reader.get_tensor("ref") + reader.get_tensor("part")[2:]
    assert answer(made, {}, "sum:0") == expected.tolist()


def test_names_of_the_graph_are_left_alone():
    made = ReferenceGraph(meta_graph(lambda: tf.constant(1.0, name="reference_0/fed_0")), {"x:0": "float32"}, {}, [])
    assert made.placeholders == {"x:0": "reference_1/fed_0:0"}


def test_a_graph_of_a_newer_tensorflow():
    meta = meta_graph(lambda: tf.negative(v1.placeholder(tf.float32, name="x"), name="y"))
    (node,) = (node for node in meta.graph_def.node if node.op == "Neg")
    node.attr["speed"].i = 7
    assert answer(ReferenceGraph(meta, {"x:0": "float32"}, {}, []), {"x:0": ROW}, "y:0") == [[-1, -2]]


def test_what_it_is_made_of_stays_as_it_is():
    meta = meta_graph(lambda: tf.negative(v1.placeholder(tf.float32, name="x"), name="y"))
    before = meta.SerializeToString(deterministic=True)
    ReferenceGraph(meta, {"x:0": "float32"}, {"y:0": "x:0"}, [], seeded=True)
    assert meta.SerializeToString(deterministic=True) == before
