"""A suggested config for a graph: its likeliest outputs, and the inputs and constants that they need."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from exportkit import metagraph
from exportkit.checkpoint import Bundle
from exportkit.cli.tables import size_text
from exportkit.errors import Problem, some
from exportkit.metagraph import Candidate, Graph, Ranking, Variable, split

_PLAIN = re.compile(r"(add|BiasAdd|MatMul|xw_plus_b|Reshape|Squeeze|Conv2D|Mul|truediv|sub|Identity|Tensordot)(_\d+)?", re.I)
_FLOW = re.compile(r"(cond|while|Merge|Exit|Identity)(_\d+)?")  # default names of control flow, which say nothing of a value
_COMPOSITE = re.compile(r"indices|values|shape|flat_values|row_splits_\d+")  # parts of sparse and ragged placeholders
_ALTERNATIVES = 3  # commented outputs in a config
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Guess:
    """The likeliest signature of a graph.

    Attributes:
        outputs: the output tensors, the likeliest first.
        inputs: the tensors to be fed.
        constants: tensor → its value when the model serves.
        running: the nodes that decide the outputs, dropout that no placeholder switches off among them.
        alternatives: other likely outputs, each with the tensors that it needs fed beside `inputs`.
    """

    outputs: Sequence[Candidate]
    inputs: Sequence[Candidate]
    constants: Mapping[str, Any]
    running: metagraph.Running
    alternatives: Sequence[tuple[Candidate, Sequence[str]]]

    @cached_property
    def replaced(self) -> Mapping[str, str]:
        """The output of each dropout that no placeholder switches off → the dropout's input, which takes its place."""
        return self.running.dropout

    @property
    def stops(self) -> list[str]:
        return [*(c.tensor for c in self.inputs), *self.constants]

    @property
    def fetches(self) -> list[str]:
        return [c.tensor for c in self.outputs]


def guess(graph: Graph, ranking: Ranking) -> Guess | None:
    """Return the likeliest outputs with the inputs and constants that they need; None where no output is likely."""
    if not ranking.outputs:
        return None
    outputs = metagraph.together(graph, ranking)
    inputs = ranking.inputs
    fetches, feeds = [c.tensor for c in outputs], [c.tensor for c in inputs]
    reached = graph.reach(fetches, [*feeds, *ranking.constants])
    baked = {tensor: value for tensor, value in ranking.constants.items() if graph.takes(reached, tensor)}
    return Guess(
        outputs=outputs,
        inputs=[_with_free_batch(graph, c, reached) for c in inputs],
        constants=baked,
        running=metagraph.Running(graph, fetches, [*feeds, *baked], baked),
        alternatives=list(_alternatives(graph, ranking, outputs, reached)),
    )


def _with_free_batch(graph: Graph, candidate: Candidate, reached: set[str]) -> Candidate:
    """Return an input with a free first dimension, unless it is a placeholder or the graph's constants contain that size."""
    shape = candidate.shape
    if candidate.op.startswith("Placeholder") or not shape or shape[0] is None:
        return candidate
    fixed = shape[0] == 1 or metagraph.bakes_size(graph, reached, shape[0])
    return candidate if fixed else replace(candidate, shape=(None, *shape[1:]))


def _alternatives(
    graph: Graph, ranking: Ranking, outputs: Sequence[Candidate], reached: set[str]
) -> Iterator[tuple[Candidate, Sequence[str]]]:
    fed = {candidate.tensor for candidate in ranking.inputs}
    for candidate in islice(metagraph.alternatives(graph, ranking, outputs), _ALTERNATIVES):
        edges = metagraph.needed(graph, [candidate.tensor], ranking.constants, reached)
        yield candidate, [tensor for tensor in map("{0[0]}:{0[1]}".format, edges) if tensor not in fed]


def needs(graph: Graph, guessed: Guess) -> str:
    """Describe what serving the guess needs: ``12 variables (3 MB), 40 of 900 nodes, table words``."""
    kept = metagraph.extent(graph, guessed.fetches, guessed.stops)
    files = [*(f"table {name}" for name in kept.tables), *(f"file {path}" for path in kept.files)]
    total = size_text(sum(map(size, kept.variables)))
    count = f"{len(kept.variables)} variables ({total}), {kept.nodes} of {len(graph.nodes)} nodes"
    return ", ".join([count, *files])


def size(variable: Variable) -> int:
    """Return the size of a variable in bytes; an unknown dimension counts as 1, an unknown dtype as 1 byte."""
    digits = re.search(r"(8|16|32|64)$", variable.dtype)
    return prod(d or 1 for d in variable.shape or ()) * (_BYTES[digits[1]] if digits else 1)


def obstacles(graph: Graph, guessed: Guess, bundle: Bundle | None) -> Iterator[Problem]:
    """Yield the problems in serving the guess."""
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
    """Return a name for a checkpoint's model: its file's, or its directory's if the file is called as most are (model.ckpt)."""
    path = Path(prefix or "model").absolute()
    plain = path.name.startswith(("model", "checkpoint", "ckpt")) or path.name.isdecimal()  # a version's directory is a number
    return _identifier((path.parent if plain else path).name.split(".")[0]) or "model"


def config(name: str, kind: str, source: Mapping[str, Any], graph: Graph, guessed: Guess) -> str:
    """Return the text of ``conf/model/NAME.yaml``; `kind` and `source` are the kind of its source and the keys of that."""
    inputs = dict(zip(_aliases(map(_input_name, guessed.inputs)), guessed.inputs, strict=True))
    constants = dict(zip(_aliases(guessed.constants, taken=inputs), guessed.constants.items(), strict=True))
    outputs = dict(zip(_aliases(map(_output_name, guessed.outputs), taken=[*inputs, *constants]), guessed.fetches, strict=True))
    return "\n".join(
        [
            "# @package _global_",
            f"defaults: [override /source: {kind}]",
            f"name: {to_yaml(name)}",
            f"source: {to_yaml(dict(source))}",
            "bindings:",
            *(f"  {alias}: {to_yaml(_input(candidate))}" for alias, candidate in inputs.items()),
            *(f"  {alias}: {to_yaml({'constant': v, 'replaces': t})}" for alias, (t, v) in constants.items()),
            *_without_dropout(guessed),
            *(f"  {alias}: {to_yaml(tensor)}" for alias, tensor in outputs.items()),
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
        yield f"  no_dropout{f'_{i}' if i else ''}: {to_yaml({'tensor': taken, 'replaces': given})}"


def _uncertain(guessed: Guess, taken: Sequence[str]) -> Iterator[str]:
    """Yield comments: other outputs that could be served, and what else they need."""
    names = _aliases((_output_name(candidate) for candidate, _ in guessed.alternatives), taken)
    for alias, (candidate, feeds) in zip(names, guessed.alternatives, strict=True):
        needs = f"; it also needs {some(feeds, 3)}" if feeds else ""
        yield f"  # {alias}: {to_yaml(candidate.tensor)}    # or this{needs}"


def checkpoint_source(path: str, meta: str) -> dict[str, str]:
    """Return the keys of the source `meta_graph` for the path that was inspected and the file of its graph."""
    checkpoint = re.sub(r"\.(meta|index|data-\d{5}-of-\d{5})$", "", path)
    beside = os.path.isdir(path) or meta == f"{checkpoint}.meta"
    return {"checkpoint": checkpoint} if beside else {"checkpoint": checkpoint, "meta": meta}


def _input(candidate: Candidate) -> dict[str, Any]:
    """Return the binding of an input: a placeholder is bound as it is, any other tensor is replaced by a new placeholder."""
    if candidate.op.startswith("Placeholder"):
        binding = {"tensor": candidate.tensor, "dtype": candidate.dtype, "shape": candidate.shape and list(candidate.shape)}
        return {key: value for key, value in binding.items() if value}
    shape = {} if candidate.shape is None else {"shape": list(candidate.shape)}
    return {"placeholder": candidate.tensor, **shape}


def _signature(inputs: Sequence[str], outputs: Sequence[str]) -> list[str]:
    given = ", ".join(f"{alias}: {alias}" for alias in outputs)
    if len(inputs) <= 4:
        aliases = ", ".join(f"{alias}: {alias}" for alias in inputs)
        return [f"  serving_default: {{inputs: {{{aliases}}}, outputs: {{{given}}}}}"]
    lines = [f"      {alias}: {alias}" for alias in inputs]
    return ["  serving_default:", "    inputs:", *lines, f"    outputs: {{{given}}}"]


def _output_name(candidate: Candidate) -> str:
    """Return the tensor name that an output's alias is made from: its own, or its role where its op has a default name."""
    op, index = split(candidate.tensor)
    if parts := metagraph.PART_NAMES.get(candidate.op):
        return f"{parts[index]}:0"
    *scopes, leaf = op.split("/")
    plain = _PLAIN.fullmatch(leaf)
    if plain and candidate.role:
        return f"{candidate.role}:0"
    own = [scope for scope in scopes if not _FLOW.fullmatch(scope)]
    return f"{own[-1]}:0" if own and _FLOW.fullmatch(leaf) else f"{op}:0"


def _input_name(candidate: Candidate) -> str:
    """Return the tensor name that an input's alias is made from: a placeholder's own; of others ``feature``, not a queue's."""
    op, index = split(candidate.tensor)
    if not candidate.op.startswith("Placeholder"):
        return f"feature:{index}"
    scope, _, leaf = op.rpartition("/")
    if scope and _COMPOSITE.fullmatch(leaf):
        return f"{scope.rsplit('/', 1)[-1]}_{leaf}:0"
    return candidate.tensor if not re.fullmatch(r"Placeholder(_\d+)?", op) else op.replace("Placeholder", "input") + ":0"


def _averages(graph: Graph) -> list[str]:
    found = any(name.endswith("/ExponentialMovingAverage") for name in graph.variables)
    return ["# weights: {moving_average: true}    # the checkpoint has them: they usually predict better"] * found


def _aliases(tensors: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return a unique alias for each tensor, which is none of `taken`: the last part of its op's name."""
    found: list[str] = []
    used = set(taken)
    for tensor in tensors:
        op, index = split(tensor)
        base = (_identifier(op.rsplit("/", 1)[-1]) or "tensor") + (f"_{index}" if index else "")
        name = next(n for n in (base, *(f"{base}_{i}" for i in range(1, len(used) + 2))) if n not in used)
        used.add(name)
        found.append(name)
    return found


def _identifier(text: str) -> str:
    """Return `text` as a lower-case identifier that YAML reads as a string."""
    word = re.sub(r"\W+", "_", text).strip("_").lower()
    return f"t_{word}" if word[:1].isdigit() or word in ("on", "off", "yes", "no", "y", "n", "true", "false", "null") else word


def to_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).replace("\n...", "").strip()
