"""The manifest: what is in it, that the same export gives the same bytes, and that no byte of a version changes unseen."""

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import toys
import versions_made
from versions_made import export, plan

import exportkit
from exportkit.checkpoint import readback, tensorproto
from exportkit.errors import ConfigError, StepFailed
from exportkit.registry import load_plugins
from exportkit.steps import manifest as step
from exportkit.verifying.audit import verify_version
from exportkit.version import identity, manifest

X = versions_made.X


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


def _config(checkpoint, base, **changes):
    return versions_made.config(
        checkpoint, base, post={"warmup": {"kind": "warmup"}, "manifest": {"kind": "manifest"}}, **changes
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory, checkpoint):
    return Path(export(_config(checkpoint, tmp_path_factory.mktemp("version"))).directory)


# ---- what is in it ----


def test_it_says_what_the_version_was_made_from(version, checkpoint):
    content = manifest.read_manifest(version)
    assert content["schema"] == 1
    assert content["name"] == "toy"
    assert content["checkpoint"]["prefix"] == checkpoint
    assert content["checkpoint"]["digest"] == identity.file_digest(Path(checkpoint + ".index"))
    assert content["checkpoint"]["step"] is None
    assert content["config"]["signatures"]["by_value"]["method"] == "regress"
    assert content["weights"]["proof"] == "2/2 variables equal to the checkpoint, 0 initialised"
    assert content["tolerances"] == {"atol": 0.0, "rtol": 0.0}
    assert {"python", "exportkit", "tensorflow", "hydra-core", "omegaconf", "numpy"} <= set(content["identity"]["packages"])
    assert [s["key"] for s in content["meta_graphs"][0]["signatures"]] == ["serving_default", "by_class", "by_value"]


def test_the_weights_are_not_read_once_more(checkpoint, tmp_path, monkeypatch):
    read, file_digest = [], identity.file_digest
    monkeypatch.setattr(manifest, "file_digest", lambda path: read.append(path.name) or file_digest(path))
    monkeypatch.setattr(readback, "_TICK_NS", -1)
    exported = Path(export(_config(checkpoint, tmp_path)).directory)
    assert sorted(read) == ["labels.txt", "saved_model.pb", "tf_serving_warmup_requests", "variables.index"]
    assert list(manifest.differences(exported, manifest.read_manifest(exported))) == []


def test_it_has_the_digest_of_every_other_file(version):
    files = manifest.read_manifest(version)["files"]
    on_disk = {path.relative_to(version).as_posix(): path for path in version.rglob("*") if path.is_file()}
    assert on_disk.keys() - files.keys() == {"assets.extra/exportkit.json"}
    assert files == {name: identity.file_digest(on_disk[name]) for name in files}


def test_it_records_the_samples_and_what_came_of_them(version):
    samples = manifest.read_manifest(version)["samples"]
    np.testing.assert_array_equal(tensorproto.from_json(samples["serving_default"]["inputs"]["x"]), X)
    expected = toys.served(str(version), "serving_default", {"x": X})["probs"]
    np.testing.assert_array_equal(tensorproto.from_json(samples["serving_default"]["outputs"]["probs"]), expected)
    assert samples["by_class"]["outputs"]["classes"]["dtype"] == "string"
    assert {value for row in samples["by_class"]["outputs"]["classes"]["values"] for value in row} <= {"a", "b", "c"}


def test_rows_bounds_what_is_recorded(tmp_path, checkpoint):
    data = _config(checkpoint, tmp_path)
    data["post"]["manifest"]["rows"] = 1
    content = manifest.read_manifest(Path(export(data).directory))
    assert content["samples"]["serving_default"]["inputs"]["x"]["values"] == X[:1].tolist()


def test_random_outputs_are_not_recorded(tmp_path):
    import tensorflow as tf

    def build():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
        v = tf.compat.v1.get_variable("v", [4])
        tf.identity(x * v + tf.random.uniform([4]), "probs")

    data = toys.config(toys.saved(tmp_path, build), tmp_path, post={"manifest": {"kind": "manifest"}})
    assert manifest.read_manifest(Path(export(data).directory))["samples"]["serving_default"]["outputs"] is None


def test_the_global_step_is_told(tmp_path):
    import tensorflow as tf

    def build():
        toys.dense()
        tf.compat.v1.get_variable("global_step", [], tf.int64, initializer=tf.compat.v1.constant_initializer(6000))

    data = toys.config(toys.saved(tmp_path, build), tmp_path, post={"manifest": {"kind": "manifest"}})
    assert manifest.read_manifest(Path(export(data).directory))["checkpoint"]["step"] == 6000


def _git(directory, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=directory, check=True, capture_output=True)


@pytest.mark.needs("git")
def test_the_state_of_the_configs_in_git_is_told(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert step._git(Path()) == {}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("name: toy\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "conf")
    _git(tmp_path, "commit", "-qm", "configs")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert manifest.read_manifest(Path(export(_config(checkpoint, tmp_path)).directory))["git"] == {
        "commit": commit,
        "dirty": False,
    }
    (tmp_path / "conf" / "config.yaml").write_text("name: other\n")
    assert step._git(Path("conf")) == {"git": {"commit": commit, "dirty": True}}


def test_the_same_export_gives_the_same_bytes(tmp_path, checkpoint):
    one, other = (Path(export(_config(checkpoint, tmp_path)).directory) for _ in range(2))
    assert one != other
    assert (one / manifest.FILE).read_bytes() == (other / manifest.FILE).read_bytes()


# ---- identity ----


def test_where_an_export_goes_is_no_part_of_its_identity(tmp_path, checkpoint):
    one = identity.identity(plan(_config(checkpoint, tmp_path)))
    other = identity.identity(plan({**_config(checkpoint, tmp_path), "export_dir": str(tmp_path / "e"), "version": 7}))
    assert one == other
    assert len(one["sha256"]) == 64


@pytest.mark.parametrize("what", ["config", "checkpoint", "vocabulary"])
def test_what_goes_into_an_export_is_in_its_identity(tmp_path, what):
    checkpoint = toys.saved(tmp_path, toys.dense)
    before = identity.identity(plan(_config(checkpoint, tmp_path)))
    data = _config(checkpoint, tmp_path)
    if what == "config":
        data["ensure_shape"] = False
    elif what == "checkpoint":
        toys.saved(tmp_path, toys.dense, seed=8)
    else:
        (tmp_path / "labels.txt").write_text("a\nb\nd\n")
    after = identity.identity(plan(data))
    assert before["sha256"] != after["sha256"]
    changed = {key for key in before if before[key] != after[key]} - {"sha256"}
    assert changed == {"config": {"config"}, "checkpoint": {"checkpoints", "graphs"}, "vocabulary": {"files"}}[what]


def test_code_is_followed_through_its_imports(tmp_path, monkeypatch):
    package = tmp_path / "models_of_us"
    (package / "layers").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text(
        "import tensorflow as tf\nfrom .layers import dense\nimport helper_of_us\n\ndef build(): pass\n"
    )
    (package / "layers" / "__init__.py").write_text("from models_of_us.layers.dense import layer\n")
    (package / "layers" / "dense.py").write_text("def layer(): pass\n")
    (package / "unused.py").write_text("")
    (tmp_path / "helper_of_us.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    prefix = toys.saved(tmp_path, toys.dense)
    data = toys.config(
        prefix, tmp_path, source={"kind": "graph_builder", "builder": "models_of_us.net:build", "checkpoint": prefix}
    )
    source = plan(data).source
    assert sorted(identity.code_digests(source)) == [
        "helper_of_us",
        "models_of_us",
        "models_of_us.layers",
        "models_of_us.layers.dense",
        "models_of_us.net",
    ]
    before = identity.identity(plan(data))
    (package / "layers" / "dense.py").write_text("def layer(): return 1\n")
    assert identity.identity(plan(data))["code"] != before["code"]


def test_an_editable_plugin_is_known_by_its_files(install, tmp_path):
    packages = lambda: (identity._installed.cache_clear(), identity.packages()["acme"])[1]  # noqa: E731
    try:
        install("acme", "a = 1")
        assert packages() == "1.2"
        (tmp_path / "site/acme-1.2.dist-info/direct_url.json").write_text(
            '{"url": "file:///acme", "dir_info": {"editable": true}}'
        )
        before = packages()
        assert before == f"1.2 sha256:{identity.digest({'acme.py': hashlib.sha256(b'a = 1').hexdigest()})}"
        assert packages() == before
        (tmp_path / "site/acme.py").write_text("a = 2")
        assert packages() == f"1.2 sha256:{identity.digest({'acme.py': hashlib.sha256(b'a = 2').hexdigest()})}"
    finally:
        identity._installed.cache_clear()


def test_an_editable_package_is_known_by_all_files_below_it(install, tmp_path, monkeypatch):
    package = tmp_path / "acme_kit"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "card.j2").write_text("one")
    monkeypatch.syspath_prepend(tmp_path)
    before = identity._files_digest(["acme_kit"])
    (package / "__pycache__" / "x.pyc").touch()
    assert identity._files_digest(["acme_kit"]) == before
    (package / "card.j2").write_text("two")
    assert identity._files_digest(["acme_kit"]) != before


def test_what_a_source_names_at_any_depth_is_in_the_identity(tmp_path, monkeypatch):
    (tmp_path / "inner_of_us.py").write_text("def build(**_): pass\n")
    (tmp_path / "outer_of_us.py").write_text("def build(**_): pass\n")
    (tmp_path / "words.txt").write_text("a\n")
    monkeypatch.syspath_prepend(tmp_path)
    prefix = toys.saved(tmp_path, toys.dense)
    params = {"inner": [{"builder": "inner_of_us:build", "vocabulary": str(tmp_path / "words.txt")}]}
    source = {"kind": "graph_builder", "builder": "outer_of_us:build", "params": params, "checkpoint": prefix}
    drafted = plan(toys.config(prefix, tmp_path, source=source))
    assert sorted(identity.code_digests(drafted.source)) == ["inner_of_us", "outer_of_us"]
    files = identity.identity(drafted)["files"]
    assert files == {"source.params.inner.0.vocabulary": identity.file_digest(tmp_path / "words.txt")}


# ---- reading it back ----


def test_every_changed_byte_of_it_is_found(version, tmp_path):
    data = (version / manifest.FILE).read_bytes()
    (tmp_path / "assets.extra").mkdir()
    for at in range(0, len(data), 7):
        (tmp_path / manifest.FILE).write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        with pytest.raises(StepFailed) as error:
            manifest.read_manifest(tmp_path)
        assert str(error.value) == (
            "assets.extra/exportkit.json: was changed: it does not have its digest; "
            "take the version from where it was published, or export it again"
        )


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b"\xff"])
def test_what_is_no_manifest_is_refused(tmp_path, data):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / manifest.FILE).write_bytes(data)
    with pytest.raises(StepFailed, match="was changed"):
        manifest.read_manifest(tmp_path)


def test_a_newer_schema_is_told(tmp_path):
    manifest.write_manifest(tmp_path, {"schema": 2})
    with pytest.raises(StepFailed) as error:
        manifest.read_manifest(tmp_path)
    assert str(error.value) == "assets.extra/exportkit.json: has schema 2, newer than 1; upgrade exportkit"


def test_a_version_may_have_none(tmp_path):
    assert manifest.read_manifest(tmp_path) is None


def test_an_array_is_one_line_of_it(tmp_path):
    manifest.write_manifest(tmp_path, {"name": 'a "b" [ c ]', "values": [[1.0, 2.0], [3.0, 4.5]], "nothing": {}, "null": None})
    text = (tmp_path / manifest.FILE).read_text()
    assert text.splitlines()[:7] == [
        "{",
        '  "schema": 1,',
        r'  "name": "a \"b\" [ c ]",',
        '  "values": [[1.0, 2.0], [3.0, 4.5]],',
        '  "nothing": {},',
        '  "null": null,',
        '  "files": {},',
    ]
    assert json.loads(text)["values"] == [[1.0, 2.0], [3.0, 4.5]]


def test_files_that_differ_are_named(version):
    files = manifest.read_manifest(version)["files"]
    files = {**files, "saved_model.pb": "0" * 64, "assets/gone.txt": "0" * 64}
    del files["variables/variables.index"]
    assert [str(problem) for problem in manifest.differences(version, {"files": files})] == [
        "assets/gone.txt: is missing; take the version from where it was published, or export it again",
        "saved_model.pb: was changed: it does not have its digest; "
        "take the version from where it was published, or export it again",
        "variables/variables.index: is not part of the version; remove it",
    ]


def test_rows_are_at_least_one(tmp_path, checkpoint):
    data = _config(checkpoint, tmp_path)
    data["post"]["manifest"]["rows"] = 0
    with pytest.raises(ConfigError) as error:
        plan(data)
    assert str(error.value) == "post.manifest.rows: is 0; write 1 or more"


# ---- the last file but signatures ----

STEPS_AFTER = """
from dataclasses import dataclass
from exportkit.plugin import Phase, PostStep, hookimpl

@dataclass(kw_only=True)
class Sums(PostStep):
    kind: str = "sums"
    phase = Phase.SEAL
    def run(self, export):
        (export.directory / "sums.txt").write_text("all is well")

@dataclass(kw_only=True)
class Stamp(PostStep):
    kind: str = "stamp"
    phase = Phase.SIGN
    named: str = "assets.extra/stamp.sig"
    written: str = "assets.extra/stamp.sig"
    def run(self, export):
        if self.written:
            (export.directory / self.written).write_text("stamped")
    def signature_files(self):
        return [self.named]

@hookimpl
def exportkit_post_steps():
    return [Sums, Stamp]
"""


@pytest.fixture
def sealed(install, tmp_path, checkpoint):
    """A factory of configs whose steps of SEAL and SIGN stand before and after the manifest."""
    install("acme", STEPS_AFTER)
    plugins = load_plugins()

    def make(**stamp):
        post = {"stamp": {"kind": "stamp", **stamp}, "manifest": {"kind": "manifest"}, "sums": {"kind": "sums"}}
        return exportkit.plan(versions_made.config(checkpoint, tmp_path, post=post), plugins), plugins

    return make


def test_it_covers_what_other_steps_of_its_phase_add_wherever_it_stands(sealed):
    report = exportkit.run(*sealed())
    version = Path(report.directory)
    content = manifest.read_manifest(version)
    assert [line.kind for line in report.steps] == ["sums", "manifest", "stamp"]
    assert "sums.txt" in content["files"] and "assets.extra/stamp.sig" not in content["files"]
    assert content["signatures"] == ["assets.extra/stamp.sig"]
    assert [str(finding) for finding in verify_version(version, run=False) if finding.passed is False] == []


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (
            "late.txt",
            "added late.txt; a step of phase SIGN adds only its signature_files (assets.extra/stamp.sig)",
        ),
        ("", "did not write assets.extra/stamp.sig; it is among its signature_files"),
    ],
)
def test_nothing_else_comes_after_it(sealed, tmp_path, written, text):
    with pytest.raises(StepFailed) as error:
        exportkit.run(*sealed(written=written))
    assert str(error.value) == f"post.stamp (plugin acme of acme 1.2): {text}"
    assert list((tmp_path / "exports" / "toy").iterdir()) == []


@pytest.mark.parametrize("named", ["sums.txt", "saved_model.pb", "assets.extra/exportkit.json", "assets.extra/../x.sig"])
def test_what_no_signature_may_be_called_is_told_by_the_plan(sealed, named):
    with pytest.raises(ConfigError) as error:
        sealed(named=named)
    assert str(error.value) == (
        f"post.stamp (plugin acme of acme 1.2): signs in '{named}'; a signature is called assets.extra/NAME.sig"
    )
