"""What the graphs of an export can do, and what of it the config allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from exportkit import capabilities
from exportkit.capabilities import ALLOWANCES, Audit
from exportkit.errors import BindingError, Problem
from exportkit.metagraph.kinds import op_class
from exportkit.metagraph.tensors import canonical
from exportkit.spec import ExportPlan

if TYPE_CHECKING:
    from exportkit.planning.prepare import Part, Prepared


def check(plan: ExportPlan, prepared: Prepared, complete: bool, *, reported: bool) -> list[Problem]:
    """Audit each prepared graph, and return what it can do and the config does not allow.

    Args:
        complete: whether all graphs of the plan are prepared, so that an allowance that none of them needs can be reported.
        reported: whether other problems were found. Nodes that a server cannot run are then among them, and not repeated here.
    """
    for key, part in prepared.parts.items():
        shared = (other for other in prepared.audits if prepared.parts[other].pruned is part.pruned)
        prepared.audits[key] = prepared.audits[same] if (same := next(shared, None)) else _audit(plan, part)
    if complete and not reported:
        prepared.warnings += _unneeded(plan, prepared)
    found: list[Problem] = []
    for key, audit in prepared.audits.items():
        where = f"meta_graphs.{key}"
        own = list(capabilities.problems(_judged(audit, reported), plan.allow.ops, where))
        run = _judged(_audit_run(plan, prepared.parts[key]), reported or bool(own))
        found += own or capabilities.problems(run, plan.allow.ops, f"{where} (its training graph, which verify runs)")
    return found


def _judged(audit: Audit, reported: bool) -> Audit:
    """Return an audit without the ops that no server can run, where these were reported."""
    return replace(audit, uses=tuple(use for use in audit.uses if op_class(use.op) is None)) if reported else audit


def _audit_run(plan: ExportPlan, part: Part) -> Audit:
    """Return what runs when the whole training graph is asked for the answers of the signatures, as verify does."""
    wiring, pruned = part.wiring, part.pruned
    fetches = [*wiring.fetches(plan.signatures, plan.bindings), *(op for ops in pruned.tables.values() for op in ops)]
    fetches += map(wiring.final, wiring.replaced)
    fed = {canonical(tensor) for tensor in (*wiring.inputs.values(), *wiring.constants)} - {*wiring.defaulted}
    wanted = [tensor for tensor in fetches if ":" not in tensor or canonical(tensor) not in fed]
    return capabilities.audit(part.model.graph.meta, assets=pruned.assets, fetches=wanted, feeds=fed, loaded=False)


def demand(plan: ExportPlan, prepared: Prepared) -> None:
    """Refuse graphs with capabilities that the config does not allow; to be called before TensorFlow imports them.

    Raises:
        BindingError: names each such capability with its nodes.
    """
    found: list[Problem] = []
    for key, part in prepared.parts.items():
        audit = prepared.audits.get(key) or _audit(plan, part)
        found += capabilities.problems(audit, plan.allow.ops, f"meta_graphs.{key}")
    if found:
        raise BindingError(*found)


def _audit(plan: ExportPlan, part: Part) -> Audit:
    fetches = [*part.wiring.fetches(plan.signatures, plan.bindings), *filter(None, [part.wiring.train_op])]
    return capabilities.audit(part.pruned.meta, assets=part.pruned.assets, whole=True, fetches=fetches)


def _unneeded(plan: ExportPlan, prepared: Prepared) -> Iterator[str]:
    """Yield a note for each allowance that no graph needs."""
    used = {capability for audit in prepared.audits.values() for capability in audit.dangers()}
    for name in plan.allow.ops:
        if used.isdisjoint(ALLOWANCES.get(name, ())):
            yield f"allow.ops: no graph needs {name}; leave it out"
