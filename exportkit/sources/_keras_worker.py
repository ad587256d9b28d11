"""Loads a model with Keras and exports it as a SavedModel: a script for a process of its own, which may read only the model.

The first message on stdin is the `request`; the reply is ``(EXPORTED, facts)`` or ``(REFUSED, [(what, do), …])``.
"""

import os
import pickle
import pkgutil
import re
import resource
import sys
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from exportkit.errors import ExportKitError, brief
from exportkit.processes.tensorflow import import_keras
from exportkit.sources import _keras_file

EXPORTED = "exported"  # with the version of Keras
REFUSED = "refused"  # with pairs of what is wrong and what to do
_GIB = 1 << 30


def main() -> None:
    """Read a request from stdin, export, and write a reply to stdout."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Keras prints goes to stderr
    request = pickle.load(sys.stdin.buffer)
    with replies:
        pickle.dump(_reply(**request), replies, protocol=5)
    os._exit(0)


def _reply(model: str, target: str, custom_objects: list[str], path: list[str]) -> tuple[str, Any]:
    """Export a model.

    Args:
        model: the file; its suffix tells Keras the format.
        target: the directory that the SavedModel is written to.
        custom_objects: references to the user's classes, ``package.module:Class``.
        path: where the user's modules are found.
    """
    sys.path[:] = path
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="2")
    try:
        config, written_by = _read(Path(model))
    except ExportKitError as error:
        return REFUSED, [(problem.what, problem.do) for problem in error.problems]
    if refused := _keras_file.refusals(config, custom_objects):
        return REFUSED, refused
    _limit_memory(os.path.getsize(model))
    return _export(
        model, target, {reference: _keras_file.own_names(config, _name(reference)) for reference in custom_objects}, written_by
    )


def _read(model: Path) -> tuple[Any, str]:
    """Return the configuration in a file, and the version of Keras that wrote it; an empty text where it does not say."""
    if model.suffix == _keras_file.KERAS:
        return _keras_file.read_archive(model)
    import h5py

    from exportkit.errors import ConfigError, Problem

    try:
        with h5py.File(model, "r") as file:
            config, written_by = (_text(file.attrs.get(name)) for name in ("model_config", "keras_version"))
        if not config:
            what = "holds weights alone, and no model"
            do = "load them into the model in Python, and save that whole: model.save('model.keras')"
            raise ConfigError(Problem("", what, do))
        return _keras_file.parse(config), written_by
    except (OSError, ValueError, KeyError, RuntimeError, RecursionError) as error:
        raise ConfigError(Problem("", f"is damaged: {brief(error)}", "copy it again")) from None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _limit_memory(size: int) -> None:
    """Limit this process's memory to what a file of `size` bytes may need: its configuration can ask for any weights."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() if sys.platform == "linux" else 0
    most = used + 16 * _GIB + 12 * size  # the stacks of TensorFlow's threads count, used or not
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _export(model: str, target: str, custom_objects: Mapping[str, Collection[str]], written_by: str) -> tuple[str, Any]:
    """Export a model.

    Args:
        custom_objects: reference → the names by which the file calls it.
    """
    warnings.simplefilter("ignore")
    import_keras()
    import keras

    try:
        found = {reference: pkgutil.resolve_name(reference) for reference in custom_objects}
        objects = {name: found[reference] for reference, names in custom_objects.items() for name in names}
        safe = not any(_keras_file.runs_code(_name(reference)) for reference in custom_objects)
        loaded = keras.models.load_model(model, custom_objects=objects, compile=False, safe_mode=safe)
    except BaseException as error:
        return REFUSED, [_unloadable(keras.__version__, brief(error), _legacy(written_by))]
    try:
        loaded.export(target, format="tf_saved_model", verbose=False)
    except BaseException as error:
        return REFUSED, [(f"is loaded and cannot be exported by Keras {keras.__version__}: {brief(error)}", "build it whole")]
    return EXPORTED, keras.__version__


def _unloadable(version: str, why: str, legacy: str) -> tuple[str, str]:
    """Return why Keras cannot load a file, and what to do."""
    if unknown := re.search(r"Unknown \w+: '([\w>]+)'", why):
        name = unknown[1].rpartition(">")[2]
        own = f"if it is yours, name it: custom_objects: [package.module:{name}]"
        return f"needs {name}, which Keras {version} does not have", f"{own}; if not, {legacy}" if legacy else own
    do = legacy or "does keras.models.load_model load it, with the same classes?"
    return f"cannot be loaded by Keras {version}: {why}", do


def _name(reference: str) -> str:
    return reference.rpartition(":")[2]


def _legacy(written_by: str) -> str:
    if not written_by.startswith(("1.", "2.")):
        return ""
    return (
        f"Keras {written_by} wrote it, and Keras 3 does not read all of those: load it with tf_keras (pip install tf_keras), "
        "write model.export(DIRECTORY), and name that (source=saved_model)"
    )
