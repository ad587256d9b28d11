"""A function called in a process of its own, and all that it may do there."""

import sys
from functools import partial

import apart_cases
import pytest

from exportkit.errors import BindingError, EnvironmentFailed, StepFailed
from exportkit.plugin import call_apart


def call(function, *arguments, timeout=None):
    return call_apart(function, *arguments, where="signatures.s", who="ONNX", timeout=timeout)


def test_a_value_comes_back_whatever_is_printed(capfd):
    assert call(apart_cases.add, 1, 2) == 3
    assert call(partial(apart_cases.add, a="x", b="y")) == "xy"
    assert capfd.readouterr() == ("", "")


def test_it_finds_the_environment_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.setenv("APART", "yes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert call(apart_cases.environment, "APART") == ("yes", str(tmp_path), str(tmp_path))
    assert call(apart_cases.environment, "CUDA_VISIBLE_DEVICES")[0] == "-1"
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("function", "error", "text"),
    [
        (apart_cases.refuse, StepFailed, "signatures.s: ONNX cannot do it; do without"),
        (apart_cases.refuse_twice, BindingError, "bindings.x: is wrong\nsignatures.s: ONNX has no y"),
        (apart_cases.fail, StepFailed, "signatures.s: ONNX fails: ValueError: two lines"),
        (apart_cases.crash, StepFailed, "signatures.s: ONNX's process died of SIGABRT: the reason"),
        (apart_cases.leave, EnvironmentFailed, "signatures.s: ONNX's process failed: no"),
        (
            apart_cases.be_killed,
            EnvironmentFailed,
            "signatures.s: ONNX's process was killed, most often for want of memory; free some memory",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(function, error, text):
    with pytest.raises(error) as failed:
        call(function)
    assert (type(failed.value), str(failed.value)) == (error, text)


def test_a_value_that_cannot_be_pickled():
    with pytest.raises(StepFailed, match=r"^signatures\.s: ONNX fails: .*make_a_lambda"):
        call(apart_cases.make_a_lambda)


def test_a_process_that_hangs_is_killed():
    with pytest.raises(StepFailed) as failed:
        call(apart_cases.hang, timeout=0.5)
    assert str(failed.value) == "signatures.s: ONNX takes longer than 0.5 s; raise the step's timeout"
