"""Bindings and signatures on a graph: the tensors that they name, where they cut it, and dtypes and shapes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from exportkit.config.values import format_value, unfit
from exportkit.errors import Problem, did_you_mean, nearest, some
from exportkit.metagraph.fetching import edge_context
from exportkit.metagraph.tensors import Facts, Shape, compatible
from exportkit.operations.base import Feeder
from exportkit.operations.bindings import Binding, Bindings, targets_of
from exportkit.spec import Constant, MetaGraph, Placeholder, Replacement, Signature, Tensor


@dataclass(kw_only=True)
class Wiring:
    """One meta graph's part of a config, on a graph.

    Attributes:
        names: binding → the tensor that it names.
        inputs: fed binding → the tensor that its fresh placeholder replaces.
        defaulted: those of these tensors that a signature which does not feed them computes, as the source's graph does.
        constants: replaced tensor → baked value.
        replaced: replaced tensor → the tensor of the graph that takes its place.
        signatures: the keys of its signatures.
        train_op: the operation that is kept beside them.
    """

    names: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    defaulted: list[str] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    signatures: list[str] = field(default_factory=list)
    train_op: str | None = None

    def fetches(self, signatures: Mapping[str, Signature], bindings: Bindings, keys: Iterable[str] | None = None) -> list[str]:
        """Return the tensors that the outputs of the signatures `keys` (default: all) are computed from."""
        keys = self.signatures if keys is None else keys
        leaves = (bindings.leaves(ref) or () for key in keys for ref in signatures[key].outputs.values())
        return list(dict.fromkeys(self.names[name] for names in leaves for name in names if name in self.names))

    def final(self, tensor: str) -> str:
        """Return the tensor that takes the place of `tensor`: itself if nothing replaces it."""
        for _ in self.replaced:
            tensor = self.replaced.get(tensor, tensor)
        return tensor

    def feeds(self, signature: Signature, bindings: Bindings) -> list[str]:
        """Return the tensors that the inputs of `signature` replace."""
        return [self.inputs[name] for name in bindings.fed(signature) if name in self.inputs]


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
    sound = {k: signature for k, signature in signatures.items() if signature is not None}
    wiring = Wiring(signatures=[k for k in own if k in sound])
    for name, binding in bindings.items():
        named = _named_tensor(binding)
        if named is None:
            continue
        tensor = find(named[1], graph, offered, f"bindings.{name}.{named[0]}", problems)
        if tensor is not None:
            wiring.names[name] = tensor
            problems += _assertions(f"bindings.{name}", binding, Facts(graph.dtype(tensor), graph.shape(tensor)))
    _bake(wiring, key, meta_graph, bindings, graph, problems)
    _replace(wiring, bindings, graph, offered, problems)
    inputs = {name for key in wiring.signatures for name in bindings.fed(sound[key])}
    problems += _contradictions(wiring, bindings, inputs)
    for name, tensor in wiring.names.items():
        wiring.names[name] = tensor if name in inputs else wiring.final(tensor)
    _cut(wiring, bindings, sound, graph, problems)
    _default(wiring, bindings, sound, graph, problems)
    if meta_graph.train_op is not None:
        wiring.train_op = _find_op(meta_graph.train_op, graph, offered, f"meta_graphs.{key}.train_op", problems)
    return wiring, problems


def _named_tensor(binding: Binding | None) -> tuple[str, str] | None:
    """Return the key under which a binding names its tensor of the graph, and that name; None for any other binding."""
    match binding:
        case Tensor():
            return "tensor", binding.tensor
        case Placeholder():
            return "placeholder", binding.placeholder
        case Constant():
            return "replaces", binding.replaces
    return None


def find(name: str, graph: Any, offered: Mapping[str, str], where: str, problems: list[Problem]) -> str | None:
    """Return the tensor that the source or the graph calls `name`; None after adding a problem with the nearest names."""
    found = graph.find(offered.get(name, name))
    if not isinstance(found, Problem):
        return found
    if ":" in name or not offered:
        problems.append(Problem(where, found.what, found.do))
        return None
    near = did_you_mean(name, offered) if nearest(name, offered) else found.do
    listed = f"the source offers {some(sorted(offered), 8)}"
    problems.append(Problem(where, found.what, f"{near} ({listed})" if near else listed))
    return None


def _find_op(name: str, graph: Any, offered: Mapping[str, str], where: str, problems: list[Problem]) -> str | None:
    op = offered.get(name, name).split(":")[0]
    if op in graph.nodes:
        return op
    problems.append(Problem(where, f"there is no operation '{name}' in the graph", did_you_mean(name, graph.nodes)))
    return None


def _assertions(where: str, binding: Binding | None, known: Facts) -> Iterator[Problem]:
    """Report a dtype or shape that the config asserts and the graph contradicts."""
    if not isinstance(binding, Tensor | Placeholder):
        return
    if binding.dtype and known.dtype and binding.dtype != known.dtype:
        yield Problem(f"{where}.dtype", f"the tensor is {known.dtype}, not {binding.dtype}", f"write {known.dtype}")
    if binding.shape is not None and known.shape is not None and not compatible(binding.shape, known.shape):
        what = f"the tensor is {known}, which {_yaml(binding.shape)} does not fit"
        yield Problem(f"{where}.shape", what, f"write {_yaml(known.shape)}")


def _yaml(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('null' if size is None else str(size) for size in shape)}]"


def _bake(wiring: Wiring, key: str, meta_graph: MetaGraph, bindings: Bindings, graph: Any, problems: list[Problem]) -> None:
    for name, binding in bindings.items():
        if not isinstance(binding, Constant) or name not in wiring.names:
            continue
        overridden = name in meta_graph.constants
        value = meta_graph.constants[name] if overridden else binding.constant
        where = f"meta_graphs.{key}.constants.{name}" if overridden else f"bindings.{name}.constant"
        if value is not None:
            tensor = wiring.names[name]
            problems += unfit(where, value, graph.dtype(tensor)) or _misshapen(where, value, tensor, graph)
            wiring.constants[wiring.names[name]] = value


def _replace(wiring: Wiring, bindings: Bindings, graph: Any, offered: Mapping[str, str], problems: list[Problem]) -> None:
    """Add the tensors that replace others to the wiring."""
    for name, binding in bindings.items():
        if not isinstance(binding, Replacement):
            continue
        where = f"bindings.{name}"
        tensor = find(binding.tensor, graph, offered, f"{where}.tensor", problems)
        replaced = find(binding.replaces, graph, offered, f"{where}.replaces", problems)
        if tensor is not None and replaced is not None:
            wrong = list(_unlike(where, tensor, replaced, wiring, graph))
            problems += wrong
            wiring.replaced |= {} if wrong else {replaced: tensor}


def _unlike(where: str, tensor: str, replaced: str, wiring: Wiring, graph: Any) -> Iterator[Problem]:
    """Report why one tensor cannot take the place of another."""
    new, old = (Facts(graph.dtype(t), graph.shape(t)) for t in (tensor, replaced))
    other = replaced.split(":")[0]
    if replaced in wiring.replaced:
        yield Problem(f"{where}.replaces", f"'{replaced}' is replaced by '{wiring.replaced[replaced]}' already", "drop one")
    if new.dtype and old.dtype and new.dtype != old.dtype:
        yield Problem(where, f"'{tensor}' is {new.dtype} and '{replaced}' {old.dtype}", "name two tensors of one dtype")
    elif new.shape is not None and old.shape is not None and not compatible(new.shape, old.shape):
        yield Problem(where, f"'{tensor}' is {new} and '{replaced}' {old}", "name two tensors of one shape")
    if edge_context(graph, tensor) != edge_context(graph, replaced):
        do = "name two tensors of the same loop and the same branch"
        yield Problem(where, f"'{tensor}' and '{replaced}' do not run in the same loop or branch", do)
    elif other in graph.walk([tensor], barrier=lambda name: graph.types[name] in ("NextIteration", "RefNextIteration")):
        what = f"'{tensor}' is computed from '{replaced}', so the graph would go round in a circle"
        yield Problem(where, what, "tensor is what goes in, replaces is what comes out")


def _contradictions(wiring: Wiring, bindings: Bindings, inputs: Iterable[str]) -> Iterator[Problem]:
    """Report tensors that are replaced by another and fed or baked as well."""
    for name, binding in bindings.items():
        if (isinstance(binding, Constant) or name in inputs) and wiring.names.get(name) in wiring.replaced:
            taken = wiring.replaced[wiring.names[name]]
            yield Problem(f"bindings.{name}", f"'{wiring.names[name]}' is replaced by '{taken}' already", "drop one")


def _misshapen(where: str, value: Any, tensor: str, graph: Any) -> list[Problem]:
    """Return what is wrong with a constant's shape; a single value fits every shape, as it is repeated."""
    if not isinstance(value, list | tuple):
        return []
    try:
        own = _value_shape(value)
    except ValueError:
        return [
            Problem(where, f"{format_value(value)} is ragged: its lists are of different lengths", "write lists of one length")
        ]
    known = graph.shape(tensor)
    if known is None or compatible(own, known):
        return []
    do = "write one value" if known == () else f"write values of shape {_yaml(known)}"
    return [
        Problem(
            where, f"{format_value(value)} has shape {_yaml(own)}, and '{tensor}' is {Facts(graph.dtype(tensor), known)}", do
        )
    ]


def _value_shape(value: Any) -> tuple[int, ...]:
    """Return the shape of nested lists; raise ValueError if they are ragged."""
    if not isinstance(value, list | tuple):
        return ()
    inner = {_value_shape(item) for item in value} or {()}
    if len(inner) > 1:
        raise ValueError("ragged")
    return (len(value), *inner.pop())


def _cut(wiring: Wiring, bindings: Bindings, signatures: Mapping[str, Signature], graph: Any, problems: list[Problem]) -> None:
    """Add the tensors that fresh placeholders replace to the wiring: those that some signature feeds."""
    for key in wiring.signatures:
        for name in bindings.fed(signatures[key]):
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


def _default(
    wiring: Wiring, bindings: Bindings, signatures: Mapping[str, Signature], graph: Any, problems: list[Problem]
) -> None:
    """Add the fed tensors that another signature computes instead; report one that a feeder computes in others."""
    feeders = bindings.feeders(signatures[key] for key in wiring.signatures)
    computed = {target: name for name, feeder in feeders.items() for target in targets_of(name, feeder).values()}
    for key in wiring.signatures:
        fed = set(bindings.fed(signatures[key]))
        others = {name: tensor for name, tensor in wiring.inputs.items() if name not in fed}
        others = {name: tensor for name, tensor in others.items() if not _is_placeholder(graph, tensor)}
        if not others:
            continue
        fetches = wiring.fetches(signatures, bindings, [key])
        reached = graph.reach(fetches, [*(wiring.inputs[name] for name in fed & wiring.inputs.keys()), *wiring.constants])
        for name, tensor in others.items():
            if tensor not in fetches and not graph.takes(reached, tensor):
                continue
            if name in computed:
                what = f"needs '{tensor}' as the graph computes it, and in other signatures '{computed[name]}' feeds it"
                problems.append(Problem(f"signatures.{key}", what, "leave one of these signatures out"))
            elif tensor not in wiring.defaulted:
                wiring.defaulted.append(tensor)


def _is_placeholder(graph: Any, tensor: str) -> bool:
    return graph.nodes[tensor.split(":")[0]].op in ("Placeholder", "PlaceholderV2")


def facts_of(bindings: Bindings, wiring: Wiring, graph: Any) -> dict[str, Facts]:
    """Return what the protos say about every name that a signature can refer to: dtype and shape."""
    known: dict[str, Facts] = {}
    for name, binding in bindings.items():
        if isinstance(binding, Feeder):
            known[name] = binding.taken
        elif isinstance(binding, Tensor | Placeholder) and name in wiring.names:
            tensor = wiring.names[name]
            known[name] = Facts(graph.dtype(tensor) or binding.dtype, _shape(binding, graph.shape(tensor)))
    return bindings.derive(known)


def unbuilt_facts(bindings: Bindings, offered: Mapping[str, str | Facts]) -> tuple[dict[str, Facts], list[Problem]]:
    """Return what is known of the names that a signature can refer to while the graph is not built, and what is wrong.

    Args:
        offered: all names that the source will offer → dtype and shape, or a tensor's name, of which nothing is known yet.
    """
    known: dict[str, Facts] = {}
    problems: list[Problem] = []
    for name, binding in bindings.items():
        if isinstance(binding, Feeder):
            known[name] = binding.taken
        named = _named_tensor(binding)
        if named is None:
            continue
        key, tensor = named
        if ":" not in tensor and tensor not in offered:
            listed = f"the source offers {some(sorted(offered), 8)}" if offered else "the source offers none"
            near = did_you_mean(tensor, offered) if nearest(tensor, offered) else f"a tensor of its graph is written {tensor}:0"
            problems.append(Problem(f"bindings.{name}.{key}", f"the source offers no '{tensor}'", f"{near} ({listed})"))
        elif isinstance(own := offered.get(tensor), Facts) and isinstance(binding, Tensor | Placeholder):
            problems += _assertions(f"bindings.{name}", binding, own)
            known[name] = Facts(own.dtype or binding.dtype, _shape(binding, own.shape))
    return bindings.derive(known), problems


def _shape(binding: Tensor | Placeholder, known: Shape) -> Shape:
    """Return a bound tensor's shape: a fresh placeholder may loosen the graph's, any other binding only adds to it."""
    declared = None if binding.shape is None else tuple(binding.shape)
    if declared is None or known is None or isinstance(binding, Placeholder):
        return known if declared is None else declared
    if len(known) != len(declared):
        return known
    return tuple(d if k is None else k for k, d in zip(known, declared, strict=False))
