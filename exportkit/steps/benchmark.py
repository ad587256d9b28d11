"""The step `benchmark`: how long a server's core takes to load a version, and to answer each signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, MinLen

from exportkit.errors import EnvironmentFailed, Problem
from exportkit.plugin import Export, Phase, PostStep, hookimpl

if TYPE_CHECKING:
    from exportkit.plugin import Prepared
    from exportkit.spec import ExportPlan

TIMEOUT = 600.0
FIGURES = ("first", "p50", "p90", "p99")
_COLOURS = {"first": "#8a8a8a", "p50": "#1b6ca8", "p90": "#e09f3e", "p99": "#b23a48"}


@dataclass(kw_only=True)
class Benchmark(PostStep):
    """Measures a version in fresh processes of TensorFlow's C++ core: loading, the first answer, and warm ones.

    There is no network and no second client in these figures. The files have just been written, so that loading reads memory.
    """

    kind: str = "benchmark"
    phase = Phase.VERIFY

    batch_sizes: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = field(default_factory=lambda: [1, 32])
    """The batch sizes of the requests; a signature without a batch axis, or with a fixed batch, is sent its whole sample."""

    runs: Annotated[int, Ge(1), Le(1_000_000)] = 100
    """How often each signature is asked at each batch size, after the first time."""

    plot: Path | None = None
    """Where a picture goes, as PNG and as SVG (latency.png makes latency.svg too); outside of the version."""

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterator[Problem]:
        if self.plot is not None and self.plot.is_relative_to(plan.export_dir):
            yield Problem("plot", f"lies below {plan.export_dir}", "versions hold models only: choose another place")

    def run(self, export: Export) -> Mapping[str, Any]:
        import numpy as np

        rows = list(self._rows(export))
        details = {"load_ms": round(float(np.median([row.pop("load_ms") for row in rows])), 3), "rows": rows}
        if self.plot is not None:
            draw(self.plot, f"{export.plan.name} version {export.version}", details)
        return {**details, "table": table(details)}

    def _rows(self, export: Export) -> Iterator[dict[str, Any]]:
        from exportkit.serving.loading import Request
        from exportkit.serving.native import run_signatures
        from exportkit.serving.tried_samples import tried

        meta, batches = tried(export)
        for key, batch in ((key, batch) for key, batch in batches.items() if not batch.refusal):
            for size in self.batch_sizes if batch.rows else [None]:
                inputs = dict(batch.values) if size is None else batch.resized(size)
                requests = [Request(key, inputs)] * (self.runs + 1)
                tags, allowed = meta.meta_info_def.tags, export.plan.allow.ops
                served = run_signatures(export.directory, tags, requests, timeout=TIMEOUT, allowed=allowed)
                yield {
                    "signature": key,
                    "batch_size": size,
                    "load_ms": 1000 * served.load_seconds,
                    **_figures(served.run_seconds),
                }


def _figures(seconds: Sequence[float]) -> dict[str, float]:
    """Return the milliseconds of the first run, and percentiles of the others."""
    import numpy as np

    first, *warm = (1000 * np.array(seconds)).tolist()
    percentiles = np.percentile(warm, [50, 90, 99]).tolist()
    return {f"{name}_ms": round(value, 3) for name, value in zip(FIGURES, [first, *percentiles], strict=True)}


def table(details: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines of text."""
    head = ["signature", "batch", *(f"{name} ms" for name in FIGURES), "rows/s"]
    body = [[_name(row), _size(row), *(f"{row[f'{name}_ms']:.3f}" for name in FIGURES), _speed(row)] for row in details["rows"]]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = ["  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in [head, *body]]
    return [*lines, f"loaded in {details['load_ms']:.0f} ms"]


def _name(row: Mapping[str, Any]) -> str:
    return row["signature"]


def _size(row: Mapping[str, Any]) -> str:
    return "-" if row["batch_size"] is None else str(row["batch_size"])


def _speed(row: Mapping[str, Any]) -> str:
    return "-" if row["batch_size"] is None else f"{1000 * row['batch_size'] / row['p50_ms']:,.0f}"


def draw(path: Path, title: str, details: Mapping[str, Any]) -> None:
    """Draw the figures, a line for each signature and batch size, as PNG and SVG beside each other.

    Raises:
        EnvironmentFailed: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EnvironmentFailed(Problem("plot", "matplotlib is not installed", "pip install exportkit[plot]")) from None
    rows = details["rows"][::-1]
    figure = Figure(figsize=(8, 1.7 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    _draw_rows(axes, rows)
    axes.set_title(f"{title}: loaded in {details['load_ms']:.0f} ms", loc="left")
    figure.legend(ncols=len(FIGURES), loc="outside lower center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=150)


def _draw_rows(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    axes.hlines(
        places, [row["p50_ms"] for row in rows], [row["p99_ms"] for row in rows], color="#c8c8c8", linewidth=3, zorder=1
    )
    for name in FIGURES:
        shape = {"facecolors": "none", "edgecolors": _COLOURS[name]} if name == "first" else {"color": _COLOURS[name]}
        axes.scatter([row[f"{name}_ms"] for row in rows], places, label=name, zorder=2, **shape)
    axes.set_yticks(places, [f"{_name(row)}, batch {_size(row)}" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("milliseconds per request")
    axes.grid(axis="x", which="both", color="#ececec")
    axes.grid(axis="x", which="major", color="#c8c8c8")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


@hookimpl
def exportkit_post_steps():
    return [Benchmark]
