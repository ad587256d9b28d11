"""The step `template_notice`."""

from dataclasses import dataclass

from exportkit.plugin import Phase, PostStep


@dataclass(kw_only=True)
class Notice(PostStep):
    """Puts a notice beside the model, as assets.extra/NOTICE."""

    kind: str = "template_notice"
    phase = Phase.AUGMENT

    text: str = "For internal use."
    """What the notice says."""

    def run(self, export):
        path = export.directory / "assets.extra" / "NOTICE"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{export.plan.name}: {self.text}\n")
        return {"bytes": path.stat().st_size}
