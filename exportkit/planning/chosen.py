"""The sources and steps that a config chooses, made of their sections."""

from collections.abc import Iterator, Mapping
from typing import Any

from exportkit.config.reader import UNSET, Reader, describe
from exportkit.contract import SIGNATURE_FILE, ModelSource, Phase, PostStep, signatures_of
from exportkit.errors import ConfigError, PluginError, Problem, brief_in, did_you_mean
from exportkit.planning.resolving import placed
from exportkit.registry import Plugins


def chosen_source(value: Any, reader: Reader, plugins: Plugins, where: str) -> ModelSource | None:
    """Return the source of a section of the config; None where none is chosen, or it is wrong, which is reported."""
    if value in (None, UNSET):
        return reader.problem(where, "is not chosen", f"choose one: source={'|'.join(sorted(plugins.sources))}")
    return source_at(value, reader, plugins, where)


def source_at(value: Any, reader: Reader, plugins: Plugins, where: str) -> ModelSource | None:
    """Read a source: the config's own, or one in a field of another source."""
    kind = _kind(value, reader, where, "source", plugins.sources)
    return _made(plugins.sources[kind], value, reader, plugins, where) if kind else None


def own_sources(value: Any, meta_graphs: Mapping[str, Any], reader: Reader, plugins: Plugins) -> dict[str, ModelSource]:
    """Return the sources of the meta graphs that override fields for a build of their own."""
    own = {key: meta_graph.source for key, meta_graph in meta_graphs.items() if meta_graph.source}
    if not own:
        return {}
    from omegaconf import OmegaConf

    merged = {key: OmegaConf.to_container(OmegaConf.merge(value, over)) for key, over in own.items()}
    found = {key: chosen_source(v, reader, plugins, f"meta_graphs.{key}.source") for key, v in merged.items()}
    return {key: source for key, source in found.items() if source is not None}


def steps(value: Any, reader: Reader, plugins: Plugins) -> dict[str, PostStep]:
    """Return the chosen steps by phase, then in the config's order; a step that closes its phase comes last in it."""
    made: dict[str, PostStep] = {}
    for name, step in chosen_steps(value, reader).items():
        if kind := _kind(step, reader, f"post.{name}", "step", plugins.steps):
            made[name] = _made(plugins.steps[kind], step, reader, plugins, f"post.{name}")
    found = {name: step for name, step in made.items() if step is not None}
    reader.problems += [*_closing_twice(found), *_unfit_signatures(found, plugins)]
    return dict(sorted(found.items(), key=lambda pair: (pair[1].phase, pair[1].closes_phase)))


def _closing_twice(steps: Mapping[str, PostStep]) -> Iterator[Problem]:
    """Report steps that would both be the last of their phase."""
    last: dict[Phase, str] = {}
    for name, step in steps.items():
        if step.closes_phase and last.setdefault(step.phase, name) != name:
            what = f"is the last step of phase {step.phase.name}, and so is post.{last[step.phase]}"
            yield Problem(f"post.{name}", what, "leave one of them out")


def _unfit_signatures(steps: Mapping[str, PostStep], plugins: Plugins) -> Iterator[Problem]:
    """Report files that a step may not name as its signatures: the manifest could not leave them out."""
    for name, step in steps.items():
        for file in sorted(signatures_of(step)):
            if not SIGNATURE_FILE.fullmatch(file):
                where = f"post.{name} ({plugins.providers[type(step)]})"
                yield Problem(where, f"signs in '{file}'", "a signature is called assets.extra/NAME.sig")


def chosen_steps(value: Any, reader: Reader | None = None) -> dict[str, Any]:
    """Return the entries of post whose step was chosen: such an entry has a kind."""
    entries = value if isinstance(value, Mapping) else {}
    if reader is not None and value is not None:
        reader.convert(dict[str, Any], value, "post")
        for name, step in entries.items():
            if not isinstance(step, Mapping | None):
                reader.problem(f"post.{name}", f"is {describe(step)}, not a mapping", "write {kind: …}")
    return {name: step for name, step in entries.items() if isinstance(step, Mapping) and "kind" in step}


def _made(cls: type, value: Any, reader: Reader, plugins: Plugins, where: str) -> Any:
    """Make a source or step; a ConfigError of its own checks counts as problems like all others."""
    try:
        return reader.read(cls, value, where)
    except ConfigError as error:
        reader.problems += placed(error.problems, where, plugins.providers[cls])
    except (Exception, SystemExit) as cause:
        raise PluginError(
            Problem(f"{where} ({plugins.providers[cls]})", f"raised {brief_in(cause, cls.__module__)}")
        ) from cause
    return None


def _kind(value: Any, reader: Reader, where: str, noun: str, known: Mapping[str, type]) -> str | None:
    """Return the kind of a source or step, if there is a plugin of that kind."""
    if not isinstance(value, Mapping):
        return reader.problem(where, f"is {describe(value)}, not a mapping", "write {kind: …}")
    kind = value.get("kind", UNSET)
    if kind in (None, UNSET):
        return reader.problem(f"{where}.kind", "is not set", f"known: {', '.join(sorted(known))}")
    if reader.convert(str, kind, f"{where}.kind") is not None and kind not in known:
        reader.problem(f"{where}.kind", f"there is no {noun} '{kind}'", did_you_mean(kind, known))
    return kind if isinstance(kind, str) and kind in known else None
