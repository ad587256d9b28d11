"""From a config and graphs to what will be written, on protos alone: wiring, pruned graphs, and where every value comes from.

The plan prepares a `.meta` this way before anything is built, the pipeline every built model: both report the same problems.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from exportkit import metagraph
from exportkit.capabilities import Audit
from exportkit.checkpoint import Bundle
from exportkit.contract import Original, ReferenceAnswer
from exportkit.errors import BindingError, Problem, WeightsError
from exportkit.metagraph import Graph, Pruned
from exportkit.metagraph.tensors import Facts
from exportkit.planning import auditing, serving_rules, weights
from exportkit.planning.weights import Coverage
from exportkit.planning.wiring import Wiring, facts_of, wire
from exportkit.spec import Asset, Constant, ExportPlan, Signature


@dataclass(frozen=True)
class Model:
    """A source's graph, the names that it offers, its checkpoint (None while that is not known), and the original."""

    graph: Graph
    offered: Mapping[str, str] = field(default_factory=dict)
    bundle: Bundle | None = None
    answers: Sequence[ReferenceAnswer] = ()
    original: Original | None = None


@dataclass(frozen=True)
class Part:
    """One meta graph, ready to be written."""

    key: str
    model: Model
    wiring: Wiring
    pruned: Pruned
    facts: Mapping[str, Facts]


@dataclass(kw_only=True)
class Prepared:
    """All meta graphs, and the values of the union of their variables.

    Attributes:
        parts: meta graph key → part; parts that need the same pruned graph share it.
        sources: name in the export → the bundle and key of its value.
        coverage: the same, with lines about it for the report.
        warnings: what is allowed and may surprise.
        assets: the files that the version takes in, found again when every graph is built.
        audits: meta graph key → what its pruned graph can do.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    sources: dict[str, tuple[Bundle, str]] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    warnings: list[str] = field(default_factory=list)
    assets: list[Asset] = field(default_factory=list)
    audits: dict[str, Audit] = field(default_factory=dict)


def prepare(plan: ExportPlan, models: Mapping[str, Model]) -> tuple[Prepared, list[Problem], list[Problem]]:
    """Prepare every meta graph of `plan`.

    Args:
        plan: its bindings and signatures may hold None for what is broken and was reported already.
        models: meta graph key → model; the same object where meta graphs share a source.

    Returns:
        What can be written, what is wrong with names, shapes, rules and ops, and what is wrong with the weights.
    """
    prepared = Prepared()
    found: list[Problem] = []
    whole = None not in plan.signatures.values()
    rewired: list[tuple[Graph, dict[str, str], Graph]] = []
    for key, model in models.items():
        wiring, problems = wire(key, plan.meta_graphs[key], plan.bindings, plan.signatures, model.graph, model.offered)
        facts = facts_of(plan.bindings, wiring, model.graph)
        sound = list(_sound(plan, wiring))
        whole = whole and len(sound) == len(wiring.signatures)
        needed = plan.bindings.used(plan.signatures[name] for name in sound)
        found += [*problems, *serving_rules.computed({name: plan.bindings[name] for name in needed}, facts)]
        cuts_known = all(name in wiring.names for name, b in plan.bindings.items() if isinstance(b, Constant | None))
        graph = _rewired(model, wiring, rewired)
        for name in sound:
            found += _signature_problems(name, plan, wiring, graph, facts, cuts_known)
            prepared.warnings += _signature_warnings(name, plan, wiring, graph, facts)
        prepared.parts[key] = Part(key, model, wiring, _pruned(plan, prepared, model, wiring, graph), facts)
    found += auditing.check(plan, prepared, len(models) == len(plan.meta_graphs), reported=bool(found))
    lacking = [] if found or not whole else _cover(plan, prepared)
    prepared.warnings = list({w.partition(": ")[2]: w for w in reversed(prepared.warnings)}.values())[::-1]
    return prepared, _distinct(found), _distinct(lacking)


def _rewired(model: Model, wiring: Wiring, known: list[tuple[Graph, dict[str, str], Graph]]) -> Graph:
    """Return the model's graph with the config's replacements of tensors; meta graphs with the same ones share it."""
    replaced = {old: wiring.final(old) for old in wiring.replaced}
    for graph, same, made in known:
        if graph is model.graph and same == replaced:
            return made
    known.append((model.graph, replaced, model.graph.rewired(replaced)))
    return known[-1][2]


def demand(plan: ExportPlan, models: Mapping[str, Model]) -> Prepared:
    """Like `prepare`, for an export that is under way.

    Raises:
        BindingError: the config does not fit the graph.
        WeightsError: the checkpoint does not give every variable its value.
    """
    prepared, problems, lacking = prepare(plan, models)
    if problems:
        raise BindingError(*problems)
    if lacking:
        raise WeightsError(*lacking)
    return prepared


def _sound(plan: ExportPlan, wiring: Wiring) -> Iterator[str]:
    """Yield the signatures all of whose tensors were found; the others were reported already."""
    for key in wiring.signatures:
        signature = plan.signatures[key]
        computed = [plan.bindings.leaves(ref) for ref in signature.outputs.values()]
        names = [*plan.bindings.fed(signature), *(name for leaves in computed for name in leaves or ())]
        if signature.outputs and None not in computed and all(name in wiring.names for name in names):
            yield key


def _stops(plan: ExportPlan, wiring: Wiring, signature: Signature) -> list[str]:
    return [*wiring.feeds(signature, plan.bindings), *wiring.constants]


def _signature_problems(
    key: str, plan: ExportPlan, wiring: Wiring, graph: Graph, facts: Mapping[str, Facts], cuts_known: bool
) -> Iterator[Problem]:
    """Report what is wrong with a signature; the nodes that it reaches are judged only if all constants were found."""
    signature, where = plan.signatures[key], f"signatures.{key}"
    yield from serving_rules.demands(where, signature, facts)
    fetches = wiring.fetches(plan.signatures, plan.bindings, [key])
    if cuts_known:
        yield from metagraph.problems(graph, fetches, _stops(plan, wiring, signature), where, wiring.constants)


def _signature_warnings(key: str, plan: ExportPlan, wiring: Wiring, graph: Graph, facts: Mapping[str, Facts]) -> Iterator[str]:
    signature = plan.signatures[key]
    fetches, stops = wiring.fetches(plan.signatures, plan.bindings, [key]), _stops(plan, wiring, signature)
    yield from map(str, metagraph.warnings(graph, fetches, stops, f"signatures.{key}", wiring.constants))
    reached = graph.reach(fetches, stops)
    fed = [name for name in plan.bindings.fed(signature) if not graph.is_dense_shape(wiring.inputs[name])]
    fixed = {name: shape[0] for name in fed if (shape := facts[name].shape) and shape[0] is not None}
    baked = {size for size in fixed.values() if size > 1 and metagraph.bakes_size(graph, reached, size)}
    yield from _fixed_batches(key, fixed, baked)
    yield from _fixed_outputs(key, signature, facts, _freed(key, plan, wiring, graph, reached))
    for name in plan.bindings.fed(signature):
        tensor = wiring.inputs[name]
        if tensor not in fetches and not graph.takes(reached, tensor):
            yield f"signatures.{key}: input '{name}' changes none of the outputs"
    for alias, ref in signature.outputs.items():
        if facts.get(ref, Facts()).shape == ():
            yield f"signatures.{key}.outputs.{alias}: is a scalar, which REST 'instances' and server-side batching cannot carry"


def _fixed_batches(key: str, fixed: Mapping[str, int], baked: Collection[int]) -> Iterator[str]:
    """Warn about inputs whose first dimension is fixed, those of one size on one line.

    Args:
        fixed: input → its first dimension.
        baked: sizes that constants of the graph have too.
    """
    sizes: dict[int, list[str]] = {}
    for name, size in fixed.items():
        sizes.setdefault(size, []).append(name)
    for size, names in sizes.items():
        more = len(names) - 1
        of = f"'{names[0]}'" + (f" and {more} more input{'s' * (more > 1)}" if more else "")
        do = f"requests of another size are refused, and a server cannot batch them; bindings.{names[0]}: {{placeholder: …, "
        tries = "tries to free it" + (", though constants of the graph have that size too" if size in baked else "")
        yield f"signatures.{key}: the first dimension of {of} is fixed at {size}; {do}shape: [null, …]}} {tries}"


def _freed(key: str, plan: ExportPlan, wiring: Wiring, graph: Graph, reached: Collection[str]) -> set[int]:
    """Return the batch sizes of the graph that a config frees: static shapes behind the inputs have them still."""
    tensors = (wiring.inputs[name] for name in plan.bindings.fed(plan.signatures[key]))
    sizes = {shape[0] for tensor in tensors if (shape := graph.shape(tensor)) and shape[0] is not None}
    return {size for size in sizes if not metagraph.bakes_size(graph, reached, size)}


def _fixed_outputs(key: str, signature: Signature, facts: Mapping[str, Facts], freed: Collection[int]) -> Iterator[str]:
    """Warn about outputs whose first dimension is fixed though that of every input is open: the graph fixes the batch size.

    Args:
        freed: sizes that mean nothing, as `_freed` returns them.
    """
    shapes = [facts.get(ref, Facts()).shape for ref in signature.inputs.values()]
    if not shapes or not all(shape and shape[0] is None for shape in shapes):
        return
    for alias, ref in signature.outputs.items():
        if (shape := facts.get(ref, Facts()).shape) and shape[0] is not None and shape[0] not in freed:
            yield f"signatures.{key}.outputs.{alias}: has {shape[0]} rows for any request, so that a server cannot batch them"


def _pruned(plan: ExportPlan, prepared: Prepared, model: Model, wiring: Wiring, graph: Graph) -> Pruned:
    """Return the serving subgraph; that of an earlier meta graph if it is the same."""
    for other in prepared.parts.values():
        if other.model is model and _same(other.wiring, wiring):
            return other.pruned
    fetches = wiring.fetches(plan.signatures, plan.bindings)
    ops = [*filter(None, [wiring.train_op]), *(tensor.split(":")[0] for tensor in wiring.defaulted)]
    cuts = [*wiring.inputs.values(), *wiring.constants]
    return metagraph.serving_subgraph(graph, fetches, cuts, ops=ops, clear_devices=plan.clear_devices)


def _same(a: Wiring, b: Wiring) -> bool:
    parts = ("inputs", "defaulted", "constants", "replaced", "signatures", "train_op")
    return all(getattr(a, key) == getattr(b, key) for key in parts)


def _cover(plan: ExportPlan, prepared: Prepared) -> list[Problem]:
    """Find where every value is; among meta graphs with checkpoints of their own the first with a variable provides it."""
    problems: list[Problem] = []
    hits: set[str] = set()
    models = {id(part.model): part.model for part in prepared.parts.values()}.values()
    for model in models:
        bundle = model.bundle
        if bundle is None:
            continue
        variables = weights.by_name(part.pruned.variables for part in prepared.parts.values() if part.model is model)
        new = [v for v in variables if v.full_name not in prepared.coverage.saved]
        coverage, wrong = weights.cover(new, bundle, plan.weights, hits)
        problems += wrong
        prepared.sources |= {name: (bundle, key) for name, key in coverage.keys.items()}
        prepared.coverage = _joined(prepared.coverage, coverage)
    problems += _uninitialisable(prepared)
    return problems + (list(weights.unused(plan.weights, hits)) if any(model.bundle for model in models) else [])


def _uninitialisable(prepared: Prepared) -> Iterator[Problem]:
    """Report variables that the config has initialised, and whose initial value is left out of the export."""
    lacking = {name: why for part in prepared.parts.values() for name, why in part.pruned.no_initializer.items()}
    for name in prepared.coverage.initialized:
        for part in prepared.coverage.saved[name].parts:
            if part.name in lacking:
                do = "take its value from a checkpoint, by weights.names"
                yield Problem("weights.initialize", f"'{name}' cannot be initialised: {lacking[part.name]}", do)


def _joined(a: Coverage, b: Coverage) -> Coverage:
    return Coverage(
        saved=a.saved | b.saved, keys=a.keys | b.keys, initialized=a.initialized + b.initialized, notes=a.notes + b.notes
    )


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Return each problem once, at the first place where it was found."""
    return list({(p.what, p.do): p for p in reversed(problems)}.values())[::-1]
