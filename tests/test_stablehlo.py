"""StableHLO modules: what only computes is told from what calls the host, whatever bytes it is in."""

import pytest
from tensorflow.compiler.mlir.stablehlo import stablehlo as tensorflows

from exportkit.capabilities import audit
from exportkit.capabilities.stablehlo import capabilities
from exportkit.protos import MetaGraphDef

HEAD = "module { func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {"
TAIL = "func.return %y : tensor<2xf32> } }"
ADD = "%y = stablehlo.add %x, %x : tensor<2xf32>"
CALL = "%y = stablehlo.custom_call @xla_python_cpu_callback(%x) : (tensor<2xf32>) -> tensor<2xf32>"
SUM = '%y = "stablehlo.all_reduce"(%x) ({ ^bb0(%a: tensor<f32>, %b: tensor<f32>): stablehlo.return %a : tensor<f32> }) '
SUM += "{replica_groups = dense<0> : tensor<1x1xi64>} : (tensor<2xf32>) -> tensor<2xf32>"
DRAW = "%a = stablehlo.constant dense<0.0> : tensor<f32> %n = stablehlo.constant dense<2> : tensor<1xi64> "
DRAW += "%y = stablehlo.rng %a, %a, %n, distribution = UNIFORM : (tensor<f32>, tensor<f32>, tensor<1xi64>) -> tensor<2xf32>"
LOOP = "%y = stablehlo.while(%v = %x) : tensor<2xf32> cond { %t = stablehlo.constant dense<true> : tensor<i1> "
LOOP += "stablehlo.return %t : tensor<i1> } do { stablehlo.return %v : tensor<2xf32> }"
HIDDEN = f"%y = func.call @f(%x) : (tensor<2xf32>) -> tensor<2xf32> {TAIL[:-1]} func.func private @f(%x: tensor<2xf32>) "
HIDDEN += f"-> tensor<2xf32> {{ {CALL} "

MODULES = {
    "a sum": (ADD, frozenset()),
    "a random number": (DRAW, {"random"}),
    "a loop": (LOOP, {"unbounded"}),
    "a loop and a custom call": (LOOP.replace("%y", "%z") + CALL, None),
    "a custom call": (CALL, None),
    "a custom call in a function": (HIDDEN, None),
    "a sum over replicas": (SUM, None),
}


def bytecode(body, version="1.0.0"):
    return tensorflows.serialize_portable_artifact_str(f"{HEAD} {body} {TAIL}", version)


@pytest.mark.parametrize("version", ["1.0.0", tensorflows.get_minimum_version()])
@pytest.mark.parametrize(("body", "found"), MODULES.values(), ids=MODULES)
def test_what_a_module_can_do(body, found, version):
    assert capabilities(bytecode(body, version)) == found


def test_text_is_not_read():
    assert capabilities(f"{HEAD} {ADD} {TAIL}".encode()) is None


def test_a_module_that_is_cut_off_or_changed_never_loses_its_call():
    whole = bytecode(CALL)
    assert capabilities(whole) is None
    assert [capabilities(whole[:size]) for size in range(len(whole))] == [None] * len(whole)
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        assert capabilities(changed) is None or b"custom_call_v1" not in changed or at < whole.index(b"custom_call_v1")


@pytest.mark.parametrize(
    ("body", "found"), [(ADD, {}), (CALL, {"host_code": ["XlaCallModule"]}), (DRAW, {"random": ["XlaCallModule"]})]
)
def test_the_op_that_holds_a_module(body, found):
    meta = MetaGraphDef()
    meta.graph_def.node.add(name="called", op="XlaCallModule").attr["module"].s = bytecode(body)
    assert audit(meta, fetches=["called"]).by_capability() == found
