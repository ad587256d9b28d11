"""Problems and errors: their text, their exit codes, and that they survive the way out of a worker."""

import errno
import os
import pickle
import socket
import ssl
import urllib.error

import pytest

from exportkit import errors
from exportkit.errors import ExportKitError, Problem, did_you_mean

KINDS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ExportKitError)]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.b", "is wrong", "fix it"), "a.b: is wrong; fix it"),
        (Problem("a.b", "is wrong"), "a.b: is wrong"),
        (Problem("checkpoint", "is wrong").under("source"), "source.checkpoint: is wrong"),
        (Problem("", "is wrong", "fix it").under("source"), "source: is wrong; fix it"),
    ],
)
def test_problem_reads_as_one_line(problem, text):
    assert str(problem) == text


@pytest.mark.parametrize("cls", KINDS)
def test_error_survives_pickling(cls):
    error = cls(Problem("a", "is wrong", "fix it"), Problem("b", "too"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.problems == error.problems
    assert str(again) == "a: is wrong; fix it\nb: too"


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


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("the disk\nis slow",), "the disk is slow"),
        ((), "StepFailed gives no reason"),
        (("",), "gives no reason"),
        ((ValueError("two\nlines"),), "ValueError: two lines"),
        ((Problem("a", "is wrong"), "and so is b"), "a: is wrong\nand so is b"),
    ],
)
def test_an_error_without_a_problem_cannot_be_made(arguments, text):
    error = errors.StepFailed(*arguments)
    assert error.problems and all(isinstance(problem, Problem) for problem in error.problems)
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == text


def test_an_error_whose_constructor_forgets_ours_has_a_problem():
    class Mine(errors.ConfigError):
        def __init__(self, number):
            self.number = number

    assert str(Mine(7)) == "7"


def test_a_text_is_placed_by_who_knows_the_place():
    assert Problem("", "is wrong").located("post.a") == Problem("post.a", "is wrong")
    assert Problem("key", "is wrong").located("post.a") == Problem("key", "is wrong")


REACH = "see whether the address is right and can be reached from here"


def _unanswered(number):
    return urllib.error.URLError(OSError(number, os.strerror(number)))


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to host"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "connection timed out"),
        (TimeoutError("timed out"), "timed out"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate verify failed"),
        (_unanswered(errno.ECONNREFUSED), "connection refused"),
        (urllib.error.URLError("no host given"), "<urlopen error no host given>"),
        (
            urllib.error.HTTPError("http://u:secret@host/", 503, "Service Unavailable", None, None),
            "answered 503 service unavailable",
        ),
    ],
)
def test_a_network_error_names_the_network_and_no_directory(cause, what):
    assert errors.system_error(cause, "/srv/models/1").problems == (Problem("network", what, REACH),)


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "/srv: no space left on device; free some space"),
        (OSError(errno.ETIMEDOUT, "Connection timed out", "/mnt/x"), "/mnt/x: connection timed out; choose another directory"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a"),
            "/a: permission denied; make it writable, or choose another directory",
        ),
    ],
)
def test_what_a_disk_refuses_names_the_place(cause, text):
    assert str(errors.system_error(cause, "/srv")) == text
