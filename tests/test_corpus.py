"""Real training artefacts, exported or refused as the corpus says; where EXPORTKIT_CORPUS names one."""

import os
from pathlib import Path

import pytest
import toys
import yaml

from exportkit.checkpoint import Bundle
from exportkit.errors import ExportKitError

CORPUS = Path(os.environ.get("EXPORTKIT_CORPUS", ""))
ENTRIES = yaml.safe_load((CORPUS / "corpus.yaml").read_text()) if os.environ.get("EXPORTKIT_CORPUS") else []
VARIABLES = {
    "csv-dataset": 6,
    "mlnet-cifar": 3,
    "story-rnn": 7,
    "tf2onnx": 2,
    "tidigits": 14,
    "halite3": 22,
    "queue-partitioned": 8,
    "queue-tables-sharded": 6,
    "queue-estimator": 18,
    "iterator-estimator": 20,
}
STALE = "take the graph and the checkpoint of one run"
UNSAVED = "map it with weights.names, or list it in weights.initialize"
REFUSED = {
    "threaded-training": [
        f"variable 'rnn/basic_lstm_cell/kernel' is not in the checkpoint; {UNSAVED}",
        f"variable 'rnn/basic_lstm_cell/bias' is not in the checkpoint; {UNSAVED}",
    ],
    "sea-dog": [
        f"variable 'resnet_model/dense/kernel' is [32, 7] in the graph and [32, 4] in the checkpoint; {STALE}",
        f"variable 'resnet_model/dense/bias' is [7] in the graph and [4] in the checkpoint; {STALE}",
    ],
}


def config(entry, base):
    """The config that a user would write from the corpus's bindings."""
    constants = {f"constant_{i}": {"constant": v, "replaces": t} for i, (t, v) in enumerate(entry["constants"].items())}
    return {
        "name": entry["name"],
        "source": {"kind": "meta_graph", "checkpoint": str(CORPUS / entry["prefix"])},
        "bindings": {**{k: {"placeholder": t} for k, t in entry["inputs"].items()}, **constants, **entry["outputs"]},
        "signatures": {
            "serving_default": {"inputs": {k: k for k in entry["inputs"]}, "outputs": {k: k for k in entry["outputs"]}}
        },
        "export_dir": str(base / entry["name"]),
    }


@pytest.mark.skipif(not ENTRIES, reason="EXPORTKIT_CORPUS names no folder of real training artefacts")
def test_the_corpus_is_the_one_that_is_expected():
    assert {e["name"] for e in ENTRIES if e["expect"].startswith("export")} == set(VARIABLES)
    assert {e["name"] for e in ENTRIES if e["expect"].startswith("refuse")} == set(REFUSED)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_corpus(entry, tmp_path):
    if entry["name"] in REFUSED:
        with pytest.raises(ExportKitError) as refused:
            toys.export(config(entry, tmp_path))
        prefix = CORPUS / entry["prefix"]
        assert str(refused.value).splitlines() == [f"{prefix}: {text}" for text in REFUSED[entry["name"]]]
        return
    report = toys.export(config(entry, tmp_path))
    count = VARIABLES[entry["name"]]
    assert report.weights.proof == f"{count}/{count} variables equal to the checkpoint, 0 initialised"
    written = Bundle(f"{report.directory}/variables/variables")
    assert len(written.entries) == count
    for key in written.entries:
        written.verify(key)


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("tidigits", "signatures.serving_default: may be random: "),
        ("iterator-estimator", "signatures.serving_default: the first dimension of 'f0' and 11 more inputs is fixed at 40; "),
        ("story-rnn", "signatures.serving_default: the first dimension of 'x' is fixed at 50; "),
    ],
)
def test_what_may_surprise_is_said(name, warning, tmp_path):
    entry = next((e for e in ENTRIES if e["name"] == name), None)
    if entry is None:
        pytest.skip("EXPORTKIT_CORPUS names no folder of real training artefacts")
    assert [w for w in toys.export(config(entry, tmp_path)).warnings if w.startswith(warning)]
