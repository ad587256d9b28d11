"""Problems that sources, steps and policies report about a plan: when it is made, and again when every graph is built."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from exportkit.contract import ModelSource, PostStep
from exportkit.errors import ConfigError, PluginError, Problem, brief, shortened
from exportkit.planning.prepare import Prepared
from exportkit.planning.resolving import placed
from exportkit.registry import Plugins, Provider
from exportkit.spec import ExportPlan


def objections(plan: ExportPlan, prepared: Prepared, plugins: Plugins, known: Sequence[Problem] = ()) -> list[Problem]:
    """Return what the plan's sources and steps, and then the policies, find wrong with it.

    Args:
        prepared: the parts of the plan whose graphs are known.
        known: the plan's other problems. Where there are some, the plan may lack parts: an exception of a check is then
            ignored, and so is a problem at a place that has one already, as it may be its consequence.

    Raises:
        PluginError: a check raised, or returned something other than problems, for a plan without other problems.
    """
    found: list[Problem] = []
    for ask in _questions(plan, plugins):
        try:
            found += ask(plan=plan, prepared=prepared)
        except PluginError:
            if not known:
                raise
    places = [problem.where for problem in known]
    return [problem for problem in dict.fromkeys(found) if not any(_overlap(problem.where, place) for place in places)]


def _questions(plan: ExportPlan, plugins: Plugins) -> Iterator[Callable[..., list[Problem]]]:
    for resolved in plan.resolved_sources():
        yield partial(_check, resolved.source, resolved.where, plugins.providers.get(type(resolved.source)))
    for name, step in plan.post.items():
        yield partial(_check, step, f"post.{name}", plugins.providers.get(type(step)))
    yield from plugins.policies()


def _check(
    reporter: ModelSource | PostStep, where: str, provider: Provider | None, *, plan: ExportPlan, prepared: Prepared
) -> list[Problem]:
    """Return the problems that a source or step reports of itself, below its place."""
    named = f"{where} ({provider})"
    try:
        answer = reporter.check(plan, prepared)
        problems: Sequence[Any] = answer if isinstance(answer, str) else list(answer)
    except ConfigError as error:
        problems = error.problems
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(named, f"check raised {brief(cause)}")) from cause
    if not all(isinstance(problem, Problem) for problem in problems):
        raise PluginError(Problem(named, f"check returned {shortened(repr(problems))}, not Problems"))
    return placed(problems, where, provider)


def _overlap(one: str, other: str) -> bool:
    """Return whether one place in the config is the other, or holds it."""
    short, long = sorted([one, other], key=len)
    return bool(short) and long.startswith(short) and long[len(short) :][:1] in ("", ".", "[")
