"""The last check of a bound graph: TensorFlow imports it, and says of which dtype and shape its tensors are."""

from exportkit.errors import BindingError, Problem
from exportkit.exporting.savedmodel.bound import BoundGraph
from exportkit.exporting.savedmodel.checker import Checker, Refused
from exportkit.metagraph.building import operation
from exportkit.metagraph.tensors import Facts, split
from exportkit.operations.bindings import Bindings
from exportkit.planning import serving_rules
from exportkit.protos import GraphDef
from exportkit.spec import ExportPlan


def infer(plan: ExportPlan, bound: BoundGraph, core: Checker, computed: str) -> None:
    """Import the graph, and add to its facts the dtypes and shapes of the tensors that signatures can name.

    Args:
        computed: the scope of the nodes of computed bindings, with its slash.

    Raises:
        BindingError: TensorFlow refuses it; where a computed binding does not fit its tensor, that is the problem.
    """
    try:
        found = core.facts(bound.meta.graph_def, _named(bound))
    except Refused as refused:
        if problems := _misfits(plan, bound, core, computed):
            raise BindingError(*problems) from None
        what = f"TensorFlow cannot import the serving graph: {refused}"
        raise BindingError(Problem(f"meta_graphs.{bound.part.key}", what)) from None
    bound.facts = found | bound.facts
    derived = plan.bindings.derive({ref: bound.facts[tensor] for ref, tensor in bound.values.items()})
    for ref, tensor in bound.values.items():
        bound.facts[tensor] = _joined(bound.facts[tensor], derived[ref])


def _joined(inferred: Facts, derived: Facts) -> Facts:
    """Return what TensorFlow inferred; where it inferred no shape, as of a lookup, the one that follows from the binding."""
    return inferred if inferred.shape is not None else Facts(inferred.dtype, derived.shape)


def _named(bound: BoundGraph) -> list[str]:
    return list(dict.fromkeys([*bound.values.values(), *bound.checked.values()]))


def _misfits(plan: ExportPlan, bound: BoundGraph, core: Checker, scope: str) -> list[Problem]:
    """Return what is wrong between computed bindings and their tensors, whose facts are those of the graph without them."""
    bare = GraphDef(versions=bound.meta.graph_def.versions, library=bound.meta.graph_def.library)
    kept = {node.name for node in bound.meta.graph_def.node if not node.name.startswith(scope)}
    bare.node.extend(n for n in bound.meta.graph_def.node if n.name in kept and {split(e)[0] for e in n.input} <= kept)
    leaves = {ref: tensor for ref, tensor in bound.values.items() if operation(tensor) in kept}
    try:
        found = core.facts(bare, list(dict.fromkeys(leaves.values())))
    except Refused:
        return []
    facts = {ref: found[tensor] for ref, tensor in leaves.items()}
    needed = plan.bindings.used(plan.signatures[key] for key in bound.part.wiring.signatures)
    bindings = Bindings({name: plan.bindings[name] for name in needed})
    return list(serving_rules.computed(bindings, bindings.derive(facts)))
