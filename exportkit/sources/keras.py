"""The source `keras`: a model that Keras saved, exported by Keras itself and taken as a SavedModel from there on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from exportkit.errors import ConfigError, ExportKitError, Problem
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl
from exportkit.sources import _keras_file
from exportkit.sources.saved_model import KEEP, SavedModelSource

EXPORTS = Path(".exportkit", "keras")
_SECONDS, _BYTES_A_SECOND = 600, 10_000_000  # that Keras may take: a configuration can ask for loops without end


@dataclass(kw_only=True)
class KerasSource(ModelSource):
    """A model that Keras 3 saved (.keras), or an older one in HDF5 (.h5) that Keras 3 can load.

    Keras exports it once, in a process of its own that may read only the file, to `.exportkit/keras` in the working directory;
    that SavedModel is used again while the file and the classes are the same. It is then taken as by the source `saved_model`:
    bindings may call the tensors ``serving_default.inputs.ALIAS`` and ``serving_default.outputs.ALIAS``.
    """

    kind: str = "keras"
    uses_tensorflow: ClassVar[bool] = False

    model: Path
    """The file that ``model.save`` wrote."""

    custom_objects: list[str] = field(default_factory=list)
    """Your classes and functions in it, as ``package.module:Class``. A layer that runs code from the file itself is refused
    unless it is named here: ``keras.layers:Lambda``."""

    signatures: Any = KEEP
    """Which of the signatures that Keras exports are kept: keep for all, or a list of their keys."""

    def __post_init__(self) -> None:
        self._exported(self.model)  # which checks them

    def preview(self) -> Preview:
        try:
            exported, version = export(self, self.model, self.custom_objects)
        except ExportKitError as error:
            return Preview(problems=error.problems)
        preview = self._exported(exported).preview()
        checked = [f"model {self.model}, exported by Keras {version}"]
        problems = [self._place(problem, exported) for problem in preview.problems]
        return replace(preview, problems=problems, checked=checked)

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        return self._exported(self.model).build(preview, scratch, wanted)

    def _exported(self, directory: Path) -> SavedModelSource:
        return SavedModelSource(saved_model=directory, signatures=self.signatures)

    def _place(self, problem: Problem, exported: Path) -> Problem:
        where = "model" if problem.where == "saved_model" else problem.where
        return Problem(where, problem.what.replace(str(exported), str(self.model)), problem.do)


def export(source: Any, model: Path, custom_objects: Sequence[str] = ()) -> tuple[Path, str]:
    """Have Keras export a model as a SavedModel, if that was not done yet.

    Args:
        source: what names the user's code: its digest is part of what identifies the SavedModel.
        model: the file.
        custom_objects: references to the user's classes and functions.

    Returns:
        The SavedModel, and the version of Keras that exported it.

    Raises:
        ConfigError: it is no model, it would run what it must not, or Keras cannot load or export it.
    """
    from importlib.metadata import PackageNotFoundError, version

    from exportkit.version.identity import code_digests, digest, file_digest

    _check(model, custom_objects)
    try:
        versions = {name: version(name) for name in ("keras", "h5py")}
    except PackageNotFoundError as error:
        raise ConfigError(Problem("", f"needs the package {error.name}", "pip install 'exportkit[keras]'")) from None
    made_from = {"file": file_digest(model), "names": list(custom_objects), "code": code_digests(source), **versions}
    target = EXPORTS.absolute() / digest(made_from)[:16]
    if not target.is_dir():
        _export(model, custom_objects, target)
    return target, versions["keras"]


def _check(model: Path, custom_objects: Sequence[str]) -> None:
    """Check what can be checked without Keras."""
    from exportkit.config import references

    problems: list[Problem] = []
    for number, reference in enumerate(custom_objects):
        if not reference.startswith("keras."):
            try:
                references.examine(reference, f"custom_objects[{number}]")
            except ConfigError as error:
                problems += error.problems
    try:
        if _keras_file.format_of(model) == _keras_file.KERAS:
            refused = _keras_file.refusals(_keras_file.read_archive(model)[0], custom_objects)
            problems += _located(model, refused)
    except ConfigError as error:
        problems += [Problem("model", f"{problem.where}: {problem.what}", problem.do) for problem in error.problems]
    if problems:
        raise ConfigError(*problems)


def _located(model: Path, pairs: Iterable[tuple[str, str]]) -> list[Problem]:
    return [Problem("model", f"{model}: {what}", do) for what, do in pairs]


def _export(model: Path, custom_objects: Sequence[str], target: Path) -> None:
    """Export a model to the directory `target`, which is there only when it is whole."""
    from exportkit import processes
    from exportkit.processes.scratch import scratch
    from exportkit.sources import _keras_worker

    with scratch() as room:
        link = str(room / f"model{_keras_file.format_of(model)}")
        (made := room / "saved_model").mkdir()
        request = {"model": link, "target": str(made / "1"), "custom_objects": list(custom_objects), "path": list(sys.path)}
        reads = [model, *(sys.path if custom_objects else ())]
        sandbox = processes.Sandbox(reads, {link: str(model)}, writes=[room])
        most = _SECONDS + os.path.getsize(model) // _BYTES_A_SECOND
        replies, death = processes.exchange(_keras_worker, [request], most, sandbox)
        if death or not replies:
            raise ConfigError(
                Problem("model", f"{model}: Keras's process {death or 'ended without a reply'}", "does Keras load it?")
            )
        kind, content = replies[0]
        if kind != _keras_worker.EXPORTED:
            raise ConfigError(*_located(model, content))
        try:
            _move(made / "1", target)
        except OSError as error:
            raise ConfigError(
                Problem("", f"{target.parent} cannot be written: {error.strerror}", "start it elsewhere")
            ) from None


def _move(made: Path, target: Path) -> None:
    """Move a SavedModel to its place, unless another process was faster; nothing in it may lead elsewhere."""
    for directory, names, entries in os.walk(made):
        for path in (Path(directory, name) for name in (*names, *entries)):
            if path.is_symlink():
                raise ConfigError(Problem("model", f"exporting it made a symbolic link, {path.name}", "do not use this model"))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(made, partial)
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():
            raise


@hookimpl
def exportkit_model_sources():
    return [KerasSource]
