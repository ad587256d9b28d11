"""Tables on a terminal; plain text where there is none. rich is imported when the first one is shown."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from exportkit.report import ExportReport, MetaGraphReport
from exportkit.serving.rest_request import request
from exportkit.spec import ExportPlan

if TYPE_CHECKING:
    from exportkit.cli.sweep.job_record import Job

_COLOURS = {"exported": "green", "unchanged": "green", "failed": "red", "died": "red"}
WIDE = 160  # where the output is a file or a pipe


def show_report(report: ExportReport, plan: ExportPlan) -> None:
    """What was exported, how to serve it, and a request for each of its signatures."""
    line(f"{summary(report)}\n")
    for meta_graph in report.meta_graphs:
        _signatures(meta_graph, several=len(report.meta_graphs) > 1)
    _facts(report)
    line(f"\nServe it\n{report.server_command}\n\nAsk it")
    for signature in report.meta_graphs[0].signatures if report.meta_graphs else ():
        line(request(report.name, signature, plan.bindings))


def summary(report: ExportReport, seconds: float | None = None) -> str:
    """An export in one line; `seconds` where more than its stages counts."""
    seconds = report.seconds if seconds is None else seconds
    if report.status != "exported":
        return f"{report.name}: {report.status} after {seconds:.1f} s"
    return f"{report.name}: {report.status} version {report.version} to {near(report.directory)} in {seconds:.1f} s"


def show_built(report: ExportReport) -> None:
    """What ``plan --build`` came to know."""
    for meta_graph in report.meta_graphs:
        _signatures(meta_graph, several=len(report.meta_graphs) > 1)
    _facts(report)


def show_plan(plan: ExportPlan) -> None:
    """The stages in the order of their execution, each line checked or not."""
    rows = [("checked" if c.checked else "when built", "green" if c.checked else "yellow", c) for c in plan.checks]
    table(
        f"Plan of {plan.name}",
        ["stage", "what", ""],
        [(c.stage, c.what, _styled(text, style)) for text, style, c in rows],
        once=True,
    )
    _warnings(plan.warnings)


def show_jobs(jobs: Sequence["Job"], apart: Sequence[Sequence[str]]) -> None:
    """What became of each job of a sweep, or will, and the overrides that set it `apart`; no column without a value."""
    columns = {
        "job": [str(job.number) for job in jobs],
        "model": [job.name for job in jobs],
        "version": [_or_dash(job.version) for job in jobs],
        "status": [_styled(job.status, _COLOURS.get(job.status, "")) for job in jobs],
        "seconds": [f"{job.seconds:.1f}" if job.seconds else "-" for job in jobs],
        "size": [size_text(job.bytes) if job.bytes else "-" for job in jobs],
        "proved": [_proved(job.proof) for job in jobs],
        "below": [near(job.base) if job.status == "planned" else "-" for job in jobs],
        "overrides": [" ".join(words) for words in apart],
    }
    empty = {name for name, cells in columns.items() if all(str(cell) in ("-", "") for cell in cells)} - {"version"}
    shown = {name: cells for name, cells in columns.items() if name not in empty}
    table("Sweep", list(shown), list(zip(*shown.values(), strict=True)))


def _proved(proof: str) -> str:
    """``6/6``, and what else there is to say, of ``6/6 variables equal to the checkpoint, 0 initialised``."""
    return proof.replace(" variables equal to the checkpoint", "").replace(", 0 initialised", "") or "-"


def line(text: str = "") -> None:
    """Text as it is: what someone will copy is never broken."""
    print(text, flush=True)


def text(words: str, style: str = "") -> None:
    """Words, in lines of the terminal's width."""
    _console().print(_styled(words, style))


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
    facts = [("variables", f"{weights.variables}, {size_text(weights.bytes)}{_because(weights.how)}{_because(weights.proof)}")]
    facts += [("", note) for note in weights.notes]
    facts += [(f"nodes ({m.key})", f"{m.nodes_before} before, {m.nodes_after} after") for m in report.meta_graphs]
    facts += [("assets", ", ".join(report.assets))] if report.assets else []
    facts += [("stages", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.stages.items()))]
    facts += [(f"step {s.kind}", f"{s.status}{_because(s.details.get('summary', ''))}") for s in report.steps]
    _grid(facts)
    _warnings(report.warnings)


def _because(text: str) -> str:
    return f", {text}" if text else ""


def _warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        text(f"warning: {warning}", "yellow")


def shape_text(shape: Sequence[int | None] | None) -> str:
    """``[?, 64]``; a shape of unknown rank is ``?``."""
    return "?" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def size_text(size: float) -> str:
    """Bytes as a person says them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)


def near(path: str | None) -> str:
    """`path` from here, where it is below."""
    if path is None:
        return "nowhere"
    near = os.path.relpath(path)
    return path if near.startswith("..") else near


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(highlight=False, markup=False, emoji=False, width=width)


def _styled(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(text, style)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], once: int = 0) -> None:
    """A table under its title.

    Args:
        title: what it shows.
        columns: their heads.
        rows: a text per column.
        once: how many columns, from the left, are said only where they change.
    """
    from rich import box
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    previous: Sequence[Any] = ()
    for row in rows:
        shown.add_row(*_changed(row, previous, once))
        previous = row
    _print(shown)


def _changed(row: Sequence[Any], previous: Sequence[Any], most: int) -> Iterator[Any]:
    """`row`, without those of its first `most` cells that are as in the row above."""
    same = bool(previous)
    for at, cell in enumerate(row):
        same = same and at < most and cell == previous[at]
        yield "" if same else cell


def list_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], most: int | None) -> None:
    """A table of the first `most` rows, and how many there are more."""
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
        table.add_row(*fact)
    _print(table)


def _print(renderable: Any) -> None:
    """What rich renders, without the blanks that it fills lines with."""
    console = _console()
    with console.capture() as captured:
        console.print(renderable)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)
