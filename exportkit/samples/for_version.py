"""What is sent to an export to try it: the samples of its signatures, to the meta graph that a server loads."""

from typing import TYPE_CHECKING

from exportkit import samples
from exportkit.modelserver import loaded
from exportkit.samples import Batch

if TYPE_CHECKING:
    from exportkit.contract import Export
    from exportkit.protos import MetaGraphDef


def tried(export: "Export") -> tuple["MetaGraphDef", dict[str, Batch]]:
    """The meta graph that a server loads if it is told nothing, and the samples of its signatures."""
    key = loaded({key: meta.meta_info_def.tags for key, meta in export.meta_graphs.items()})
    meta = export.meta_graphs[key]
    keys = [signature for signature in export.signatures if signature in meta.signature_def]
    return meta, samples.load(export.plan, export.bound[key], keys)
