"""The steps under exportkit's own suite."""

import pytest
from exportkit.testing import StepSuite

from exportkit_formats.onnx import Onnx
from exportkit_formats.openvino import OpenVino
from exportkit_formats.tflite import TFLite

pytestmark = pytest.mark.slow


@pytest.mark.needs("ai_edge_litert")
class TestTFLite(StepSuite):
    step = TFLite

    def check(self, directory, report):
        assert sorted(path.name for path in (directory / "assets.extra").iterdir()) == ["serving_default.tflite"]


@pytest.mark.needs("tf2onnx", "onnxruntime")
class TestOnnx(StepSuite):
    step = Onnx

    def check(self, directory, report):
        assert sorted(path.name for path in (directory / "assets.extra").iterdir()) == ["serving_default.onnx"]


@pytest.mark.needs("openvino")
class TestOpenVino(StepSuite):
    step = OpenVino

    def check(self, directory, report):
        names = sorted(path.name for path in (directory / "assets.extra").iterdir())
        assert names == ["serving_default.bin", "serving_default.xml"]
