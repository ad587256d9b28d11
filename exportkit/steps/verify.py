"""The step `verify`: what was written answers as the training graph does, or it does not go live."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from exportkit.errors import Problem, StepFailed, some
from exportkit.plugin import Export, Phase, PostStep, Seconds, hookimpl

if TYPE_CHECKING:
    from exportkit.plugin import Prepared
    from exportkit.spec import ExportPlan


@dataclass(kw_only=True)
class Verify(PostStep):
    """Runs every signature beside the whole training graph, and refuses the export where they differ.

    The training graph runs with the checkpoint's values in a process of its own. The export runs in the C++ core of a model
    server, from a copy out of reach of what it was made from. Both run as the graphs are written, so that equal means equal
    bits; then the export runs as a server optimises it, which may change the last ones. Where the source gives answers of the
    original model, the export has to give them too.
    """

    kind: str = "verify"
    phase: ClassVar[Phase] = Phase.VERIFY

    atol: Annotated[float, Ge(0)] = 0.0
    """How far numbers may be from the training graph's: atol + rtol * |its value|."""

    rtol: Annotated[float, Ge(0)] = 0.0
    """The part of it that grows with the value."""

    batch_sizes: list[Annotated[int, Ge(1)]] = field(default_factory=list)
    """Numbers of rows to try; empty: 1, and all of the samples' but at least 2. What has no batch axis is tried whole."""

    unsampled: Literal["refuse", "allow"] = "refuse"
    """Whether a signature may be exported that takes none of the random values which are tried where samples gives none:
    refuse, or allow, which exports it with the status "not verified"."""

    run_timeout: Seconds = 600.0
    """Seconds that starting a model, or one run of it, may take."""

    def check(self, plan: "ExportPlan", prepared: "Prepared") -> Iterator[Problem]:
        from exportkit.operations.decode_image import DecodeImage, missing_decoder

        feeders = plan.bindings.feeders(signature for signature in plan.signatures.values() if signature)
        if any(isinstance(feeder, DecodeImage) for feeder in feeders.values()) and (problem := missing_decoder()):
            yield problem

    def begin(self, export: Export) -> None:
        from exportkit.verifying.parity import begin

        begin(export, self.run_timeout)

    def begin_written(self, export: Export) -> None:
        from exportkit.verifying.parity import begin_written

        if next(iter(export.plan.post.values())) is self:  # else another step would come between
            begin_written(export, self.run_timeout)

    def run(self, export: Export) -> dict[str, Any]:
        from exportkit.processes import not_sandboxed
        from exportkit.verifying.parity import Proof, Tolerance  # a room of many modules, for this step alone

        tolerance = Tolerance(self.atol, self.rtol)
        limits = self.batch_sizes, self.run_timeout, self.unsampled
        proofs = {key: Proof(export, key, tolerance, *limits) for key in export.meta_graphs}
        details = {key: proof.prove() for key, proof in proofs.items()}
        if problems := [problem for proof in proofs.values() for problem in proof.problems]:
            raise StepFailed(*dict.fromkeys(problems))
        unverified = list(dict.fromkeys(name for proof in proofs.values() for name in proof.unverified))
        if not _outputs(details) and not (unverified and self.unsampled == "allow"):
            what = "nothing was compared: no meta graph has a signature that can be run here"
            raise StepFailed(Problem("", what, "leave the step out if that is as it should be: ~post.verify"))
        export.report.warnings += dict.fromkeys(warning for proof in proofs.values() for warning in proof.warnings)
        found = {"summary": _summary(details), "atol": self.atol, "rtol": self.rtol, "meta_graphs": details}
        if lacks := not_sandboxed():
            found["not_sandboxed"] = lacks
        if unverified:
            export.report.unverified += unverified
            found = {**found, "status": "not verified", "summary": f"not verified: {', '.join(unverified)}; {found['summary']}"}
        return found


def _summary(details: Mapping[str, Any]) -> str:
    """Return ``max abs diff 0, mismatches 0; signatures 2, outputs 3; on random values: predict``."""
    outputs = _outputs(details)
    if not outputs:
        return "nothing could be run"
    signatures = [s for found in details.values() for s in found.get("signatures", {}).values() if s["outputs"]]
    worst, wrong = max(o["max_abs_diff"] for o in outputs), sum(o["mismatches"] for o in outputs)
    found = f"max abs diff {worst:g}, mismatches {wrong}; signatures {len(signatures)}, outputs {len(outputs)}"
    return f"{found}{_originals(details)}{_drawn(details)}"


def _outputs(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what was compared, output by output."""
    signatures = (s for found in details.values() for s in found.get("signatures", {}).values())
    return [output for signature in signatures for output in signature["outputs"].values()]


def _originals(details: Mapping[str, Any]) -> str:
    """Return ``; original model: answers 2, max abs diff 0``, where its answers were compared."""
    compared = [found["original model"] for found in details.values() if "original model" in found]
    worst = [output["max_abs_diff"] for found in compared for output in found["outputs"].values()]
    number = sum(found["answers"] for found in compared)
    return f"; original model: answers {number}, max abs diff {max(worst):g}" if worst else ""


def _drawn(details: Mapping[str, Any]) -> str:
    """Return which signatures were tried on random values, as samples gives none for them."""
    signatures = {key: s for found in details.values() for key, s in found.get("signatures", {}).items()}
    drawn = [key for key, signature in signatures.items() if signature.get("samples", "as given") != "as given"]
    return f"; on random values: {some(drawn, 3)}" if drawn else ""


@hookimpl
def exportkit_post_steps():
    return [Verify]
