"""Files of Keras models, which come from strangers: what one is, and what Keras would run of it, found without Keras.

Keras builds a model from the file's configuration, in which each object names its class and the module to import it from. Some
classes run code that lies in the file. So everything that is neither one of Keras's own parts of a model nor allowed by name is
refused before Keras sees the file (`_retrieve_class_or_fn` in keras/src/saving/serialization_lib.py).
"""

import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from exportkit import files
from exportkit.errors import ConfigError, Problem, some

KERAS, HDF5 = ".keras", ".h5"
_MARKS = {b"PK\x03\x04": KERAS, b"\x89HDF\r\n\x1a\n": HDF5}
_CONFIG, _METADATA = "config.json", "metadata.json"
_MOST_MEMBERS = 10_000
_MOST_RATIO = 20  # of a zip's content to its file: Keras stores without compression

# the packages of Keras that hold parts of models: classes, and functions
_CLASSES = "layers models engine activations initializers regularizers constraints ops dtype_policies random losses metrics "
_FUNCTIONS = "activations initializers regularizers constraints ops losses metrics"
_ROOT = r"(keras|tf_keras)(\.(src|api|_tf_keras|keras))*"
_OWN_CLASS = re.compile(rf"{_ROOT}\.({'|'.join((_CLASSES + 'optimizers quantizers').split())})(\.\w+)*:[A-Z]\w*")
_OWN_FUNCTION = re.compile(rf"(builtins|{_ROOT}\.({'|'.join(_FUNCTIONS.split())})(\.\w+)*):\w+")
_TOP = re.compile(r"keras:(Sequential|Functional|Model|DTypePolicy|FloatDTypePolicy)")
_RUNS = {  # classes that run what lies in the file → what that is
    "Lambda": "Python code",
    "__lambda__": "Python code",
    "TFSMLayer": "another SavedModel",
    "TorchModuleWrapper": "a pickle",
    "FlaxLayer": "Python code",
    "JaxLayer": "Python code",
}


def format_of(path: Path) -> str:
    """Return `KERAS` or `HDF5`.

    Raises:
        ConfigError: `path` is neither, or cannot be read.
    """
    try:
        with files.opened(path) as file:
            start = file.read(8)
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ConfigError(Problem(str(path), what, _advice(path))) from None
    for mark, found in _MARKS.items():
        if start.startswith(mark):
            return found
    raise ConfigError(Problem(str(path), "is no model of Keras: neither a .keras archive nor HDF5 (.h5)", _advice(path)))


def _advice(path: Path) -> str:
    saved = any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))
    return "it is a SavedModel: source=saved_model" if saved else "name a file that model.save wrote: model.keras or model.h5"


def read_archive(path: Path) -> tuple[dict[str, Any], str]:
    """Return the configuration in a .keras archive, and the version of Keras that wrote it.

    Raises:
        ConfigError: it is no such archive, or its content is out of proportion.
    """
    try:
        with files.opened(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(path, members)
            by_name = {member.filename: member for member in members}
            if _CONFIG not in by_name:
                names = some(list(by_name), 5)
                do = "name a file that model.save wrote: model.keras or model.h5"
                raise ConfigError(Problem(str(path), f"is an archive without a {_CONFIG}, and no model: it holds {names}", do))
            config, metadata = (_json(archive, by_name.get(name)) for name in (_CONFIG, _METADATA))
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError, NotImplementedError, RuntimeError, EOFError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(Problem(str(path), "is damaged: its configuration cannot be read", "copy it again")) from None
    return config, str(metadata.get("keras_version", ""))


def _check_members(path: Path, members: Collection[zipfile.ZipInfo]) -> None:
    """Refuse an archive that would fill a disk, or whose members' names lead out of a directory."""
    size, content = os.path.getsize(path), sum(member.file_size for member in members)
    if len(members) > _MOST_MEMBERS or content > _MOST_RATIO * size + files.MIB:
        what = f"has {size:,} bytes and would unpack to {content:,} in {len(members):,} files"
        raise ConfigError(Problem(str(path), what, "it was made by hand: copy it again"))
    for member in members:
        if member.filename.startswith("/") or "\\" in member.filename or ".." in member.filename.split("/"):
            what = f"holds '{member.filename}', which lies outside of it"
            raise ConfigError(Problem(str(path), what, "it was made by hand: copy it again"))


def _json(archive: zipfile.ZipFile, member: zipfile.ZipInfo | None) -> dict[str, Any]:
    if member is None:
        return {}
    if member.file_size > files.TEXT:
        raise ValueError(f"{member.filename} has {member.file_size} bytes")
    with archive.open(member) as file:
        return parse(file.read(files.TEXT))


def parse(text: bytes | str) -> dict[str, Any]:
    """Return a configuration in JSON.

    Raises:
        ValueError, RecursionError: it is none.
    """
    parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise ValueError("not a mapping")
    return parsed


def refusals(config: Any, allowed: Collection[str]) -> list[tuple[str, str]]:
    """Return what of a configuration Keras would import or run that it must not, each with what to do, each once.

    Args:
        config: the model's configuration; how it was compiled is left out, since Keras is not asked to compile it.
        allowed: the references that the user wrote, ``package.module:Class``.
    """
    names = {reference.rpartition(":")[2] for reference in allowed}
    return list(dict.fromkeys(found for node in _objects(config) if (found := _refusal(node, names)) is not None))


def own_names(config: Any, name: str) -> set[str]:
    """Return the names by which a configuration refers to the user's class or function `name`: with packages, ``mine>Name``."""
    return {name, *(key for node in _objects(config) if (key := _key(node)).rpartition(">")[2] == name)}


def runs_code(name: str) -> bool:
    """Return whether Keras's class `name` runs code that lies in a file, so that Keras loads it only where safe mode is off."""
    return name in _RUNS


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of objects in a configuration, at any depth."""
    todo = [{**config, "compile_config": None} if isinstance(config, dict) else config]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            todo += reversed(value.values())
        elif isinstance(value, list):
            todo += reversed(value)


def _key(node: dict[str, Any]) -> str:
    """Return the name by which Keras looks among the user's own objects."""
    if node["class_name"] == "function" and isinstance(node.get("config"), str):
        return node["config"]
    return str(node.get("registered_name") or ("" if node.get("module") else node["class_name"]))


def _refusal(node: dict[str, Any], names: Collection[str]) -> tuple[str, str] | None:
    """Return why an object's class must not be loaded, and what to do; None where it may."""
    name, module, key = str(node["class_name"]), node.get("module"), _key(node)
    if name in _RUNS:
        wanted = "Lambda" if name == "__lambda__" else name
        do = f"if you trust it, allow that by name: custom_objects: [keras.layers:{wanted}]"
        return None if wanted in names else (f"holds {_RUNS[name]}, which its layer {wanted} would run", do)
    if key.rpartition(">")[2] in names:
        return None
    plain = ">" not in key
    if plain and not module:  # Keras looks for such a name among its own classes alone
        return None
    is_function = name == "function"
    place = f"{module}:{key if is_function else name}"
    if (plain and (_OWN_FUNCTION if is_function else _OWN_CLASS).fullmatch(place)) or _TOP.fullmatch(place):
        return None
    called = (key if is_function else name).rpartition(">")[2]
    where = module if module and module != "builtins" else "package.module"
    what = f"needs {called}" + (f" of {module}" if where == module else "") + ", which is not Keras's"
    return what, f"if you trust it, name your own: custom_objects: [{where}:{called}]"
