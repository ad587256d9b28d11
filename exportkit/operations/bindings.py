"""The bindings of a config, and how they refer to each other."""

from collections.abc import Iterable

from exportkit.spec import Binding, Constant, Lookup, ParseExample, Placeholder, Replacement, Signature, Tensor, TopK

_KEYS: dict[type, str] = {
    Tensor: "tensor",
    Replacement: "tensor",
    Placeholder: "placeholder",
    Constant: "constant",
    ParseExample: "parse_example",
    TopK: "top_k",
    Lookup: "lookup",
}


def operation(binding: Binding) -> str:
    """Return the config key that makes a binding what it is: ``tensor``, ``top_k`` …"""
    return _KEYS[type(binding)]


class Bindings(dict[str, Binding | None]):
    """The bindings of a config by their names; None stands for one that is broken and was reported already."""

    def offers(self) -> dict[str, str]:
        """Return every name that signatures and bindings can refer to → the binding that offers it."""
        offered: dict[str, str] = {}
        for name, binding in self.items():
            if isinstance(binding, TopK) or binding is None:
                offered |= {f"{name}.values": name, f"{name}.indices": name}
            if not isinstance(binding, TopK | Constant | Replacement):
                offered[name] = name
        return offered

    def leaf(self, ref: str) -> str | None:
        """Return the tensor binding that `ref` is computed from, through top_k and lookup; None where one of them is broken."""
        offered = self.offers()
        for _ in range(len(self) + 1):
            binding = self.get(offered.get(ref, ""))
            if not isinstance(binding, TopK | Lookup):
                return ref if isinstance(binding, Tensor | Placeholder) else None
            ref = computed_from(binding)
        return None

    def fed(self, signature: Signature) -> list[str]:
        """Return the tensor bindings that a signature's inputs feed, directly or through parse_example."""
        names: list[str] = []
        for ref in signature.inputs.values():
            binding = self.get(ref)
            names += binding.targets().values() if isinstance(binding, ParseExample) else [ref]
        return list(dict.fromkeys(names))

    def used(self, signatures: Iterable[Signature]) -> set[str]:
        """Return the bindings that signatures use, directly or through others."""
        names: set[str] = set()
        offered = self.offers()
        for signature in signatures:
            names |= {*signature.inputs.values(), *self.fed(signature)}
            for ref in signature.outputs.values():
                while ref in offered and offered[ref] not in names:
                    names.add(offered[ref])
                    binding = self[offered[ref]]
                    ref = computed_from(binding) if isinstance(binding, TopK | Lookup) else ref
        return names & set(self)


def computed_from(binding: TopK | Lookup) -> str:
    """Return the reference that a computed binding takes its values from."""
    return binding.top_k if isinstance(binding, TopK) else binding.lookup
