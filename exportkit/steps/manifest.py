"""The step `manifest`: what a version was made from and what was proved of it, written down beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from exportkit.errors import StepFailed
from exportkit.plugin import Export, Phase, PostStep, hookimpl, signatures_of

if TYPE_CHECKING:
    import numpy as np

    from exportkit.samples import Batch

_NO_COMMIT = "(initial)"  # what git status prints where there is no commit yet


@dataclass(kw_only=True)
class Manifest(PostStep):
    """Writes assets.extra/exportkit.json: digests, config, checkpoint, packages, proofs and the samples' outputs.

    It comes after every step that adds a file; only signatures are written later. `exportkit verify` checks it again.
    """

    kind: str = "manifest"
    phase = Phase.SEAL
    closes_phase = True

    rows: Annotated[int, Ge(1)] = 8
    """How many rows of each sample are recorded, with what the version answers to them."""

    def run(self, export: Export) -> Mapping[str, Any]:
        from exportkit.version.identity import changed
        from exportkit.version.manifest import FILE, SAMPLES, write_manifest

        if problems := changed(export.identity, export.plan):
            raise StepFailed(*problems)
        large: dict[str, np.ndarray] = {}
        recorded = self._samples(export, large)
        if large:
            import numpy as np

            (export.directory / SAMPLES).parent.mkdir(exist_ok=True)
            np.savez(export.directory / SAMPLES, **large)  # type: ignore[arg-type]  # numpy's stub checks them as `allow_pickle`
        signatures = sorted(signatures_of(*export.plan.post.values()))
        content = {**_facts(export), "samples": recorded, "signatures": signatures}
        write_manifest(export.directory, content, export.known_digest)
        return {
            "bytes": (export.directory / FILE).stat().st_size,
            "identity": content["identity"]["sha256"],
            "samples": len(recorded),
        }

    def _samples(self, export: Export, large: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return signature → inputs and outputs; the outputs are left out where two runs of one input differ.

        Args:
            large: is given the inputs that go into a file of their own, by their names in it.
        """
        from exportkit.serving import hosts
        from exportkit.serving.loading import Request
        from exportkit.serving.tried_samples import loaded_key, tried

        _, batches = tried(export)
        asked = {key: self._first(batch) for key, batch in batches.items() if not batch.refusal}
        model = hosts.served(export, loaded_key(export))
        requests = [Request(key, inputs) for key, inputs in asked.items()]
        answers, again = model.answers(requests), model.answers(requests, 1)
        return {
            key: {
                "inputs": _asked(key, inputs, large),
                **_rows(batches[key]),
                "outputs": _to_json(first) if _same(first, second) else None,
            }
            for (key, inputs), first, second in zip(asked.items(), answers, again, strict=True)
        }

    def _first(self, batch: Batch) -> dict[str, np.ndarray]:
        return dict(batch.values) if batch.rows is None else batch.resized(min(self.rows, batch.rows))


def _asked(key: str, inputs: Mapping[str, np.ndarray], large: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return inputs as the manifest records them for a later check; for a large one the place of its values."""
    from exportkit.checkpoint import tensorproto
    from exportkit.version.manifest import SAMPLES

    recorded = _to_json(inputs)
    for alias in (alias for alias, one in recorded.items() if "sha256" in one):
        name = f"{key}.{alias}"
        large[name] = tensorproto.to_numpy(inputs[alias])
        recorded[alias]["file"] = f"{SAMPLES.as_posix()}:{name}"
    return recorded


def _rows(batch: Batch) -> dict[str, Any]:
    """Return which axes are those of a batch, and whether a server can batch requests."""
    return {"axes": dict(batch.axes), "batching": batch.unbatched or "yes"}


def _to_json(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    from exportkit.checkpoint import tensorproto

    return {alias: tensorproto.to_json(value) for alias, value in sorted(values.items())}


def _same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    from exportkit.checkpoint import tensorproto

    return all(tensorproto.digest(first[alias]) == tensorproto.digest(second[alias]) for alias in first)


def _facts(export: Export) -> dict[str, Any]:
    from exportkit.capabilities import audit_loaded
    from exportkit.version.identity import graph_digest

    plan, report = export.plan, export.report
    return {
        "name": plan.name,
        "identity": export.identity,
        "checkpoint": _checkpoint(export),
        "graph": graph_digest(export.source.meta_graph),
        **_git(_config_directory()),
        "config": plan.config,
        "meta_graphs": [asdict(meta_graph) for meta_graph in report.meta_graphs],
        "weights": asdict(report.weights),
        "capabilities": audit_loaded(export.meta_graphs.values()).by_capability(),
        **_proof(export),
    }


def _checkpoint(export: Export) -> dict[str, Any]:
    """Return the checkpoint that the config names; where it names none, the one that the source's values were saved to."""
    bundle = export.checkpoint
    named = next(iter(export.plan.resolved.values())).preview.checkpoint
    step = bundle.entries.get("global_step")
    scalar = step is not None and step.dtype == "int64" and step.shape == ()
    return {"prefix": named, "digest": bundle.digest, "step": int(bundle.read("global_step")) if scalar else None}


def _config_directory() -> Path:
    """Return the directory of the configs: ``conf`` where exportkit was started, or that directory itself."""
    return Path("conf") if Path("conf").is_dir() else Path()


def _git(directory: Path) -> dict[str, Any]:
    """Return the commit of the config's directory, and whether it was changed since; nothing outside of git."""
    import subprocess

    command = ["git", "status", "--porcelain=v2", "--branch", "--", "."]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        return {}
    lines = answer.stdout.decode(errors="replace").splitlines() if answer.returncode == 0 else []
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), _NO_COMMIT)
    dirty = any(not line.startswith("#") for line in lines)
    return {} if commit == _NO_COMMIT else {"git": {"commit": commit, "dirty": dirty}}


def _proof(export: Export) -> dict[str, Any]:
    """Return what the step `verify` found, without times, and the tolerances."""
    tolerances = {"atol": 0.0, "rtol": 0.0}
    for step in export.plan.post.values():
        if step.kind == "verify":
            tolerances = {name: getattr(step, name, 0.0) for name in tolerances}
    found = next((line.details for line in export.report.steps if line.kind == "verify"), None)
    return {"tolerances": tolerances, **({} if found is None else {"verify": _timeless(found)})}


def _timeless(details: Any) -> Any:
    if isinstance(details, Mapping):
        return {key: _timeless(value) for key, value in details.items() if not str(key).endswith("seconds")}
    return [_timeless(value) for value in details] if isinstance(details, list | tuple) else details


@hookimpl
def exportkit_post_steps():
    return [Manifest]
