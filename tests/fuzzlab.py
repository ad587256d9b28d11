"""A laboratory for files of strangers: sound models, mutations that keep a file's structure whole, and a judge.

A case is decided by its number alone, so a failure is repeated with it. Protos are changed through their descriptors and stay
valid, indexes are written anew with right checksums, arrays get headers that contradict them, and configs stay YAML; a part of
the cases has changed bytes instead.
"""

import io
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import yaml
from google.protobuf import text_format

import exportkit
from exportkit import cli, protos
from exportkit.checkpoint.sstable import Table, mask, table, varint
from exportkit.cli.tables import show_plan
from exportkit.errors import ExportKitError
from exportkit.registry import Plugins, load_plugins
from exportkit.testing import toys
from exportkit.verifying.audit import verify_version

SECONDS = 20  # of CPU time
PATIENCE = 120  # seconds, in which a case that waits is told from a machine that is busy
MEMORY = 1 << 30  # bytes that a case may add to the process
UNFORESEEN = ("this is a fault in exportkit", "cannot be checked:", "Traceback")

INTEGERS = (0, 1, -1, 2, 7, 64, 99, 101, 9999, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e308, 1e-45)
TEXTS = ("", "^", ":", "a:999999999999", "^a:1", "::", "x:-1", "a b", "..", "/dev/zero", "é", "\n", "\x1b[31m", "k" * 5000)
OPS = (
    *(
        "Const",
        "Placeholder",
        "PlaceholderWithDefault",
        "Identity",
        "NoOp",
        "NextIteration",
        "Switch",
        "Merge",
        "Enter",
        "Exit",
    ),
    *(
        "VariableV2",
        "VarHandleOp",
        "ReadVariableOp",
        "Assign",
        "PartitionedCall",
        "If",
        "While",
        "RandomUniform",
        "Cast",
        "Sub",
    ),
    *("HashTableV2", "InitializeTableFromTextFileV2", "SaveV2", "RestoreV2", "QueueDequeueV2", "ReadFile", "LoopCond", "Split"),
)
BYTES = (b"", b"\xff\xfe", b"\0", b"loc:@x", b"\x80" * 11, b"/etc/passwd", bytes(5000))


@dataclass(frozen=True)
class Model:
    """A sound model: its checkpoint's prefix, a config that exports it, and a version that it was exported to."""

    prefix: str
    config: Mapping[str, Any]
    version: Path | None = None


# Mutations


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few bytes changed, cut out, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, length = chance.randrange(len(changed) + 1), chance.choice((1, 1, 4, 100))
        kind = chance.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at:at] = chance.choice(BYTES)[:100]
        else:
            changed[at : at + length] = chance.randbytes(length)
    return bytes(changed)


def mutate_proto(message: Any, chance: random.Random, names: Sequence[str] = ()) -> None:
    """Change one field of `message` or of a message within it; it stays valid.

    Args:
        names: names that occur in the message, which make the likeliest new texts.
    """
    inner = [value for field, value in message.ListFields() if field.message_type is not None]
    if inner and chance.random() < 0.8:
        return _mutate_inner(chance.choice(inner), chance, names)
    fields = [field for field, _ in message.ListFields()] if chance.random() < 0.8 else []
    field = chance.choice(fields or message.DESCRIPTOR.fields)
    if field.message_type is not None:
        if _is_repeated(field):
            return _mutate_inner(getattr(message, field.name), chance, names)
        if chance.random() < 0.5:
            return message.ClearField(field.name)
        getattr(message, field.name).SetInParent()
    elif _is_repeated(field):
        _mutate_list(getattr(message, field.name), lambda: _value(field, chance, names), chance)
    else:
        setattr(message, field.name, _value(field, chance, names))


def _is_repeated(field: Any) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _mutate_inner(value: Any, chance: random.Random, names: Sequence[str]) -> None:
    if hasattr(value, "DESCRIPTOR"):
        return mutate_proto(value, chance, names)
    if hasattr(value, "keys"):
        return _mutate_map(value, chance, names)
    kind = chance.randrange(8)
    if not len(value) or kind == 0:
        value.add()
    elif kind == 1:
        del value[chance.randrange(len(value))]
    elif kind == 2:
        value.add().CopyFrom(chance.choice(value))
    elif kind == 3:
        one, other = chance.choice(value), chance.choice(value)
        kept = type(one)()
        kept.CopyFrom(one)
        one.CopyFrom(other)
        other.CopyFrom(kept)
    else:
        mutate_proto(chance.choice(value), chance, names)
    return None


def _mutate_map(value: Any, chance: random.Random, names: Sequence[str]) -> None:
    keys = sorted(value)
    if not keys:
        return
    key, kind = chance.choice(keys), chance.randrange(4)
    if kind == 0:
        del value[key]
    elif kind == 1:
        if isinstance(key, str) and hasattr(value[key], "CopyFrom"):
            value[chance.choice(TEXTS)].CopyFrom(value[key])
    elif hasattr(value[key], "DESCRIPTOR"):
        if kind == 2:
            value[key].CopyFrom(value[chance.choice(keys)])
        else:
            mutate_proto(value[key], chance, names)


def _mutate_list(values: Any, new: Callable[[], Any], chance: random.Random) -> None:
    kind = chance.randrange(4)
    if not len(values) or kind == 0:
        values.append(new())
    elif kind == 1:
        del values[chance.randrange(len(values))]
    elif kind == 2:
        values[chance.randrange(len(values))] = new()
    else:
        values.extend([chance.choice(values)] * chance.choice((1, 1, 3000)))


def _value(field: Any, chance: random.Random, names: Sequence[str]) -> Any:
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return chance.choice(FLOATS)
    if field.cpp_type == field.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_BYTES:
        return chance.choice(BYTES)
    if field.cpp_type == field.CPPTYPE_STRING:
        name = chance.choice(names) if names else ""
        return chance.choice((*TEXTS, *OPS, *[name, f"^{name}", f"{name}:{chance.choice((0, 1, 7, 10**9))}"] * 15))
    least, most = (0, 2**64 - 1) if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else (-(2**63), 2**63 - 1)
    if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32, field.CPPTYPE_ENUM):
        least, most = least // 2**32, most // 2**32
    return min(max(chance.choice(INTEGERS), least), most)


def node_names(meta: Any) -> list[str]:
    return [node.name for node in meta.graph_def.node]


def mutate_graph(data: bytes, chance: random.Random) -> bytes:
    """Return a serialized MetaGraphDef with one to four changes, half of them to nodes of the forward pass; a part as text."""
    meta = protos.MetaGraphDef.FromString(data)
    names = node_names(meta)
    forward = [node for node in meta.graph_def.node if not node.name.startswith(("gradients", "save/", "beta", "train"))]
    for _ in range(chance.choice((1, 1, 2, 4))):
        near = chance.random() < 0.5
        mutate_proto(chance.choice(forward) if near else meta.graph_def if chance.random() < 0.5 else meta, chance, names)
    if chance.random() < 0.1:
        return text_format.MessageToString(meta).encode()
    return meta.SerializeToString()


def mutate_saved_model(data: bytes, chance: random.Random) -> bytes:
    """Return a serialized SavedModel with one to four changes."""
    saved = protos.SavedModel.FromString(data)
    names = [name for meta in saved.meta_graphs for name in node_names(meta)]
    for _ in range(chance.choice((1, 1, 2, 4))):
        mutate_proto(saved, chance, names)
    return saved.SerializeToString()


def mutate_index(data: bytes, chance: random.Random) -> bytes:
    """Return an index with changed entries or keys, whose blocks have right checksums; a V1 file keeps its data."""
    items = list(Table(data).items())
    for _ in range(chance.choice((1, 1, 3))):
        at = chance.randrange(len(items))
        key, value = items[at]
        kind = chance.randrange(6)
        if kind == 0 and len(items) > 1:
            del items[at]
        elif kind == 1:
            items[at] = (mutate_bytes(key, chance), value)
        elif kind == 2:
            items.insert(at, (key + chance.choice((b"", b"\0", b"x" * 3000, b"\xff")), value))
        else:
            items[at] = (key, _mutate_entry(key, value, chance))
    if chance.random() < 0.9:
        items = sorted(dict(items).items())
    return table(items)


def _mutate_entry(key: bytes, value: bytes, chance: random.Random) -> bytes:
    entry = (protos.BundleEntryProto if key else protos.BundleHeaderProto)()
    try:
        entry.MergeFromString(value)
    except Exception:  # an entry of a V1 file
        return mutate_bytes(value, chance)
    mutate_proto(entry, chance)
    return entry.SerializeToString()


def bomb(chance: random.Random) -> bytes:
    """Return a small index with right checksums whose keys share prefixes, or whose blocks repeat, without end."""
    count = chance.choice((100, 5_000))
    block = bytearray(b"\0" + varint(60_000) + b"\0" + b"k" * 60_000)
    for _ in range(count):
        block += varint(60_000) + b"\1\0" + bytes([chance.randrange(256)])
    block += struct.pack("<2I", 0, 1)
    return _blocks(bytes(block), chance.choice((1, 50)))


def _blocks(block: bytes, repeats: int) -> bytes:
    """Return a table with one data block, to which its index points `repeats` times."""
    body = _checked(block)
    handle = varint(0) + varint(len(block))
    entries = b"".join(b"\0" + varint(8) + varint(len(handle)) + b"%08d" % i + handle for i in range(repeats))
    index = _checked(entries + struct.pack("<2I", 0, 1))
    footer = varint(0) + varint(0) + varint(len(body)) + varint(len(index) - 5)
    return body + index + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def _checked(block: bytes) -> bytes:
    body = block + b"\0"
    return body + struct.pack("<I", mask(google_crc32c.value(body)))


def sample_file(directory: Path, chance: random.Random) -> str:
    """Write a file of samples that is seldom sound, and return how a config names it."""
    kind = chance.choice(("npy", "npz", "tfrecord"))
    path = directory / f"sample.{kind}"
    if kind == "npy":
        path.write_bytes(_npy(chance))
        return str(path)
    if kind == "tfrecord":
        path.write_bytes(_tfrecord(chance))
        return str(path) + chance.choice(("", ":x"))
    with zipfile.ZipFile(path, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))) as archive:
        archive.writestr("x.npy", chance.choice((_npy(chance), bytes(chance.choice((10, 10**6))))))
    if chance.random() < 0.3:
        path.write_bytes(mutate_bytes(path.read_bytes(), chance))
    return f"{path}:x"


def _npy(chance: random.Random) -> bytes:
    shape = tuple(chance.choice((0, 1, 2, 4, 2**20, 2**40, 2**62, -1)) for _ in range(chance.randrange(4)))
    descr = chance.choice(("<f4", "<f8", "<i8", "|b1", "|S0", "<U5", "|O", "<M8[s]", "|V8", "<f99", "(2,)<f4"))
    content = {"descr": descr, "fortran_order": chance.random() < 0.3, "shape": shape}
    header = chance.choice(
        (repr(content), "(" * 9000, "{}", "{'shape': 'x'}", repr(content) + "\0", "'" * 3, "{1:", "lambda: 1")
    )
    text = (header if chance.random() < 0.3 else repr(content)).encode() + b"\n"
    version, width = chance.choice(((b"\1\0", "<H"), (b"\2\0", "<I"), (b"\3\0", "<I"), (b"\x09\0", "<H")))
    length = struct.pack(width, chance.choice((len(text), len(text), len(text), 60_000)))
    return b"\x93NUMPY" + version + length + text + chance.randbytes(chance.choice((0, 16, 64)))


def _tfrecord(chance: random.Random) -> bytes:
    example = protos.example_pb2.Example()
    example.features.feature["x"].float_list.value.extend([1.0] * chance.choice((0, 4, 5)))
    for _ in range(chance.randrange(3)):
        mutate_proto(example, chance, ["x"])
    data = example.SerializeToString()
    length = struct.pack("<Q", chance.choice((len(data), len(data), 2**60, 2**63, 0)))
    record = length + _crc(length) + data + _crc(data)
    return record * chance.choice((1, 3)) if chance.random() < 0.8 else mutate_bytes(record, chance)


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", mask(google_crc32c.value(data)))


VALUES = (
    *(None, True, 0, -1, 2**70, math.nan, "", "x:0", "${", "${name}", "???", [], {}, [[]], ["a", 1], {"a": None}, "a:b:c"),
    "k" * 3000,
)


def mutate_config(value: Any, chance: random.Random) -> Any:
    """Return plain data with one value replaced, one key renamed or one entry removed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key, kind = chance.choice(sorted(value)), chance.randrange(8)
        rest = {k: v for k, v in value.items() if k != key}
        if kind == 0:
            return rest
        if kind == 1:
            return {**rest, chance.choice((*TEXTS[:12], "on", "no", "1", key.upper())): value[key]}
        return {**value, key: mutate_config(value[key], chance)}
    return chance.choice(VALUES)


# Cases


@dataclass(frozen=True)
class Case:
    """A case that was written: its number, what was changed, and the commands that read it."""

    seed: int
    kind: str
    model: str
    run: Callable[[], None]


def write(models: Mapping[str, Model], seed: int, directory: Path, plugins: Plugins) -> Case:
    """Write the case `seed` into the empty `directory`."""
    chance = random.Random(seed)
    name = chance.choice(sorted(models))
    model = models[name]
    kind = chance.choices(list(_KINDS), [weight for weight, _ in _KINDS.values()])[0]
    return Case(seed, kind, name, _KINDS[kind][1](model, directory, chance, plugins))


def copied(model: Model, directory: Path, suffix: str, data: bytes, drop: bool = False) -> str:
    """Copy a checkpoint with other bytes in its file `suffix`; return the prefix of the copy."""
    source, run = Path(model.prefix), directory / "run"
    run.mkdir()
    for path in source.parent.iterdir():
        if path.is_file() and not path.name.endswith(suffix):
            shutil.copy2(path, run)  # as old as it is: where training saves at this moment, readers wait for it
    if not drop:
        (run / f"{source.name}{suffix}").write_bytes(data)
    return str(run / source.name)


def configured(model: Model, prefix: str, directory: Path, **changes: Any) -> dict[str, Any]:
    config = {**model.config, "export_dir": str(directory / "exports"), **changes}
    return {**config, "source": {**config["source"], "checkpoint": prefix}}


def _planned(config: Mapping[str, Any], plugins: Plugins) -> None:
    show_plan(exportkit.plan(config, plugins))


def _inspected(path: str) -> None:
    command("inspect", path)


def command(*arguments: str) -> None:
    """Run a command of exportkit in this process; raise AssertionError for an exit code that no refusal has."""
    code = cli.main(list(arguments))
    assert code in (0, 2), f"exit code {code}"


def _graph_case(change: Callable[[bytes, random.Random], bytes]) -> Callable:
    def made(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
        data = change(Path(f"{model.prefix}.meta").read_bytes(), chance)
        prefix = copied(model, directory, ".meta", data)
        return lambda: _both(configured(model, prefix, directory), f"{prefix}.meta", plugins)

    return made


def _index_case(change: Callable[[bytes, random.Random], bytes]) -> Callable:
    def made(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
        suffix = ".index" if Path(f"{model.prefix}.index").exists() else ""
        if suffix:
            prefix = copied(model, directory, suffix, change(Path(f"{model.prefix}.index").read_bytes(), chance))
        else:
            run = directory / "run"
            run.mkdir()
            prefix = str(run / Path(model.prefix).name)
            shutil.copy(f"{model.prefix}.meta", f"{prefix}.meta")
            Path(prefix).write_bytes(change(Path(model.prefix).read_bytes(), chance))
        return lambda: _both(configured(model, prefix, directory), prefix, plugins)

    return made


def _state_case(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
    recorded = chance.choice((*TEXTS, ".", "./.", "../run", "model.ckpt-3", "/", "~", "\\000", "\\377", "sub/../model.ckpt-3"))
    text = f'model_checkpoint_path: "{recorded}"\n'.encode()
    prefix = copied(model, directory, "checkpoint", mutate_bytes(text, chance) if chance.random() < 0.3 else text, drop=True)
    state = Path(prefix).with_name("checkpoint")
    state.write_bytes(text)
    if chance.random() < 0.75:
        os.utime(state, (0, 0))  # readers wait for a younger one: training may be saving
    place = str(Path(prefix).parent)
    return lambda: _both(configured(model, place, directory), place, plugins)


def _samples_case(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
    named = sample_file(directory, chance)
    key, signature = next(iter(model.config["signatures"].items()))
    samples = {key: dict.fromkeys(signature["inputs"], named)}
    config = configured(model, model.prefix, directory, samples=samples)
    return lambda: _all([lambda: _planned(config, plugins), lambda: _read_sample(named)])


def _read_sample(named: str) -> None:
    from exportkit.samples.arrays import Misfit, read

    path, _, array = named.partition(":")
    with suppress(Misfit):
        read(Path(path), array or None)


def _config_case(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
    config: Any = {**model.config, "export_dir": str(directory / "exports")}
    for key in chance.choices(sorted(config), k=chance.choice((1, 1, 2))):
        config[key] = mutate_config(config[key], chance)
    return lambda: _planned(config, plugins)


def _yaml_case(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
    config: Any = {key: value for key, value in model.config.items() if key != "source"}
    config["defaults"] = [{"override /source": "meta_graph"}]
    config["source"] = {"checkpoint": model.prefix}
    text = "# @package _global_\n" + yaml.safe_dump(mutate_config(config, chance), sort_keys=False)
    data = text.encode()
    if chance.random() < 0.6:
        data = mutate_bytes(data, chance)
    (directory / "conf" / "model").mkdir(parents=True)
    (directory / "conf" / "model" / "m.yaml").write_bytes(data)
    return lambda: command("plan", "--config-dir", str(directory / "conf"), "model=m", f"export_dir={directory}/exports")


def _version_case(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
    assert model.version is not None
    copy = directory / "1"
    shutil.copytree(model.version, copy)
    (copy / "assets.extra" / "exportkit.json").unlink(missing_ok=True)  # else its digests tell at once
    file, change = chance.choice((("saved_model.pb", mutate_saved_model), ("variables/variables.index", mutate_index)))
    (copy / file).write_bytes(change((copy / file).read_bytes(), chance))
    return lambda: _all([lambda: _inspected(str(copy)), lambda: _verified(copy)])


def _manifest_case(model: Model, directory: Path, chance: random.Random, plugins: Plugins) -> Callable[[], None]:
    assert model.version is not None
    copy = directory / "1"
    shutil.copytree(model.version, copy)
    manifest = copy / "assets.extra" / "exportkit.json"
    content = json.loads(manifest.read_text()) if manifest.exists() else {}
    manifest.parent.mkdir(exist_ok=True)
    if chance.random() < 0.5:
        manifest.write_bytes(mutate_bytes(manifest.read_bytes() if content else b"{}", chance))
    else:
        from exportkit.version.manifest import _serialized

        content.pop("digest", None)
        changed = mutate_config(content, chance)
        manifest.write_bytes(_serialized(changed) if isinstance(changed, dict) else json.dumps(changed).encode())
    return lambda: _verified(copy)


def _verified(version: Path) -> None:
    for finding in verify_version(version, run=False):
        assert not any(mark in str(finding) for mark in UNFORESEEN), str(finding)


def _both(config: Mapping[str, Any], path: str, plugins: Plugins) -> None:
    _all([lambda: _planned(config, plugins), lambda: _inspected(path)])


def _all(steps: Sequence[Callable[[], None]]) -> None:
    """Run all steps, also those behind one that refused; raise the last refusal."""
    refusal: ExportKitError | None = None
    for step in steps:
        try:
            step()
        except ExportKitError as error:
            refusal = error
    if refusal is not None:
        raise refusal


_KINDS: dict[str, tuple[int, Callable[..., Callable[[], None]]]] = {
    "graph": (45, _graph_case(mutate_graph)),
    "graph bytes": (6, _graph_case(mutate_bytes)),
    "index": (14, _index_case(mutate_index)),
    "index bytes": (3, _index_case(mutate_bytes)),
    "index bomb": (1, _index_case(lambda _, chance: bomb(chance))),
    "state": (3, _state_case),
    "samples": (10, _samples_case),
    "config": (6, _config_case),
    "yaml": (2, _yaml_case),
    "version": (8, _version_case),
    "manifest": (2, _manifest_case),
}


# The judge


class TooLong(BaseException):
    """A case took longer than `SECONDS`, or waited longer than `PATIENCE`."""


@contextmanager
def bounded(seconds: int = SECONDS) -> Iterator[None]:
    """Raise TooLong in what runs or waits longer, and MemoryError in what takes more than `MEMORY`."""

    def end(*_: Any) -> None:
        raise TooLong

    limits = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = [signal.signal(number, end) for number in (signal.SIGALRM, signal.SIGPROF)]
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, limits[1]))
    signal.alarm(PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def judge(case: Case) -> tuple[str, str]:
    """Run a case; return ``accepted``, ``refused`` or ``failed`` with the text of the refusal or of the failure."""
    printed = io.StringIO()
    try:
        with bounded(), redirect_stdout(printed), redirect_stderr(printed):
            case.run()
    except ExportKitError as error:
        return _refused(error)
    except (Exception, TooLong) as error:
        return "failed", f"{type(error).__name__}: {error} {_last_line(error)}\n{printed.getvalue()[-500:]}"
    text = printed.getvalue()
    return ("failed", text) if any(mark in text for mark in UNFORESEEN) else ("accepted", text)


def _refused(error: ExportKitError) -> tuple[str, str]:
    text = str(error)
    wrong = error.exit_code != 2 or any(mark in text for mark in UNFORESEEN) or len(text) > 100_000
    return ("failed", f"exit code {error.exit_code}: {text}") if wrong else ("refused", text)


def _last_line(error: BaseException) -> str:
    frame = error.__traceback__
    places = []
    while frame is not None:
        places.append(f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}")
        frame = frame.tb_next
    return " ".join(places[-8:])


# Models


def models(directory: Path, *, versions: bool = True) -> dict[str, Model]:
    """Make the sound models below `directory`, and export each once, so that its version can be changed too."""
    return {name: _model(name, config, directory, versions) for name, config in _CONFIGS.items()}


def _model(name: str, config: Mapping[str, Any], directory: Path, versions: bool) -> Model:
    made = directory / name
    made.mkdir(parents=True)
    builder = _BUILDERS.get(name)
    prefix = (toys.save(builder, made) if builder else toys.checkpoint(name, made)).prefix
    if name == "v1":
        prefix = _as_v1(prefix, made)
    data = {"name": name, "source": {"kind": "meta_graph", "checkpoint": prefix}, "export_dir": str(made / "exports"), **config}
    report = toys.export({**data, "post": {"manifest": {"kind": "manifest"}}}) if versions else None
    return Model(prefix, data, Path(str(report.directory)) if report else None)


def _as_v1(prefix: str, made: Path) -> str:
    (made / "old").mkdir()
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        saver = v1.train.import_meta_graph(f"{prefix}.meta")
        saver.restore(session, prefix)
        written = v1.train.Saver(write_version=1).save(session, str(made / "old" / "model.ckpt"), global_step=3)
    return str(written)


def looping() -> None:
    """Build a while loop, a tf.cond within it, and a computed shape."""
    import tensorflow as tf
    from training_graphs import as_tensorflow_1_wrote_graphs

    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None, 4], "x")
    kernel = v1.get_variable("kernel", initializer=np.eye(4, dtype=np.float32))
    with v1.control_dependencies([v1.assert_equal(v1.shape(x)[1], 4)]):
        start = tf.matmul(x, kernel)

    def body(i: Any, value: Any) -> tuple[Any, Any]:
        return i + 1, v1.cond(i > 1, lambda: value + 1.0, lambda: tf.matmul(value, kernel))

    with as_tensorflow_1_wrote_graphs():
        _, end = v1.while_loop(lambda i, _: i < 3, body, [0, start])
    tf.identity(end, "y")


def calling() -> None:
    """Build a graph with functions: one that calls another, and control flow that is made of functions."""
    import tensorflow as tf

    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None, 4], "x")
    kernel = v1.get_variable("kernel", initializer=np.eye(4, dtype=np.float32), use_resource=True)
    inner = tf.function(lambda value: value * 2.0)
    outer = tf.function(lambda value: inner(value) + tf.matmul(value, kernel))
    tf.identity(outer(x), "y")


def _dense() -> Any:
    from exportkit.testing import graphs

    return graphs.dense()


_BUILDERS: Mapping[str, Callable[[], Any]] = {"looping": looping, "calling": calling, "v1": _dense}


def _config(bindings: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    sides = {"inputs": {name: name for name in inputs}, "outputs": {name: name for name in outputs}}
    return {"bindings": dict(bindings), "signatures": {"serving_default": sides}}


_DENSE = _config({"x": "x:0", "probs": "probs:0", "switch": {"constant": False, "replaces": "is_training:0"}}, ["x"], ["probs"])
_XY = _config({"x": "x:0", "y": "y:0"}, ["x"], ["y"])
_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "dense": _DENSE,
    "resources": _DENSE,
    "v1": _DENSE,
    "partitioned": _config({"ids": "ids:0", "vectors": "vectors:0"}, ["ids"], ["vectors"]),
    "queued": _config({"batch": {"placeholder": "batch:1"}, "scores": "scores:0"}, ["batch"], ["scores"]),
    "table": _config({"words": "words:0", "embedded": "embedded:0"}, ["words"], ["embedded"]),
    "averaged": {**_XY, "weights": {"moving_average": True}},
    "integers": _config({"x": "x:0", "counted": "counted:0"}, ["x"], ["counted"]),
    "looping": _XY,
    "calling": _XY,
}


def all_plugins() -> Plugins:
    """Return the plugins that cases are read with."""
    return load_plugins()
