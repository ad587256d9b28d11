"""A config for a graph that nobody has described yet: its likeliest output, and what that needs."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from exportkit import metagraph
from exportkit.checkpoint import Bundle
from exportkit.cli.tables import size_text
from exportkit.errors import Problem, some
from exportkit.metagraph import Candidate, Graph, Ranking, Variable, split

_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Guess:
    """The likeliest signature of a graph.

    Attributes:
        outputs: the tensors that it gives, the likeliest first.
        inputs: what is fed.
        constants: tensors → the values that they have when the model serves.
        replaced: what dropout gives that no placeholder switches off → what it takes.
        running: the nodes that decide the answer, that dropout among them.
        alternatives: other outputs that are likely, with what feeds them beside that.
    """

    outputs: Sequence[Candidate]
    inputs: Sequence[Candidate]
    constants: Mapping[str, Any]
    alternatives: Sequence[tuple[Candidate, Sequence[str]]] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    running: metagraph.Running | None = None

    @property
    def stops(self) -> list[str]:
        return [*(c.tensor for c in self.inputs), *self.constants]

    @property
    def fetches(self) -> list[str]:
        return [c.tensor for c in self.outputs]


def guess(graph: Graph, ranking: Ranking) -> Guess | None:
    """The likeliest output with those inputs and constants that it needs; None where no output is likely."""
    if not ranking.outputs:
        return None
    outputs = metagraph.together(graph, ranking)
    inputs = ranking.inputs
    reached = graph.reach([c.tensor for c in outputs], [*(c.tensor for c in inputs), *ranking.constants])
    edges = {edge for op in reached for edge in graph.inputs(op)}
    baked = {tensor: value for tensor, value in ranking.constants.items() if split(tensor) in edges}
    guessed = Guess(
        outputs, [_sized(graph, c, reached) for c in inputs], baked, list(_alternatives(graph, ranking, outputs, reached))
    )
    running = metagraph.Running(graph, guessed.fetches, guessed.stops, baked)
    return replace(guessed, running=running, replaced=running.dropout)


def _sized(graph: Graph, candidate: Candidate, reached: set[str]) -> Candidate:
    """A cut tensor with a free first size, unless the graph behind it has that size in its constants."""
    shape = candidate.shape
    if candidate.op.startswith("Placeholder") or not shape or shape[0] is None:
        return candidate
    fixed = shape[0] == 1 or metagraph.bakes_size(graph, reached, shape[0])
    return candidate if fixed else replace(candidate, shape=(None, *shape[1:]))


def _alternatives(
    graph: Graph, ranking: Ranking, outputs: Sequence[Candidate], reached: set[str]
) -> Iterator[tuple[Candidate, Sequence[str]]]:
    heads = {c.head for c in outputs}
    for candidate in ranking.outputs[:8]:
        if candidate.head not in heads and candidate.score > 0 and len(heads) < 4:
            heads.add(candidate.head)
            edges = metagraph.needed(graph, [candidate.tensor], ranking.constants, reached)
            yield candidate, ["{}:{}".format(*edge) for edge in edges]


def needs(graph: Graph, guessed: Guess) -> str:
    """How much of the graph the guess reaches, in words."""
    kept = metagraph.extent(graph, guessed.fetches, guessed.stops)
    held = kept.variables
    files = [*(f"table {name}" for name in kept.tables), *(f"file {path}" for path in kept.files)]
    count = f"{len(held)} variables ({size_text(sum(map(size, held)))}), {kept.nodes} of {len(graph.nodes)} nodes"
    return ", ".join([count, *files])


def size(variable: Variable) -> int:
    """Bytes of a variable, as far as its shape tells."""
    digits = re.search(r"(8|16|32|64)$", variable.dtype)
    return prod(d or 1 for d in variable.shape or ()) * (_BYTES[digits[1]] if digits else 1)


def obstacles(graph: Graph, guessed: Guess, bundle: Bundle | None) -> Iterator[Problem]:
    """What stands in the way of serving the guess."""
    running = guessed.running
    if guessed.replaced:
        graph = graph.rewired(guessed.replaced)
        running = metagraph.Running(graph, guessed.fetches, guessed.stops, guessed.constants)
    yield from metagraph.problems(graph, guessed.fetches, guessed.stops, guessed.fetches[0], guessed.constants)
    yield from running.warnings(guessed.fetches[0])
    if bundle is not None:
        yield from _unsaved(graph, guessed, bundle)


def _unsaved(graph: Graph, guessed: Guess, bundle: Bundle) -> Iterator[Problem]:
    reached = graph.reach(guessed.fetches, guessed.stops)
    for variable in graph.variables.values():
        if (
            variable.op_name in reached
            and variable.full_name not in bundle.entries
            and variable.full_name not in bundle.aliases
        ):
            yield Problem(
                variable.full_name, "is not in the checkpoint", "give it a value with weights.names or weights.initialize"
            )


def model_name(prefix: str | None) -> str:
    """A name for the model that a checkpoint is of: what its directory is called, or its file."""
    path = Path(prefix or "model").absolute()
    plain = path.name.startswith(("model", "checkpoint", "ckpt"))
    return _word((path.parent if plain else path).name.split(".")[0]) or "model"


def config(name: str, path: str, meta: str, graph: Graph, guessed: Guess) -> str:
    """The text of ``conf/model/NAME.yaml``."""
    inputs = dict(zip(_names(map(_said, guessed.inputs)), guessed.inputs, strict=True))
    constants = dict(zip(_names(guessed.constants, taken=inputs), guessed.constants.items(), strict=True))
    outputs = dict(zip(_names(map(_called, guessed.outputs), taken=[*inputs, *constants]), guessed.fetches, strict=True))
    return "\n".join(
        [
            "# @package _global_",
            "defaults: [override /source: meta_graph]",
            f"name: {_flow(name)}",
            f"source: {_flow(_source(path, meta))}",
            "bindings:",
            *(f"  {alias}: {_flow(_input(candidate))}" for alias, candidate in inputs.items()),
            *(f"  {alias}: {_flow({'constant': v, 'replaces': t})}" for alias, (t, v) in constants.items()),
            *_without_dropout(guessed),
            *(f"  {alias}: {_flow(tensor)}" for alias, tensor in outputs.items()),
            *_uncertain(guessed, [*inputs, *constants, *outputs]),
            "signatures:",
            *_signature(list(inputs), list(outputs)),
            *_averages(graph),
        ]
    )


def _without_dropout(guessed: Guess) -> Iterator[str]:
    if guessed.replaced:
        yield "  # nothing switches this dropout off, so what goes in takes the place of what comes out"
    for i, (given, taken) in enumerate(guessed.replaced.items()):
        yield f"  no_dropout{f'_{i}' if i else ''}: {_flow({'tensor': taken, 'replaces': given})}"


def _uncertain(guessed: Guess, taken: Sequence[str]) -> Iterator[str]:
    """Comments: what could be served as well, and what it needs."""
    names = _names((_called(candidate) for candidate, _ in guessed.alternatives), taken)
    for alias, (candidate, feeds) in zip(names, guessed.alternatives, strict=True):
        needs = f"; it also needs {some(feeds, 3)}" if feeds else ""
        yield f"  # {alias}: {_flow(candidate.tensor)}    # or this{needs}"


def _source(path: str, meta: str) -> dict[str, str]:
    checkpoint = re.sub(r"\.(meta|index|data-\d{5}-of-\d{5})$", "", path)
    beside = os.path.isdir(path) or meta == f"{checkpoint}.meta"
    return {"checkpoint": checkpoint} if beside else {"checkpoint": checkpoint, "meta": meta}


def _input(candidate: Candidate) -> dict[str, Any]:
    """A placeholder is bound; anything else is cut there."""
    if candidate.op.startswith("Placeholder"):
        said = {"tensor": candidate.tensor, "dtype": candidate.dtype, "shape": candidate.shape and list(candidate.shape)}
        return {key: value for key, value in said.items() if value}
    shape = {} if candidate.shape is None else {"shape": list(candidate.shape)}
    return {"placeholder": candidate.tensor, **shape}


def _signature(inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    given = ", ".join(f"{alias}: {alias}" for alias in outputs)
    if len(inputs) <= 4:
        aliases = ", ".join(f"{alias}: {alias}" for alias in inputs)
        return [f"  serving_default: {{inputs: {{{aliases}}}, outputs: {{{given}}}}}"]
    lines = [f"      {alias}: {alias}" for alias in inputs]
    return ["  serving_default:", "    inputs:", *lines, f"    outputs: {{{given}}}"]


def _called(candidate: Candidate) -> str:
    """What an output is called: after its op, or after what it is where the op has no name of its own."""
    op, index = split(candidate.tensor)
    if parts := metagraph.PART_NAMES.get(candidate.op):
        return f"{parts[index]}:0"
    plain = re.fullmatch(r"(add|BiasAdd|MatMul|xw_plus_b|Reshape|Squeeze|Conv2D)(_\d+)?", op.rsplit("/", 1)[-1], re.I)
    return f"{candidate.role}:0" if plain and candidate.role else f"{op}:0"


def _said(candidate: Candidate) -> str:
    """What an input is called: after its placeholder, but nobody wants the name of a queue."""
    op, index = split(candidate.tensor)
    if not candidate.op.startswith("Placeholder"):
        return f"feature:{index}"
    return candidate.tensor if not re.fullmatch(r"Placeholder(_\d+)?", op) else op.replace("Placeholder", "input") + ":0"


def _averages(graph: Graph) -> list[str]:
    found = any(name.endswith("/ExponentialMovingAverage") for name in graph.variables)
    return ["# weights: {moving_average: true}    # the checkpoint has them: they usually predict better"] * found


def _names(tensors: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """A plain and unique name for each tensor: the last part of its op's."""
    found: list[str] = []
    used = set(taken)
    for tensor in tensors:
        op, index = split(tensor)
        base = (_word(op.rsplit("/", 1)[-1]) or "tensor") + (f"_{index}" if index else "")
        name = next(n for n in (base, *(f"{base}_{i}" for i in range(1, len(used) + 2))) if n not in used)
        used.add(name)
        found.append(name)
    return found


def _word(text: str) -> str:
    word = re.sub(r"\W+", "_", text).strip("_").lower()
    return f"t_{word}" if word[:1].isdigit() or word in ("on", "off", "yes", "no", "y", "n", "true", "false", "null") else word


def _flow(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).replace("\n...", "").strip()
