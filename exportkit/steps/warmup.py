"""The step `warmup`: requests from the samples, which a server sends to a model while it loads it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from exportkit.errors import Problem
from exportkit.plugin import Export, Phase, PostStep, Prepared, hookimpl
from exportkit.samples import Batch
from exportkit.samples.for_version import tried
from exportkit.serving.prediction_log import Logged
from exportkit.serving.warmup import FILE, MOST, read_warmup, replay, too_many, write_warmup
from exportkit.spec import ExportPlan


@dataclass(kw_only=True)
class Warmup(PostStep):
    """Puts requests beside the model that a server answers before it serves it, so that no client waits for first runs."""

    kind: str = "warmup"
    phase = Phase.AUGMENT

    batch_sizes: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = field(default_factory=lambda: [1])
    """The batch sizes of the requests: those that clients will send, or the allowed_batch_sizes of the server."""

    repeat: Annotated[int, Ge(1)] = 1
    """How often the server sends each: kernels that tune themselves need several runs."""

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterator[Problem]:
        if (number := len(plan.signatures) * len(set(self.batch_sizes)) * self.repeat) > MOST:
            yield too_many("batch_sizes", number)

    def run(self, export: Export) -> Mapping[str, Any]:
        meta, batches = tried(export)
        records = write_warmup(export.directory, export.plan.name, self._requests(export, batches), self.repeat)
        replay(export.directory, meta.meta_info_def.tags, read_warmup(export.directory / FILE))
        notes = [f"{key}: {note}" for key, batch in batches.items() for note in batch.notes]
        return {
            "summary": f"each request answered; requests {records}",
            "records": records,
            "bytes": (export.directory / FILE).stat().st_size,
            "notes": notes,
        }

    def _requests(self, export: Export, batches: Mapping[str, Batch]) -> Iterator[Logged]:
        for key, batch in batches.items():
            for size in self.batch_sizes:
                yield Logged(export.signatures[key].method, key, batch.resized(size))


@hookimpl
def exportkit_post_steps():
    return [Warmup]
