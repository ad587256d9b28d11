"""The operation `cast`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exportkit.errors import Problem, did_you_mean
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder

NUMBERS = (
    *("bool", "bfloat16", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_NUMBERS = {*NUMBERS, "complex64", "complex128", "qint8", "qint16", "qint32", "quint8", "quint16"}
CASTS = {  # dtype of a feeder's value → what tf.cast can make of it on a CPU (tensorflow/core/kernels/cast_op.h)
    "int64": _NUMBERS | {"int4", "uint4"},
    "float32": _NUMBERS | {"float8_e4m3fn", "float8_e5m2"},
    "string": {"string"},
}


@dataclass(kw_only=True)
class Cast(Operation):
    """Binding `cast` as numbers of `dtype`; a fraction is cut off towards zero where they are integers."""

    kind = "cast"

    cast: str
    dtype: str

    def check(self) -> Iterable[Problem]:
        if self.dtype not in NUMBERS:
            yield Problem("dtype", f"there is no dtype '{self.dtype}' to cast to", did_you_mean(self.dtype, NUMBERS))

    def problems(self, inputs: Sequence[Facts]) -> Iterable[Problem]:
        if inputs[0].dtype not in (None, *NUMBERS):
            yield Problem("cast", f"'{self.cast}' is {inputs[0].dtype}, not numbers", "name a binding of numbers")

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return (Facts(self.dtype, inputs[0].shape),)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        return graph.add("Cast", inputs, name=name, DstT=self.dtype)
