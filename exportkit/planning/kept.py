"""The signatures of a source's own model that an export keeps: as bindings and signatures beside those of the config."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from exportkit.contract import Preview
from exportkit.errors import Problem
from exportkit.metagraph import Graph
from exportkit.operations.bindings import Binding, Bindings
from exportkit.spec import Placeholder, Signature, Tensor

_OWN_NAME = re.compile(r"there is no binding '[^']+\.(inputs|outputs)\.[^']+'")
_UNFIT = re.compile(r"[^A-Za-z0-9_./-]")  # in the name of an operation, which a binding's is


def add_kept(preview: Preview, bindings: Bindings, signatures: dict[str, Signature | None]) -> None:
    """Add the signatures that a source's model has and the config does not redefine, with bindings for their tensors.

    A binding is called as the source calls its tensor, ``KEY.inputs.ALIAS``. Where the config or another signature binds the
    same tensor, that binding is taken: a tensor is fed by one placeholder.
    """
    kept = {key: signature for key, signature in preview.signatures.items() if key not in signatures}
    tensor_of = _resolver(preview)
    bound = {tensor_of(named): name for name, binding in bindings.items() if (named := _named(binding))}
    refs: dict[str, str] = {}
    inputs = [name for signature in kept.values() for name in signature.inputs.values()]
    outputs = [name for signature in kept.values() for name in signature.outputs.values()]
    for number, name in enumerate([*inputs, *outputs]):
        tensor = tensor_of(name)
        if tensor not in bound:
            bound[tensor] = _free(_UNFIT.sub("_", name), bindings)
            bindings[bound[tensor]] = Placeholder(placeholder=name) if number < len(inputs) else Tensor(tensor=name)
        refs[name] = bound[tensor]
    for key, signature in kept.items():
        sides = ({alias: refs[name] for alias, name in side.items()} for side in (signature.inputs, signature.outputs))
        signatures[key] = Signature(inputs=next(sides), outputs=next(sides), method=signature.method)


def advised(problems: Sequence[Problem], kept: Sequence[str]) -> list[Problem]:
    """Return problems with what to do about those of kept signatures, which have no bindings in the config: leave them out."""
    places = {key: f"signatures.{key}" for key in kept}
    bad = {key for key, place in places.items() for problem in problems if _is_at(problem.where, place)}
    do = f"leave it out: source.signatures: [{', '.join(key for key in kept if key not in bad)}]"
    return [replace(one, do=do) if any(_is_at(one.where, places[key]) for key in bad) else one for one in problems]


def _is_at(where: str, place: str) -> bool:
    return where == place or where.startswith((f"{place}.inputs", f"{place}.outputs"))


def _named(binding: Binding | None) -> str | None:
    """Return the name of the tensor that signatures feed and fetch under a binding; None for any other binding."""
    return binding.tensor if isinstance(binding, Tensor) else binding.placeholder if isinstance(binding, Placeholder) else None


def _resolver(preview: Preview) -> Callable[[str], str]:
    """Return the function from a name that a binding may use to the tensor, as far as the source tells."""
    offered: Mapping[str, object] = preview.tensors or {}
    graph = Graph(preview.meta_graph) if preview.meta_graph is not None else None

    def resolve(name: str) -> str:
        tensor = offered.get(name, name)
        found = graph.find(tensor) if graph is not None and isinstance(tensor, str) else None
        return found if isinstance(found, str) else name

    return resolve


def _free(name: str, taken: Mapping[str, object]) -> str:
    """Return a name that no binding has."""
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def without_unknown(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems without references to tensors of signatures, for a source that is broken and cannot offer them."""
    return [problem for problem in problems if not _OWN_NAME.match(problem.what)]
