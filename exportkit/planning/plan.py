"""From a config to an `ExportPlan`, or to ONE ConfigError that lists every problem. No TensorFlow is imported.

A `.meta` is read and prepared here as far as protos go, so that a wrong name, an unfed placeholder or a variable without a
checkpoint key is reported before anything is built. Code is checked as far as `ast` and the checkpoint's index allow.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from exportkit import samples
from exportkit.capabilities import ALLOWANCES, CAPABILITIES, joined
from exportkit.config import sections
from exportkit.config.reader import UNSET, Reader, describe
from exportkit.contract import SIGNATURE_FILE, ModelSource, Phase, PostStep, signatures_of
from exportkit.errors import ConfigError, ExportKitError, PluginError, Problem, brief_in, did_you_mean, some
from exportkit.metagraph import Graph, many_objects
from exportkit.metagraph.tensors import Facts
from exportkit.operations.bindings import Bindings
from exportkit.planning import assets, serving_rules, weights, wiring
from exportkit.planning.checking import objections
from exportkit.planning.kept import add_kept, advised, without_unknown
from exportkit.planning.plain import plain_config, without_secrets
from exportkit.planning.prepare import Model, Prepared, prepare
from exportkit.planning.resolving import Resolved, placed, resolve
from exportkit.registry import Plugins, load_plugins
from exportkit.spec import (
    Allow,
    Check,
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


def plan(
    config: Mapping[str, Any] | DictConfig, plugins: Plugins | None = None, directories: Sequence[Path] = ()
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
    reader.by_kind[ModelSource] = lambda value, where: _source_at(value, reader, plugins, where)
    drafted, main = _draft(data, reader, plugins)
    drafted.config = without_secrets(config, data)
    drafted.directories = list(directories)
    drafted.resolved = _resolved(drafted, main, reader, plugins)
    with many_objects():
        drafted.prepared = _check_models(drafted, reader)
    reader.problems += objections(drafted, drafted.prepared, plugins, known=list(reader.problems))
    if reader.problems:
        raise ConfigError(*advised(reader.problems, _kept(main, data["signatures"])))
    drafted.checks = list(_checks(drafted))
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
    source = _source(data["source"], reader, plugins, "source")
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
        sources={} if source is None else _sources(data["source"], meta_graphs, reader, plugins),
        bindings=bound,
        signatures=cast(dict[str, Signature], signatures),  # a draft alone holds None for what is broken
        meta_graphs=meta_graphs or {"serving": MetaGraph(tags=["serve"])},  # where none can be read, check the rest
        samples=cast(dict[str, dict[str, Sample]], sections.samples(data["samples"], reader, signatures, bound)),
        weights=_weights(data["weights"], reader),
        allow=_allow(data["allow"], reader),
        post=_steps(data["post"], reader, plugins),
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


def _source(value: Any, reader: Reader, plugins: Plugins, where: str) -> ModelSource | None:
    if value in (None, UNSET):
        return reader.problem(where, "is not chosen", f"choose one: source={'|'.join(sorted(plugins.sources))}")
    return _source_at(value, reader, plugins, where)


def _source_at(value: Any, reader: Reader, plugins: Plugins, where: str) -> ModelSource | None:
    """Read a source: the config's own, or one in a field of another source."""
    kind = _kind(value, reader, where, "source", plugins.sources)
    return _made(plugins.sources[kind], value, reader, plugins, where) if kind else None


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


def _sources(value: Any, meta_graphs: Mapping[str, Any], reader: Reader, plugins: Plugins) -> dict[str, ModelSource]:
    """Return the sources of the meta graphs that override fields for a build of their own."""
    own = {key: meta_graph.source for key, meta_graph in meta_graphs.items() if meta_graph.source}
    merged = {key: OmegaConf.to_container(OmegaConf.merge(value, over)) for key, over in own.items()}
    found = {key: _source(v, reader, plugins, f"meta_graphs.{key}.source") for key, v in merged.items()}
    return {key: source for key, source in found.items() if source is not None}


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


def _steps(value: Any, reader: Reader, plugins: Plugins) -> dict[str, PostStep]:
    """Return the chosen steps by phase, then in the config's order; a step that closes its phase comes last in it."""
    steps: dict[str, PostStep] = {}
    for name, step in _chosen(value, reader).items():
        if kind := _kind(step, reader, f"post.{name}", "step", plugins.steps):
            steps[name] = _made(plugins.steps[kind], step, reader, plugins, f"post.{name}")
    found = {name: step for name, step in steps.items() if step is not None}
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


def _chosen(value: Any, reader: Reader | None = None) -> dict[str, Any]:
    """Return the entries of post whose step was chosen: such an entry has a kind."""
    entries = value if isinstance(value, Mapping) else {}
    if reader is not None and value is not None:
        reader.convert(dict[str, Any], value, "post")
        for name, step in entries.items():
            if not isinstance(step, Mapping | None):
                reader.problem(f"post.{name}", f"is {describe(step)}, not a mapping", "write {kind: …}")
    return {name: step for name, step in entries.items() if isinstance(step, Mapping) and "kind" in step}


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
        if name not in _chosen(drafted.config["post"]):
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


def _checks(drafted: ExportPlan) -> Iterator[Check]:
    """Yield the plan's lines, in the order in which things will happen."""
    first = next(iter(drafted.resolved.values())).preview
    static = first.meta_graph is not None
    for line in first.checked:
        yield Check("source", line, True)
    for line in first.when_built:
        yield Check("source", line, False)
    if first.checkpoint:
        yield Check("weights", f"checkpoint {first.checkpoint}", True)
    if static and not any(part.pruned.variables for part in drafted.prepared.parts.values()):
        yield Check("weights", "the graph has no variables", True)
    else:
        rule = "every variable has one value in the checkpoint, or an initialize rule"
        yield Check("weights", rule, static and bool(first.checkpoint))
    yield Check("bind", f"{len(drafted.bindings)} bindings: {', '.join(drafted.bindings)}", static)
    yield Check("bind", "ops and CPU kernels", False)
    for asset in drafted.assets:
        yield Check("assets", f"{asset.path} ({asset.named_by})", True)
    for note in assets.notes(drafted, all(one.preview.meta_graph is not None for one in drafted.resolved_sources())):
        yield Check("assets", note, True)
    yield Check(
        "audit", f"the graph can {describe_capabilities(drafted.prepared)}" if static else "what the graph can do", static
    )
    for key, signature in drafted.signatures.items():
        yield Check(
            "sign", f"{key}: {signature.method} ({', '.join(signature.inputs)}) → ({', '.join(signature.outputs)})", static
        )
    for meta_graph in drafted.meta_graphs.values():
        yield Check("write", f"meta graph tagged {', '.join(meta_graph.tags)}", True)
    for name, step in drafted.post.items():
        yield Check(step.phase.name.lower(), name, False)
    number = next_version(drafted)
    yield Check("commit", f"{drafted.export_dir}/{number}", isinstance(drafted.version, int))


def describe_capabilities(prepared: Prepared) -> str:
    """Return what the prepared graphs can do, in a sentence; the capabilities as the config allows and the audit lists them."""
    found = joined(prepared.audits.values()).by_capability()
    return ", ".join(f"{CAPABILITIES[name].can} ({some(ops, 3)})" for name, ops in found.items()) or "only compute"


def next_version(drafted: ExportPlan) -> str:
    """Return the version that would be written now, as a text."""
    if drafted.version == "auto":
        return str(max(claim.numbers(drafted.export_dir), default=0) + 1)
    return "<timestamp>" if drafted.version == "timestamp" else str(drafted.version)


def wanted(drafted: ExportPlan) -> list[str]:
    """Return the tensors that bindings and train ops name, as written: what a source has to provide."""
    keys = ("tensor", "placeholder", "replaces")
    named = [getattr(b, key) for b in drafted.bindings.values() for key in keys if hasattr(b, key)]
    ops = [m.train_op for m in drafted.meta_graphs.values() if m.train_op]
    return list(dict.fromkeys([*named, *ops]))
