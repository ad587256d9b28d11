"""The source that another source holds: chosen from the installed plugins by its `kind`, and read as a config is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exportkit.config.reader import Reader
from exportkit.errors import ExportKitError, Problem, did_you_mean
from exportkit.plugin import ModelSource, under_reporter
from exportkit.registry import load_plugins


def read(config: Any, where: str, banned: str) -> tuple[ModelSource | None, Sequence[Problem]]:
    """The source that `config` describes, its paths absolute; or else what is wrong with it.

    Args:
        where: its place in the config of the source that holds it.
        banned: the kind that may not be chosen: the holder's own.
    """
    kind = config.get("kind") if isinstance(config, Mapping) else None
    sources = {name: cls for name, cls in load_plugins().sources.items() if name != banned}
    if kind not in sources:
        if kind is None:
            return None, [Problem(f"{where}.kind", "is not set", f"write one of {', '.join(sorted(sources))}")]
        return None, [Problem(f"{where}.kind", f"there is no source '{kind}' to hold", did_you_mean(str(kind), sources))]
    reader = Reader(Path.cwd())
    return reader.read(sources[kind], config, where), reader.problems


@contextmanager
def told_within(source: ModelSource, where: str) -> Iterator[None]:
    """Put `where` before the places of problems that the held source reports of itself while it builds."""
    try:
        yield
    except ExportKitError as error:
        raise type(error)(*(under_reporter(problem, source, where) or problem for problem in error.problems)) from error
