"""Measure what it takes to adopt SavedModels of others: ``python benchmarks/adopt.py DIRECTORY …``, of all below these.

Each is exported with its own signatures, and with one for classify or regress requests where one of them can be given
tf.Examples and answers scores or a value; class labels come from a file. Then the version is compared with the original: its
kept signatures in the C++ loader, on the inputs that the manifest recorded; its variables by the checksums of their bytes in
both checkpoints; and the answers of its signatures in three loaders. ``saved_models.py`` makes models to begin with.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness

COLUMNS = (
    "model",
    "TensorFlow",
    "signatures",
    "new",
    "bytes before",
    "after",
    "lines",
    "kept equal",
    "variables",
    "loaders",
    "s",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Adopting: SavedModels of others, exported again with a signature more.")
    parser.add_argument("roots", nargs="+", type=Path)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    parser.add_argument("--compare", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.compare:
        print(json.dumps(compared(*chosen.roots)))
        return
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        show(COLUMNS)
        show(["---"] * len(COLUMNS))
        for root in chosen.roots:
            for place in sorted(saved_models(root)):
                show(row(place, cwd))


def show(cells: Sequence[str]) -> None:
    """Print a row of a table in Markdown, at once: there may be many."""
    print(f"| {' | '.join(cells)} |", flush=True)


def saved_models(root: Path) -> Iterator[Path]:
    """Yield the directories below `root` that hold a saved_model.pb."""
    for directory, names, files in os.walk(root):
        if "saved_model.pb" in files:
            names.clear()
            yield Path(directory).absolute()


def row(place: Path, cwd: Path) -> list[str]:
    """Export one model and compare it with itself as it was."""
    name = re.sub(r"\W", "_", next(part for part in reversed(place.parts) if not part.isdecimal() and part != "saved_model"))
    shown = f"{place.parent.name}/{place.name}" if place.name.isdecimal() else place.name
    try:
        text, facts = config(name, place, cwd)
        path = cwd / "conf" / "model" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        run = harness.run([sys.executable, "-m", "exportkit", f"model={name}", "post=[verify,manifest]"], cwd)
        version = cwd / "exports" / name / "1"
        found = json.loads(harness.run([sys.executable, __file__, "--compare", place, version], cwd).output.splitlines()[-1])
    except RuntimeError as error:
        return [shown, "", str(error).splitlines()[-1][:100], *[""] * 8]
    lines = sum(not line.startswith("#") for line in text.splitlines())
    before, after = (sum(file.stat().st_size for file in models(p)) for p in (place, version))
    return [
        *(shown, facts["tensorflow"], str(facts["signatures"]), facts["new"] or "-"),
        *(f"{before:,}", f"{after:,}", str(lines), found["kept"], found["variables"], found["loaders"], f"{run.seconds:.1f}"),
    ]


def models(place: Path) -> Iterator[Path]:
    """Yield the files of a model: its graph, its variables and its assets."""
    yield place / "saved_model.pb"
    yield from (file for name in ("variables", "assets") for file in (place / name).glob("*") if file.is_file())


def config(name: str, place: Path, cwd: Path) -> tuple[str, dict[str, Any]]:
    """Return the suggested config with the signature that it suggests, given class labels; and what `inspect` has read."""
    from exportkit.cli import foreign, suggestion

    found = foreign.read_foreign(str(place))
    graph = next(iter(found.graphs.values()))
    lines = foreign.config(name, found, suggestion.to_yaml).splitlines()
    commented = [line.removeprefix("# ") for line in lines if line.startswith(("# bindings", "#   ", "# signatures"))]
    text = "\n".join([lines[0], *(line for line in lines if not line.startswith("#")), *commented])
    new = next((method for method in ("classify", "regress") if f"method: {method}" in text), "")
    if scores := re.search(r"outputs: \{scores: (\S+?)\}\}", text):
        shape = graph.shape(found.tensors[scores[1]])
        count = shape[-1] if shape else None
        if count is not None and count > 1:
            (cwd / f"{name}.txt").write_text("".join(f"class {n}\n" for n in range(count)))
            labels = f"  top: {{top_k: {scores[1]}, k: {count}}}\n  classes: {{lookup: top.indices, vocabulary: {name}.txt}}\n"
            text = text.replace("signatures:\n", f"{labels}signatures:\n")
            text = text.replace(scores[0], "outputs: {classes: classes, scores: top.values}}")
            new = "classify, labels"
    info = graph.meta.meta_info_def
    own = sorted({signature.method for signature in found.kept.values()} - {"predict"})
    new = f"its own: {', '.join(own)}" if own else new
    return f"{text}\n", {"tensorflow": info.tensorflow_version, "signatures": len(found.kept), "new": new}


def compared(place: Path, version: Path) -> dict[str, str]:
    """Compare a version with the model that it was made from."""
    from exportkit import processes
    from exportkit.checkpoint import Bundle
    from exportkit.errors import StepFailed
    from exportkit.metagraph import open_saved_model

    processes.reserve("exportkit.core.preload")  # the workers are forked, from a process in which TensorFlow did nothing yet
    manifest = json.loads((version / "assets.extra" / "exportkit.json").read_text())
    tags = manifest["meta_graphs"][0]["tags"]
    ours = open_saved_model(version, tags)
    theirs = open_saved_model(place, manifest["config"]["source"].get("tags") or ["serve"])
    kept = [key for key in theirs.signatures if key in ours.signatures]
    variables = "none"
    if (version / "variables" / "variables.index").exists() and theirs.checkpoint:
        copies, originals = Bundle(version / "variables" / "variables"), Bundle(theirs.checkpoint)
        held = list(originals.entries.values())
        same = [key for key, entry in copies.entries.items() if any(equal(entry, one) for one in held)]
        variables = f"{len(same)}/{len(copies.entries)} of {len(originals.entries)}"
    served = ask(version, manifest, tags, kept)
    try:
        original = ask(place, manifest, theirs.tags, kept)
        equal_bits = f"{sum(original[key] == served[key] for key in original)}/{len(original)}"
    except StepFailed:
        equal_bits = "fails in its own loader"
    return {"kept": equal_bits, "variables": variables, "loaders": loaders(version, manifest, tags)}


def equal(one: Any, other: Any) -> bool:
    return (one.dtype, tuple(one.shape), one.crc32c) == (other.dtype, tuple(other.shape), other.crc32c) and [
        part.crc32c for part in one.parts
    ] == [part.crc32c for part in other.parts]


def recorded(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return signature → its inputs in the manifest, small ones."""
    from exportkit.checkpoint import tensorproto

    samples = manifest["samples"]
    return {
        key: {alias: tensorproto.from_json(value) for alias, value in sample["inputs"].items()}
        for key, sample in samples.items()
        if not any("sha256" in value for value in sample["inputs"].values())
    }


def ask(place: Path, manifest: dict[str, Any], tags: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Return signature → the bytes that a model answers, in the C++ loader, to the inputs that the manifest recorded."""
    from exportkit.plugin import Request, run_signatures

    inputs = {key: values for key, values in recorded(manifest).items() if key in keys}
    outputs = run_signatures(place, list(tags), [Request(key, values) for key, values in inputs.items()]).outputs
    return {key: {alias: bits(value) for alias, value in answer.items()} for key, answer in zip(inputs, outputs, strict=True)}


def bits(value: Any) -> Any:
    return value.tolist() if value.dtype.kind in "OSU" else value.tobytes()


def loaders(version: Path, manifest: dict[str, Any], tags: Sequence[str]) -> str:
    """Return how many signatures answer the same in tf.saved_model.load, the loader of TensorFlow 1 and the C++ loader."""
    from exportkit.testing import toys

    inputs = recorded(manifest)
    native = ask(version, manifest, tags, list(inputs))
    same = 0
    for key, values in inputs.items():
        found = [ask(str(version), key, values, tuple(tags)) for ask in (toys.served, toys.served_eagerly)]
        same += all({alias: bits(value) for alias, value in answer.items()} == native[key] for answer in found)
    return f"{same}/{len(inputs)}"


if __name__ == "__main__":
    main()
