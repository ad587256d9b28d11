"""The generated Python client: the same answers as recorded, by gRPC, by REST and from a coroutine; what it refuses, and its code."""

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toys
import versions_made
from fake_server import serving

from exportkit.clients.contract import read_contract
from exportkit.clients.languages import generate, write
from exportkit.processes.death import Death  # noqa: F401


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version with a signature of each method, labels that are texts, and its manifest."""
    base = tmp_path_factory.mktemp("version")
    checkpoint = toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)
    data = versions_made.config(checkpoint, base, post={"manifest": {"kind": "manifest"}})
    return Path(versions_made.export(data).directory)


@pytest.fixture(scope="module")
def server(version):
    with serving(version, "toy") as found:
        yield found


@pytest.fixture(scope="module")
def module(version, tmp_path_factory):
    """The generated client, imported."""
    directory = tmp_path_factory.mktemp("client")
    write(directory, generate(read_contract(version), ["python"]))
    return load(directory / "toy_client.py")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def recorded(version):
    return {key: signature.example for key, signature in read_contract(version).signatures.items()}


FEATURES = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], np.float32)


def same(value, expected):
    return value.dtype == expected.dtype and value.shape == expected.shape and value.tolist() == expected.tolist()


@pytest.mark.parametrize("transport", ["Client", "RestClient"])
def test_answers_are_those_of_the_manifest(transport, version, module, server):
    _, address, url = server
    known = recorded(version)
    with getattr(module, transport)(url if transport == "RestClient" else address) as client:
        client.check()
        predicted = client.serving_default(versions_made.X)
        classified = client.by_class(FEATURES)
        regressed = client.by_value(FEATURES)
    assert same(predicted.probs, known["serving_default"].outputs["probs"])
    assert same(classified.classes, known["by_class"].outputs["classes"])
    assert same(classified.scores, known["by_class"].outputs["scores"])
    assert same(regressed.outputs, known["by_value"].outputs["outputs"])
    assert {predicted.model_version, classified.model_version} == {None if transport == "RestClient" else 1}
