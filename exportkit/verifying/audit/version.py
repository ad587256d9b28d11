"""All checks of a version, in order."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from exportkit.errors import ExportKitError, brief
from exportkit.metagraph import Graph, read_saved_model
from exportkit.verifying.audit import capabilities, files, graphs, place, runs, variables
from exportkit.verifying.audit.finding import Finding, failures
from exportkit.version.manifest import read_manifest


def verify_version(
    directory: Path,
    against: str | None = None,
    *,
    public_key: Path | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    run: bool = True,
    allowed: Collection[str] = (),
) -> list[Finding]:
    """Check a SavedModel version; nothing is written, and TensorFlow is not imported.

    Args:
        directory: the version.
        against: a checkpoint (its prefix or directory): the version's weights must be those.
        public_key: the key that it must be signed with.
        atol: how far recorded outputs may be from what it answers now; default: the manifest's.
        rtol: the same, relative to their size.
        run: load it and run its signatures, in a process of its own, where its files are what was published.
        allowed: what it may do when it is run, as in `allow.ops` of a config; what else is dangerous is not run.

    Only the signature (`public_key`) guards against somebody who can write to the version: whoever can change a file can change
    its digest in the manifest too.

    Raises:
        ConfigError: there is no version at `directory`.
        EnvironmentFailed: it was removed or replaced while it was checked.
    """
    with place.unmoved(directory):
        if odd := list(files.check_contents(directory)):
            return [*odd, Finding(None, "all else", "not looked at, as nothing is read or run beside what can lead elsewhere")]
        return _findings(directory, against, public_key, atol, rtol, allowed if run else None)


def _findings(
    directory: Path,
    against: str | None,
    public_key: Path | None,
    atol: float | None,
    rtol: float | None,
    allowed: Collection[str] | None,
) -> list[Finding]:
    """Do as `verify_version`, of a directory that holds regular files alone; without `allowed`, nothing is run."""
    found: list[Finding] = []
    manifest = _taken(found, "manifest", lambda: read_manifest(directory))
    found += _guarded("files", lambda: files.check(directory, manifest, damaged=_failed(found)))
    found += _guarded("signature", lambda: files.check_signature(directory, manifest, public_key))
    whole = not _failed(found)
    saved_model = _taken(found, "saved_model.pb", lambda: read_saved_model(directory))
    found += (weights := _guarded("variables", lambda: variables.check(directory, saved_model)))
    saved = set() if _failed(weights) else variables.names(directory)
    if manifest is None and saved_model and not _failed(found):
        found += _guarded("files", lambda: _check_layout(directory, saved_model))
    for meta in saved_model.meta_graphs if saved_model else ():
        found += _guarded("graph", partial(_check_graph, directory, meta, saved))
    if saved_model:
        found += _guarded("capabilities", lambda: capabilities.check(saved_model, manifest))
    if against is not None and saved_model:
        found += _guarded("weights", lambda: variables.compare(directory, saved_model, against, manifest))
    found += _unverified(manifest)
    if allowed is not None and saved_model and whole:
        tolerances = _tolerances(manifest, atol, rtol)
        found += _guarded("run", lambda: runs.check(directory, saved_model, manifest, tolerances, allowed))
    elif allowed is not None:
        found.append(Finding(None, "run", "not tried, as its files are not what was published"))
    return found


def _check_layout(directory: Path, saved_model: Any) -> Iterator[Finding]:
    assets = {f"assets/{name}" for name in graphs.asset_files(saved_model)}
    return files.check_layout(directory, assets | variables.data_files(directory))


def _check_graph(directory: Path, meta: Any, saved: Collection[str]) -> Iterator[Finding]:
    return graphs.check(directory, Graph(meta), saved)


def _unverified(manifest: dict[str, Any] | None) -> list[Finding]:
    """Return a finding for a version that was exported though it could not be compared with the training graph."""
    verify = (manifest or {}).get("verify") or {}
    if verify.get("status") != "not verified":
        return []
    return [Finding(None, "verify", f"when it was exported: {verify.get('summary')}", "export it again with samples")]


def _failed(found: list[Finding]) -> bool:
    return any(finding.passed is False for finding in found)


def _taken(found: list[Finding], what: str, read: Callable[[], Any]) -> Any:
    """Return what `read` returns; None where it fails, which is then among the findings."""
    try:
        return read()
    except ExportKitError as error:
        found += failures(what, error.problems)
    except Exception as error:
        found.append(_unforeseen(what, error))
    return None


def _guarded(what: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of a check; an error that it does not foresee is one too."""
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)
    except ExportKitError as error:
        found += failures(what, error.problems)
    except Exception as error:
        found.append(_unforeseen(what, error))
    return found


def _unforeseen(what: str, error: Exception) -> Finding:
    return Finding(False, what, f"cannot be checked: {brief(error)}")


def _tolerances(manifest: dict | None, atol: float | None, rtol: float | None) -> dict[str, float]:
    recorded = (manifest or {}).get("tolerances", {})
    given = {"atol": atol, "rtol": rtol}
    return {name: recorded.get(name, 0.0) if value is None else value for name, value in given.items()}
