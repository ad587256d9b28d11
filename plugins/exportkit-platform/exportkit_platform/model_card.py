"""The step `model_card`: a page that says what a version is, for people who meet it on a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.plugin import Export, Phase, PostStep, TensorReport, hookimpl, rest_request

if TYPE_CHECKING:
    import jinja2

FORMS = {"model_card.md": "card.md.j2", "model_card.html": "card.html.j2"}


@dataclass(kw_only=True)
class ModelCard(PostStep):
    """Writes a model card beside the model, as Markdown and as HTML, from the config and the report.

    The same config and weights give the same card, byte for byte: it holds no times and no paths of the machine.
    """

    kind: str = "model_card"
    phase = Phase.AUGMENT  # so that whatever seals the version seals the card

    summary: str = ""
    """What the model does and for whom, in a sentence or a few."""

    def run(self, export: Export) -> Mapping[str, Any]:
        folder = export.directory / "assets.extra"
        folder.mkdir(exist_ok=True)
        facts, pages = _facts(export, self.summary), _environment()
        for name, template in FORMS.items():
            (folder / name).write_text(pages.get_template(template).render(facts), encoding="utf-8")
        return {"files": [f"assets.extra/{name}" for name in FORMS]}


def _environment() -> "jinja2.Environment":
    """Return templates that refuse a name that is not there, and escape what goes into HTML."""
    import jinja2  # here, as every command imports this module

    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("exportkit_platform"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters |= {"shape": _shape, "size": _size, "cell": _cell}
    return pages


def _facts(export: Export, summary: str) -> dict[str, Any]:
    """Return what the templates show; nothing that differs between two exports of one model but its version."""
    report, plan = export.report, export.plan
    return {
        "name": plan.name,
        "version": export.version,
        "summary": summary,
        "owner": plan.config["vars"].get("owner"),
        "sources": _source(plan.config["source"]),
        "meta_graphs": report.meta_graphs,
        "requests": {s.key: rest_request(plan, s) for m in report.meta_graphs for s in m.signatures},
        "weights": report.weights,
        "proof": [line for line in (report.weights.proof, *report.weights.notes) if line],
        "assets": report.assets,
        "warnings": report.warnings,
        "verified": [step.kind for step in plan.post.values() if step.phase is Phase.VERIFY],  # or there will be no version
    }


def _source(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the source's kind, and the checkpoint that it, or a source that it holds, was given, by its last two parts."""
    held = [value for value in config.values() if isinstance(value, Mapping)]
    checkpoint = next((c["checkpoint"] for c in [config, *held] if c.get("checkpoint")), None)
    return {"source": config["kind"], **({"checkpoint": "/".join(Path(checkpoint).parts[-2:])} if checkpoint else {})}


def _shape(tensor: TensorReport) -> str:
    if tensor.shape is None:
        return "any"
    return f"[{', '.join('?' if size is None else str(size) for size in tensor.shape)}]"


def _size(size: int) -> str:
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"


def _cell(text: Any) -> str:
    """Return a text for a cell of a Markdown table: on one line, without what would end the cell or begin HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


@hookimpl
def exportkit_post_steps():
    return [ModelCard]
