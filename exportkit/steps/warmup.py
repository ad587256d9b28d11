"""The step `warmup`: requests from the samples, which a server sends to a model while it loads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen

from exportkit.errors import Problem, StepFailed
from exportkit.plugin import Export, Phase, PostStep, hookimpl

if TYPE_CHECKING:
    from exportkit.plugin import Prepared
    from exportkit.samples import Batch
    from exportkit.serving.prediction_log import Logged
    from exportkit.spec import ExportPlan

_CORRECT = "correct the samples of its signature, or post.warmup.batch_sizes; ~post.warmup exports without records"


@dataclass(kw_only=True)
class Warmup(PostStep):
    """Puts requests beside the model that a server answers before it serves it, so that no client waits for first runs."""

    kind: str = "warmup"
    phase = Phase.AUGMENT

    batch_sizes: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = field(default_factory=lambda: [1])
    """The batch sizes of the requests: those that clients will send, or the allowed_batch_sizes of the server. A signature
    without a batch axis, or with a fixed batch, is sent its whole sample."""

    repeat: Annotated[int, Ge(1)] = 1
    """How often the server sends each: kernels that tune themselves need several runs."""

    batching: Literal["maybe", "never"] = "maybe"
    """Whether servers batch: maybe, where some may run with --enable_batching, so that signatures that cannot be batched get
    no records (one such record and that server does not start), or never, and every signature gets them."""

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterator[Problem]:
        from exportkit.serving.warmup import MOST, too_many

        if (number := len(plan.signatures) * len(set(self.batch_sizes)) * self.repeat) > MOST:
            yield too_many("batch_sizes", number)

    def run(self, export: Export) -> Mapping[str, Any]:
        from exportkit.serving.tried_samples import tried
        from exportkit.serving.warmup import FILE, write_warmup

        meta, batches = tried(export)
        left_out = {key: why for key, batch in batches.items() if (why := self._unwarmed(key, batch))}
        warmed = {key: batch for key, batch in batches.items() if key not in left_out}
        records = size = 0
        if warmed:
            records = write_warmup(export.directory, export.plan.name, self._requests(export, warmed), self.repeat)
            self._replay(export, meta.meta_info_def.tags)
            size = (export.directory / FILE).stat().st_size
        export.report.warnings += [f"signatures.{key}: has no warmup record: {why}" for key, why in left_out.items()]
        return {
            "summary": f"each request answered; requests {records}" if warmed else "no signature has a record; requests 0",
            "records": records,
            "bytes": size,
            "left_out": left_out,
            "notes": [f"{key}: {note}" for key, batch in warmed.items() for note in batch.notes],
        }

    def _replay(self, export: Export, tags: Sequence[str]) -> None:
        from exportkit.serving.warmup import FILE, read_warmup, replay

        try:
            replay(export.directory, tags, read_warmup(export.directory / FILE), allowed=export.plan.allow.ops)
        except StepFailed as error:
            raise StepFailed(*(replace(problem, do=problem.do or _CORRECT) for problem in error.problems)) from None

    def _unwarmed(self, key: str, batch: Batch) -> str:
        """Return why a signature gets no records; empty where it does."""
        if batch.drawn and batch.refusal:
            return f"it takes none of {len(batch.refused)} random values; write samples.{key}"
        if self.batching == "maybe" and batch.unbatched:
            return f"a server cannot batch it ({batch.unbatched}); post.warmup.batching=never writes it all the same"
        return ""

    def _requests(self, export: Export, batches: Mapping[str, Batch]) -> Iterator[Logged]:
        from exportkit.serving.prediction_log import Logged

        for key, batch in batches.items():
            for size in self.batch_sizes if batch.rows else [None]:
                inputs = dict(batch.values) if size is None else batch.resized(size)
                yield Logged(export.signatures[key].method, key, inputs)


@hookimpl
def exportkit_post_steps():
    return [Warmup]
