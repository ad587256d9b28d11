"""The numeric part of a signature: what a converter can carry, without text, tables and the parsing of examples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exportkit.plugin import Export, Graph, Lookup, Problem, Pruned, StepFailed, serving_subgraph, some, split

TEXT = "string"


@dataclass(frozen=True)
class End:
    """An input or output of a numeric part: the exported tensor, its dtype, and its shape with None for what is open."""

    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = None if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} of any rank" if sizes is None else f"{self.dtype} [{sizes}]"


@dataclass(frozen=True)
class Numeric:
    """A numeric part.

    Attributes:
        pruned: its graph, with its variables and without tables; its `cuts` are tensors of `inputs`.
        inputs: name → where it is fed. An input that is text has given way to the bindings behind it.
        outputs: name → what it answers. One that is looked up has given way to what it is looked up from.
        left_out: aliases of the signature that are not in it.
    """

    pruned: Pruned
    inputs: Mapping[str, End]
    outputs: Mapping[str, End]
    left_out: tuple[str, ...]


def numeric(export: Export, meta_graph: str, key: str) -> Numeric:
    """Return the numeric part of signature `key`.

    Raises:
        StepFailed: it has none: its outputs are text, it needs a table, or text that no binding ends.
    """
    part = _Part(export, meta_graph, key)
    outputs = part.outputs()
    fetches = [end.tensor for end in outputs.values()]
    inputs = {**part.given(), **part.behind_text(fetches)}
    cuts = [end.tensor for end in inputs.values()]
    part.demand_no_text(fetches, cuts)
    pruned = serving_subgraph(part.graph, fetches, cuts)
    if pruned.tables:
        raise part.failure(f"needs {_named(part.graph, pruned.tables)}", "end the signature before the table")
    inputs = {name: end for name, end in inputs.items() if end.tensor in pruned.cuts}
    if not inputs:
        raise part.failure("computes nothing from numbers", "convert another signature")
    named = {*inputs, *outputs}
    left_out = tuple(alias for alias in (*part.spec.inputs, *part.spec.outputs) if alias not in named)
    return Numeric(pruned, inputs, outputs, left_out)


class _Part:
    """Signature `key` on an exported graph."""

    def __init__(self, export: Export, meta_graph: str, key: str):
        self.key, self.spec, self.bindings = key, export.plan.signatures[key], export.plan.bindings
        self.graph = Graph(export.meta_graphs[meta_graph])
        self.bound, self.prepared = export.bound[meta_graph], export.prepared.parts[meta_graph]

    def failure(self, what: str, do: str) -> StepFailed:
        return StepFailed(Problem(f"signatures.{self.key}", what, do))

    def end(self, ref: str) -> End:
        """Return where a binding stands in the exported graph; one that no signature uses keeps its source's name there."""
        if ref in self.bound:
            return End(self.bound[ref].export_name, self.bound[ref].dtype, self.bound[ref].shape)
        facts = self.prepared.facts[ref]
        return End(self.prepared.wiring.names[ref], facts.dtype or "", facts.shape)

    def given(self) -> dict[str, End]:
        """Return the inputs that are numbers."""
        ends = {alias: self.end(ref) for alias, ref in self.spec.inputs.items()}
        return {alias: end for alias, end in ends.items() if end.dtype != TEXT}

    def texts(self) -> dict[str, str]:
        """Return the inputs that are text → their operations."""
        ends = {alias: self.end(ref) for alias, ref in self.spec.inputs.items()}
        return {alias: split(end.tensor)[0] for alias, end in ends.items() if end.dtype == TEXT}

    def outputs(self) -> dict[str, End]:
        """Return the outputs that are numbers, and the numbers that labels are looked up from, by their binding's name."""
        ends = {alias: self.end(ref) for alias, ref in self.spec.outputs.items()}
        given = self.given().values()
        found = {alias: end for alias, end in ends.items() if end.dtype != TEXT and end not in given}
        for ref in self.spec.outputs.values():
            if isinstance(self.bindings.get(ref), Lookup):
                indices = self.bindings[ref].lookup
                if self.end(indices) not in found.values():
                    found[indices] = self.end(indices)
        if not found:
            raise self.failure("computes no numbers", "convert another signature")
        return found

    def behind_text(self, fetches: list[str]) -> dict[str, End]:
        """Return the first bindings behind the inputs that are text: what they parse into, or what a config names for that end.

        A binding that outputs are computed from is none: the model would be cut away.
        """
        if not (texts := set(self.texts().values())):
            return {}
        given = [end.tensor for end in self.given().values()]
        reached = self.graph.reach(fetches, given)
        behind = {name: self.graph.reach([end.tensor], given) for name, end in self._ends_of_text() if _op(end) in reached}
        behind = {name: needed for name, needed in behind.items() if needed & texts}
        ops = {name: _op(self.end(name)) for name in behind}
        first = [n for n, needed in behind.items() if not any(op in needed for other, op in ops.items() if op != ops[n])]
        return {name: self.end(name) for name in first}

    def _ends_of_text(self) -> Iterator[tuple[str, End]]:
        wiring = self.prepared.wiring
        for name in wiring.names:
            if name in self.prepared.facts and (name in wiring.inputs or name not in self.bound):
                end = self.end(name)
                if end.dtype != TEXT and _op(end) in self.graph.nodes:
                    yield name, end

    def demand_no_text(self, fetches: list[str], cuts: list[str]) -> None:
        """Raise StepFailed if the outputs still need text; it names where text becomes numbers."""
        reached = self.graph.reach(fetches, cuts)
        for alias, op in self.texts().items():
            if op in reached:
                ends = [name for name in self.graph.nodes if name in reached and self._ends(name)]
                what = f"'{alias}' is text until {_named(self.graph, ends)}"
                raise self.failure(what, "bind the numbers behind it that the model reads, as in bindings: {ids: NAME:0}")

    def _ends(self, name: str) -> bool:
        """Return whether a node makes numbers of text."""
        reads = {self.graph.dtype(f"{op}:{index}") for op, index in self.graph.inputs(name) if index >= 0}
        return TEXT in reads and any(
            self.graph.dtype(f"{name}:{i}") not in (TEXT, None) for i in range(self.graph.num_outputs(name) or 0)
        )


def _op(end: End) -> str:
    return split(end.tensor)[0]


def _named(graph: Graph, names: Iterable[str]) -> str:
    """``a (Op), b (Op) and 4 more``."""
    return some([f"{name} ({graph.nodes[name].op})" for name in names], 3)
