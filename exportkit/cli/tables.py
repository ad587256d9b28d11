"""Reports as tables on a terminal, or as plain text in a file or pipe. rich is imported where it lays one out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exportkit.cli import print_line
from exportkit.cli.plain_table import is_plain, plain_table
from exportkit.printable import printable

if TYPE_CHECKING:
    from exportkit.cli.sweep.job_record import Job
    from exportkit.report import ExportReport, MetaGraphReport, StepReport
    from exportkit.spec import ExportPlan

_COLOURS = {"exported": "green", "unchanged": "green", "failed": "red", "died": "red"}
WIDE = 160  # where the output is a file or a pipe


def show_report(report: ExportReport, plan: ExportPlan) -> None:
    """Print what was exported, how to serve it, and a request for each of its signatures."""
    from exportkit.serving.rest_request import request  # imports NumPy, which only exports need here

    line(f"{summary(report)}\n")
    for meta_graph in report.meta_graphs:
        _signatures(meta_graph, several=len(report.meta_graphs) > 1)
    _facts(report)
    _show_serving(report)
    line("\nAsk it")
    for signature in report.served.signatures if report.served else ():
        line(request(report.name, signature, plan))


def _show_serving(report: ExportReport) -> None:
    """Print the command that serves the version, and those that serve another of its meta graphs: a server loads only one."""
    line(f"\nServe it\n{report.server_command}")
    for meta_graph in report.meta_graphs:
        if meta_graph is not report.served and meta_graph.signatures:
            line(f"{report.server_command_of(meta_graph)}  # meta graph {meta_graph.key} in its place")


def summary(report: ExportReport, seconds: float | None = None) -> str:
    """Return an export in one line; its duration is `seconds`, by default that of its stages."""
    seconds = report.seconds if seconds is None else seconds
    if report.status != "exported":
        return f"{report.name}: {report.status} after {seconds:.1f} s"
    end = f", not verified: {', '.join(report.unverified)}" if report.unverified else ""
    return f"{report.name}: {report.status} version {report.version} to {short_path(report.directory)} in {seconds:.1f} s{end}"


def one_line(report: ExportReport) -> str:
    """Return a line for a log: ``exported digits 3: exports/digits/3, 6 variables proved, verify max abs diff 0, 2.4 s``."""
    weights, proved = report.weights, f"{report.weights.variables}/{report.weights.variables} variables equal to the checkpoint"
    whole = f"{weights.variables} {'variable' if weights.variables == 1 else 'variables'} proved"
    proof = whole if weights.proof == f"{proved}, 0 initialised" else weights.proof if weights.variables else "no variables"
    verified = [f"{step.kind} {step.details['summary'].split(',')[0]}" for step in report.steps if _verifies(step)]
    facts = [short_path(report.directory), proof, *verified, f"{report.seconds:.1f} s"]
    return f"{report.status} {report.name} {report.version}: {', '.join(filter(None, facts))}"


def _verifies(step: StepReport) -> bool:
    return step.phase == "VERIFY" and bool(step.details.get("summary"))


def show_built(report: ExportReport) -> None:
    """Print what ``plan --build`` built: signatures, variables, nodes."""
    for meta_graph in report.meta_graphs:
        _signatures(meta_graph, several=len(report.meta_graphs) > 1)
    _facts(report)


def show_plan(plan: ExportPlan) -> None:
    """Print the stages in the order of their execution, each line checked or left to the build."""
    rows = [("checked" if c.checked else "when built", "green" if c.checked else "yellow", c) for c in plan.checks]
    table(
        f"Plan of {plan.name}",
        ["stage", "what", ""],
        [(c.stage, c.what, Styled(text, style)) for text, style, c in rows],
        once=True,
    )
    _warnings(plan.warnings)


def show_jobs(jobs: Sequence[Job], apart: Sequence[Sequence[str]]) -> None:
    """Print the jobs of a sweep, each with the overrides that set it `apart`; a column without values is left out."""
    columns: dict[str, list[Any]] = {
        "job": [str(job.number) for job in jobs],
        "model": [job.name for job in jobs],
        "version": [_or_dash(job.version) for job in jobs],
        "status": [Styled(job.status, _COLOURS.get(job.status, "")) for job in jobs],
        "seconds": [f"{job.seconds:.1f}" if job.seconds else "-" for job in jobs],
        "size": [size_text(job.bytes) if job.bytes else "-" for job in jobs],
        "proved": [_short_proof(job.proof) for job in jobs],
        "below": [short_path(job.base) if job.status == "planned" else "-" for job in jobs],
        "overrides": [" ".join(words) for words in apart],
    }
    empty = {name for name, cells in columns.items() if all(cell in ("-", "") for cell in cells)} - {"version"}
    shown = {name: cells for name, cells in columns.items() if name not in empty}
    table("Sweep", list(shown), list(zip(*shown.values(), strict=True)))


def _short_proof(proof: str) -> str:
    """Return ``6/6`` for ``6/6 variables equal to the checkpoint, 0 initialised``; other facts stay."""
    return proof.replace(" variables equal to the checkpoint", "").replace(", 0 initialised", "") or "-"


def line(text: str = "") -> None:
    """Print a text as it is: what a user may copy is never wrapped."""
    _out(printable(text, "\n\t"))


def text(words: str, style: str = "") -> None:
    """Print prose, wrapped to the terminal's width."""
    if not sys.stdout.isatty() and is_plain(WIDE, shown := printable(words, "\n\t")):
        return _out(shown.rstrip())
    _print(_styled(words, style))


def _signatures(meta_graph: MetaGraphReport, several: bool) -> None:
    title = f"Signatures of {meta_graph.key}, tags {', '.join(meta_graph.tags)}" if several else "Signatures"
    rows = []
    for s in meta_graph.signatures:
        sides = [("in", t) for t in s.inputs] + [("out", t) for t in s.outputs]
        rows += [(s.key, s.method, side, t.alias, t.dtype, shape_text(t.shape), t.tensor) for side, t in sides]
    table(title, ["signature", "method", "", "alias", "dtype", "shape", "tensor"], rows, once=3)
    line()


def _facts(report: ExportReport) -> None:
    weights = report.weights
    held = f"{weights.variables}, {size_text(weights.bytes)}{_phrase(weights.how)}{_phrase(weights.proof)}"
    facts = [("variables", held if weights.variables else "none")]
    facts += [("", note) for note in weights.notes]
    facts += [(f"nodes ({m.key})", f"{m.nodes_before} before, {m.nodes_after} after") for m in report.meta_graphs]
    facts += [("not batched", text) for text in unbatched(report)]
    facts += [("assets", ", ".join(report.assets))] if report.assets else []
    facts += [("not sandboxed", report.not_sandboxed)] if report.not_sandboxed else []
    facts += [(f"step {s.kind}", f"{s.status}{_phrase(s.details.get('summary', ''))}") for s in report.steps]
    _grid(facts)
    _warnings(report.warnings)


def unbatched(report: ExportReport) -> list[str]:
    """Return the signatures that a server cannot batch, of those that were tried, each with the reason."""
    signatures = {s.key: s.batching for meta_graph in report.meta_graphs for s in meta_graph.signatures}
    return [f"{key}: {why.removeprefix('no: ')}" for key, why in signatures.items() if why.startswith("no: ")]


def _phrase(text: str) -> str:
    return f", {text}" if text else ""


def _warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        text(f"warning: {warning}", "yellow")


def shape_text(shape: Sequence[int | None] | None) -> str:
    """Return a shape as ``[?, 64]``; one of unknown rank as ``?``."""
    return "?" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def size_text(size: float) -> str:
    """Return a number of bytes with a decimal unit: ``340 kB``, ``2.5 GB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


def short_path(path: str | None) -> str:
    """Return `path` relative to the working directory if it lies below, or as it is."""
    if path is None:
        return "nowhere"
    try:
        short = os.path.relpath(path)
    except FileNotFoundError:  # there is no working directory any more
        return path
    return path if short.startswith("..") else short


@dataclass(frozen=True)
class Styled:
    """A cell of a table with a colour, for a terminal."""

    text: str
    style: str


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _styled(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(printable(text, "\n\t"), style)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], once: int = 0) -> None:
    """Print a table under its title.

    Args:
        title: printed above it.
        columns: the heads of the columns.
        rows: a text per column.
        once: how many columns, from the left, are printed only where they change.
    """
    rows = list(_once(rows, once))
    if not sys.stdout.isatty() and (lines := plain_table(printable(title), columns, _texts(rows), WIDE)):
        return _out("\n".join(lines))
    from rich import box
    from rich.table import Table

    shown = Table(
        box=box.SIMPLE_HEAD, title=printable(title), title_justify="left", title_style="bold", pad_edge=False, show_edge=False
    )
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(_styled(*_parts(cell)) for cell in row))
    _print(shown)


def _once(rows: Iterable[Sequence[Any]], most: int) -> Iterator[list[Any]]:
    """Yield rows; of the first `most` cells, those equal to the row above are empty."""
    previous: Sequence[Any] = ()
    for row in rows:
        yield list(_changed(row, previous, most))
        previous = row


def _parts(cell: Any) -> tuple[str, str]:
    """Return the text of a cell and its style."""
    return (cell.text, cell.style) if isinstance(cell, Styled) else (cell, "")


def _texts(rows: Iterable[Sequence[Any]]) -> list[list[str]]:
    return [[printable(_parts(cell)[0], "\n\t") for cell in row] for row in rows]


def _changed(row: Sequence[Any], previous: Sequence[Any], most: int) -> Iterator[Any]:
    """Yield the cells of `row`; of the first `most`, those equal to the row above are empty."""
    same = bool(previous)
    for at, cell in enumerate(row):
        same = same and at < most and cell == previous[at]
        yield "" if same else cell


def list_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], most: int | None) -> None:
    """Print a table of the first `most` rows, and how many more there are."""
    if rows:
        table(title, columns, rows[:most])
        more = len(rows) - len(rows[:most])
        line(f"(+ {more} more)\n" if more else "")


def _grid(facts: Iterable[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for fact in facts:
        table.add_row(*(_styled(cell, "") for cell in fact))
    _print(table)


def _print(renderable: Any) -> None:
    """Print what rich renders, without the blanks at the ends of its lines."""
    console = _console()
    with console.capture() as captured:
        console.print(renderable)
    _out("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _out(text: str) -> None:
    """Print a result. An export does not fail where it cannot be printed: the reader has gone, or the disk is full."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print_line(f"warning: the output was not printed: {error.strerror}")
