"""What is sent to an export to try it: the samples of its signatures, to the meta graph that a server loads."""

from typing import TYPE_CHECKING

from exportkit import samples
from exportkit.samples import Batch

if TYPE_CHECKING:
    from exportkit.plugin import Export
    from exportkit.protos import MetaGraphDef


def tried(export: "Export") -> tuple["MetaGraphDef", dict[str, Batch]]:
    """The meta graph that a server loads if it is told nothing, and the samples of its signatures.

    It is the one tagged ``serve``, or else the first.
    """
    by_tags = {tuple(meta.meta_info_def.tags): key for key, meta in export.meta_graphs.items()}
    key = by_tags.get(("serve",), next(iter(export.meta_graphs)))
    meta = export.meta_graphs[key]
    keys = [signature for signature in export.signatures if signature in meta.signature_def]
    return meta, samples.load(export.plan, export.bound[key], keys)
