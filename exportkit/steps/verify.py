"""The step `verify`: what was written answers as the training graph does, or it does not go live."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from exportkit.errors import StepFailed
from exportkit.plugin import Export, Phase, PostStep, hookimpl


@dataclass(kw_only=True)
class Verify(PostStep):
    """Run every signature beside the whole training graph, and refuse the export where they differ.

    The training graph runs with the checkpoint's values in a process of its own. The export runs in the C++ core of a model
    server, from a copy out of reach of what it was made from. Both run as the graphs are written, so that equal means equal
    bits; then the export runs as a server optimises it, which may change the last ones.
    """

    kind: str = "verify"
    phase: ClassVar[Phase] = Phase.VERIFY

    atol: float = 0.0
    """How far numbers may be from the training graph's: atol + rtol * |its value|."""

    rtol: float = 0.0
    """The part of it that grows with the value."""

    batch_sizes: list[int] = field(default_factory=list)
    """Numbers of rows to try; empty: 1, and all of the samples' but at least 2."""

    run_timeout: float = 600.0
    """Seconds that starting a model, or one run of it, may take."""

    def run(self, export: Export) -> dict[str, Any]:
        from exportkit.verifying.parity import Proof, Tolerance  # a room of many modules, for this step alone

        tolerance = Tolerance(self.atol, self.rtol)
        proofs = {key: Proof(export, key, tolerance, self.batch_sizes, self.run_timeout) for key in export.meta_graphs}
        details = {key: proof.prove() for key, proof in proofs.items()}
        if problems := [problem for proof in proofs.values() for problem in proof.problems]:
            raise StepFailed(*dict.fromkeys(problems))
        export.report.warnings += dict.fromkeys(warning for proof in proofs.values() for warning in proof.warnings)
        return {"summary": _summary(details), "atol": self.atol, "rtol": self.rtol, "meta_graphs": details}


def _summary(details: Mapping[str, Any]) -> str:
    """``max abs diff 0, mismatches 0; signatures 2, outputs 3``."""
    signatures = [s for found in details.values() for s in found.get("signatures", {}).values()]
    outputs = [output for signature in signatures for output in signature["outputs"].values()]
    if not outputs:
        return "nothing could be run"
    worst, wrong = max(o["max_abs_diff"] for o in outputs), sum(o["mismatches"] for o in outputs)
    return f"max abs diff {worst:g}, mismatches {wrong}; signatures {len(signatures)}, outputs {len(outputs)}"


@hookimpl
def exportkit_post_steps():
    return [Verify]
