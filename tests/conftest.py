"""What tests of several rooms share. TensorFlow is imported only by the fixtures that make graphs."""

import os
import shutil
from pathlib import Path

import pytest

from exportkit.registry import load_plugins


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    """Every test starts in an empty directory of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plugins():
    """The installed plugins, loaded for this test alone."""
    return load_plugins()


@pytest.fixture(scope="session")
def corpus():
    """The directory of real training artefacts; tests of them are skipped where EXPORTKIT_CORPUS does not name it."""
    if not os.environ.get("EXPORTKIT_CORPUS"):
        pytest.skip("EXPORTKIT_CORPUS is not set")
    return Path(os.environ["EXPORTKIT_CORPUS"])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A factory of checkpoints with their .meta, each made once: ``checkpoint("dense")`` for a function in toy_models."""
    import toy_models

    made = {}

    def make(name):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            arguments = []
            if name == "table":
                (directory / "words.txt").write_text("red\ngreen\nblue\n")
                arguments = [str(directory / "words.txt")]
            made[name] = toy_models.save(getattr(toy_models, name), directory, *arguments)
        return made[name]

    return make


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A factory of copies that a test may damage: ``copied("dense")`` is the copy's prefix."""

    def copy(name):
        source = Path(checkpoint(name).prefix)
        target = tmp_path / f"copy_of_{name}"
        target.mkdir()
        for path in source.parent.glob(f"{source.name}*"):
            shutil.copy(path, target)
        return target / source.name

    return copy
