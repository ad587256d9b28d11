"""`exportkit verify` of versions that were tampered with: each is refused in these lines; nothing hangs or is followed."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tampering
import toys
import versions_made

from exportkit import cli
from exportkit.errors import ConfigError, EnvironmentFailed, ExportKitError
from exportkit.verifying.audit import files, verify_version
from exportkit.version import contents, manifest

pytestmark = pytest.mark.quick(12)
STEPS = {"warmup": {"kind": "warmup", "batch_sizes": [1]}, "manifest": {"kind": "manifest"}}
PUBLISHED = "; take the version from where it was published"
RESTORE = PUBLISHED + ", or export it again"
LINK = ", and a link can be pointed elsewhere; put what it leads to in its place (cp -rL), if that is yours"
MANIFEST = "manifest: assets.extra/exportkit.json: "


def refusals(version):
    """Tampering → the failures that it causes, all of them; a line that ends in … is the beginning of one."""
    return {
        "a FIFO beside an asset": ["files: assets/pipe: is a FIFO, not a file; remove it"],
        "a FIFO for an asset": ["files: assets/labels.txt: is a FIFO, not a file; remove it"],
        "a FIFO for the graph": ["files: saved_model.pb: is a FIFO, not a file; remove it"],
        "a FIFO for the index": ["files: variables/variables.index: is a FIFO, not a file; remove it"],
        "a FIFO for the manifest": ["files: assets.extra/exportkit.json: is a FIFO, not a file; remove it"],
        "a socket": ["files: assets/socket: is a socket, not a file; remove it"],
        "a device": ["files: assets/zero: is a character device, not a file; remove it"],
        "a link to a file outside": ["files: assets/labels.txt: is a link to /etc/passwd" + LINK],
        "a link to a file inside": ["files: assets/more.txt: is a link to labels.txt" + LINK],
        "a link to a directory outside": ["files: assets: is a link to /etc" + LINK],
        "a link to a directory inside": ["files: more: is a link to assets" + LINK],
        "a link to nothing": ["files: assets/more.txt: is a link to nothing" + LINK],
        "a link to itself": ["files: saved_model.pb: is a link to saved_model.pb" + LINK],
        "a link to a device": ["files: saved_model.pb: is a link to /dev/zero" + LINK],
        "a link for the manifest": ["files: assets.extra/exportkit.json: is a link to /proc/self/environ" + LINK],
        "a link for the weights": ["files: variables/variables.data-00000-of-00001: is a link to /dev/zero" + LINK],
        "a link whose target has escapes": ["files: assets/more.txt: is a link to \\x1b]0;owned\\x07" + LINK],
        "many links": [
            *(f"files: assets/{number:02}: is a link to labels.txt{LINK}" for number in range(20)),
            "files: 5 more names are no files of a version",
        ],
        "an empty directory more": ["files: more/: is an empty directory, which is not part of a version; remove it"],
        "directories without end": ["files: assets" + "/d" * 32 + ": lies more than 32 directories deep; remove it"],
        "an empty version": [f"{version}: has no saved_model.pb; it is empty"],
        "a file for the version": [f"{version}: has no saved_model.pb; name the directory that it lies in"],
        "a link to the version": [
            f"{version}: is a link to 2, and a link can be pointed elsewhere; name the version: {version.parent}/2"
        ],
        "no version": [f"{version}: has no saved_model.pb; there is no such directory"],
        "a file more": ["files: more.txt: is not part of the version; remove it"],
        "a hidden file more": ["files: assets/.hidden: is not part of the version; remove it"],
        "a file more in a directory of its own": ["files: more/inner.txt: is not part of the version; remove it"],
        "a name with a newline": ["files: assets/a\\n[v] files: all is well: is not part of the version; remove it"],
        "a name with escapes": ["files: assets/\\x1b[2J\\x9b1m: is not part of the version; remove it"],
        "a name that runs from right to left": ["files: assets/\\u202etxt.exe: is not part of the version; remove it"],
        "a name that is not UTF-8": ["files: assets/\\xff\\xfe: is not part of the version; remove it"],
        "a text graph beside the graph": ["files: saved_model.pbtxt: is not part of the version; remove it"],
        "weights more": ["files: variables/variables.data-00001-of-00002: is not part of the version; remove it"],
        "a signature more": ["files: assets.extra/other.sig: is not part of the version; remove it"],
        "an asset removed": [
            "files: assets/labels.txt: is missing" + RESTORE,
            "assets: assets/labels.txt: is missing" + PUBLISHED,
        ],
        "an asset in other case": [
            "files: assets/Labels.txt: is not part of the version; remove it",
            "files: assets/labels.txt: is missing" + RESTORE,
            "assets: assets/labels.txt: is missing" + PUBLISHED,
        ],
        "an asset replaced": ["files: assets/labels.txt: was changed: it does not have its digest" + RESTORE],
        "an asset truncated": ["files: assets/labels.txt: was changed: it does not have its digest" + RESTORE],
        "warmup requests removed": ["files: assets.extra/tf_serving_warmup_requests: is missing" + RESTORE],
        "warmup requests replaced": [
            "files: assets.extra/tf_serving_warmup_requests: was changed: it does not have its digest" + RESTORE
        ],
        "the graph truncated": [
            "files: saved_model.pb: was changed: it does not have its digest" + RESTORE,
            f"saved_model.pb: {version}/saved_model.pb: is truncated…",
        ],
        "the graph extended": [
            "files: saved_model.pb: was changed: it does not have its digest" + RESTORE,
            f"saved_model.pb: {version}/saved_model.pb: is not a SavedModel…",
        ],
        "the index truncated": [
            "files: variables/variables.index: was changed: it does not have its digest" + RESTORE,
            f"variables: {version}/variables/variables.index: is damaged…",
        ],
        "the weights truncated": [
            "files: variables/variables.data-00000-of-00001: was changed: it does not have its digest" + RESTORE,
            f"variables: {version}/variables/variables.data-00000-of-00001: has 59 bytes…",
        ],
        "the weights extended": [
            "files: variables/variables.data-00000-of-00001: was changed: it does not have its digest" + RESTORE,
            "variables: variables.data-00000-of-00001 has 5 bytes more than its index describes" + PUBLISHED,
        ],
        "index and weights swapped": [
            "files: variables/variables.data-00000-of-00001: was changed: it does not have its digest" + RESTORE,
            "files: variables/variables.index: was changed: it does not have its digest" + RESTORE,
            f"variables: {version}/variables/variables.index: is damaged…",
        ],
        "the graph a directory": [
            "files: saved_model.pb: is missing" + RESTORE,
            "files: saved_model.pb/inner: is not part of the version; remove it",
            f"saved_model.pb: {version}/saved_model.pb…",
        ],
        "bare: a file more": ["[-] files: more.txt: is not part of the SavedModel; remove it, if nobody needs it"],
        "bare: an asset more": ["[-] files: assets/more.txt: is not part of the SavedModel; remove it, if nobody needs it"],
        "bare: weights more": [
            "[-] files: variables/variables.data-00001-of-00002: is not part of the SavedModel; remove it, if nobody needs it"
        ],
        "bare: a text graph beside the graph": [
            "files: saved_model.pb and saved_model.pbtxt are both there, and not all that loads models reads the same one"
            + PUBLISHED
        ],
        "bare: an asset removed": ["assets: assets/labels.txt: is missing" + PUBLISHED],
        "bare: the index truncated": [f"variables: {version}/variables/variables.index: is damaged…"],
        "bare: the weights truncated": [f"variables: {version}/variables/variables.data-00000-of-00001: has 59 bytes…"],
        "bare: the weights extended": [
            "variables: variables.data-00000-of-00001 has 5 bytes more than its index describes" + PUBLISHED
        ],
        "bare: the weights flipped": [
            f"variables: {version}/variables/variables.data-00000-of-00001: is damaged: the bytes of 'dense/kernel'…"
        ],
        "bare: index and weights swapped": [f"variables: {version}/variables/variables.index: is damaged…"],
        "bare: the graph a directory": [f"saved_model.pb: {version}/saved_model.pb…"],
        "bare: the index a directory": [f"variables: {version}/variables/variables…"],
        "a manifest with another digest": [MANIFEST + "was changed: it does not have its digest" + RESTORE],
        "an empty manifest": [MANIFEST + "was changed: it does not have its digest" + RESTORE],
        "a manifest that is a list": [MANIFEST + "was changed: it does not have its digest" + RESTORE],
        "a manifest that is not UTF-8": [MANIFEST + "was changed: it does not have its digest" + RESTORE],
        "a manifest with a key twice": [MANIFEST + "was changed: it does not have its digest" + RESTORE],
        "a manifest without end": [MANIFEST + "nests lists or mappings without end" + RESTORE],
        "a manifest of lists without end": [MANIFEST + "nests lists or mappings without end" + RESTORE],
        "a huge manifest": [MANIFEST + "has more than 8,388,608 bytes, and no manifest has" + RESTORE],
        "a directory for the manifest": [MANIFEST + "is a directory, not a file" + RESTORE],
        "a newer schema": [MANIFEST + "has schema 2, newer than 1; upgrade exportkit"],
        "schema 0": [MANIFEST + "has schema 0, which no manifest has" + RESTORE],
        "a schema that is a text": [MANIFEST + 'has schema "1", which no manifest has' + RESTORE],
        "a schema that is a truth value": [MANIFEST + "has schema true, which no manifest has" + RESTORE],
        "no schema": [MANIFEST + "has no schema" + RESTORE],
        "no files": [MANIFEST + "does not list the version's files" + RESTORE],
        "files that are a list": [MANIFEST + "has a list as 'files', not a mapping" + RESTORE],
        "a file above the version": [MANIFEST + "names '../2/saved_model.pb', which lies outside of the version" + RESTORE],
        "a file anywhere": [MANIFEST + "names '/etc/passwd', which lies outside of the version" + RESTORE],
        "a file twice": [MANIFEST + "names 'assets/./labels.txt', which is not how a file of the version is named" + RESTORE],
        "a file in other case": ["files: assets/Labels.txt: is missing" + RESTORE],
        "a file without a name": [MANIFEST + "names '', which is not how a file of the version is named" + RESTORE],
        "a file with a zero byte": [
            MANIFEST + "names 'assets/a\\x00b', which is not how a file of the version is named" + RESTORE
        ],
        "the manifest itself": ["files: assets.extra/exportkit.json: is missing" + RESTORE],
        "a file with escapes": ["files: assets/\\x1b[31m: is missing" + RESTORE],
        "a digest that is none": [
            MANIFEST + "has 'sha256' as the digest of 'assets/labels.txt', which is no SHA-256" + RESTORE
        ],
        "a digest that is a number": [MANIFEST + "has 1 as the digest of 'assets/labels.txt', which is no SHA-256" + RESTORE],
        "signatures that are a mapping": [MANIFEST + "has a mapping as 'signatures', not a list" + RESTORE],
        "the graph as a signature": [MANIFEST + "names 'saved_model.pb' as a signature, which it cannot be" + RESTORE],
        "a signature that is missing": ["files: assets.extra/model.sig: is missing" + RESTORE],
        "an endless tolerance": [MANIFEST + "has inf as the tolerance 'atol'; it is a number, 0 or more" + RESTORE],
        "a negative tolerance": [MANIFEST + "has -1.0 as the tolerance 'rtol'; it is a number, 0 or more" + RESTORE],
        "a capability without a list": [
            MANIFEST + "has None as the ops that have the capability 'network'; it is a list of names" + RESTORE
        ],
        "a tolerance that is a text": [MANIFEST + "has '0' as the tolerance 'atol'; it is a number, 0 or more" + RESTORE],
        "samples that are a list": [MANIFEST + "has a list as 'samples', not a mapping" + RESTORE],
        "a sample without outputs": [MANIFEST + "has no inputs and outputs as the sample of 'serving_default'" + RESTORE],
        "a sample of a huge shape": [MANIFEST + "has no inputs and outputs as the sample of 'serving_default'" + RESTORE],
        "a sample of a negative shape": [MANIFEST + "has no inputs and outputs as the sample of 'serving_default'" + RESTORE],
        "a sample without a dtype": [MANIFEST + "has no inputs and outputs as the sample of 'serving_default'" + RESTORE],
        "a config that is a list": [MANIFEST + "has a list as 'config', not a mapping" + RESTORE],
        "an identity without its digest": [MANIFEST + "has an identity without its digest" + RESTORE],
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    base = tmp_path_factory.mktemp("toy")
    data = versions_made.config(toys.saved(base, toys.dense), base / "version", post=STEPS)
    return Path(versions_made.export(data).directory)


@pytest.fixture
def version(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "elsewhere" / "1"))


def tampered(version, name):
    try:
        tampering.TAMPERED[name](version)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EILSEQ, errno.ENOTSUP):
            raise
        pytest.skip("this system cannot make such a file")


def failures(version):
    """The failures, or where there is none the notes on files, or the refusal of the command as a whole."""
    try:
        found = [str(finding) for finding in verify_version(version, run=False)]
    except ExportKitError as error:
        return str(error).splitlines()
    failed = [line.removeprefix("[x] ") for line in found if line.startswith("[x] ")]
    return failed or [line for line in found if line.startswith("[-] files")]


def is_as(found, expected):
    return found.startswith(expected[:-1]) if expected.endswith("…") else found == expected


def test_there_are_texts_for_all_of_them(version):
    assert refusals(version).keys() == tampering.TAMPERED.keys()
    assert len(tampering.TAMPERED) >= 60


@pytest.mark.parametrize("name", tampering.TAMPERED)
def test_a_tampered_version_is_refused(name, version):
    tampered(version, name)
    found, expected = failures(version), refusals(version)[name]
    assert len(found) == len(expected) and all(map(is_as, found, expected)), "\n".join(found)
    assert all(line.isprintable() for line in found)


ONLY = "only a signature guards against somebody who can write to the version: whoever changes a file can change its digest"


def test_digests_do_not_guard_against_somebody_who_writes_them_anew_and_it_is_said(version, capsys):
    (version / tampering.LABELS).write_text("c\nb\na\n")
    content = manifest.read_manifest(version)
    manifest.write_manifest(version, content)
    assert cli.main(["verify", "--no-run", str(version)]) == 0
    assert f"[-] signature: there is none, and {ONLY}; export with post=[…,manifest,sign]" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["verify", "--help"])
    assert "Only a signature" in capsys.readouterr().out


def test_a_graph_that_the_manifest_lists_twice(version):
    (version / "saved_model.pbtxt").write_text("saved_model_schema_version: 1")
    manifest.write_manifest(version, manifest.read_manifest(version))
    assert failures(version) == refusals(version)["bare: a text graph beside the graph"]


def test_names_without_number(version, monkeypatch):
    monkeypatch.setattr(contents, "_MOST", 50)
    for number in range(60):
        (version / "assets" / f"{number}.txt").touch()
    assert failures(version) == ["files: more than 50 names lie in the version; take it from where it was published"]


def removed(version):
    shutil.rmtree(version)


def replaced(version):
    version.rename(version.with_name("2"))
    version.mkdir()


def test_a_version_that_is_being_removed_lacks_files(version, monkeypatch):
    original = contents.stat.S_ISREG

    def removing(mode):
        shutil.rmtree(version / "variables", ignore_errors=True)
        (version / "assets" / "labels.txt").unlink(missing_ok=True)
        return original(mode)

    monkeypatch.setattr(contents.stat, "S_ISREG", removing)
    assert failures(version)[:2] == [
        f"files: assets/labels.txt: is missing{RESTORE}",
        f"files: variables/variables.data-00000-of-00001: is missing{RESTORE}",
    ]


@pytest.mark.parametrize("disturb", [removed, replaced])
@pytest.mark.parametrize("at", ["check", "check_layout", "check_signature"])
def test_a_version_that_vanishes_while_it_is_checked_is_one_line(disturb, at, version, monkeypatch):
    if at == "check_layout":
        shutil.rmtree(version / "assets.extra")
    original = getattr(files, at)

    def disturbed(directory, *arguments, **options):
        disturb(directory)
        return original(directory, *arguments, **options)

    monkeypatch.setattr(files, at, disturbed)
    with pytest.raises(EnvironmentFailed) as error:
        verify_version(version, run=False)
    assert str(error.value) == f"{version}: was removed or replaced while it was checked; verify it again, or another version"


def test_the_command_refuses_a_link_to_a_version(version, capsys):
    version.with_name("latest").symlink_to("1")
    assert cli.main(["verify", str(version.with_name("latest"))]) == ConfigError.exit_code
    assert capsys.readouterr().err == (
        f"{version.with_name('latest')}: is a link to 1, and a link can be pointed elsewhere; name the version: {version}\n"
    )


MEASURED = """
import re, resource, sys
from exportkit import cli
code, used = cli.main(sys.argv[1:]), resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss would count what the process that started this one held
print(code, used.ru_utime + used.ru_stime, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize(
    "name", ["a FIFO for the graph", "a link to a device", "a manifest of lists without end", "many mappings"]
)
def test_the_worst_take_neither_time_nor_memory(name, version):
    """Within 5 s of CPU time and 1 GB of memory, with all imports, in a process of its own."""
    tamper = {"many mappings": tampering.raw(b'{"a": [' + b"{}," * 2_700_000 + b"{}]}")}.get(name) or tampering.TAMPERED[name]
    tamper(version)
    command = [sys.executable, "-c", MEASURED, "verify", "--no-run", str(version)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.splitlines()[-1]
    code, seconds, kilobytes = printed.split()
    assert code == "1" and float(seconds) < 5 and int(kilobytes) < 1_000_000
