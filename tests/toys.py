"""The toys of `exportkit.testing` as this directory's tests use them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from exportkit.testing.graphs import softmax as dense
from exportkit.testing.toys import config, example, export, restored, save, served, served_eagerly

__all__ = ["config", "dense", "example", "export", "restored", "saved", "served", "served_eagerly", "v1"]
v1 = tf.compat.v1


def saved(directory: Path, build: Callable[[], Any], *, seed: int = 7) -> str:
    """Save a graph below `directory`; returns the checkpoint's prefix."""
    return save(build, directory / "run", seed=seed, step=1).prefix
