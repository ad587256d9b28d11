"""The models of a models.config with what a server needs to know of them, checked so that a server starts with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from exportkit import modelserver
from exportkit.errors import ConfigError, ExportKitError, Problem, shortened, some
from exportkit.metagraph import read_saved_model
from exportkit.printable import printable
from exportkit.server import model_config
from exportkit.server.model_config import Model
from exportkit.serving import warmup
from exportkit.version.claim import size
from exportkit.version.manifest import read_manifest

ROWS = 32  # of a batch, unless a warmup record has more
_WAITS = "a server waits for it for ever"


@dataclass(frozen=True)
class Fleet:
    """Models that one server can serve.

    Attributes:
        models: as the models.config lists them.
        tags: those of the meta graphs that are served, the same for all models.
        bytes: of the files of all versions that are served.
        rows: the largest batch that the server may form; None where it must not batch.
        unbatched: why it must not, a line for each model.
        tensorflow: the newest TensorFlow that wrote one of the models; a server should not be older.
    """

    models: Sequence[Model]
    tags: Sequence[str]
    bytes: int
    rows: int | None
    unbatched: Sequence[str]
    tensorflow: str

    @property
    def has_labels(self) -> bool:
        return any(model.labels for model in self.models)


def directory_in(model: Model, root: str = "/models") -> str:
    """Return where a model's base path lies in the container."""
    return f"{root}/{quote(model.name, safe='')}"


def read(path: Path) -> Fleet:
    """Return the models of a models.config.

    Raises:
        ConfigError: with all reasons why a server would not start, or not serve what is listed.
    """
    models = model_config.read(path)
    if not models:
        raise ConfigError(Problem(str(path), "lists no model", "add a config for each"))
    problems: list[Problem] = []
    found = [_Versions(model, problems) for model in models]
    by_tags: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        for tags in dict.fromkeys(one.tags):
            by_tags.setdefault(tags, []).append(one.name)
    if len(by_tags) > 1:
        listed = "; ".join(f"[{', '.join(tags)}]: {some(names)}" for tags, names in sorted(by_tags.items()))
        do = "write a models.config for each set, and deploy each"
        problems.append(Problem(str(path), f"has models of several sets of tags, and a server loads one set: {listed}", do))
    if problems:
        raise ConfigError(*problems)
    unbatched = [line for one in found for line in one.unbatched]
    rows = None if unbatched else max(ROWS, *(one.rows for one in found))
    newest = max((one.tensorflow for one in found), key=_numbers)
    return Fleet(models, next(iter(by_tags)), sum(one.bytes for one in found), rows, unbatched, newest)


def _numbers(version: str) -> list[int]:
    return [int(part[:9]) for part in version.split(".") if part.isdecimal()]


class _Versions:
    """The versions of a model that are served; what is wrong with them is added to `problems`."""

    def __init__(self, model: Model, problems: list[Problem]):
        self.name = model.name
        self.tags: list[tuple[str, ...]] = []
        self.unbatched: list[str] = []
        self.bytes, self.rows, self.tensorflow = 0, 0, ""
        before = len(problems)
        problems += _unservable(model)
        if len(problems) > before:
            return
        present = model_config.versions_in(model.base)
        for number in sorted(model.aspired(list(present))):
            try:
                self._add(present[number])
            except ExportKitError as error:
                problems += error.problems

    def _add(self, directory: Path) -> None:
        metas = {str(number): meta for number, meta in enumerate(read_saved_model(directory).meta_graphs)}
        meta = metas[modelserver.loaded({key: one.meta_info_def.tags for key, one in metas.items()})]
        self.tags.append(tuple(sorted(meta.meta_info_def.tags)))
        self.bytes += size(directory)
        written = shortened(printable(meta.meta_info_def.tensorflow_version), 40)
        self.tensorflow = max(self.tensorflow, written, key=_numbers)
        self.unbatched += [f"{self.name} {directory.name}: {why}" for why in _obstacles(meta, read_manifest(directory))]
        if (file := directory / warmup.FILE).exists():
            requests = [logged for _, logged in warmup.read_warmup(file)]
            sizes = [len(value) for logged in requests for value in logged.inputs.values() if value.ndim]
            self.rows = max([self.rows, *sizes])


def _unservable(model: Model) -> Iterator[Problem]:
    """Yield why a server would not start with a model, or serve something else than is listed."""
    if ":" in model.name:
        yield Problem(model.name, "has a colon, so REST cannot ask for its status", "rename it")
    if not model.base.is_dir():
        yield Problem(model.name, f"{model.base} is not a directory, and {_WAITS}", "export a version to it first")
        return
    present = model_config.versions_in(model.base)
    if files := [path for path in present.values() if not path.is_dir()]:
        yield Problem(model.name, f"{files[0]} is a file, and a server takes it for a version", "remove it")
        return
    wanted = model.versions
    if wanted is not None and not wanted:
        yield Problem(model.name, "serves specific versions and names none", "name them")
    for number in sorted((wanted or frozenset()) - present.keys()):
        yield Problem(model.name, f"there is no version {number} in {model.base}", f"it has {_listed(present)}")
    if not present:
        yield Problem(model.name, f"{model.base} has no version, and {_WAITS}", "export one to it first")
    served = model.aspired(list(present))
    for label, number in sorted(model.labels.items()):
        if number not in served:
            what = f"label '{label}' is of version {number}, which its policy does not serve"
            yield Problem(model.name, what, f"it serves {_listed(served) or 'none'}")


def _listed(numbers: Any) -> str:
    return some([str(number) for number in sorted(numbers)])


def _obstacles(meta: Any, manifest: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield why a server cannot batch requests to a version, by its manifest; its warmup would end a server that does."""
    if manifest is None:
        yield "it has no manifest, so nothing is known of its batches"
        return
    samples = manifest.get("samples", {})
    for key in sorted(meta.signature_def):
        if key.startswith("__saved_model_"):
            continue
        why = samples.get(key, {}).get("batching", "its manifest has no sample of it")
        if why != "yes":
            yield f"{key}: {why}"
