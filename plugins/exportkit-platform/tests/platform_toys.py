"""A small model as training leaves it, and configs that export it."""

from pathlib import Path
from typing import Any

import exportkit
import pytest
import tensorflow as tf

v1 = tf.compat.v1
PLUGINS = exportkit.load_plugins()


def scores() -> dict[str, tf.Tensor]:
    """Three scores of four features, a version of them that a file is written for, and one through a library function."""
    features = v1.placeholder(tf.float32, [None, 4], "features")
    kernel = v1.get_variable("kernel", [4, 3], initializer=v1.ones_initializer())
    scored = tf.matmul(features, kernel, name="scores")
    with tf.control_dependencies([tf.io.write_file("/tmp/spy", "x", name="spy")]):
        tf.identity(scored, name="spied")
    tf.identity(tf.function(lambda x: tf.raw_ops.Rint(x=x))(scored), name="rounded")
    return {"scores": scored}


def save(directory: Path) -> str:
    """A checkpoint of `scores` with its .meta; returns its prefix."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        scores()
        session.run(v1.global_variables_initializer())
        return v1.train.Saver().save(session, str(directory / "run" / "model.ckpt"))


def config(prefix: str, base: Path, **changes: Any) -> dict[str, Any]:
    """A config that exports `scores`; `changes` replace top-level keys."""
    return {
        "name": "scores",
        "source": {"kind": "meta_graph", "checkpoint": prefix},
        "bindings": {"features": "features:0", "scores": "scores:0"},
        "signatures": {"serving_default": {"inputs": {"features": "features"}, "outputs": {"scores": "scores"}}},
        "export_dir": str(base / "exports"),
        **changes,
    }


def plan(data: dict[str, Any]) -> exportkit.ExportPlan:
    return exportkit.plan(data, PLUGINS)


def export(data: dict[str, Any]) -> exportkit.ExportReport:
    return exportkit.run(plan(data), PLUGINS)


def refusal(error: type[Exception], call, *args) -> list[str]:
    """The lines of the error that `call` raises, without the plugin that they are attributed to."""
    with pytest.raises(error) as refused:
        call(*args)
    return str(refused.value).splitlines()
