"""The audit of what graphs can do, and that nothing hostile is exported or run."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hostile
import pytest
import toys
from hostile import CLASSES, HIDING, node

import exportkit
from exportkit import metagraph
from exportkit.capabilities import ALLOWANCES, CAPABILITIES, audit, of_op
from exportkit.capabilities.oplist import is_listed, on_import
from exportkit.errors import BindingError, ConfigError
from exportkit.protos import MetaGraphDef, op_def_pb2
from exportkit.spec import Allow

ROOT = Path(__file__).parents[1]
EVERYTHING = [name for name in ALLOWANCES if name in CAPABILITIES]


@pytest.fixture
def innocent(checkpoint):
    """A factory of the graph that hostile nodes are hung on."""
    return lambda: metagraph.read(checkpoint("softmax").meta)


@pytest.fixture
def config(checkpoint, tmp_path):
    """A factory of configs that export a meta graph with the values of the innocent one."""

    def make(meta, **changes):
        file = tmp_path / "model.meta"
        file.write_bytes(meta.SerializeToString())
        source = {"kind": "meta_graph", "checkpoint": checkpoint("softmax").prefix, "meta": str(file)}
        return toys.config(checkpoint("softmax").prefix, tmp_path, source=source, **changes)

    return make


def found(meta, fetches=("probs:0",)):
    return set(audit(meta, fetches=fetches).dangers())


# The list


@pytest.fixture(scope="module")
def installed():
    """The ops that the installed TensorFlow registers, by its C API: name → whether they are stateful."""
    code = (ROOT / "scripts" / "update_op_list.py").read_text()
    listing = subprocess.run([sys.executable, "-c", code, "--print"], capture_output=True, check=True).stdout
    return {op.name: op.is_stateful for op in op_def_pb2.OpList.FromString(listing).op}


def test_every_op_of_the_installed_tensorflow_is_on_the_list(installed):
    assert len(installed) > 1700
    assert [op for op in installed if not is_listed(op)] == []


def test_what_an_import_may_evaluate_is_what_is_not_stateful(installed):
    dangerous = {op for op in installed if any(CAPABILITIES[name].refused for name in of_op(op))}
    assert {op for op in dangerous if on_import(op)} == {op for op in dangerous if not installed[op]}


def test_every_line_of_the_list_names_capabilities():
    lines = [line for line in (ROOT / "exportkit/capabilities/ops.txt").read_text().splitlines() if line[0] != "#"]
    assert lines == sorted(lines, key=lambda line: line.partition(":")[0])
    words = {word for line in lines for word in line.partition(": ")[2].split()}
    assert words <= {*CAPABILITIES, "pure", "on_import"}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("MatMul", set()),
        ("WriteFile", {"writes_host_files"}),
        ("ReadFile", {"reads_host_files"}),
        ("PyFunc", {"python"}),
        ("DataServiceDatasetV4", {"network"}),
        ("RandomUniform", {"random"}),
        ("AssignAdd", {"stateful"}),
        ("StatelessWhile", {"unbounded"}),
        ("NoSuchOpAnywhere", {"unknown"}),
    ],
)
def test_an_op_has_its_capabilities(op, expected):
    assert of_op(op) == expected


# Hostile models


def test_there_are_enough_of_them():
    assert len({one.name for one in CLASSES}) == len(CLASSES) >= 60


@pytest.mark.parametrize("one", CLASSES, ids=str)
def test_a_hostile_class_is_found_and_refused(one, innocent, config, tmp_path):
    target = tmp_path / "pwned"
    meta = hostile.hang(innocent(), one.nodes(str(target)), "probs")
    assert one.capability in found(meta)
    assert one.capability in audit(meta).dangers(present=True)
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config(meta))
    assert refused.value.exit_code == 2
    assert any("evil" in str(problem) or "data" in str(problem) for problem in refused.value.problems)
    assert not target.exists()


@pytest.mark.parametrize("one", CLASSES, ids=str)
def test_a_plan_that_was_let_through_is_refused_before_the_import(one, innocent, config, tmp_path):
    target = tmp_path / "pwned"
    meta = hostile.hang(innocent(), one.nodes(str(target)), "probs")
    try:
        plan = exportkit.plan(config(meta, allow={"ops": EVERYTHING}))
    except ConfigError:
        return  # a server cannot run it at all, which no allowance changes
    with pytest.raises(BindingError, match=f"can {CAPABILITIES[one.capability].can}: "):
        exportkit.run(replace(plan, allow=Allow()))
    assert not target.exists()
    assert not list((tmp_path / "exports").glob("*/[0-9]*"))


@pytest.mark.parametrize("hide", HIDING, ids=lambda hide: hide.__name__)
@pytest.mark.parametrize("one", [one for one in CLASSES if one.name in ("WriteFile", "SaveV2", "PyFunc", "RpcClient")], ids=str)
def test_hiding_does_not_help(hide, one, innocent, config, tmp_path):
    target, meta = tmp_path / "pwned", innocent()
    meta = hostile.hang(meta, hide(meta, one.nodes(str(target))), "probs")
    assert one.capability in found(meta)
    with pytest.raises(ConfigError):
        exportkit.plan(config(meta))
    assert not target.exists()


@pytest.mark.parametrize("seed", range(40))
def test_no_drawn_mixture_passes(seed, innocent, config, tmp_path):
    """Some hostile classes, each hidden in one way or two, in one graph."""
    draw, meta, target = random.Random(seed), innocent(), tmp_path / "pwned"
    chosen, hung, last = draw.sample(CLASSES, draw.randint(1, 3)), [], []
    for number_, one in enumerate(chosen):
        nodes = [_renamed(each, number_) for each in one.nodes(str(target))]
        if draw.random() < 0.7:
            inner = MetaGraphDef()
            nodes = [_renamed(each, number_) for each in draw.choice(HIDING)(inner, nodes)]
            for function in inner.graph_def.library.function:
                function.signature.name += f"_{number_}"
                for each in function.node_def:
                    _rename_calls(each, number_)
            for each in nodes:
                _rename_calls(each, number_)
            for gradient in inner.graph_def.library.gradient:
                gradient.function_name += f"_{number_}"
                gradient.gradient_func += f"_{number_}"
            meta.graph_def.library.MergeFrom(inner.graph_def.library)
        hung += nodes
        last.append(f"^{nodes[-1].name}")
    hung.append(node("all", "NoOp", *last))
    meta = hostile.hang(meta, hung, "probs")
    assert {one.capability for one in chosen} <= found(meta)
    with pytest.raises(ConfigError):
        exportkit.plan(config(meta))
    assert not target.exists()


def _renamed(one, number_):
    copy = node("", "")
    copy.CopyFrom(one)
    copy.name = f"{one.name}_{number_}"
    copy.input[:] = [i if i == "x" else f"{i}_{number_}" for i in one.input]
    return copy


def _rename_calls(one, number_):
    for value in one.attr.values():
        if value.func.name:
            value.func.name += f"_{number_}"
            for inner in value.func.attr.values():
                inner.func.name += f"_{number_}"
    if "shape_inference_graph" in one.attr:
        one.attr["shape_inference_graph"].s += f"_{number_}".encode()
    if one.op in ("f", "g"):
        one.op += f"_{number_}"
