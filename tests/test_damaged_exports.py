"""Damaged graphs that plan takes: an export finds what is wrong, in one line and without a version, or exports what is right.

Each was found by `benchmarks/fuzz.py --export`.
"""

from pathlib import Path

import pytest

import exportkit
from exportkit.errors import BindingError
from exportkit.protos import MetaGraphDef

COPY = "the file is damaged or was made by hand: copy it again"
SIDES = {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}}
BINDINGS = {"x": "x:0", "probs": "probs:0", "switch": {"constant": False, "replaces": "is_training:0"}}


def damaged(prefix, change):
    """Return the config of an export of the graph `resources` after `change` to its meta graph."""
    meta = MetaGraphDef.FromString(Path(f"{prefix}.meta").read_bytes())
    change(meta)
    Path(f"{prefix}.meta").write_bytes(meta.SerializeToString())
    return {
        "name": "damaged",
        "source": {"kind": "meta_graph", "checkpoint": str(prefix)},
        "bindings": BINDINGS,
        "signatures": {"serving_default": SIDES},
        "export_dir": str(Path(prefix).parent / "exports"),
    }


def node(meta, name):
    return next(node for node in meta.graph_def.node if node.name == name)


def refused(config, plugins):
    with pytest.raises(BindingError) as caught:
        exportkit.run(exportkit.plan(config, plugins), plugins)
    assert not list(Path(config["export_dir"]).glob("*"))
    return str(caught.value)


def test_a_variable_that_is_read_without_a_dtype(copied, plugins):
    reading = "dense/kernel/Read/ReadVariableOp"
    config = damaged(copied("resources"), lambda meta: node(meta, reading).attr.pop("dtype"))
    assert refused(config, plugins) == f"{reading} (ReadVariableOp): does not give the dtype of its output; {COPY}"


def test_a_variable_that_is_read_by_an_op_without_outputs(copied, plugins):
    reading = "dense/kernel/Read/ReadVariableOp"

    def change(meta):
        node(meta, reading).op = "While"
        del node(meta, reading).attr["dtype"]

    config = damaged(copied("resources"), change)
    assert refused(config, plugins) == f"{reading} (While): has no output 0; {COPY}"


@pytest.mark.parametrize("name", ["dense", "resources"])
def test_a_graph_that_describes_none_of_its_ops(name, copied, plugins):
    config = damaged(copied(name), lambda meta: meta.ClearField("meta_info_def"))
    report = exportkit.run(exportkit.plan({**config, "post": {"verify": {"kind": "verify"}}}, plugins), plugins)
    (verified,) = report.steps
    summary = "max abs diff 0, mismatches 0; signatures 1, outputs 1; on random values: serving_default"
    assert verified.details["summary"] == summary
