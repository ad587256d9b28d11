"""A config for a graph that nobody has described yet: its likeliest output, and what that needs."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from exportkit import metagraph
from exportkit.checkpoint import Bundle
from exportkit.cli.tables import size_text
from exportkit.errors import Problem
from exportkit.metagraph import Candidate, Graph, Variable, split

_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Guess:
    """The likeliest signature of a graph.

    Attributes:
        output: the tensor that it gives.
        inputs: what is fed.
        constants: tensors → the values that they have when the model serves.
    """

    output: Candidate
    inputs: Sequence[Candidate]
    constants: Mapping[str, Any]

    @property
    def stops(self) -> list[str]:
        return [*(c.tensor for c in self.inputs), *self.constants]


def guess(graph: Graph) -> Guess | None:
    """The likeliest output with those inputs and constants that it needs; None where no output is likely."""
    outputs = metagraph.rank_outputs(graph, 1)
    if not outputs:
        return None
    constants = metagraph.constants_suggested(graph)
    inputs = [c for c in metagraph.rank_inputs(graph) if c.tensor not in constants]
    reached = graph.reach([outputs[0].tensor], [*(c.tensor for c in inputs), *constants])
    edges = {edge for op in reached for edge in graph.inputs(op)}
    needed = {tensor: value for tensor, value in constants.items() if split(tensor) in edges}
    return Guess(outputs[0], [c for c in inputs if split(c.tensor) in edges], needed)


def needs(graph: Graph, guessed: Guess) -> str:
    """How much of the graph the guess reaches, in words."""
    pruned = metagraph.serving_subgraph(graph, [guessed.output.tensor], guessed.stops)
    held = pruned.variables.values()
    files = [*(f"table {name}" for name in pruned.tables), *(f"file {path}" for path in pruned.assets.values())]
    count = f"{len(held)} variables ({size_text(sum(map(size, held)))}), {pruned.nodes_after} of {pruned.nodes_before} nodes"
    return ", ".join([count, *files])


def size(variable: Variable) -> int:
    """Bytes of a variable, as far as its shape tells."""
    digits = re.search(r"(8|16|32|64)$", variable.dtype)
    return prod(d or 1 for d in variable.shape or ()) * (_BYTES[digits[1]] if digits else 1)


def obstacles(graph: Graph, guessed: Guess, bundle: Bundle | None) -> Iterator[Problem]:
    """What stands in the way of serving the guess."""
    yield from metagraph.problems(graph, [guessed.output.tensor], guessed.stops, guessed.output.tensor)
    yield from metagraph.warnings(graph, [guessed.output.tensor], guessed.stops, guessed.output.tensor, guessed.constants)
    if bundle is not None:
        yield from _unsaved(graph, guessed, bundle)


def _unsaved(graph: Graph, guessed: Guess, bundle: Bundle) -> Iterator[Problem]:
    reached = graph.reach([guessed.output.tensor], guessed.stops)
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
    (output,) = _names([guessed.output.tensor], taken=[*inputs, *constants])
    return "\n".join(
        [
            "# @package _global_",
            "defaults: [override /source: meta_graph]",
            f"name: {_flow(name)}",
            f"source: {_flow(_source(path, meta))}",
            "bindings:",
            *(f"  {alias}: {_flow(_input(candidate))}" for alias, candidate in inputs.items()),
            *(f"  {alias}: {_flow({'constant': v, 'replaces': t})}" for alias, (t, v) in constants.items()),
            f"  {output}: {_flow(guessed.output.tensor)}",
            "signatures:",
            *_signature(list(inputs), output),
            *_averages(graph),
        ]
    )


def _source(path: str, meta: str) -> dict[str, str]:
    checkpoint = re.sub(r"\.(meta|index|data-\d{5}-of-\d{5})$", "", path)
    beside = os.path.isdir(path) or meta == f"{checkpoint}.meta"
    return {"checkpoint": checkpoint} if beside else {"checkpoint": checkpoint, "meta": meta}


def _input(candidate: Candidate) -> dict[str, Any]:
    """A placeholder is bound; anything else is cut there, for any batch size."""
    if candidate.op.startswith("Placeholder"):
        said = {"tensor": candidate.tensor, "dtype": candidate.dtype, "shape": candidate.shape and list(candidate.shape)}
        return {key: value for key, value in said.items() if value}
    shape = {"shape": [None, *candidate.shape[1:]]} if candidate.shape else {}
    return {"placeholder": candidate.tensor, **shape}


def _signature(inputs: Sequence[str], output: str) -> list[str]:
    if len(inputs) <= 4:
        aliases = ", ".join(f"{alias}: {alias}" for alias in inputs)
        return [f"  serving_default: {{inputs: {{{aliases}}}, outputs: {{{output}: {output}}}}}"]
    lines = [f"      {alias}: {alias}" for alias in inputs]
    return ["  serving_default:", "    inputs:", *lines, f"    outputs: {{{output}: {output}}}"]


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
