"""The step `openvino`: signatures as OpenVINO IR, by OpenVINO's converter and run by its runtime."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from exportkit.plugin import Problem, StepFailed

from exportkit_formats.conversion import Conversion
from exportkit_formats.converting import Uncarried
from exportkit_formats.frozen import Frozen


@dataclass(kw_only=True)
class OpenVino(Conversion):
    """Puts each signature beside the model as OpenVINO IR, for Intel's processors, proved against the version.

    It is proved at full precision; OpenVINO itself computes in less where it may: set INFERENCE_PRECISION_HINT to f32.
    """

    kind: str = "openvino"
    title = "OpenVINO"
    needs = ("openvino",)
    suffixes = (".xml", ".bin")


def convert(frozen: Frozen, key: str, file: Path, scratch: Path) -> None:
    sys.modules["openvino_telemetry"] = None  # it would report each conversion over the network
    import openvino
    from openvino.frontend import OpConversionFailure

    frozen.save(scratch / "model", key)
    try:
        model = openvino.convert_model(scratch / "model")
    except OpConversionFailure as cause:
        lines = re.findall(r"^-- .*: (.+)$", str(cause).partition("Summary:")[2], re.MULTILINE)
        raise Uncarried(*(name for line in lines for name in line.split(", "))) from cause
    for end in model.inputs:
        if end.partial_shape.rank.is_dynamic:
            what = f"has to know how many dimensions '{end.any_name}' has"
            raise StepFailed(Problem("", what, "give its binding a shape"))
    openvino.save_model(model, file, compress_to_fp16=False)


def answer(file: Path, key: str, requests: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Return what the model in a file answers to each request."""
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {name: output for output in model.outputs for name in output.names}
    answers = (model(dict(request)) for request in requests)
    return [{name: np.array(said[output]) for name, output in names.items()} for said in answers]
