"""Problems and errors: their text, their exit codes, and that they survive the way out of a worker."""

import pickle

import pytest

from exportkit import errors
from exportkit.errors import ExportKitError, Problem, did_you_mean

KINDS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ExportKitError)]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.b", "is wrong", "mend it"), "a.b: is wrong; mend it"),
        (Problem("a.b", "is wrong"), "a.b: is wrong"),
        (Problem("checkpoint", "is wrong").under("source"), "source.checkpoint: is wrong"),
        (Problem("", "is wrong", "mend it").under("source"), "source: is wrong; mend it"),
    ],
)
def test_problem_reads_as_one_line(problem, text):
    assert str(problem) == text


@pytest.mark.parametrize("cls", KINDS)
def test_error_survives_pickling(cls):
    error = cls(Problem("a", "is wrong", "mend it"), Problem("b", "too"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.problems == error.problems
    assert str(again) == "a: is wrong; mend it\nb: too"


def test_exit_codes():
    assert {cls.__name__: cls.exit_code for cls in KINDS} == {
        "ExportKitError": 1,
        "ConfigError": 2,
        "BindingError": 2,
        "WeightsError": 2,
        "PluginError": 1,
        "StepFailed": 1,
        "EnvironmentFailed": 1,
    }


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("imges", ["images", "labels"], "did you mean images?"),
        ("images", ["images_a", "images_b"], "did you mean images_a or images_b?"),
        ("images", ["images_a", "images_b", "images_c", "images_d"], "did you mean images_a, images_b or images_c?"),
        ("kernel", ["dense/kernel", "dense/bias"], "did you mean dense/kernel?"),
        ("a/Probs:0", ["tower/probs:0", "tower/logits:0"], "did you mean tower/probs:0?"),
        ("Images", ["IMAGES", "labels"], "did you mean IMAGES?"),
        ("zzz", ["b", "a", "a"], "known: a, b"),
        ("zzz", list("abcdefgh"), "known: a, b, c, d, e, f, g, h"),
        ("zzz", list("abcdefghi"), ""),
        ("zzz", [], ""),
        ("", ["a"], "known: a"),
    ],
)
def test_unknown_name_gets_its_nearest_neighbours(name, known, text):
    assert did_you_mean(name, known) == text
