"""What the tests of the evidence steps share: their plugins, an export with every kind of signature, and its config."""

import numpy as np
import toys

import exportkit
from exportkit.registry import load_plugins
from exportkit.steps import benchmark, manifest, sign, warmup

STEPS = {"benchmark": benchmark, "manifest": manifest, "sign": sign, "warmup": warmup}
PLUGINS = load_plugins(extra={name: module for name, module in STEPS.items() if name not in load_plugins().steps})

X = np.arange(8, dtype=np.float32).reshape(2, 4)
EXAMPLES = [toys.example(x=[1.0, 2.0, 3.0, 4.0]), toys.example(x=[4.0, 3.0, 2.0, 1.0])]


def config(checkpoint, base, **changes):
    """`toys.dense` with a signature of each method; a vocabulary is an asset."""
    base.mkdir(parents=True, exist_ok=True)
    (base / "labels.txt").write_text("a\nb\nc\n")
    return toys.config(
        checkpoint,
        base,
        bindings={
            "x": "x:0",
            "probs": "probs:0",
            "example": {"parse_example": {"x": {"dtype": "float32", "shape": [4]}}},
            "top": {"top_k": "probs", "k": 2},
            "classes": {"lookup": "top.indices", "vocabulary": str(base / "labels.txt")},
            "best": {"top_k": "probs", "k": 1},
        },
        signatures={
            "serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}},
            "by_class": {
                "method": "classify",
                "inputs": {"inputs": "example"},
                "outputs": {"classes": "classes", "scores": "top.values"},
            },
            "by_value": {"method": "regress", "inputs": {"inputs": "example"}, "outputs": {"outputs": "best.values"}},
        },
        samples={
            "serving_default": {"x": X.tolist()},
            "by_class": {"inputs": EXAMPLES},
            "by_value": {"inputs": EXAMPLES},
        },
        **changes,
    )


def plan(data):
    return exportkit.plan(data, PLUGINS)


def export(data):
    return exportkit.run(plan(data), PLUGINS)
