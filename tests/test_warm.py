"""Forks of a process that has made TensorFlow's first session are as good as others: they run, and draw their own numbers."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from exportkit.core import usual_ops
from exportkit.core.graph import Graph, Session
from exportkit.processes import spare

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are warmed up on Linux")

SCRIPT = """
import json, os, sys, threading, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
from exportkit.core import capi, warm
from exportkit.core.graph import Graph, Session
from exportkit.protos import GraphDef

capi.library()


def answers():
    graph_def = GraphDef()
    for name, op in (("shape", "Const"), ("drawn", "RandomUniform")):
        node = graph_def.node.add(name=name, op=op)
    graph_def.node[0].attr["dtype"].type = 3
    value = graph_def.node[0].attr["value"].tensor
    value.dtype = 3
    value.tensor_shape.dim.add(size=1)
    value.int_val.append(3)
    node.input.append("shape")
    node.attr["T"].type, node.attr["dtype"].type = 3, 1
    x = graph_def.node.add(name="x", op="Placeholder")
    x.attr["dtype"].type = 1
    square = graph_def.node.add(name="square", op="MatMul", input=["x", "x"])
    square.attr["T"].type = 1
    with Graph() as graph:
        graph.import_(graph_def.SerializeToString())
        with Session(graph) as session:
            drawn, square = session.run({"x": np.full((300, 300), 2, np.float32)}, ["drawn", "square"])
    return [*map(float, drawn)], float(square.sum())


def in_fork():
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, json.dumps(answers()).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    return json.loads(os.read(reader, 1000))

"""
FORKS = """
warmed = warm.warm_up()
forks = [in_fork() for _ in range(3)]
print(json.dumps([warmed, forks]))
"""
THREADS = """
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(json.dumps([warm.warm_up(), "TF_CPP_MIN_LOG_LEVEL" in os.environ and os.listdir("/proc/self/task").__len__()]))
"""


def printed(code):
    script = textwrap.dedent(SCRIPT) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_forks_run_and_draw_other_numbers():
    warmed, forks = printed(FORKS)
    assert warmed is True
    assert [total for _, total in forks] == [300 * 300 * 1200] * 3
    drawn = {number for numbers, _ in forks for number in numbers}
    assert len(drawn) == 9, forks


def test_ops_that_are_looked_up_are_not_run():
    ones = np.ones((256, 256), np.float32)
    with Graph() as graph:
        graph.import_(usual_ops.GRAPH)
        with Session(graph) as session:
            values = session.run(usual_ops.FEEDS, usual_ops.FETCHES, usual_ops.SKIPPED)
    named = dict(zip(usual_ops.FETCHES, values, strict=True))
    assert (named["MatMul"] == 256 * ones).all()
    assert {"BiasAdd_f", "TopKV2_f", "ConcatV2_s", "Conv2D_f", "Identity_b"} < {*usual_ops.SKIPPED}
    assert len({*usual_ops.SKIPPED}) == len(usual_ops.SKIPPED) == 78


def test_a_process_with_threads_stays_as_it_is():
    assert printed(THREADS) == [False, 2]


@pytest.mark.parametrize(
    "trouble", ['_SHARED_POOL = "no such symbol"', '_LEFT = "no such thread"', 'usual_ops.GRAPH = b"no graph"']
)
def test_what_cannot_be_warmed_up_is_forked_as_it_is(trouble):
    warmed, forks = printed(f"warm.{trouble}\n{FORKS}")
    assert warmed is False
    assert [total for _, total in forks] == [300 * 300 * 1200] * 3


def test_a_trial_that_hangs_ends(monkeypatch):
    hanging = "warm.SECONDS = 1\nwarm._run = lambda config, targets: time.sleep(60)\n"
    warmed, forks = printed(hanging + FORKS)
    assert warmed is False
    assert [total for _, total in forks] == [300 * 300 * 1200] * 3


@pytest.mark.parametrize(
    ("name", "forked"),
    [("TF_ENABLE_ONEDNN_OPTS", False), ("XLA_FLAGS", False), ("TF_CPP_MIN_LOG_LEVEL", True), ("TFHUB_CACHE_DIR", True)],
)
def test_settings_that_the_spare_has_read_otherwise_need_a_fresh_worker(name, forked, monkeypatch, tmp_path):
    monkeypatch.setenv(name, "7")
    lifeline, ours = os.pipe()
    with (tmp_path / "log").open("wb") as log, os.fdopen(lifeline), os.fdopen(ours, "w"):
        worker = spare.fork_worker("no_such_script", [*[log.fileno()] * 3, lifeline])
        assert (worker is not None) is forked
        assert worker is None or worker.wait(60) == 1
