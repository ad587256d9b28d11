"""The bindings of a config, and how they refer to each other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exportkit.errors import ExportKitError, PluginError, Problem, brief
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Feeder, Operation
from exportkit.spec import Constant, Placeholder, Replacement, Signature, Tensor

Binding = Tensor | Placeholder | Constant | Replacement | Feeder | Operation

_KINDS: Mapping[type, str] = {
    Tensor: "tensor",
    Replacement: "tensor",
    Placeholder: "placeholder",
    Constant: "constant",
}


def kind_of(binding: Binding) -> str:
    """Return the config key that makes a binding what it is: ``tensor``, ``top_k`` …"""
    return binding.kind if isinstance(binding, Operation | Feeder) else _KINDS[type(binding)]


def offered_by(name: str, operation: Operation) -> list[str]:
    """Return the references to the values of an operation: ``NAME.PART`` each, or NAME alone."""
    return [f"{name}.{part}" for part in operation.parts()] or [name]


def ask(name: str, operation: Operation, method: str, *arguments: Any) -> list[Any]:
    """Return what a method of the operation under the binding `name` returns, as a list.

    Raises:
        PluginError: it raised something else than an ExportKitError, or returned another number of values than it offers.
    """
    found = _called(name, operation, method, arguments, list)
    wanted = len(offered_by(name, operation))
    if method not in ("check", "problems") and len(found) != wanted:
        raise _broken(name, operation, method, f"returned {len(found)} values, and it offers {wanted}")
    return found


def feeder_problems(name: str, feeder: Feeder, method: str, *arguments: Any) -> list[Problem]:
    """Return what ``check`` or ``problems`` of the feeder under the binding `name` returns.

    Raises:
        PluginError: it raised something else than an ExportKitError.
    """
    return _called(name, feeder, method, arguments, list)


def targets_of(name: str, feeder: Feeder) -> dict[str, str]:
    """Return the name of each value of the feeder under the binding `name` → the binding that the value feeds.

    Raises:
        PluginError: it returned none, or something else, or raised something else than an ExportKitError.
    """
    found = _called(name, feeder, "targets", (), dict)
    if not all(isinstance(word, str) for pair in found.items() for word in pair):
        raise _broken(name, feeder, "targets", "did not return names of values → names of bindings")
    return found


def fed_values(name: str, feeder: Feeder, method: str, *arguments: Any) -> dict[str, Any]:
    """Return what ``add`` of the feeder under the binding `name` returns, by binding, or ``recompute``, by value.

    Raises:
        PluginError: it returned others than it feeds, or raised something else than an ExportKitError.
        ValueError: ``recompute`` refuses what a request sends.
    """
    targets = targets_of(name, feeder)
    found = _called(name, feeder, method, arguments, dict, *([ValueError] if method == "recompute" else []))
    wanted = set(targets) if method == "recompute" else set(targets.values())
    if found.keys() != wanted:
        got, named = (", ".join(sorted(map(str, names))) or "nothing" for names in (found, wanted))
        raise _broken(name, feeder, method, f"returned values of {got}, and targets() says {named}")
    return found


def drawn_values(name: str, feeder: Feeder, rows: int, generator: Any) -> Any:
    """Return what ``draw`` of the feeder under the binding `name` returns: values, or None.

    Raises:
        PluginError: it raised something else than an ExportKitError.
    """
    return _called(name, feeder, "draw", (rows, generator), lambda value: value)


def _called(
    name: str, binding: Operation | Feeder, method: str, arguments: Sequence[Any], convert: Any, *passed: type[Exception]
) -> Any:
    """Return what a method of a binding returns, converted; exceptions that are not `passed` are the plugin's fault."""
    try:
        return convert(getattr(binding, method)(*arguments))
    except Exception as cause:
        if isinstance(cause, (ExportKitError, *passed)):
            raise
        raise _broken(name, binding, method, f"raised {brief(cause)}") from cause


def _broken(name: str, binding: Operation | Feeder, method: str, what: str) -> PluginError:
    return PluginError(Problem(f"bindings.{name}", f"{method}() of {type(binding).__name__} {what}"))


class Bindings(dict[str, Binding | None]):
    """The bindings of a config by their names; None stands for one that is broken and was reported already."""

    def offers(self) -> dict[str, str]:
        """Return every name that signatures and bindings can refer to → the binding that offers it."""
        offered: dict[str, str] = {}
        for name, binding in self.items():
            if binding is None:
                offered |= {f"{name}.values": name, f"{name}.indices": name, name: name}
            elif isinstance(binding, Operation):
                offered |= dict.fromkeys(offered_by(name, binding), name)
            elif isinstance(binding, Tensor | Placeholder | Feeder):
                offered[name] = name
        return offered

    def is_broken(self, ref: str) -> bool:
        """Return whether a reference is to a binding that was reported already."""
        return any(name in self and self[name] is None for name in (ref, ref.rpartition(".")[0]))

    def leaves(self, ref: str) -> tuple[str, ...] | None:
        """Return the tensor bindings that `ref` is computed from, itself if it is one; None where one of them is broken."""
        offered = self.offers()
        found: dict[str, None] = {}
        todo, seen = [ref], set()
        while todo:
            ref = todo.pop(0)
            binding = self.get(offered.get(ref, ""))
            if isinstance(binding, Operation):
                todo += [one for one in binding.refs() if one not in seen]
                seen |= {*binding.refs()}
            elif isinstance(binding, Tensor | Placeholder):
                found[ref] = None
            else:
                return None
        return tuple(found) or None

    def fed(self, signature: Signature) -> list[str]:
        """Return the tensor bindings that a signature's inputs feed, directly or through feeders."""
        return list(dict.fromkeys(name for ref in signature.inputs.values() for name in self.fed_by(ref)))

    def fed_by(self, ref: str) -> list[str]:
        """Return the tensor bindings that an input feeds: itself, or those that its feeders feed."""
        return [name for name in self._reached(ref) if not isinstance(self.get(name), Feeder)]

    def feeders(self, signatures: Iterable[Signature]) -> dict[str, Feeder]:
        """Return the feeders that signature inputs lead through, by name; of one input, each behind the one that feeds it."""
        refs = (ref for signature in signatures for ref in signature.inputs.values())
        reached = {name: self.get(name) for ref in refs for name in self._reached(ref)}
        return {name: binding for name, binding in reached.items() if isinstance(binding, Feeder)}

    def _reached(self, ref: str) -> list[str]:
        """Return a binding and all that it feeds, directly or through feeders."""
        found: list[str] = []
        todo = [ref]
        while todo:
            name = todo.pop(0)
            binding = self.get(name)
            if name not in found:
                found.append(name)
                todo[:0] = targets_of(name, binding).values() if isinstance(binding, Feeder) else []
        return found

    def used(self, signatures: Iterable[Signature]) -> set[str]:
        """Return the bindings that signatures use, directly or through others."""
        names: set[str] = set()
        offered = self.offers()
        for signature in signatures:
            names |= {name for ref in signature.inputs.values() for name in self._reached(ref)}
            todo = list(signature.outputs.values())
            while todo:
                name = offered.get(todo.pop(), "")
                if name and name not in names:
                    names.add(name)
                    binding = self[name]
                    todo += binding.refs() if isinstance(binding, Operation) else []
        return names & set(self)

    def derive(self, known: Mapping[str, Facts]) -> dict[str, Facts]:
        """Return `known`, dtype and shape by reference, and what follows from it about the values of operations."""
        found = dict(known)
        operations = {name: binding for name, binding in self.items() if isinstance(binding, Operation)}
        todo = {name: binding for name, binding in operations.items() if not ask(name, binding, "check")}
        while ready := [name for name, binding in todo.items() if all(ref in found for ref in binding.refs())]:
            for name in ready:
                binding = todo.pop(name)
                inputs = [found[ref] for ref in binding.refs()]
                found |= zip(offered_by(name, binding), ask(name, binding, "facts", inputs), strict=True)
        return found
