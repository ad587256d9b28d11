"""Signatures: what they cover, that a stock tool checks them, and what is said where they do not hold."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toys
import versions_made
from versions_made import export, plan

from exportkit.errors import ConfigError, EnvironmentFailed, StepFailed
from exportkit.verifying.audit import verify_version
from exportkit.version import manifest, signing

pytestmark = pytest.mark.needs("model_signing", "openssl")
SIGNATURE = "assets.extra/model.sig"
RESTORE = "take the version from where it was published"


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs, and the first private key once more under the password ``pw``."""
    base = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", base / f"{name}.pem")
        _openssl("ec", "-in", base / f"{name}.pem", "-pubout", "-out", base / f"{name}.pub")
    _openssl("ec", "-in", base / "own.pem", "-aes256", "-passout", "pass:pw", "-out", base / "locked.pem")
    return base


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


def _config(checkpoint, base, key, **fields):
    post = {"manifest": {"kind": "manifest"}, "sign": {"kind": "sign", "key": str(key), **fields}}
    return toys.config(checkpoint, base, post=post)


@pytest.fixture(scope="module")
def signed(tmp_path_factory, checkpoint, keys):
    report = export(_config(checkpoint, tmp_path_factory.mktemp("signed"), keys / "own.pem"))
    assert report.steps[-1].details == {"signature": SIGNATURE, "manifest": True}
    return Path(report.directory)


@pytest.fixture
def version(signed, tmp_path):
    """A copy of a signed version that a test may damage."""
    return shutil.copytree(signed, tmp_path / "exports" / signed.name)


def _lines(version, key):
    return [str(f) for f in verify_version(version, public_key=key, run=False) if f.what == "signature"]


def test_a_signed_version_is_whole(version, keys):
    assert _lines(version, keys / "own.pub") == [f"[v] signature: is that of {keys / 'own.pub'}"]
    assert _lines(version, None) == [
        "[-] signature: not checked, and only a signature guards against somebody who can write to the version: whoever "
        "changes a file can change its digest; name the key: --public-key"
    ]
    assert [f for f in verify_version(version) if f.passed is False] == []


def test_model_signings_own_command_checks_it(version, keys):
    command = [sys.executable, "-m", "model_signing", "verify", "key", version, "--signature", version / SIGNATURE]
    ran = subprocess.run([*command, "--public_key", keys / "own.pub"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_another_key_is_told(version, keys):
    (line,) = _lines(version, keys / "other.pub")
    assert line.startswith(f"[x] signature: does not hold for {keys / 'other.pub'}: Key mismatch: ")
    assert line.endswith(f"; {RESTORE}")


def test_every_file_is_covered(version, keys):
    (version / "saved_model.pb").write_bytes((version / "saved_model.pb").read_bytes() + b"\0")
    (version / "more").write_text("")
    (version / "variables" / "variables.index").unlink()
    content = manifest.read_manifest(version)
    manifest.write_manifest(version, content)
    assert _lines(version, keys / "own.pub") == [
        "[x] signature: is of other files than these (changed: assets.extra/exportkit.json, saved_model.pb; added: more; "
        f"missing: variables/variables.index); {RESTORE}"
    ]


def test_every_changed_byte_of_it_is_found(version, keys):
    path = version / SIGNATURE
    whole = path.read_bytes()
    for number, at in enumerate(range(0, len(whole), 41)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << number % 7)]) + whole[at + 1 :])
        assert _lines(version, keys / "own.pub")[0].startswith("[x] signature: "), at


def test_an_unsigned_version_is_told(version, keys):
    (version / SIGNATURE).unlink()
    assert _lines(version, keys / "own.pub") == ["[x] signature: there is none; export with post=[…,manifest,sign]"]


def test_a_key_may_have_a_password(tmp_path, checkpoint, keys, monkeypatch):
    data = _config(checkpoint, tmp_path, keys / "locked.pem", password_env="KEY_PASSWORD")
    with pytest.raises(StepFailed) as error:
        export(data)
    assert str(error.value) == "post.sign.password_env: there is no variable KEY_PASSWORD; set it"
    monkeypatch.setenv("KEY_PASSWORD", "pw")
    assert _lines(Path(export(data).directory), keys / "own.pub")[0].startswith("[v]")


@pytest.mark.parametrize(
    "name, what", [("locked.pem", "Password was not given but private key is encrypted"), ("own.pub", "Valid PEM but no")]
)
def test_a_key_that_cannot_sign_refuses_the_export(tmp_path, checkpoint, keys, name, what):
    with pytest.raises(StepFailed) as error:
        export(_config(checkpoint, tmp_path, keys / name))
    assert str(error.value).startswith(f"{keys / name}: {what}")
    assert str(error.value).endswith("; give a PEM file of an EC P-256 private key")
    assert list((tmp_path / "exports" / "toy").iterdir()) == []


def test_it_comes_after_the_manifest_wherever_the_config_lists_it(tmp_path, checkpoint, keys):
    data = _config(checkpoint, tmp_path, keys / "own.pem")
    data["post"] = {name: data["post"][name] for name in ("sign", "manifest")}
    report = export(data)
    assert [(line.kind, line.phase) for line in report.steps] == [("manifest", "SEAL"), ("sign", "SIGN")]
    version = Path(report.directory)
    assert manifest.read_manifest(version)["signatures"] == [SIGNATURE]
    assert [f for f in verify_version(version, public_key=keys / "own.pub") if f.passed is False] == []


def test_a_signature_that_is_gone_is_told(version):
    (version / SIGNATURE).unlink()
    assert [str(f) for f in verify_version(version, run=False) if f.passed is False] == [
        f"[x] files: {SIGNATURE}: is missing; {RESTORE}, or export it again"
    ]


@pytest.mark.parametrize(
    "name", [".", "assets.extra", "saved_model.pb", "assets.extra/exportkit.json", "assets.extra/../a.sig", 7]
)
def test_a_manifest_that_calls_other_files_signatures_is_refused(version, keys, name):
    content = manifest.read_manifest(version)
    (version / "saved_model.pb").write_bytes((version / "saved_model.pb").read_bytes() + b"\0")
    manifest.write_manifest(version, {**content, "signatures": [str(name)]})
    found = [str(f) for f in verify_version(version, public_key=keys / "own.pub", run=False) if f.passed is False]
    assert found[0] == (
        f"[x] manifest: assets.extra/exportkit.json: names '{name}' as a signature, which it cannot be; "
        f"{RESTORE}, or export it again"
    )
    assert found[1].startswith(
        "[x] signature: is of other files than these (changed: assets.extra/exportkit.json, saved_model.pb"
    )


def test_the_plan_tells_what_cannot_be_signed(tmp_path, checkpoint, keys):
    data = _config(checkpoint, tmp_path, keys / "none.pem")
    with pytest.raises(ConfigError) as error:
        plan(data)
    assert [(p.where, p.what.split(" (plugin")[0], p.do) for p in error.value.problems] == [
        ("post.sign.key", f"there is no file {keys / 'none.pem'}", "give a PEM file of an EC P-256 private key"),
    ]


def test_without_model_signing_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(EnvironmentFailed) as error:
        signing.sign(tmp_path, tmp_path / "s", tmp_path / "k")
    assert str(error.value) == "signature: model-signing is not installed; pip install exportkit[sign]"


def test_what_is_signed_has_this_name():
    assert manifest.SIGNATURE.as_posix() == SIGNATURE
    assert versions_made.STEPS["sign"].Sign.phase.name == "SIGN"
