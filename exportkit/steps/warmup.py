"""The step `warmup`: requests from the samples, which a server sends to a model while it loads it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from exportkit.errors import Problem
from exportkit.plugin import Export, Phase, PostStep, hookimpl
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

    batch_sizes: list[int] = field(default_factory=lambda: [1])
    """The batch sizes of the requests: those that clients will send, or the allowed_batch_sizes of the server."""

    repeat: int = 1
    """How often the server sends each: kernels that tune themselves need several runs."""

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

    def problems(self, where: str, signatures: int) -> Iterator[Problem]:
        """What is wrong with the fields, for an export of so many signatures."""
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            yield Problem(f"{where}.batch_sizes", f"is {self.batch_sizes}", "write sizes of 1 or more")
        if self.repeat < 1:
            yield Problem(f"{where}.repeat", f"is {self.repeat}", "write 1 or more")
        if (number := signatures * len(set(self.batch_sizes)) * self.repeat) > MOST:
            yield too_many(where, number)


@hookimpl
def exportkit_post_steps():
    return [Warmup]


@hookimpl
def exportkit_check_plan(plan: ExportPlan):
    for name, step in plan.post.items():
        if isinstance(step, Warmup):
            yield from step.problems(f"post.{name}", len(plan.signatures))
