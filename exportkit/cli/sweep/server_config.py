"""``models.config``: the models of a sweep for a model server, one file for each set of tags that their versions have.

A server loads one set of tags (``--saved_model_tags``), of all its models, and starts only if every one of them loads; a base
path without a version would make it wait for ever (server_core.cc). So only what can be loaded is listed, the rest is reported.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from exportkit import modelserver
from exportkit.cli.sweep.job_record import Job, write_whole
from exportkit.errors import BindingError
from exportkit.metagraph import read_saved_model
from exportkit.version.claim import numbers

FILE = "models.config"
POLLED = "a running server reads this file again only with --model_config_file_poll_wait_seconds=SECONDS"

Tags = tuple[str, ...]


@dataclass(frozen=True)
class ServerConfig:
    """A file that was written, and the command line of the server that reads it."""

    file: Path
    command: str


class _LeftOut(Exception):
    """Why a server could not load a model."""


def write_server_configs(directory: Path, jobs: Sequence[Job]) -> tuple[list[ServerConfig], list[str]]:
    """Write the models of the sweep that have a version, this sweep's or an older one, into `directory`.

    Returns:
        The files, ``models.config`` first, and warnings: models that are left out, or why there is no file.
    """
    bases: dict[str, set[str]] = {}
    for job in jobs:
        if job.base and numbers(Path(job.base)):
            bases.setdefault(job.name, set()).add(job.base)
    older = {directory / FILE, *directory.glob("models.*.config")}
    if twice := [f"{name} is the name of {len(found)} base paths" for name, found in bases.items() if len(found) > 1]:
        _remove(older)
        return [], [f"no {FILE}: {', '.join(sorted(twice))}; give each its own name"]
    groups, warnings = _grouped({name: base for name, (base,) in sorted(bases.items())}, jobs)
    names = _file_names(groups)
    written = [_write(directory / names[tags], groups[tags], tags, i) for i, tags in enumerate(names)]
    _remove(older.difference(config.file for config in written))  # last, so that a server always finds one
    return written, warnings


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _grouped(bases: Mapping[str, str], jobs: Iterable[Job]) -> tuple[dict[Tags, dict[str, str]], list[str]]:
    """Return tags → model name → base path, and a warning for each model that is left out."""
    reports = {job.directory: job.report for job in jobs if job.directory and job.report}
    groups: dict[Tags, dict[str, str]] = {}
    warnings = []
    for name, base in bases.items():
        try:
            groups.setdefault(_tags(Path(base), reports), {})[name] = base
        except _LeftOut as cause:
            warnings.append(f"{name} is not in {FILE}: {cause}")
    return groups, warnings


def _tags(base: Path, reports: Mapping[str, Mapping]) -> Tags:
    """Return the tags, sorted, with which a server loads the newest version below `base`.

    Raises:
        _LeftOut: a server could not load it.
    """
    found = _newest(base)
    if str(found) in reports:
        meta_graphs = [meta_graph["tags"] for meta_graph in reports[str(found)]["meta_graphs"]]
    else:
        try:
            meta_graphs = [meta.meta_info_def.tags for meta in read_saved_model(found).meta_graphs]
        except BindingError as cause:
            raise _LeftOut(str(cause)) from None
    if not meta_graphs:
        raise _LeftOut(f"{found} has no meta graph")
    by_text = {",".join(sorted(tags)): tags for tags in meta_graphs}
    tags = sorted(by_text[modelserver.loaded(by_text)])
    if wrong := [tag for tag in tags if "," in tag]:
        raise _LeftOut(f"the tag '{wrong[0]}' of {found} has a comma, at which a server splits its tags")
    return tuple(tags)


def _newest(base: Path) -> Path:
    """Return the directory of the highest version; of two names for one number, as 7 and 007, a server takes the last."""
    names = [name for name in os.listdir(base) if name.isdecimal() and int(name) in numbers(base)]
    if files := [base / name for name in sorted(names) if not (base / name).is_dir()]:
        raise _LeftOut(f"{files[0]} is a file, and a server takes it for a version; remove it")
    try:
        str(base).encode()
    except UnicodeEncodeError:
        raise _LeftOut(f"its base path {str(base)!r} is not UTF-8") from None
    return base / max(names, key=lambda name: (int(name), name))


def _file_names(groups: Mapping[Tags, Mapping[str, str]]) -> dict[Tags, str]:
    """Return tags → file name, in order. ``models.config`` is the first: for the tags that need no flag, or else for those with
    the most models.
    """
    order = sorted(groups, key=lambda tags: (set(tags) != modelserver.SERVE, -len(groups[tags]), tags))
    names = ["+".join(quote(tag, safe="") for tag in tags) for tags in order]
    return {tags: f"models.{names[i]}.config" if i else FILE for i, tags in enumerate(order)}


def _write(file: Path, models: Mapping[str, str], tags: Tags, number: int) -> ServerConfig:
    command = modelserver.command({"model_config_file": str(file)}, tags, number)
    head = [f"# {line}\n" for line in (command, POLLED) if line.isprintable()]
    blocks = "".join(_block(name, base) for name, base in models.items())
    write_whole(file, f"{''.join(head)}model_config_list {{\n{blocks}}}\n")
    return ServerConfig(file, command)


def _block(name: str, base: str) -> str:
    fields = {"name": name, "base_path": base, "model_platform": "tensorflow"}
    lines = "".join(f"    {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())
    return f"  config {{\n{lines}  }}\n"
