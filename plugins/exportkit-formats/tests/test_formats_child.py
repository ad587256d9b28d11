"""Calls in a process of their own: a value, a refusal, or one line about the end of the process."""

from pathlib import Path

import pytest
from exportkit.errors import EnvironmentFailed, StepFailed

from exportkit_formats.child import call


@pytest.fixture(autouse=True)
def _cases(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def _call(name, timeout=None, **arguments):
    return call("signatures.s", "ONNX", timeout, f"formats_cases:{name}", **arguments)


def test_a_value_comes_back_whatever_is_printed():
    assert _call("add", a=1, b=2) == 3


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("refuse", StepFailed, "signatures.s: ONNX cannot do it; do without"),
        ("fail", StepFailed, "signatures.s: ONNX raised ValueError: two lines"),
        ("crash", StepFailed, "signatures.s: ONNX's process died of SIGABRT; its last line: the reason"),
        ("leave", StepFailed, "signatures.s: ONNX raised SystemExit: no"),
        (
            "be_killed",
            EnvironmentFailed,
            "signatures.s: ONNX's process was killed by SIGKILL, most likely because memory ran out; free some memory",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(name, error, text):
    with pytest.raises(error) as failed:
        _call(name)
    assert str(failed.value) == text


def test_a_process_that_hangs_is_killed():
    with pytest.raises(StepFailed) as failed:
        _call("hang", timeout=0.5)
    assert str(failed.value) == "signatures.s: ONNX's process took longer than 0.5 s; raise the timeout"
