"""Ways to tamper with a published version, each a function of its directory; `TAMPERED` names them all."""

import json
import os
import shutil
import socket
import stat

from exportkit.version import manifest

MANIFEST = manifest.FILE
INDEX, DATA = "variables/variables.index", "variables/variables.data-00000-of-00001"
WARMUP = "assets.extra/tf_serving_warmup_requests"
LABELS = "assets/labels.txt"


def fifo(name):
    def tamper(version):
        (version / name).unlink(missing_ok=True)
        os.mkfifo(version / name)

    return tamper


def unix_socket(name):
    def tamper(version):
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(version / os.path.dirname(name))  # a socket's path may have 107 bytes
            made.bind(os.path.basename(name))
            os.chdir(here)

    return tamper


def device(version):
    os.mknod(version / "assets" / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))


def link(name, target):
    def tamper(version):
        path = version / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.symlink_to(target)

    return tamper


def many_links(version):
    for number in range(25):
        (version / "assets" / f"{number:02}").symlink_to("labels.txt")


def deep(version):
    path = version / "assets"
    for _ in range(40):
        path = path / "d"
    path.mkdir(parents=True)


def added(name, content=b""):
    def tamper(version):
        path = os.fsencode(version) + b"/" + (name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)

    return tamper


def removed(name):
    return lambda version: (version / name).unlink()


def renamed(name, new):
    return lambda version: (version / name).rename(version / new)


def truncated(name, by=1):
    def tamper(version):
        os.truncate(version / name, (version / name).stat().st_size - by)

    return tamper


def extended(name, more=b"\0more"):
    def tamper(version):
        with open(version / name, "ab") as file:
            file.write(more)

    return tamper


def flipped(name, at):
    def tamper(version):
        data = bytearray((version / name).read_bytes())
        data[at] ^= 1
        (version / name).write_bytes(data)

    return tamper


def swapped(one, other):
    def tamper(version):
        (version / one).rename(version / "swap")
        (version / other).rename(version / one)
        (version / "swap").rename(version / other)

    return tamper


def directory(name):
    def tamper(version):
        (version / name).unlink()
        (version / name).mkdir()
        (version / name / "inner").write_text("")

    return tamper


def emptied(version):
    shutil.rmtree(version)
    version.mkdir()


def a_file(version):
    shutil.rmtree(version)
    version.write_text("")


def moved_behind_a_link(version):
    version.rename(version.parent / "2")
    version.symlink_to("2")


def raw(data):
    return lambda version: (version / MANIFEST).write_bytes(data)


def bare(tamper=lambda version: None):
    """Tamper with a version that has no manifest."""

    def both(version):
        shutil.rmtree(version / "assets.extra")
        tamper(version)

    return both


def stated(**changes):
    """Change facts in the manifest (None: leave it out), and give it the digest that it then must have."""

    def tamper(version):
        content = json.loads((version / MANIFEST).read_bytes())
        content.pop("digest")
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        (version / MANIFEST).write_bytes(manifest._serialized(content))

    return tamper


def listed(**files):
    """Change the files that the manifest lists: name → digest."""

    def tamper(version):
        content = json.loads((version / MANIFEST).read_bytes())
        stated(files={**content["files"], **files})(version)

    return tamper


def undigested(version):
    content = json.loads((version / MANIFEST).read_bytes())
    (version / MANIFEST).write_text(json.dumps({**content, "name": "other"}))


def sample(array):
    return stated(samples={"serving_default": {"inputs": {"x": array}, "outputs": None}})


ZERO = "0" * 64
TAMPERED = {
    # what is no file
    "a FIFO beside an asset": fifo("assets/pipe"),
    "a FIFO for an asset": fifo(LABELS),
    "a FIFO for the graph": fifo("saved_model.pb"),
    "a FIFO for the index": fifo(INDEX),
    "a FIFO for the manifest": fifo(MANIFEST),
    "a socket": unix_socket("assets/socket"),
    "a device": device,
    "a link to a file outside": link(LABELS, "/etc/passwd"),
    "a link to a file inside": link("assets/more.txt", "labels.txt"),
    "a link to a directory outside": link("assets", "/etc"),
    "a link to a directory inside": link("more", "assets"),
    "a link to nothing": link("assets/more.txt", "nothing"),
    "a link to itself": link("saved_model.pb", "saved_model.pb"),
    "a link to a device": link("saved_model.pb", "/dev/zero"),
    "a link for the manifest": link(MANIFEST, "/proc/self/environ"),
    "a link for the weights": link(DATA, "/dev/zero"),
    "a link whose target has escapes": link("assets/more.txt", "\x1b]0;owned\x07"),
    "many links": many_links,
    "an empty directory more": lambda version: (version / "more").mkdir(),
    "directories without end": deep,
    # the version's directory
    "an empty version": emptied,
    "a file for the version": a_file,
    "a link to the version": moved_behind_a_link,
    "no version": shutil.rmtree,
    # files added, removed, changed
    "a file more": added("more.txt"),
    "a hidden file more": added("assets/.hidden"),
    "a file more in a directory of its own": added("more/inner.txt"),
    "a name with a newline": added("assets/a\n[v] files: all is well"),
    "a name with escapes": added("assets/\x1b[2J\x9b1m"),
    "a name that runs from right to left": added("assets/\u202etxt.exe"),
    "a name that is not UTF-8": added(b"assets/\xff\xfe"),
    "a text graph beside the graph": added("saved_model.pbtxt", b"saved_model_schema_version: 1"),
    "weights more": added("variables/variables.data-00001-of-00002"),
    "a signature more": added("assets.extra/other.sig"),
    "an asset removed": removed(LABELS),
    "an asset in other case": renamed(LABELS, "assets/Labels.txt"),
    "an asset replaced": added(LABELS, b"c\nb\na\n"),
    "an asset truncated": truncated(LABELS),
    "warmup requests removed": removed(WARMUP),
    "warmup requests replaced": added(WARMUP, b"record"),
    "the graph truncated": truncated("saved_model.pb"),
    "the graph extended": extended("saved_model.pb"),
    "the index truncated": truncated(INDEX),
    "the weights truncated": truncated(DATA),
    "the weights extended": extended(DATA),
    "index and weights swapped": swapped(INDEX, DATA),
    "the graph a directory": directory("saved_model.pb"),
    # the same without a manifest
    "bare: a file more": bare(added("more.txt")),
    "bare: an asset more": bare(added("assets/more.txt")),
    "bare: weights more": bare(added("variables/variables.data-00001-of-00002")),
    "bare: a text graph beside the graph": bare(added("saved_model.pbtxt", b"saved_model_schema_version: 1")),
    "bare: an asset removed": bare(removed(LABELS)),
    "bare: the index truncated": bare(truncated(INDEX)),
    "bare: the weights truncated": bare(truncated(DATA)),
    "bare: the weights extended": bare(extended(DATA)),
    "bare: the weights flipped": bare(flipped(DATA, 7)),
    "bare: index and weights swapped": bare(swapped(INDEX, DATA)),
    "bare: the graph a directory": bare(directory("saved_model.pb")),
    "bare: the index a directory": bare(directory(INDEX)),
    # what the manifest is
    "a manifest with another digest": undigested,
    "an empty manifest": raw(b""),
    "a manifest that is a list": raw(b"[]\n"),
    "a manifest that is not UTF-8": raw(b"\xff\xfe"),
    "a manifest with a key twice": raw(b'{"files": {}, "files": {}, "schema": 1, "digest": ""}'),
    "a manifest without end": raw(b'{"a": ' * 100_000),
    "a manifest of lists without end": raw(b'{"a": ' + b"[" * 1_000_000),
    "a huge manifest": raw(b" " * ((8 << 20) + 1)),
    "a directory for the manifest": directory(MANIFEST),
    # what the manifest states
    "a newer schema": stated(schema=2),
    "schema 0": stated(schema=0),
    "a schema that is a text": stated(schema="1"),
    "a schema that is a truth value": stated(schema=True),
    "no schema": stated(schema=None),
    "no files": stated(files=None),
    "files that are a list": stated(files=[]),
    "a file above the version": listed(**{"../2/saved_model.pb": ZERO}),
    "a file anywhere": listed(**{"/etc/passwd": ZERO}),
    "a file twice": listed(**{"assets/./labels.txt": ZERO}),
    "a file in other case": listed(**{"assets/Labels.txt": ZERO}),
    "a file without a name": listed(**{"": ZERO}),
    "a file with a zero byte": listed(**{"assets/a\0b": ZERO}),
    "the manifest itself": listed(**{"assets.extra/exportkit.json": ZERO}),
    "a file with escapes": listed(**{"assets/\x1b[31m": ZERO}),
    "a digest that is none": listed(**{LABELS: "sha256"}),
    "a digest that is a number": listed(**{LABELS: 1}),
    "signatures that are a mapping": stated(signatures={}),
    "the graph as a signature": stated(signatures=["saved_model.pb"]),
    "a signature that is missing": stated(signatures=["assets.extra/model.sig"]),
    "an endless tolerance": stated(tolerances={"atol": float("inf"), "rtol": 0.0}),
    "a negative tolerance": stated(tolerances={"atol": 0.0, "rtol": -1.0}),
    "a tolerance that is a text": stated(tolerances={"atol": "0"}),
    "a capability without a list": stated(capabilities={"network": None}),
    "samples that are a list": stated(samples=[]),
    "a sample without outputs": stated(samples={"serving_default": {"inputs": {}}}),
    "a sample of a huge shape": sample({"dtype": "float32", "shape": [1 << 40], "tensor": ""}),
    "a sample of a negative shape": sample({"dtype": "float32", "shape": [-1], "values": []}),
    "a sample without a dtype": sample({"shape": [1], "values": [1.0]}),
    "a config that is a list": stated(config=[]),
    "an identity without its digest": stated(identity={}),
}  # fmt: skip
