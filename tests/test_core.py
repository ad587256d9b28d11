"""TensorFlow's C++ core by its C API: the library that is found, graphs that are imported, and what is asked of them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import kernel_def_pb2

from exportkit.core import capi
from exportkit.core.capi import StatusError
from exportkit.core.graph import Graph, Session
from exportkit.errors import EnvironmentFailed
from exportkit.protos import DTYPE_NAMES, GraphDef, op_def_pb2

v1 = tf.compat.v1
FLOAT = DTYPE_NAMES["float32"]
AGAIN = "install TensorFlow 2.16 or newer again: pip install --force-reinstall tensorflow"


def serialized(build):
    with tf.Graph().as_default() as graph:
        build()
    return graph.as_graph_def().SerializeToString()


def line():
    x = v1.placeholder(tf.float32, [None, 2], "x")
    tf.negative(x, name="y")
    tf.split(x, 2, axis=1, name="halves")
    tf.identity(v1.placeholder(tf.float32, name="any"), name="z")
    tf.no_op(name="nothing")


# ---- the library ----


def test_it_is_the_installed_tensorflow():
    assert capi.version() == tf.__version__
    assert capi.library() is capi.library()
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "tensorflow_cc" in line}
    assert loaded == {str(Path(tf.__file__).resolve().parent / "libtensorflow_cc.so.2")}


def test_its_ops_and_kernels():
    ops = {op.name: op for op in op_def_pb2.OpList.FromString(capi.op_list()).op}
    assert [attr.name for attr in ops["MatMul"].attr] == ["transpose_a", "transpose_b", "T", "grad_a", "grad_b"]
    assert b"MatMul" in capi.kernels()
    assert b"OpOfContrib" not in capi.kernels()
    devices = {}
    for kernel in kernel_def_pb2.KernelList.FromString(capi.kernels()).kernel:
        devices.setdefault(kernel.op, set()).add(kernel.device_type)
    assert capi.devices() == devices
    assert "CPU" in devices["MatMul"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `tensorflow` with certain files; returns what the library's lookup refuses it for."""

    def refusal(platform, *files):
        for name in files:
            (tmp_path / name).write_bytes(b"no library")
        monkeypatch.setattr(sys, "platform", platform)
        found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
        with pytest.raises(EnvironmentFailed) as caught:
            capi.library.__wrapped__()
        return str(caught.value)

    return refusal


def test_a_package_without_the_library(package, tmp_path):
    assert package("linux", "libtensorflow_cc.2.dylib") == (
        f"tensorflow: has no C library: looked for libtensorflow_cc.so.2 and libtensorflow_cc.so in {tmp_path}; {AGAIN}"
    )


@pytest.mark.parametrize(("platform", "name"), [("linux", "libtensorflow_cc.so.2"), ("darwin", "libtensorflow_cc.2.dylib")])
def test_a_library_that_cannot_be_loaded(platform, name, package, tmp_path):
    assert package(platform, name) == (
        f"tensorflow: its C library cannot be loaded: {tmp_path / name}: file too short; {AGAIN}"
    )


def test_without_tensorflow(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailed) as caught:
        capi.library.__wrapped__()
    assert str(caught.value) == "tensorflow: is not installed; pip install tensorflow"


# ---- graphs ----


def test_an_import_infers_dtypes_and_shapes():
    with Graph() as graph:
        assert graph.import_(serialized(line)) == []
        assert graph.tensor("x") == graph.tensor("y:0") == (FLOAT, (None, 2))
        assert graph.tensor("halves:1") == (FLOAT, (None, 1))
        assert graph.tensor("z:0") == (FLOAT, None)
        for absent in ("no", "halves:2", "nothing:0"):
            with pytest.raises(StatusError) as caught:
                graph.tensor(absent)
            assert caught.value.args == ("NOT_FOUND", f"{absent} is not in the graph")


def test_an_import_maps_inputs():
    more = GraphDef()
    more.node.add(name="w", op="Neg", input=["x"]).attr["T"].type = FLOAT
    with Graph() as graph:
        graph.import_(serialized(line))
        assert graph.import_(more.SerializeToString(), {"x:0": "y:0", "gone:1": "y"}) == ["gone:1"]
        with Session(graph) as session:
            assert session.run({"x": np.float32([[1, 2]])}, ["w"])[0].tolist() == [[1, 2]]
        with pytest.raises(StatusError) as caught:
            graph.import_(more.SerializeToString(), {"x:0": "no:0"})
    assert caught.value.args == ("NOT_FOUND", "no:0 is not in the graph")


def test_a_graph_that_is_refused():
    graph_def = GraphDef()
    graph_def.node.add(name="gone", op="OpOfContrib")
    with Graph() as graph, pytest.raises(StatusError) as caught:
        graph.import_(graph_def.SerializeToString())
    code, text = caught.value.args
    assert code == "NOT_FOUND" and text.startswith("Op type not registered 'OpOfContrib' in binary")
    with Graph() as graph, pytest.raises(StatusError) as caught:
        graph.import_(b"\xff")
    assert caught.value.args == ("INVALID_ARGUMENT", "Invalid GraphDef")


def counter():
    count = v1.get_variable("count", [], initializer=tf.constant_initializer(4.0), use_resource=True)
    tf.group(count.assign_add(1.0), name="add")
    tf.identity(count, name="value")


def test_a_session_runs_operations():
    with Graph() as graph:
        graph.import_(serialized(counter))
        with Session(graph) as session:
            session.run({}, [], ["count/Assign"])
            session.run({}, [], ["add"])
            assert session.run({}, ["value:0"])[0] == 5
            assert session.run({}, []) == []
            with pytest.raises(StatusError) as caught:
                session.run({}, [], ["no"])
    assert caught.value.args == ("NOT_FOUND", "no is not in the graph")
