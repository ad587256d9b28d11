"""Feeders of plugins: bindings that a request sends, and whose values feed others; by the door that operations come in by."""

from dataclasses import dataclass, field

import numpy as np
import pytest

import exportkit
from exportkit.errors import ConfigError, ExportKitError, PluginError, Problem, StepFailed
from exportkit.operations.decode_image import DecodeImage
from exportkit.plugin import Facts, Feeder, Operation, hookimpl
from exportkit.registry import load_plugins
from exportkit.serving.rest_request import zero_request
from exportkit.testing import BindingSuite, toys


@dataclass(kw_only=True)
class Pixels(Feeder):
    """Bytes, string [N]: each is a number from 0 to 255 of the binding `pixels`."""

    kind = "pixels"
    taken = Facts("string", (None,))
    made = "read from the bytes"

    pixels: str

    width: int

    table: str | None = None

    def targets(self):
        return {"numbers": self.pixels}

    def unsound(self):
        if self.width < 1:
            yield Problem("width", f"is {self.width}", "write 1 or more")

    def check(self):
        if self.width == 13:
            yield Problem("width", "is 13", "write another number")

    def problems(self, fed):
        known = fed.get(self.pixels, Facts())
        if known.shape is not None and known.shape[1:] not in ((self.width,), (None,)):
            yield Problem("width", f"is {self.width}, but '{self.pixels}' is {known}", "write its size")

    def add(self, graph, name, taken):
        bytes_of = graph.add("DecodeRaw", [taken], name=f"{name}_bytes", out_type="uint8", little_endian=True)
        shape = graph.constant([-1, self.width], "int32", [2], name=f"{name}_shape")
        return {self.pixels: graph.cast(graph.add("Reshape", [*bytes_of, shape], name=f"{name}_rows")[0], "float32")}

    def recompute(self, taken):
        rows = [np.frombuffer(text, np.uint8) for text in taken]
        if any(len(row) != self.width for row in rows):
            raise ValueError(f"has rows that are not of {self.width} bytes")
        return {"numbers": np.stack(rows).astype(np.float32)}

    def draw(self, rows, generator):
        return [generator.bytes(self.width) for _ in range(rows)]


class Offering:
    """A plugin."""

    @staticmethod
    @hookimpl
    def exportkit_bindings():
        return [Pixels]


class Offered(BindingSuite):
    """The suite for what `Offering` brings, which is not installed."""

    @pytest.fixture
    def plugins(self):
        return load_plugins({"pixels": Offering})


@pytest.mark.quick(6)
class TestPixels(Offered):
    operation = Pixels
    of = "x"

    def keys(self, directory):
        return {"width": 4}


@pytest.fixture
def plugins():
    return load_plugins({"pixels": Offering})


@pytest.fixture
def config(checkpoint, tmp_path):
    """A config whose signature takes the bytes; without samples."""
    return toys.config(
        checkpoint("softmax").prefix,
        tmp_path,
        bindings={"x": "x:0", "probs": "probs:0", "bytes": {"pixels": "x", "width": 4}},
        signatures={"serving_default": {"inputs": {"bytes": "bytes"}, "outputs": {"probs": "probs"}}},
        post={"verify": {"kind": "verify"}},
    )


def test_what_is_served_is_computed_from_the_bytes(config, plugins, checkpoint):
    plan = exportkit.plan(config, plugins)
    report = exportkit.run(plan, plugins)
    (verify,) = report.steps
    assert (verify.status, report.unverified) == ("passed", [])
    sent = np.array([bytes([1, 2, 3, 4]), bytes([0, 255, 0, 9])], object)
    expected = toys.restored(
        checkpoint("softmax").prefix, "probs:0", {"x:0": np.array([[1, 2, 3, 4], [0, 255, 0, 9]], np.float32)}
    )
    served = toys.served(report.directory, "serving_default", {"bytes": sent})["probs"]
    np.testing.assert_array_equal(served, expected)
    assert report.served is not None
    drawn = np.random.default_rng(0).bytes(4)
    assert plan.bindings["bytes"].recompute([drawn])["numbers"].shape == (1, 4)
    assert '"bytes": {"b64": ' in zero_request(plan, report.served.signatures[0])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 0}, "bindings.bytes.width: is 0; write 1 or more"),
        ({"width": 13}, "bindings.bytes.width: is 13; write another number"),
        ({"width": 5}, "bindings.bytes.width: is 5, but 'x' is float32 [?, 4]; write its size"),
        ({"pixels": "y"}, "bindings.bytes.pixels: there is no binding 'y'; known: probs, x"),
        (
            {"pixels": "bytes"},
            "bindings.bytes.pixels: 'bytes' is a pixels and cannot be fed; name a tensor or placeholder binding",
        ),
        ({"witdh": 4}, "bindings.bytes.witdh: no such key; did you mean width?"),
    ],
)
def test_its_problems_are_told_with_the_others(change, text, config, plugins):
    config["bindings"]["bytes"] |= change
    with pytest.raises(ConfigError) as refused:
        exportkit.plan({**config, "version": "x"}, plugins)
    lines = str(refused.value).splitlines()
    assert text in lines
    assert any(line.startswith("version: ") for line in lines)


def raising(self, *_):
    raise RuntimeError("boom")


MISTAKES = [
    ("targets", raising, "bindings.bytes: targets() of Pixels raised RuntimeError: boom"),
    ("targets", lambda self: {"numbers": 3}, "bindings.bytes: targets() of Pixels did not return names of values → names"),
    ("unsound", raising, "bindings.bytes: unsound() of Pixels raised RuntimeError: boom"),
    ("check", raising, "bindings.bytes: check() of Pixels raised RuntimeError: boom"),
    ("problems", raising, "bindings.bytes: problems() of Pixels raised RuntimeError: boom"),
    ("add", raising, "bindings.bytes: add() of Pixels raised RuntimeError: boom"),
    ("add", lambda self, graph, name, taken: {}, "bindings.bytes: add() of Pixels returned values of nothing, and targets()"),
    ("draw", raising, "bindings.bytes: draw() of Pixels raised RuntimeError: boom"),
    ("recompute", raising, "bindings.bytes: recompute() of Pixels raised RuntimeError: boom"),
    ("recompute", lambda self, taken: {}, "bindings.bytes: recompute() of Pixels returned values of nothing, and"),
]  # fmt: skip


@pytest.mark.quick(4)
@pytest.mark.parametrize(("method", "replacement", "text"), MISTAKES)
def test_a_plugins_mistake_is_one_line(method, replacement, text, config, plugins, monkeypatch):
    monkeypatch.setattr(Pixels, method, replacement)
    with pytest.raises(ExportKitError) as refused:
        exportkit.run(exportkit.plan(config, plugins), plugins)
    assert str(refused.value).startswith(text)


def test_what_it_computes_otherwise_is_caught(config, plugins, monkeypatch):
    recompute = Pixels.recompute
    monkeypatch.setattr(Pixels, "recompute", lambda self, taken: {"numbers": 0 * recompute(self, taken)["numbers"]})
    with pytest.raises(StepFailed, match="first at 'x' as read from the bytes"):
        exportkit.run(exportkit.plan(config, plugins), plugins)


def test_a_sample_that_its_twin_refuses_is_a_problem_of_the_sample(config, plugins):
    config["samples"] = {"serving_default": {"bytes": ["abc", "abcd"]}}
    with pytest.raises(ExportKitError, match=r"^samples\.serving_default: has rows that are not of 4 bytes \(post.verify\); "):
        exportkit.run(exportkit.plan(config, plugins), plugins)


@dataclass(kw_only=True)
class Images(DecodeImage):
    """Images of another kind."""

    kind = "images"

    images: str = ""


@dataclass(kw_only=True)
class Both(Pixels, Operation):
    """A feeder that is an operation too."""

    kind = "both"
    both: str = ""
    pixels: str = ""
    width: int = 1

    def facts(self, inputs):
        return inputs


@dataclass(kw_only=True)
class Shadow(Pixels):
    """A feeder whose field makes a binding another one."""

    kind = "shadow"
    shadow: str = ""
    cast: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("offered", "change", "text"),
    [
        (Pixels, {"kind": "parse_example"}, "offers binding 'parse_example', and so does exportkit"),
        (Pixels, {"kind": "raw"}, "offers binding 'raw' without a field 'raw'; it holds the bindings that it feeds"),
        (Pixels, {"recompute": Feeder.recompute}, "offers binding 'pixels' without recompute(); the step verify asks for it"),
        (Pixels, {"taken": None}, "offers binding 'pixels' without taken; set it to the Facts of what a request sends"),
        (Pixels, {"made": None}, "offers binding 'pixels' without made; set it to words such as 'parsed from the tf.Example'"),
        (Images, {}, "offers binding 'images', a subclass of exportkit's DecodeImage, for which it would be taken; "),
        (Both, {}, "offers binding 'both', which is an Operation and a Feeder; make two classes of it"),
        (Shadow, {}, "offers binding 'shadow' with a field 'cast', which makes a binding another one in a config; rename it"),
        (dict, {}, "exportkit_bindings returned [<class 'dict'>], not a list of Operation or Feeder classes, each with a kind"),
    ],
)  # fmt: skip
def test_a_feeder_that_cannot_be_offered(offered, change, text, monkeypatch):
    for name, value in change.items():
        monkeypatch.setattr(offered, name, value)
    monkeypatch.setattr(Offering, "exportkit_bindings", staticmethod(hookimpl(lambda: [offered])))
    with pytest.raises(PluginError) as refused:
        load_plugins({"pixels": Offering})
    assert text in str(refused.value)
