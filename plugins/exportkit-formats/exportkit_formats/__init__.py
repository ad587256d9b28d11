"""A version as TensorFlow Lite, ONNX and OpenVINO models too, made by the field's own converters and proved against it."""

from exportkit.plugin import ExportPlan, hookimpl

from exportkit_formats.conversion import Conversion
from exportkit_formats.onnx import Onnx
from exportkit_formats.openvino import OpenVino
from exportkit_formats.tflite import TFLite


@hookimpl
def exportkit_post_steps():
    return [TFLite, Onnx, OpenVino]


@hookimpl
def exportkit_check_plan(plan: ExportPlan):
    for name, step in plan.post.items():
        if isinstance(step, Conversion):
            yield from step.problems(f"post.{name}", plan)
