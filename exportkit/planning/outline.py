"""What a plan says will happen, line by line."""

from collections.abc import Iterator

from exportkit.capabilities import CAPABILITIES, joined
from exportkit.errors import some
from exportkit.planning import assets
from exportkit.planning.prepare import Prepared
from exportkit.spec import Check, ExportPlan
from exportkit.version import claim


def outline(drafted: ExportPlan) -> Iterator[Check]:
    """Yield the plan's lines, in the order in which things will happen."""
    first = next(iter(drafted.resolved.values())).preview
    static = first.meta_graph is not None
    for line in first.checked:
        yield Check("source", line, True)
    for line in first.when_built:
        yield Check("source", line, False)
    if first.checkpoint:
        yield Check("weights", f"checkpoint {first.checkpoint}", True)
    if static and not any(part.pruned.variables for part in drafted.prepared.parts.values()):
        yield Check("weights", "the graph has no variables", True)
    else:
        rule = "every variable has one value in the checkpoint, or an initialize rule"
        yield Check("weights", rule, static and bool(first.checkpoint))
    yield Check("bind", f"{len(drafted.bindings)} bindings: {', '.join(drafted.bindings)}", static)
    yield Check("bind", "ops and CPU kernels", False)
    for asset in drafted.assets:
        yield Check("assets", f"{asset.path} ({asset.named_by})", True)
    for note in assets.notes(drafted, all(one.preview.meta_graph is not None for one in drafted.resolved_sources())):
        yield Check("assets", note, True)
    yield Check(
        "audit", f"the graph can {describe_capabilities(drafted.prepared)}" if static else "what the graph can do", static
    )
    for key, signature in drafted.signatures.items():
        yield Check(
            "sign", f"{key}: {signature.method} ({', '.join(signature.inputs)}) → ({', '.join(signature.outputs)})", static
        )
    for meta_graph in drafted.meta_graphs.values():
        yield Check("write", f"meta graph tagged {', '.join(meta_graph.tags)}", True)
    for name, step in drafted.post.items():
        yield Check(step.phase.name.lower(), name, False)
    number = next_version(drafted)
    yield Check("commit", f"{drafted.export_dir}/{number}", isinstance(drafted.version, int))


def describe_capabilities(prepared: Prepared) -> str:
    """Return what the prepared graphs can do, in a sentence; the capabilities as the config allows and the audit lists them."""
    found = joined(prepared.audits.values()).by_capability()
    return ", ".join(f"{CAPABILITIES[name].can} ({some(ops, 3)})" for name, ops in found.items()) or "only compute"


def next_version(drafted: ExportPlan) -> str:
    """Return the version that would be written now, as a text."""
    if drafted.version == "auto":
        return str(max(claim.numbers(drafted.export_dir), default=0) + 1)
    return "<timestamp>" if drafted.version == "timestamp" else str(drafted.version)
