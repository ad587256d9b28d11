"""Which versions are already what an export would make."""

import json
from pathlib import Path

import pytest

from exportkit.version import published
from exportkit.version.manifest import FILE, write_manifest


def version(base: Path, number: int, identity: str) -> Path:
    """A version that states an identity, with one file."""
    directory = base / str(number)
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(b"graph")
    write_manifest(directory, {"identity": {"sha256": identity}})
    return directory


def test_a_version_states_its_identity(tmp_path):
    assert published.identity_of(version(tmp_path, 1, "a")) == "a"


def damage_manifest(directory):
    content = json.loads((directory / FILE).read_text())
    (directory / FILE).write_text(json.dumps({**content, "identity": {"sha256": "b"}}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_manifest,
        lambda directory: (directory / FILE).unlink(),
        lambda directory: (directory / "saved_model.pb").unlink(),
        lambda directory: directory.rename(directory.with_name("9")),
    ],
    ids=["changed manifest", "no manifest", "a file missing", "no version"],
)
def test_what_is_not_as_it_was_states_nothing(damage, tmp_path):
    directory = version(tmp_path, 1, "a")
    damage(directory)
    assert published.identity_of(directory) is None


@pytest.mark.parametrize(
    ("made", "wanted", "found"),
    [
        ("", "a", []),
        ("a", "a", [("a", 1)]),
        ("ab", "ab", [("b", 2), ("a", 1)]),
        ("ab", "a", []),  # b is in force: whoever wants a again has to export it
        ("xab", "ab", [("b", 3), ("a", 2)]),
        ("axb", "ab", [("b", 3)]),
        ("aa", "a", [("a", 2), ("a", 1)]),
    ],
)
def test_the_newest_versions_count_as_far_back_as_they_are_wanted(made, wanted, found, tmp_path):
    for number, identity in enumerate(made, 1):
        version(tmp_path, number, identity)
    assert list(published.newest(tmp_path, set(wanted))) == found


def test_what_all_steps_published_is_remembered_beside_the_versions(tmp_path):
    version(tmp_path, 1, "a")
    assert not published.is_published(tmp_path, 1)
    published.mark_published(tmp_path, 1)
    assert published.is_published(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"1", ".published"}
