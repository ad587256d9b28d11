"""What is sent to an export to try it: the samples of its signatures, to the meta graph that a server loads."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from exportkit import samples
from exportkit.samples import Batch

if TYPE_CHECKING:
    from exportkit.plugin import Export
    from exportkit.protos import MetaGraphDef


def loaded(tags: Mapping[str, Iterable[str]]) -> str:
    """The meta graph that a server loads if it is told nothing: the one tagged ``serve``, or else the first.

    Args:
        tags: meta graph key → its tags.
    """
    return next((key for key, own in tags.items() if set(own) == {"serve"}), next(iter(tags)))


def tried(export: "Export") -> tuple["MetaGraphDef", dict[str, Batch]]:
    """The meta graph that a server loads if it is told nothing, and the samples of its signatures."""
    key = loaded({key: meta.meta_info_def.tags for key, meta in export.meta_graphs.items()})
    meta = export.meta_graphs[key]
    keys = [signature for signature in export.signatures if signature in meta.signature_def]
    return meta, samples.load(export.plan, export.bound[key], keys)
