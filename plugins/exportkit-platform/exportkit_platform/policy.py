"""A policy: which models may be exported, and as what. The plan checks what it can; the step `policy` checks the rest."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge
from exportkit.plugin import (
    ConfigError,
    Export,
    ExportPlan,
    Graph,
    MetaGraphDef,
    Phase,
    PostStep,
    Prepared,
    Problem,
    StepFailed,
    hookimpl,
    read_fields,
)

POLICY_FILE = "EXPORTKIT_PLATFORM_POLICY"


@dataclass(kw_only=True)
class Policy:
    """Rules of a platform for every model."""

    owners: list[str] | None = None
    """Teams that may own a model; null for any. Each model names its own in `vars.owner`."""

    tags: list[list[str]] = field(default_factory=lambda: [["serve"]])
    """The sets of tags that a meta graph may have."""

    max_bytes: Annotated[int, Ge(0)] | None = None
    """How many bytes of weights a model may have; null for any number."""

    capabilities: list[str] | None = None
    """What graphs may do beyond computing, by the names of `exportkit audit`; null for all that exportkit exports."""

    forbidden_ops: list[str] = field(default_factory=lambda: ["(Eager)?PyFunc(Stateless)?", "ReadFile", "WriteFile"])
    """Regular expressions of ops that no signature may reach; each matches a whole name."""


def policy_of(plan: ExportPlan) -> tuple[Policy | None, list[Problem]]:
    """Return the policy that a plan has to keep, and what is wrong with it.

    It is the file that the environment names, which no config can change, or else the config's `vars.platform`. None where
    there is neither, or where it cannot be read.
    """
    file = os.environ.get(POLICY_FILE)
    try:
        data, where = (_read(file), file) if file else (plan.config["vars"].get("platform"), "vars.platform")
    except ConfigError as error:
        return None, [*error.problems]
    if data is None:
        return None, []
    policy, problems = read_fields(Policy, data, where)
    problems = [*problems, *(_patterns(policy, where) if policy else ())]
    return (None if problems else policy), problems


def _read(file: str) -> Any:
    """Return what a policy file holds.

    Raises:
        ConfigError: it cannot be read.
    """
    from omegaconf import OmegaConf  # here, as every command imports this module
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OSError, YAMLError, OmegaConfBaseException) as cause:
        what = f"{file} cannot be read: {getattr(cause, 'strerror', None) or type(cause).__name__}"
        raise ConfigError(Problem(POLICY_FILE, what, "name a YAML file with a policy")) from cause


def _patterns(policy: Policy, where: str) -> Iterator[Problem]:
    for number, pattern in enumerate(policy.forbidden_ops):
        try:
            re.compile(pattern)
        except re.error as cause:
            yield Problem(f"{where}.forbidden_ops[{number}]", f"'{pattern}' is not a pattern: {cause}", "fix it")


@dataclass(kw_only=True)
class PolicyStep(PostStep):
    """Refuses an export whose weights or ops are against the policy, whatever source it came from."""

    kind: str = "policy"
    phase = Phase.VERIFY

    def run(self, export: Export) -> Mapping[str, Any]:
        policy, problems = policy_of(export.plan)
        if policy is None:
            nothing = Problem("", "there is no policy to keep", f"set vars.platform or {POLICY_FILE}")
            raise StepFailed(*(problems or [nothing]))
        ops = {op: node for meta in export.meta_graphs.values() for op, node in _served_ops(meta)}
        problems = [*_size(policy, export.report.weights.bytes), *_ops(policy, ops), *_capabilities(policy, export.prepared)]
        if problems:
            raise StepFailed(*problems)
        return {"bytes": export.report.weights.bytes, "ops": len(ops)}


def _served_ops(meta: MetaGraphDef) -> Iterator[tuple[str, str]]:
    """Yield the ops that a signature of an exported meta graph reaches, with a node of each."""
    graph = Graph(meta)
    for signature in meta.signature_def.values():
        feeds = [info.name for info in signature.inputs.values()]
        yield from _reached(graph, [info.name for info in signature.outputs.values()], feeds)


def _reached(graph: Graph, fetches: Iterable[str], feeds: Iterable[str]) -> Iterator[tuple[str, str]]:
    nodes = [graph.nodes[name] for name in sorted(graph.reach(fetches, feeds))]
    yield from ((node.op, node.name) for node in nodes)
    for function, caller in graph.called(nodes).items():
        yield from ((node.op, f"{caller}, in {function}") for node in graph.functions[function].node_def)


def _size(policy: Policy, size: int) -> Iterator[Problem]:
    if policy.max_bytes is not None and size > policy.max_bytes:
        what = f"the weights have {size:,} bytes, of {policy.max_bytes:,} that the policy allows"
        yield Problem("policy.max_bytes", what, "export a smaller model, or ask the platform team for room")


def _ops(policy: Policy, ops: Mapping[str, str]) -> Iterator[Problem]:
    for op, node in sorted(ops.items()):
        if any(re.fullmatch(pattern, op) for pattern in policy.forbidden_ops):
            what = f"the signatures need {node} ({op}), which the policy forbids"
            yield Problem("policy.forbidden_ops", what, "bind an input behind it, or an output before it")


def _capabilities(policy: Policy, prepared: Prepared) -> Iterator[Problem]:
    for key, audit in prepared.audits.items() if policy.capabilities is not None else ():
        for capability, ops in audit.by_capability().items():
            if capability not in policy.capabilities:
                what = f"the graph has the capability {capability} ({', '.join(ops)}), which the policy does not allow"
                yield Problem(f"meta_graphs.{key}", what, "bind tensors that do not need it, or ask the platform team")


def _owner(policy: Policy, plan: ExportPlan) -> Iterator[Problem]:
    owner = plan.config["vars"].get("owner")
    if not isinstance(owner, str) or not owner.strip():
        yield Problem("vars.owner", "every model needs an owner", "set it to the team that answers for the model")
    elif policy.owners is not None and owner not in policy.owners:
        yield Problem("vars.owner", f"'{owner}' may not own a model", f"write one of {', '.join(policy.owners)}")


def _tags(policy: Policy, plan: ExportPlan) -> Iterator[Problem]:
    do = f"write {' or '.join(map(_listed, policy.tags))}"
    for key, meta_graph in plan.meta_graphs.items():
        if set(meta_graph.tags) not in map(set, policy.tags):
            yield Problem(f"meta_graphs.{key}.tags", f"the policy does not allow {_listed(meta_graph.tags)}", do)


def _listed(tags: Iterable[str]) -> str:
    return f"[{', '.join(tags)}]"


def _contents(policy: Policy, plan: ExportPlan, prepared: Prepared) -> Iterator[Problem]:
    """Return what the policy has against the size and the ops of the graphs that are known: in the end, of all."""
    ops: dict[str, str] = {}
    for part in prepared.parts.values():
        cuts = [*part.wiring.inputs.values(), *part.wiring.constants]
        ops |= dict(_reached(part.model.graph, part.wiring.fetches(plan.signatures, plan.bindings), cuts))
    yield from _size(policy, sum(bundle.entries[key].size for bundle, key in prepared.sources.values()))
    yield from _ops(policy, ops)
    yield from _capabilities(policy, prepared)


@hookimpl
def exportkit_check_plan(plan: ExportPlan, prepared: Prepared) -> list[Problem]:
    policy, problems = policy_of(plan)
    if policy is None:
        return problems
    return [*_owner(policy, plan), *_tags(policy, plan), *_contents(policy, plan, prepared)]


@hookimpl
def exportkit_post_steps():
    return [PolicyStep]


@hookimpl
def exportkit_conf_packages():
    return ["exportkit_platform.conf"]
