"""One export, from its composed config to what is printed of it, whoever composed the config."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit import processes
from exportkit.cli import channel, print_line, single
from exportkit.cli.channel import Detail
from exportkit.cli.choices import plugins
from exportkit.cli.failures import unexpected
from exportkit.cli.single import State
from exportkit.config.reader import UNSET, Reader
from exportkit.errors import ExportKitError, Problem, system_error
from exportkit.planning.plain import PlainConfig
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_apart(config: "DictConfig | PlainConfig", state: State) -> str:
    """Plan an export, carry it out in a process of its own, print its report, and return its status.

    Args:
        config: of one export.
        state: of the composition.
    """
    with processes.prestarted(state.preload(True)) if uses_tensorflow(config) else nullcontext():
        planned = make_plan(config, state)
        report = single.run(planned, plain(config), state)
    show(report, planned)
    return report.status


def uses_tensorflow(config: "DictConfig | PlainConfig") -> bool:
    """Return whether a job's source runs TensorFlow's Python; it is not planned here, so the config decides."""
    source = plugins().sources.get(str(value_at(config, "source.kind")))
    return source is None or source.uses_tensorflow


def make_plan(config: "DictConfig | PlainConfig", state: State) -> ExportPlan:
    """Return the plan of `config`; where it cannot be planned, write the report here, for the pipeline never starts."""
    from exportkit.planning.plan import plan

    try:
        return plan(config, plugins(), state.directories())
    except ExportKitError as error:
        _report_failure(error, config)
        raise


def show(report: ExportReport, planned: ExportPlan) -> None:
    """Print the report of an export: as much of it as the user asked for."""
    from exportkit.cli import tables

    match channel.detail():
        case Detail.WHOLE:
            tables.show_report(report, planned)
        case Detail.LINE:
            tables.line(tables.one_line(report))
            for warning in report.warnings:
                print_line(f"{report.name}: warning: {warning}")


def _report_failure(error: ExportKitError, config: "DictConfig | PlainConfig") -> None:
    """Write the report to ``report.path``, if that is set; where it cannot be written, add the problem to `error`."""
    path = value_at(config, "report.path")
    if not path or any(problem.where == "report.path" for problem in error.problems):
        return
    reader = Reader(Path.cwd())
    if (target := reader.convert(Path, path, "report.path")) is None:
        error.args = (*error.problems, *reader.problems)
        return
    try:
        failed_report(error, unplanned_report(config)).write(target)
    except OSError as cause:
        refused = system_error(cause, path).problems[0]
        error.args = (*error.problems, Problem("report.path", f"{refused.where}: {refused.what}", refused.do))


def unplanned_report(config: "DictConfig | PlainConfig") -> ExportReport:
    """Return the report of an export that could not be planned: only its name is known."""
    return ExportReport(name=str(value_at(config, "name")))


def failed_report(error: Exception, report: ExportReport) -> ExportReport:
    """Return the report that the pipeline attached to `error`, else `report`, with the error's text in it."""
    report = getattr(error, "report", None) or report
    report.error = str(error if isinstance(error, ExportKitError) else unexpected(error))
    return report


def value_at(config: "DictConfig | PlainConfig", key: str) -> Any:
    """Return the value at a key, ``report.path``; None where there is none, or none that can be resolved."""
    if not isinstance(config, PlainConfig):
        from omegaconf import OmegaConf

        return OmegaConf.select(config, key, throw_on_resolution_failure=False)
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return None if found == UNSET else found


def plain(config: "DictConfig | PlainConfig") -> Mapping[str, Any]:
    """Return a config as plain data, interpolations resolved."""
    if isinstance(config, PlainConfig):
        return config
    from omegaconf import OmegaConf

    data = OmegaConf.to_container(config, resolve=True)
    return {str(key): value for key, value in data.items()} if isinstance(data, dict) else {}
