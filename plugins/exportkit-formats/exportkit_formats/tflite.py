"""The step `tflite`: signatures as TensorFlow Lite models, by TensorFlow's own converter, run by LiteRT."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exportkit_formats.conversion import Conversion
from exportkit_formats.converting import Uncarried
from exportkit_formats.frozen import Frozen


@dataclass(kw_only=True)
class TFLite(Conversion):
    """Puts each signature beside the model as TensorFlow Lite, for phones and small devices, proved against the version."""

    kind: str = "tflite"
    title = "TensorFlow Lite"
    needs = ("ai-edge-litert",)
    suffixes = (".tflite",)


def convert(frozen: Frozen, key: str, file: Path, scratch: Path) -> None:
    import tensorflow as tf

    frozen.save(scratch / "model", key)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch / "model"), signature_keys=[key])
    try:
        file.write_bytes(converter.convert())
    except Exception as cause:
        if names := _uncarried(str(cause)):
            raise Uncarried(*names) from cause
        raise


def _uncarried(text: str) -> list[str]:
    """Return the ops that the converter's error names: ``TF Select ops: A, B``, or those of loops that it cannot follow."""
    if "Failed to functionalize Control Flow V1 ops" in text:
        return ["Enter", "Switch"]
    return [
        name
        for line in re.findall(r"^(?:TF Select|Custom|Resource) ops: (.+)$", text, re.MULTILINE)
        for name in line.split(", ")
    ]


def answer(file: Path, key: str, requests: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Return what the model in a file answers to each request."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(file)).get_signature_runner(key)
    return [{name: np.array(value) for name, value in run(**request).items()} for request in requests]
