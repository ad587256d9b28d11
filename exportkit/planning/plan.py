"""From a config to an `ExportPlan`, or to ONE ConfigError that lists every problem. No TensorFlow is imported.

A `.meta` is read and prepared here as far as protos go, so that a wrong name, an unfed placeholder or a variable without a
checkpoint key is reported before anything is built. Code is checked as far as `ast` and the checkpoint's index allow.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from exportkit import samples
from exportkit.capabilities import ALLOWANCES, CAPABILITIES
from exportkit.config import sections
from exportkit.config.reader import UNSET, Reader, describe
from exportkit.contract import ModelSource
from exportkit.errors import ConfigError, ExportKitError, Problem, did_you_mean
from exportkit.metagraph import Graph, many_objects
from exportkit.metagraph.tensors import Facts
from exportkit.operations.bindings import Bindings
from exportkit.planning import assets, serving_rules, weights, wiring
from exportkit.planning.checking import objections
from exportkit.planning.chosen import chosen_source, chosen_steps, own_sources, source_at, steps
from exportkit.planning.kept import add_kept, advised, without_unknown
from exportkit.planning.outline import outline
from exportkit.planning.plain import plain_config, without_secrets
from exportkit.planning.prepare import Model, Prepared, prepare
from exportkit.planning.resolving import Resolved, resolve
from exportkit.registry import Plugins, load_plugins
from exportkit.spec import (
    Allow,
    Config,
    Constant,
    ExportPlan,
    MetaGraph,
    Replacement,
    ReportTo,
    Sample,
    Signature,
    Weights,
)
from exportkit.version import claim

if TYPE_CHECKING:
    from omegaconf import DictConfig


def plan(
    config: "Mapping[str, Any] | DictConfig", plugins: Plugins | None = None, directories: Sequence[Path] = ()
) -> ExportPlan:
    """Read and check a config.

    Args:
        config: what Hydra composed, or a plain mapping of the same shape.
        plugins: the plugins to choose from; default: the installed ones.
        directories: where the config's files lie; a graph may take its assets from there.

    Raises:
        ConfigError: everything that is wrong, as far as it can be found without TensorFlow.
        PluginError: a plugin broke its contract.
    """
    plugins = plugins or load_plugins()
    data = plain_config(config)
    reader = Reader(Path.cwd())
    reader.by_kind[ModelSource] = lambda value, where: source_at(value, reader, plugins, where)
    drafted, main = _draft(data, reader, plugins)
    drafted.config = without_secrets(config, data)
    drafted.directories = list(directories)
    drafted.resolved = _resolved(drafted, main, reader, plugins)
    with many_objects():
        drafted.prepared = _check_models(drafted, reader)
    reader.problems += objections(drafted, drafted.prepared, plugins, known=list(reader.problems))
    if reader.problems:
        raise ConfigError(*advised(reader.problems, _kept(main, data["signatures"])))
    drafted.checks = list(outline(drafted))
    return drafted


Found = tuple[Resolved, list[Problem]]


def _kept(main: Found | None, own: Any) -> list[str]:
    """Return the keys of the source's signatures that are kept, where a key of the source says which."""
    if main is None or not _has_signatures(type(main[0].source)):
        return []
    return [key for key in main[0].preview.signatures if key not in (own or ())]


def _keeps(source: Any, plugins: Plugins) -> bool:
    """Return whether a source that cannot be read is of a kind that keeps its model's own signatures."""
    kind = source.get("kind") if isinstance(source, Mapping) else None
    return isinstance(kind, str) and kind in plugins.sources and _has_signatures(plugins.sources[kind])


def _has_signatures(cls: type[ModelSource]) -> bool:
    return any(field.name == "signatures" for field in fields(cls))


def _draft(data: dict[str, Any], reader: Reader, plugins: Plugins) -> tuple[ExportPlan, Found | None]:
    """Read everything that can be read; what is broken is None and reported in the reader's problems.

    Returns:
        The draft, and the config's source, resolved, with what is wrong with it; None where no meta graph uses it.
    """
    known = {field.name for field in fields(Config)}
    for key in data:
        if key not in known:
            reader.problem(str(key), "no such key", did_you_mean(str(key), known) or "free keys go under vars")
    reader.convert(dict[str, Any], data["vars"], "vars")
    bound = Bindings(sections.bindings(data["bindings"], reader, plugins.bindings))
    signatures = sections.signatures(data["signatures"], reader)
    source = chosen_source(data["source"], reader, plugins, "source")
    main = None if source is None or not _is_used(data["meta_graphs"]) else resolve(source, "source", plugins)
    if main is not None:
        add_kept(main[0].preview, bound, signatures)
    if not signatures and not (main[1] if main else source is None and _keeps(data["source"], plugins)):
        reasons = main[0].preview.warnings[:3] if main else ()
        do = "; ".join([*reasons, "write signatures: {serving_default: {inputs: …, outputs: …}}"])
        reader.problem("signatures", "there are none", do)
    wrong = serving_rules.check(bound, signatures)
    reader.problems += without_unknown(wrong) if main and main[1] and not main[0].preview.signatures else wrong
    constants = [name for name, b in bound.items() if isinstance(b, Constant)]
    meta_graphs = sections.meta_graphs(data["meta_graphs"], reader, signatures, constants)
    drafted = ExportPlan(
        name=_name(data["name"], reader),
        source=source,
        sources={} if source is None else own_sources(data["source"], meta_graphs, reader, plugins),
        bindings=bound,
        signatures=cast(dict[str, Signature], signatures),  # a draft alone holds None for what is broken
        meta_graphs=meta_graphs or {"serving": MetaGraph(tags=["serve"])},  # where none can be read, check the rest
        samples=cast(dict[str, dict[str, Sample]], sections.samples(data["samples"], reader, signatures, bound)),
        weights=_weights(data["weights"], reader),
        allow=_allow(data["allow"], reader),
        post=steps(data["post"], reader, plugins),
        export_dir=_export_dir(data["export_dir"], data["name"], reader),
        version=_version(data["version"], reader),
        report=_report(data["report"], reader),
        config=data,
        **{key: reader.convert(bool, data[key], key) for key in ("ensure_shape", "clear_devices", "strip_default_attrs")},
    )
    drafted.warnings = [*_warnings(drafted), *plugins.warnings]
    version = drafted.version
    if isinstance(version, int) and version in claim.numbers(drafted.export_dir):
        reader.problems += claim.exists(drafted.export_dir, version).problems
    if version == "auto" and claim.LARGEST in claim.numbers(drafted.export_dir):
        reader.problems += claim.used_up(drafted.export_dir).problems
    return drafted, main


def _is_used(meta_graphs: Any) -> bool:
    """Return whether a meta graph takes the config's source as it is, so that it is to be resolved."""
    entries = meta_graphs.values() if isinstance(meta_graphs, Mapping) else ()
    return not entries or any(not (isinstance(entry, Mapping) and entry.get("source")) for entry in entries)


def _name(value: Any, reader: Reader) -> str:
    if value in (None, UNSET, ""):
        reader.problem("name", "is not set", "choose a model (model=NAME) or set name")
        return ""
    name = reader.convert(str, value, "name") or ""
    if not re.fullmatch(r"[^/\s.][^/\s]*|", name):
        reader.problem("name", f"'{name}' cannot be a model's name", "write one without /, spaces and a leading dot")
    elif name.isdigit():
        reader.problem("name", f"'{name}' cannot be a model's name", "its directory would be taken for a version: add a letter")
    return name


def _weights(value: Any, reader: Reader) -> Weights:
    read = reader.read(Weights, {} if value is None else value, "weights")
    wrong = list(weights.check(read)) if read else []
    reader.problems += wrong
    return Weights() if wrong or not read else read


def _allow(value: Any, reader: Reader) -> Allow:
    """Return what the model may do; the name of a capability that is not refused is a problem like an unknown one."""
    read = reader.read(Allow, {} if value is None else value, "allow")
    written = value.get("ops") if read is None and isinstance(value, Mapping) else read.ops if read else ()
    for number, name in enumerate(written if isinstance(written, list) else ()):
        if not isinstance(name, str):
            continue  # reported when it was read
        if name in CAPABILITIES and not CAPABILITIES[name].refused:
            reader.problem(f"allow.ops[{number}]", f"{name} needs no allowance", "leave it out")
        elif name not in ALLOWANCES:
            reader.problem(f"allow.ops[{number}]", f"there is no capability '{name}'", did_you_mean(name, ALLOWANCES))
    return read or Allow()


def _export_dir(value: Any, name: Any, reader: Reader) -> Path:
    path = reader.convert(Path, value, "export_dir") or reader.base
    if path.name.isdigit() and path.name != str(name):
        reader.problem("export_dir", f"ends in the number {path.name}", "versions are made below it: leave the number out")
    _check_writable(path, "export_dir", reader)
    return path


def _report(value: Any, reader: Reader) -> Path | None:
    """Return where the report goes; a place that cannot be written is a problem now, not after the export."""
    path = getattr(reader.read(ReportTo, {} if value is None else value, "report"), "path", None)
    if path is not None and path.is_dir():
        reader.problem("report.path", f"{path} is a directory", "name a file in it")
    elif path is not None and path.exists() and not os.access(path, os.W_OK):
        reader.problem("report.path", f"{path} is not writable", "make it writable, or choose another one")
    elif path is not None:
        _check_writable(path.parent, "report.path", reader)
    return path


def _check_writable(directory: Path, where: str, reader: Reader) -> None:
    """Report a directory that can neither be written nor made."""
    above = next(p for p in [directory, *directory.parents] if os.path.lexists(p))
    if not above.is_dir():
        reader.problem(where, f"{above} is not a directory", "choose another one")
    elif not os.access(above, os.R_OK | os.W_OK | os.X_OK):
        reader.problem(where, f"{above} is not writable", "make it writable, or choose another one")


def _version(value: Any, reader: Reader) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= claim.LARGEST:
        return value
    if value not in ("auto", "timestamp"):
        reader.problem("version", f"is {describe(value)}", "write auto, timestamp or an integer from 0, without leading zeros")
        return "auto"
    return value


def _warnings(drafted: ExportPlan) -> Iterator[str]:
    if drafted.signatures and "serving_default" not in drafted.signatures:
        only = ", ".join(drafted.signatures)
        yield f"signatures: there is no serving_default, so every request has to name its signature ({only})"
    sound = [s for s in drafted.signatures.values() if s is not None]
    used = drafted.bindings.used(sound)
    for name, bound in drafted.bindings.items():
        if name not in used and bound is not None and not isinstance(bound, Constant | Replacement):
            yield f"bindings.{name}: is used by no signature"
    for name in drafted.config["post"] or ():
        if name not in chosen_steps(drafted.config["post"]):
            yield f"post.{name}: ignored, as the step was not chosen (post=[…,{name}])"


def _resolved(drafted: ExportPlan, main: Found | None, reader: Reader, plugins: Plugins) -> dict[str, Resolved]:
    """Return meta graph key → its source, resolved; one that several meta graphs share is resolved once.

    Args:
        main: what was found of the config's source.
    """
    places = {key: f"meta_graphs.{key}.source" if key in drafted.sources else "source" for key in drafted.meta_graphs}
    found: dict[str, Resolved] = {}
    for key, where in places.items():
        source = drafted.sources.get(key, drafted.source)
        if source is not None and where not in found:
            found[where], problems = main if main and where == "source" else resolve(source, where, plugins)
            reader.problems += [problem for problem in problems if problem not in reader.problems]
            drafted.warnings += found[where].preview.warnings
    return {key: found[where] for key, where in places.items() if where in found}


def _check_models(drafted: ExportPlan, reader: Reader) -> Prepared:
    """Prepare what can be prepared unbuilt, and report what is wrong with it."""
    models: dict[str, Model] = {}
    for resolved in drafted.resolved_sources():
        if resolved.preview.meta_graph is not None:
            offered = resolved.preview.tensors or {}
            original = resolved.preview.original
            models[resolved.where] = Model(Graph(resolved.preview.meta_graph), offered, resolved.bundle, original=original)
    known = {key: models[one.where] for key, one in drafted.resolved.items() if one.where in models}
    try:
        prepared, problems, lacking = prepare(drafted, known)
    except ExportKitError as error:
        reader.problems += error.problems
        return Prepared()
    drafted.warnings += prepared.warnings
    drafted.assets, refused = assets.find(drafted, prepared)
    prepared.assets = drafted.assets
    reader.problems += dict.fromkeys(refused)
    unbuilt = [facts for facts in _unbuilt_facts(drafted, reader) if facts]
    reader.problems += samples.problems(drafted, [*(part.facts for part in prepared.parts.values()), *unbuilt])
    reported = any(problem.where.startswith("weights") for problem in reader.problems)
    reader.problems += [*problems, *([] if reported else lacking)]
    return prepared


def _unbuilt_facts(drafted: ExportPlan, reader: Reader) -> Iterator[Mapping[str, Facts]]:
    """Check the config against the previews of graphs that are not built yet; yield the known dtypes and shapes of bindings."""
    for resolved in drafted.resolved_sources():
        if resolved.preview.meta_graph is None and resolved.preview.tensors is not None:
            facts, problems = wiring.unbuilt_facts(drafted.bindings, resolved.preview.tensors)
            problems += serving_rules.computed({name: b for name, b in drafted.bindings.items() if b is not None}, facts)
            for key, signature in drafted.signatures.items():
                problems += () if signature is None else serving_rules.demands(f"signatures.{key}", signature, facts)
            reader.problems += [problem for problem in problems if problem not in reader.problems]
            yield facts


def wanted(drafted: ExportPlan) -> list[str]:
    """Return the tensors that bindings and train ops name, as written: what a source has to provide."""
    keys = ("tensor", "placeholder", "replaces")
    named = [getattr(b, key) for b in drafted.bindings.values() for key in keys if hasattr(b, key)]
    ops = [m.train_op for m in drafted.meta_graphs.values() if m.train_op]
    return list(dict.fromkeys([*named, *ops]))
