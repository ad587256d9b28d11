"""The operation `lookup`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Operation

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder

# InitializeTableFromTextFileV2: a key or value is the line's number or the whole line (lookup_ops.py, TextFileIndex)
_LINE_NUMBER, _WHOLE_LINE = -1, -2


@dataclass(kw_only=True)
class Lookup(Operation):
    """Integer indices (binding `lookup`) to the lines of a vocabulary file; an index outside it gives `default`."""

    kind = "lookup"

    lookup: str
    vocabulary: Path
    default: str = ""

    def problems(self, inputs: Sequence[Facts]) -> Iterator[Problem]:
        if "int" not in (inputs[0].dtype or "int"):
            what = f"'{self.lookup}' is {inputs[0].dtype}, not integers"
            yield Problem("lookup", what, "look up the indices of a top_k")

    def files(self) -> Mapping[str, Path]:
        return {"vocabulary": self.vocabulary}

    def facts(self, inputs: Sequence[Facts]) -> Sequence[Facts]:
        return (Facts("string", inputs[0].shape),)

    def add(self, graph: GraphBuilder, name: str, inputs: Sequence[str]) -> Sequence[str]:
        path = str(self.vocabulary)
        asset = graph.asset(path)
        default = graph.constant(self.default, "string")
        shared = f"hash_table_{path}_{_LINE_NUMBER}_{_WHOLE_LINE}"
        table = graph.add("HashTableV2", name=f"{name}_table", key_dtype="int64", value_dtype="string", shared_name=shared)[0]
        with graph.scope("text_file_init"):
            filled = graph.add_operation(
                "InitializeTableFromTextFileV2", [table, asset], key_index=_LINE_NUMBER, value_index=_WHOLE_LINE
            )
        graph.initializers.append(filled)
        indices = graph.cast(inputs[0], "int64")
        with graph.scope(name):
            return graph.add("LookupTableFindV2", [table, indices, default])
