"""What is sent to the process that runs a SavedModel, checked before: its load, and requests as runs of its graph."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exportkit import files
from exportkit.capabilities import audit_loaded, demand
from exportkit.core import worker as core_worker
from exportkit.errors import BindingError, ExportKitError, Problem, StepFailed, did_you_mean
from exportkit.metagraph import read_saved_model
from exportkit.processes import Death
from exportkit.protos import ConfigProto, MetaGraphDef

Run = tuple[Mapping[str, np.ndarray], Sequence[str]]
Message = tuple[str, tuple[Any, ...]]  # one of `core_worker.CALLS`, and its arguments


@dataclass(frozen=True)
class Request:
    """A client's request: a signature's key and its inputs by alias; strings are bytes or str in an object array.

    Problems mention its `name`; by default ``request 0 (serving_default)``.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    name: str = ""


def request_name(request: Request, number: int) -> str:
    return request.name or f"request {number} ({request.signature})"


def mismatches(signatures: Mapping[str, Any], name: str, request: Request) -> Iterator[tuple[str, str]]:
    """Yield how a request does not fit its signature, by key and aliases, and what to do about it."""
    if request.signature not in signatures:
        yield f"{name}: no such signature", did_you_mean(request.signature, signatures)
        return
    inputs, outputs = signatures[request.signature].inputs, signatures[request.signature].outputs
    for alias in sorted(inputs.keys() - request.inputs.keys()):
        yield f"{name}: the input {alias} is missing", ""
    for alias in sorted(request.inputs.keys() - inputs.keys()):
        yield f"{name}: {alias} is no input of the signature", did_you_mean(alias, inputs)
    for alias, info in sorted([*inputs.items(), *outputs.items()], key=lambda item: item[0]):
        if not info.name:
            yield f"{name}: {alias} is not a dense tensor", "give its parts, such as indices and values, aliases of their own"


def as_run(signature: Any, request: Request) -> Run:
    feeds = {signature.inputs[alias].name: np.asarray(value) for alias, value in request.inputs.items()}
    return feeds, [signature.outputs[alias].name for alias in sorted(signature.outputs)]


def meta_graph(directory: str | os.PathLike, tags: Sequence[str]) -> MetaGraphDef:
    """Return the meta graph whose tags are exactly `tags`.

    Raises:
        StepFailed: no meta graph has them.
        BindingError: there is no saved_model.pb to read.
    """
    return tagged(directory, tags)[-1]


def loadable(
    directory: str | os.PathLike, tags: Sequence[str], allowed: Collection[str], advise: Callable[[str], str]
) -> tuple[MetaGraphDef, Any]:
    """Return the meta graph whose tags are exactly `tags`, and the message that has a process of `exportkit.core` load it.

    Args:
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.
        advise: an entry of `allow.ops` that it lacks → what to do about that.

    Raises:
        StepFailed: no meta graph has these tags.
        BindingError: there is no saved_model.pb to read, or it can do what is not allowed.
    """
    metas = tagged(directory, tags)
    return metas[-1], load_message(os.fspath(directory), metas, None, allowed, advise)


def tagged(directory: str | os.PathLike, tags: Sequence[str]) -> list[MetaGraphDef]:
    """Return the meta graphs whose tags are exactly `tags`, at least one; only a SavedModel made by hand has several."""
    by_tags: dict[frozenset[str], list[MetaGraphDef]] = {}
    for meta in read_saved_model(directory).meta_graphs:
        by_tags.setdefault(frozenset(meta.meta_info_def.tags), []).append(meta)
    if metas := by_tags.get(frozenset(tags)):
        return metas
    known = ", ".join(sorted(_tag_set(known) for known in by_tags))
    raise StepFailed(Problem(os.fspath(directory), f"no meta graph has the tags {_tag_set(tags)}", f"it has {known}"))


def _tag_set(tags: Sequence[str] | frozenset[str]) -> str:
    return f"[{', '.join(sorted(tags))}]"


def load_message(
    directory: str,
    metas: Sequence[MetaGraphDef],
    config: ConfigProto | None,
    allowed: Collection[str],
    advise: Callable[[str], str] | None = None,
) -> Message:
    """Return the message that has a process load a SavedModel: no process gets it for one that can do what is not allowed.

    Raises:
        BindingError: the SavedModel can do what is not allowed, or its assets are no files that can be read to their end.
    """
    _check_assets(directory)
    demand(audit_loaded(metas), allowed, directory, advise)
    return core_worker.LOAD, (directory, list(metas[-1].meta_info_def.tags), (config or ConfigProto()).SerializeToString())


def _check_assets(directory: str) -> None:
    """Refuse assets that TensorFlow would wait for, or read for hours: FIFOs, devices, files of holes."""
    for folder, _, names in os.walk(os.path.join(directory, "assets")):
        for path in (os.path.join(folder, name) for name in names):
            try:
                os.close(files.descriptor(path))
            except OSError as error:
                do = "it was made by hand: copy the whole version again"
                raise BindingError(Problem(path, f"cannot be read: {error.strerror}", do)) from None


def death_error(death: Death, directory: str, stage: str) -> ExportKitError:
    return death.error(
        directory,
        f"{stage}: the process that served it",
        after_timeout="raise the timeout, or look for a loop or a queue that waits for ever",
        after_crash="a model server would die as well: let the graph check what it is fed",
    )
