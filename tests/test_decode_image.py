"""decode_image: what a config may say, and that encoded images are answered as their pixels are."""

import io
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toys
from toys import v1

import exportkit
from exportkit.errors import ConfigError, EnvironmentFailed, StepFailed
from exportkit.metagraph.tensors import Facts
from exportkit.operations.decode_image import DecodeImage
from exportkit.samples import png
from exportkit.serving.rest_request import zero_request
from exportkit.verifying.parity import adapters, decoding

pytestmark = pytest.mark.needs("PIL", "simplejpeg")
SIZE = (4, 5, 3)


def build():
    images = v1.placeholder(tf.float32, [None, *SIZE], "x")
    offset = v1.get_variable("offset", SIZE, initializer=v1.random_normal_initializer())
    tf.add(images, offset, name="y")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("images"), build)


@pytest.fixture
def config(prefix, tmp_path):
    """A config with signatures of encoded images, of tf.Examples that hold them, and of pixels."""
    photo = {"decode_image": "x", "size": [4, 5], "factor": 0.5, "offset": -1}
    example = {"parse_example": {"image/encoded": {"dtype": "string", "to": "photo"}}}
    signatures = {
        "serving_default": {"inputs": {"image_bytes": "photo"}, "outputs": {"y": "y"}},
        "examples": {"inputs": {"examples": "example"}, "outputs": {"y": "y"}},
        "pixels": {"inputs": {"x": "x"}, "outputs": {"y": "y"}},
    }
    bindings = {"x": "x:0", "y": "y:0", "photo": photo, "example": example}
    post = {"warmup": {"kind": "warmup"}, "verify": {"kind": "verify"}}
    return toys.config(prefix, tmp_path, bindings=bindings, signatures=signatures, post=post)


def encoded(size, form="PNG", mode="RGB", seed=0, **options):
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def resized(image, size=SIZE[:2]):
    """What TensorFlow makes of an image."""
    decoded = tf.io.decode_image(image, channels=3, expand_animations=False)
    return tf.raw_ops.ResizeBilinear(images=decoded[None], size=size, half_pixel_centers=True)[0].numpy()


def test_bytes_are_answered_as_their_pixels_are_and_verified(config):
    report = toys.export(config)
    assert {step.kind: step.status for step in report.steps} == {"warmup": "passed", "verify": "passed"}
    images = [encoded((4, 5)), encoded((9, 7), seed=1), encoded((2, 3), "JPEG", seed=2), encoded((4, 5), "GIF", "P", seed=3)]
    pixels = np.stack([resized(image) for image in images]) * np.float32(0.5) - 1
    taken = np.array(images, object)
    rows = np.array([toys.example(**{"image/encoded": [image]}) for image in images], object)
    for serve in (toys.served, toys.served_eagerly):
        expected = serve(report.directory, "pixels", {"x": pixels})["y"]
        np.testing.assert_array_equal(serve(report.directory, "serving_default", {"image_bytes": taken})["y"], expected)
        np.testing.assert_array_equal(serve(report.directory, "examples", {"examples": rows})["y"], expected)
    (image,) = [t for g in report.meta_graphs for s in g.signatures for t in s.inputs if t.alias == "image_bytes"]
    assert (image.dtype, image.shape, image.rows) == ("string", [None], "batch")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        toys.served(report.directory, "serving_default", {"image_bytes": np.array([b"no image"], object)})


def test_two_exports_are_the_same_bytes(config):
    del config["post"]
    first, second = (toys.export(config) for _ in range(2))
    files = [Path(report.directory) / "saved_model.pb" for report in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(4, 5), (9, 7), (1, 1), (64, 3)])
def test_the_twin_decodes_and_resizes_as_tensorflow_does(form, size):
    image = encoded(size, form)
    spec = DecodeImage(decode_image="x", size=[6, 4])
    np.testing.assert_array_equal(decoding.decoded(spec, [image])[0], resized(image, (6, 4)))


@pytest.mark.parametrize(
    "how", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_twin_decodes_a_jpeg_as_tensorflow_does(how, mode, channels):
    image = encoded((17, 35), "JPEG", mode, **how)
    expected = tf.io.decode_image(image, channels=channels).numpy()
    spec = DecodeImage(decode_image="x", size=[17, 35], channels=channels)
    np.testing.assert_array_equal(decoding.decoded(spec, [image])[0], expected)


def test_a_jpeg_that_tensorflow_refuses_is_refused():
    image = encoded((17, 35), "JPEG")[:400]
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.decode_image(image, channels=3)
    with pytest.raises(ValueError, match="row 0 is no image that can be compared"):
        decoding.decoded(DecodeImage(decode_image="x", size=[17, 35]), [image])


def tried(config, *images):
    config["signatures"] = {"serving_default": config["signatures"]["serving_default"]}
    del config["bindings"]["example"], config["post"]["warmup"]
    np.savez("images.npz", images=np.array(images))
    config["samples"] = {"serving_default": {"image_bytes": "images.npz:images"}}
    return config


def test_a_jpeg_needs_no_tolerance(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verified = toys.export(tried(config, encoded((4, 5), "JPEG"))).steps[0]
    assert (verified.status, verified.details["summary"].split(",")[0]) == ("passed", "max abs diff 0")


def test_a_sample_that_is_no_image_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StepFailed, match=r"samples\.serving_default: row 0 is no image that can be compared: "):
        toys.export(tried(config, b"no image"))


def test_an_image_that_is_decoded_otherwise_is_caught(config, monkeypatch):
    def brighter(spec, images):
        return {"pixels": decoding.decoded(spec, images) + 1}

    monkeypatch.setitem(adapters.FEEDER_TWINS, DecodeImage, brighter)
    with pytest.raises(StepFailed, match=r"signatures\.serving_default"):
        toys.export(config)


@pytest.mark.parametrize(("module", "name"), [("PIL", "Pillow"), ("simplejpeg", "simplejpeg")])
def test_a_missing_decoder_is_reported_by_the_plan(config, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    what = (
        f"{name} is not installed, with which verify decodes the images of decode_image; pip install 'exportkit[images]', "
        "or leave the proof out: ~post.verify"
    )
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config)
    assert str(refused.value) == f"post.verify (plugin verify of exportkit {version('exportkit')}): {what}"
    with pytest.raises(EnvironmentFailed, match="is not installed, with which verify decodes"):
        decoding.decoded(DecodeImage(decode_image="x", size=[4, 5]), [encoded((4, 5))] if name != "Pillow" else [b""])
    del config["signatures"]["serving_default"], config["signatures"]["examples"]
    del config["bindings"]["photo"], config["bindings"]["example"]
    exportkit.plan(config)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": [4]}, "photo.size: has 1 entries; write [HEIGHT, WIDTH]"),
        ({"size": [4, 0]}, "photo.size[1]: is 0; write 1 or more"),
        ({"channels": 4}, "photo.channels: is the integer 4, not 1 or 3; write 1 or 3"),
        ({"decode_image": "z"}, "photo.decode_image: there is no binding 'z'; known: x, y"),
        (
            {"decode_image": "example"},
            "photo.decode_image: 'example' is a parse_example and cannot be fed; name a tensor or placeholder binding",
        ),
        (
            {"decode_image": "photo"},
            "photo.decode_image: 'photo' is a decode_image and cannot be fed; name a tensor or placeholder binding",
        ),
        (
            {"size": [8, 8]},
            "photo.size: 'x' is float32 [?, 4, 5, 3], which the decoded float32 [?, 8, 8, 3] does not fit; "
            "correct size or channels, or cut the graph where it takes images",
        ),
    ],
)
def test_a_wrong_config_is_one_line(change, text, config):
    config["bindings"]["photo"] |= change
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config)
    assert f"bindings.{text}" in str(refused.value).splitlines()


def test_a_feature_of_numbers_feeds_no_images(config):
    config["bindings"]["example"]["parse_example"]["image/encoded"]["dtype"] = "int64"
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config)
    where = "bindings.example.parse_example.image/encoded.dtype"
    what = "'photo' is string [?], which a int64 cannot feed; write dtype: string"
    assert str(refused.value).splitlines() == [f"{where}: {what}"]


def test_a_target_that_cannot_hold_numbers():
    spec = DecodeImage(decode_image="x", size=[4, 5])
    found = [str(problem) for problem in spec.problems({"x": Facts("string", (None, *SIZE))})]
    assert found == ["decode_image: 'x' is string [?, 4, 5, 3], which decoded images cannot feed; name a binding of numbers"]


def test_a_rest_request_sends_an_image(config):
    del config["post"]
    plan = exportkit.plan(config)
    report = toys.export(config)
    signatures = {signature.key: signature for signature in report.meta_graphs[0].signatures}
    assert '"b64": "iVBORw0KGgo' in zero_request(plan, signatures["serving_default"])
    assert resized(png.BLANK).tolist() == np.zeros(SIZE).tolist()
