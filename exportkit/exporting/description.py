"""The part of the report that describes what was built: meta graphs, signatures, tensors and the source of the weights."""

from collections.abc import Mapping

from exportkit.contract import SourceModel
from exportkit.exporting.savedmodel import BoundGraph, bound_tensor
from exportkit.planning.prepare import Prepared
from exportkit.report import ExportReport, MetaGraphReport, SignatureReport, TensorReport, WeightsReport
from exportkit.spec import ExportPlan


def describe(
    report: ExportReport, plan: ExportPlan, source: SourceModel, prepared: Prepared, bound: Mapping[str, BoundGraph]
) -> None:
    """Write into the report what was built and bound, and where the values of the variables come from."""
    report.meta_graphs = [_meta_graph_report(plan, key, graph) for key, graph in bound.items()]
    coverage = prepared.coverage
    report.weights = WeightsReport(
        variables=len(coverage.saved),
        bytes=sum(bundle.entries[key].size for bundle, key in prepared.sources.values()),
        proof=coverage.summary(),
        how=_how(prepared),
        notes=[*source.notes, *coverage.notes],
    )


def _how(prepared: Prepared) -> str:
    """Return how the values were moved: bytes are copied, but V1 checkpoints hold numbers in protobufs, which are decoded."""
    formats = {bundle.format for bundle, _ in prepared.sources.values()}
    ways = {"V2": "copied as bytes", "V1": "decoded from a V1 checkpoint"}
    return " and ".join(way for version, way in ways.items() if version in formats)


def _meta_graph_report(plan: ExportPlan, key: str, bound: BoundGraph) -> MetaGraphReport:
    return MetaGraphReport(
        key=key,
        tags=list(plan.meta_graphs[key].tags),
        nodes_before=bound.part.pruned.nodes_before,
        nodes_after=bound.part.pruned.nodes_after,
        signatures=[_signature_report(plan, name, bound) for name in bound.part.wiring.signatures],
    )


def _signature_report(plan: ExportPlan, key: str, bound: BoundGraph) -> SignatureReport:
    signature = plan.signatures[key]
    return SignatureReport(
        key=key,
        method=signature.method,
        inputs=[_tensor_report(alias, ref, bound) for alias, ref in signature.inputs.items()],
        outputs=[_tensor_report(alias, ref, bound) for alias, ref in signature.outputs.items()],
    )


def _tensor_report(alias: str, ref: str, bound: BoundGraph) -> TensorReport:
    tensor = bound_tensor(ref, bound)
    shape = None if tensor.shape is None else list(tensor.shape)
    return TensorReport(alias=alias, binding=ref, tensor=tensor.export_name, dtype=tensor.dtype, shape=shape)
