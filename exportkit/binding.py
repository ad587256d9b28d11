"""What bindings and signatures mean: which tensors they name, where they cut a graph, and whether their rules hold.

The rules of signatures are TensorFlow Serving's (predict_util.cc, classifier.cc, regressor.cc): a SignatureDef that breaks
them loads, and then fails every request.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from exportkit.errors import Problem, did_you_mean
from exportkit.spec import Binding, Constant, Lookup, MetaGraph, ParseExample, Placeholder, Signature, Tensor, TopK

Shape = tuple[int | None, ...] | None
Bindings = Mapping[str, Binding | None]


@dataclass(frozen=True)
class Facts:
    """What is known of a tensor; None for what is not."""

    dtype: str | None = None
    shape: Shape = None

    def __str__(self) -> str:
        shape = "of unknown rank" if self.shape is None else str(["?" if d is None else d for d in self.shape]).replace("'", "")
        return f"{self.dtype or 'of unknown dtype'} {shape}"


@dataclass(kw_only=True)
class Wiring:
    """One meta graph's part of a config, on a graph.

    Attributes:
        names: binding → the tensor that it names.
        inputs: fed binding → the tensor that its fresh placeholder replaces.
        constants: replaced tensor → baked value.
        signatures: the keys of its signatures.
        train_op: the operation that is kept beside them.
    """

    names: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    signatures: list[str] = field(default_factory=list)
    train_op: str | None = None

    def fetches(self, signatures: Mapping[str, Signature], bindings: Bindings, keys: Iterable[str] | None = None) -> list[str]:
        """The tensors that the outputs of the signatures `keys` (default: all) are computed from."""
        keys = self.signatures if keys is None else keys
        leaves = (leaf(ref, bindings) for key in keys for ref in signatures[key].outputs.values())
        return list(dict.fromkeys(self.names[name] for name in leaves if name in self.names))

    def feeds(self, signature: Signature, bindings: Bindings) -> list[str]:
        """The tensors that the inputs of `signature` replace."""
        return [self.inputs[name] for name in fed(signature, bindings) if name in self.inputs]


def offers(bindings: Bindings) -> dict[str, str]:
    """Every name that signatures and bindings can refer to → the binding that offers it."""
    offered = {}
    for name, binding in bindings.items():
        if isinstance(binding, TopK) or binding is None:
            offered |= {f"{name}.values": name, f"{name}.indices": name}
        if not isinstance(binding, TopK | Constant):
            offered[name] = name
    return offered


def leaf(ref: str, bindings: Bindings) -> str | None:
    """The tensor binding behind `ref`, through top_k and lookup; None where one of them is broken."""
    for _ in range(len(bindings) + 1):
        binding = bindings.get(offers(bindings).get(ref, ""))
        if isinstance(binding, TopK):
            ref = binding.top_k
        elif isinstance(binding, Lookup):
            ref = binding.lookup
        else:
            return ref if isinstance(binding, Tensor | Placeholder) else None
    return None


def fed(signature: Signature, bindings: Bindings) -> list[str]:
    """The tensor bindings that a signature's inputs feed, directly or through parse_example."""
    names: list[str] = []
    for ref in signature.inputs.values():
        binding = bindings.get(ref)
        names += targets(binding).values() if isinstance(binding, ParseExample) else [ref]
    return list(dict.fromkeys(names))


def targets(binding: ParseExample) -> dict[str, str]:
    """Feature → the binding that it feeds."""
    return {key: feature.to or key for key, feature in binding.parse_example.items()}


def used(signatures: Iterable[Signature], bindings: Bindings) -> set[str]:
    """The bindings that the signatures use, directly or through others."""
    names: set[str] = set()
    offered = offers(bindings)
    for signature in signatures:
        names |= {*signature.inputs.values(), *fed(signature, bindings)}
        for ref in signature.outputs.values():
            while ref in offered and offered[ref] not in names:
                names.add(offered[ref])
                binding = bindings[offered[ref]]
                ref = binding.top_k if isinstance(binding, TopK) else binding.lookup if isinstance(binding, Lookup) else ref
    return names & set(bindings)


def check(bindings: Bindings, signatures: Mapping[str, Signature | None]) -> Iterator[Problem]:
    """Whatever can be wrong between bindings and signatures, whichever graph it is."""
    offered = offers(bindings)
    for name, binding in bindings.items():
        where = f"bindings.{name}"
        if isinstance(binding, TopK | Lookup):
            yield from _check_ref(f"{where}.{operation(binding)}", _of(binding), bindings, offered)
            yield from _check_circle(f"{where}.{operation(binding)}", name, bindings, offered)
        if isinstance(binding, TopK) and binding.k < 1:
            yield Problem(f"{where}.k", f"is {binding.k}", "write 1 or more")
        elif isinstance(binding, ParseExample):
            yield from _check_parse(where, binding, bindings)
    for key, signature in signatures.items():
        if signature is not None:
            yield from _check_signature(f"signatures.{key}", signature, bindings, offered)


def _of(binding: TopK | Lookup) -> str:
    """The reference that a binding computes from."""
    return binding.top_k if isinstance(binding, TopK) else binding.lookup


def _check_ref(where: str, ref: str, bindings: Bindings, offered: Mapping[str, str]) -> Iterator[Problem]:
    """A reference to a value: it must be there, and be a tensor or computed from one."""
    binding = bindings.get(ref)
    if isinstance(binding, ParseExample | Constant):
        do = "name a tensor, a lookup or a part of a top_k"
        yield Problem(where, f"'{ref}' is a {operation(binding)} and offers no values", do)
    elif isinstance(binding, TopK):
        yield Problem(where, f"'{ref}' is a top_k, which has two parts", f"write {ref}.values or {ref}.indices")
    elif ref not in offered:
        yield Problem(where, f"there is no binding '{ref}'", did_you_mean(ref, offered) or "declare it under bindings")


def _check_circle(where: str, name: str, bindings: Bindings, offered: Mapping[str, str]) -> Iterator[Problem]:
    path = [name]
    while isinstance(binding := bindings[path[-1]], TopK | Lookup) and _of(binding) in offered:
        path.append(offered[_of(binding)])
        if path[-1] == name:
            yield Problem(where, f"leads back to itself: {' → '.join(path)}", "name a tensor binding")
        if path[-1] in path[:-1]:
            return


def _check_parse(where: str, binding: ParseExample, bindings: Bindings) -> Iterator[Problem]:
    feedable = [n for n, b in bindings.items() if isinstance(b, Tensor | Placeholder)]
    feeders: dict[str, str] = {}
    for feature, target in targets(binding).items():
        if feeders.setdefault(target, feature) != feature:
            what = f"'{target}' is fed by feature '{feeders[target]}' already"
            yield Problem(f"{where}.parse_example.{feature}.to", what, "feed it once")
        elif target not in bindings:
            do = did_you_mean(target, feedable) or "declare it under bindings"
            yield Problem(f"{where}.parse_example.{feature}.to", f"there is no binding '{target}'", do)
        elif bindings[target] is not None and target not in feedable:
            what = f"'{target}' is a {operation(bindings[target])} and cannot be fed"
            yield Problem(f"{where}.parse_example.{feature}.to", what, "name a tensor or placeholder binding")


def operation(binding: Binding) -> str:
    """The config key that makes this binding what it is."""
    return {Tensor: "tensor", Placeholder: "placeholder", Constant: "constant", TopK: "top_k", Lookup: "lookup"}.get(
        type(binding), "parse_example"
    )


def _check_signature(where: str, signature: Signature, bindings: Bindings, offered: Mapping[str, str]) -> Iterator[Problem]:
    for alias, ref in signature.inputs.items():
        place = f"{where}.inputs.{alias}"
        if ref not in bindings:
            yield Problem(place, f"there is no binding '{ref}'", did_you_mean(ref, bindings) or "declare it under bindings")
        elif not isinstance(bindings[ref], Tensor | Placeholder | ParseExample | None):
            yield Problem(place, f"'{ref}' is a {operation(bindings[ref])} and cannot be fed", "name a tensor or a placeholder")
    for alias, ref in signature.outputs.items():
        yield from _check_ref(f"{where}.outputs.{alias}", ref, bindings, offered)
    if not signature.outputs:
        yield Problem(f"{where}.outputs", "is empty", "name at least one output")
    yield from _check_fed_once(where, signature, bindings)
    yield from _check_aliases(where, signature)


def _check_fed_once(where: str, signature: Signature, bindings: Bindings) -> Iterator[Problem]:
    feeders: dict[str, str] = {}
    for alias, ref in signature.inputs.items():
        binding = bindings.get(ref)
        for name in targets(binding).values() if isinstance(binding, ParseExample) else [ref]:
            if name in feeders:
                yield Problem(f"{where}.inputs.{alias}", f"'{name}' is fed by '{feeders[name]}' already", "feed it once")
            feeders.setdefault(name, alias)


def _check_aliases(where: str, signature: Signature) -> Iterator[Problem]:
    """The aliases that TensorFlow Serving demands of classify and regress."""
    if signature.method == "predict":
        return
    if set(signature.inputs) != {"inputs"}:
        what = f"{signature.method} takes exactly 'inputs', not {_listed(signature.inputs)}"
        yield Problem(f"{where}.inputs", what, "write {inputs: …} with a parse_example binding, or method: predict")
    allowed = {"classify": ("classes", "scores"), "regress": ("outputs",)}[signature.method]
    for alias in signature.outputs:
        if alias not in allowed:
            what = f"{signature.method} gives only {' and '.join(allowed)}"
            yield Problem(f"{where}.outputs.{alias}", what, "drop it, or write method: predict")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def rules(where: str, signature: Signature, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """The dtypes and ranks that TensorFlow Serving demands, as far as `facts` (binding reference → facts) tell."""
    if signature.method == "predict":
        return
    for alias, ref, side in _both_sides(signature):
        known, (dtype, form, fits) = facts.get(ref, Facts()), _DEMANDS.get(alias, (None, "", None))
        wrong_dtype = dtype is not None and known.dtype not in (None, dtype)
        if wrong_dtype or (fits is not None and known.shape is not None and not fits(known.shape)):
            do = _dtype_advice(alias) if wrong_dtype else f"bind a tensor of shape {form}, or write method: predict"
            yield Problem(f"{where}.{side}.{alias}", f"'{ref}' is {known}, {signature.method} needs {dtype} {form}", do)


def _both_sides(signature: Signature) -> Iterator[tuple[str, str, str]]:
    yield from ((alias, ref, "inputs") for alias, ref in signature.inputs.items())
    yield from ((alias, ref, "outputs") for alias, ref in signature.outputs.items())


def _dtype_advice(alias: str) -> str:
    return {
        "inputs": "feed it a parse_example binding",
        "classes": "turn indices into labels with a lookup binding",
    }.get(alias, "bind a float32 tensor")


def _one_each(shape: tuple[int | None, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None))


_DEMANDS = {  # alias → dtype, form in words, whether a shape is of it
    "inputs": ("string", "[N]", lambda shape: len(shape) == 1),
    "classes": ("string", "[N, k]", lambda shape: len(shape) == 2),
    "scores": ("float32", "[N, k]", lambda shape: len(shape) == 2),
    "outputs": ("float32", "[N] or [N, 1]", _one_each),
}


def computed(bindings: Bindings, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """What cannot be computed or fed, as far as `facts` tell: labels of no integers, more entries than there are, features
    of another shape than what they feed."""
    for name, binding in bindings.items():
        if isinstance(binding, Lookup) and (known := facts.get(binding.lookup)) and "int" not in (known.dtype or "int"):
            what = f"'{binding.lookup}' is {known.dtype}, not integers"
            yield Problem(f"bindings.{name}.lookup", what, "look up the indices of a top_k")
        elif isinstance(binding, TopK) and (known := facts.get(binding.top_k)) and known.shape is not None:
            yield from _check_k(f"bindings.{name}.k", binding, known.shape)
        elif isinstance(binding, ParseExample):
            yield from _check_features(f"bindings.{name}.parse_example", binding, facts)


def _check_k(where: str, binding: TopK, shape: tuple[int | None, ...]) -> Iterator[Problem]:
    if not shape:
        yield Problem(where, f"is {binding.k}, but '{binding.top_k}' is a scalar", "name a binding of rank 1 or more")
    elif shape[-1] is not None and binding.k > shape[-1]:
        what = f"is {binding.k}, but '{binding.top_k}' has {shape[-1]} entries in its last axis"
        yield Problem(where, what, f"write {shape[-1]} or less")


def _check_features(where: str, binding: ParseExample, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    for key, target in targets(binding).items():
        feature, known = binding.parse_example[key], facts.get(target, Facts())
        parsed = Facts(feature.dtype, (None, *feature.shape))
        if known.shape is not None and not compatible(known.shape, parsed.shape):
            what = f"'{target}' is {known}, which the parsed {parsed} does not fit"
            yield Problem(f"{where}.{key}.shape", what, "mend the feature's shape")
        elif known.dtype is not None and (known.dtype == "string") != (parsed.dtype == "string"):
            what = f"'{target}' is {known}, which a {parsed.dtype} cannot feed"
            yield Problem(f"{where}.{key}.dtype", what, "mend the feature's dtype")


def wire(
    key: str,
    meta_graph: MetaGraph,
    bindings: Bindings,
    signatures: Mapping[str, Signature | None],
    graph: Any,
    offered: Mapping[str, str],
) -> tuple[Wiring, list[Problem]]:
    """Find the tensors that a meta graph's part of the config names.

    Args:
        key: the meta graph's key in the config.
        graph: an `exportkit.metagraph.Graph`.
        offered: names that the source offers → tensor names.

    Returns:
        The wiring, and what is wrong: unknown names with their nearest, dtypes and shapes that are not as asserted.
    """
    problems: list[Problem] = []
    own = signatures if meta_graph.signatures is None else meta_graph.signatures
    wiring = Wiring(signatures=[k for k in own if signatures.get(k) is not None])
    for name, binding in bindings.items():
        named = {Tensor: "tensor", Placeholder: "placeholder", Constant: "replaces"}.get(type(binding))
        if named is None:
            continue
        tensor = find(getattr(binding, named), graph, offered, f"bindings.{name}.{named}", problems)
        if tensor is not None:
            wiring.names[name] = tensor
            problems += _assertions(f"bindings.{name}", binding, Facts(graph.dtype(tensor), graph.shape(tensor)))
    _bake(wiring, key, meta_graph, bindings, graph, problems)
    _cut(wiring, bindings, signatures, graph, problems)
    if meta_graph.train_op is not None:
        wiring.train_op = _find_op(meta_graph.train_op, graph, offered, f"meta_graphs.{key}.train_op", problems)
    return wiring, problems


def find(name: str, graph: Any, offered: Mapping[str, str], where: str, problems: list[Problem]) -> str | None:
    """The tensor called `name`, by the source or in the graph; otherwise a problem with the nearest names."""
    found = graph.find(offered.get(name, name))
    if not isinstance(found, Problem):
        return found
    near = did_you_mean(name, offered) if offered and ":" not in name else ""
    problems.append(Problem(where, found.what, near if near.startswith("did") else found.do))
    return None


def _find_op(name: str, graph: Any, offered: Mapping[str, str], where: str, problems: list[Problem]) -> str | None:
    op = offered.get(name, name).split(":")[0]
    if op in graph.nodes:
        return op
    problems.append(Problem(where, f"there is no operation '{name}' in the graph", did_you_mean(name, graph.nodes)))
    return None


def _assertions(where: str, binding: Binding, known: Facts) -> Iterator[Problem]:
    """A dtype or shape that the config asserts and the graph denies."""
    if isinstance(binding, Constant):
        return
    if binding.dtype and known.dtype and binding.dtype != known.dtype:
        yield Problem(f"{where}.dtype", f"the tensor is {known.dtype}, not {binding.dtype}", f"write {known.dtype}")
    if binding.shape is not None and known.shape is not None and not compatible(binding.shape, known.shape):
        what = f"the tensor is {known}, which {_yaml(binding.shape)} does not fit"
        yield Problem(f"{where}.shape", what, f"write {_yaml(known.shape)}")


def _yaml(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('null' if size is None else str(size) for size in shape)}]"


def compatible(a: Iterable[int | None], b: Iterable[int | None]) -> bool:
    """Whether two shapes can be those of one tensor."""
    a, b = list(a), list(b)
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def _bake(wiring: Wiring, key: str, meta_graph: MetaGraph, bindings: Bindings, graph: Any, problems: list[Problem]) -> None:
    for name, binding in bindings.items():
        if not isinstance(binding, Constant) or name not in wiring.names:
            continue
        overridden = name in meta_graph.constants
        value = meta_graph.constants[name] if overridden else binding.constant
        where = f"meta_graphs.{key}.constants.{name}" if overridden else f"bindings.{name}.constant"
        if value is not None:
            problems += unfit(where, value, graph.dtype(wiring.names[name]))
            wiring.constants[wiring.names[name]] = value


def unfit(where: str, value: Any, dtype: str | None) -> Iterator[Problem]:
    """A value that was written for a tensor of `dtype` and cannot be one."""
    kinds = {"bool": ([bool], "true or false"), "string": ([str], "a text")}
    allowed, do = kinds.get(dtype or "", ([int], "an integer") if "int" in (dtype or "") else ([int, float], "a number"))
    if dtype is not None and not all(type(item) in allowed for item in _flat(value)):
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        yield Problem(where, f"{shown} cannot be of dtype {dtype}", f"write {do}")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _cut(
    wiring: Wiring, bindings: Bindings, signatures: Mapping[str, Signature | None], graph: Any, problems: list[Problem]
) -> None:
    """Decide which tensors are replaced by fresh placeholders: those that some signature feeds."""
    for key in wiring.signatures:
        for name in fed(signatures[key], bindings):
            tensor = wiring.names.get(name)
            if tensor is None or name in wiring.inputs:
                continue
            if tensor in wiring.constants:
                problems.append(Problem(f"bindings.{name}", f"'{tensor}' is baked as a constant and cannot be fed", "drop one"))
            twin = next((other for other, t in wiring.inputs.items() if t == tensor), None)
            if twin is not None:
                problems.append(Problem(f"bindings.{name}", f"'{tensor}' is bound as '{twin}' already", "feed one of the two"))
            op = graph.nodes[tensor.split(":")[0]].op
            if isinstance(bindings[name], Tensor) and not op.startswith("Placeholder"):
                what = f"'{tensor}' is the output of a {op}, not a placeholder, and is fed by signatures.{key}"
                problems.append(
                    Problem(f"bindings.{name}.tensor", what, f"to cut the graph there write {{placeholder: {tensor}}}")
                )
            wiring.inputs[name] = tensor


def facts(bindings: Bindings, wiring: Wiring, graph: Any) -> dict[str, Facts]:
    """What the protos tell of every name that a signature can refer to."""
    known: dict[str, Facts] = {}
    for name, binding in bindings.items():
        if isinstance(binding, ParseExample):
            known[name] = Facts("string", (None,))
        elif isinstance(binding, Tensor | Placeholder) and name in wiring.names:
            tensor = wiring.names[name]
            known[name] = Facts(graph.dtype(tensor) or binding.dtype, _shape(binding, graph.shape(tensor)))
    for _ in bindings:
        _derive(bindings, known)
    return known


def _shape(binding: Tensor | Placeholder, known: Shape) -> Shape:
    """A bound tensor's shape: a fresh placeholder may loosen what the graph says, any other binding only adds to it."""
    said = None if binding.shape is None else tuple(binding.shape)
    if said is None or known is None or isinstance(binding, Placeholder):
        return known if said is None else said
    return tuple(a if k is None else k for k, a in zip(known, said, strict=False)) if len(known) == len(said) else known


def _derive(bindings: Bindings, known: dict[str, Facts]) -> None:
    for name, binding in bindings.items():
        if isinstance(binding, TopK) and binding.top_k in known:
            of = known[binding.top_k]
            shape = None if not of.shape else (*of.shape[:-1], binding.k)
            known |= {f"{name}.values": Facts(of.dtype, shape), f"{name}.indices": Facts("int32", shape)}
        elif isinstance(binding, Lookup) and binding.lookup in known:
            known[name] = Facts("string", known[binding.lookup].shape)
