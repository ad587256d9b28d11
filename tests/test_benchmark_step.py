"""The step `benchmark`: what it measures, its table and its pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import toys
import versions_made
from versions_made import export, plan

from exportkit.errors import ConfigError, EnvironmentFailed
from exportkit.serving import native
from exportkit.steps import benchmark

DETAILS = {
    "load_ms": 43.1,
    "rows": [
        {"signature": "a", "batch_size": 1, "first_ms": 12.0, "p50_ms": 0.5, "p90_ms": 0.75, "p99_ms": 1.25},
        {"signature": "longer", "batch_size": 32, "first_ms": 120.5, "p50_ms": 2.0, "p90_ms": 2.5, "p99_ms": 40.0},
        {"signature": "fixed", "batch_size": None, "first_ms": 1.0, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0},
    ],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


def _config(checkpoint, base, **fields):
    return versions_made.config(checkpoint, base, post={"benchmark": {"kind": "benchmark", **fields}})


@pytest.mark.needs("matplotlib")
def test_every_signature_is_measured_at_every_batch_size(tmp_path, checkpoint):
    picture = tmp_path / "pictures" / "latency.png"
    report = export(_config(checkpoint, tmp_path, batch_sizes=[1, 8], runs=5, plot=str(picture)))
    details = report.steps[0].details
    assert [(row["signature"], row["batch_size"]) for row in details["rows"]] == [
        (key, size) for key in ("serving_default", "by_class", "by_value") for size in (1, 8)
    ]
    for row in details["rows"]:
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] < row["first_ms"]
    assert details["load_ms"] > 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
    assert sorted(path.name for path in Path(report.directory).iterdir()) == ["assets", "saved_model.pb", "variables"]


def test_the_first_run_is_no_warm_one(tmp_path, checkpoint, monkeypatch):
    asked = []

    def answer(directory, tags, requests, **_):
        asked.append([(request.signature, len(next(iter(request.inputs.values())))) for request in requests])
        return native.Served([], 0.25, [9.0, *(0.001 * n for n in range(1, 101))])

    monkeypatch.setattr(native, "run_signatures", answer)
    details = export(_config(checkpoint, tmp_path, batch_sizes=[3], runs=100)).steps[0].details
    assert asked[0] == [("serving_default", 3)] * 101
    assert details["load_ms"] == 250.0
    expected = np.percentile(np.arange(1, 101), [50, 90, 99]).round(3)
    assert details["rows"][0] == {
        "signature": "serving_default",
        "batch_size": 3,
        "first_ms": 9000.0,
        **dict(zip(["p50_ms", "p90_ms", "p99_ms"], expected.tolist(), strict=True)),
    }


def test_the_table():
    assert benchmark.table(DETAILS) == [
        "signature  batch  first ms  p50 ms  p90 ms  p99 ms  rows/s",
        "a              1    12.000   0.500   0.750   1.250   2,000",
        "longer        32   120.500   2.000   2.500  40.000  16,000",
        "fixed          -     1.000   1.000   1.000   1.000       -",
        "loaded in 43 ms",
    ]


@pytest.mark.needs("matplotlib")
def test_the_picture_says_what_was_measured(tmp_path):
    benchmark.draw(tmp_path / "p", "toy version 1", DETAILS)
    text = (tmp_path / "p.svg").read_text()
    for said in ("toy version 1: loaded in 43 ms", "longer, batch 32", "fixed, batch -", "milliseconds per request", "p99"):
        assert f"<!-- {said} -->" in text


def test_without_matplotlib_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EnvironmentFailed) as error:
        benchmark.draw(tmp_path / "p.png", "toy", DETAILS)
    assert str(error.value) == "plot: matplotlib is not installed; pip install exportkit[plot]"


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"batch_sizes": [4, 0]}, ("post.benchmark.batch_sizes[1]", "is 0", "write 1 or more")),
        ({"batch_sizes": []}, ("post.benchmark.batch_sizes", "is empty", "write 1 or more entries")),
        ({"runs": 0}, ("post.benchmark.runs", "is 0", "write 1 or more, at most 1,000,000")),
        (
            {"plot": "{}/exports/toy/1/p.png"},
            ("post.benchmark.plot", "lies below {}/exports/toy", "versions hold models only: choose another place"),
        ),
    ],
)
def test_the_plan_refuses_fields_that_cannot_be(tmp_path, checkpoint, fields, problem):
    fields = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in fields.items()}
    with pytest.raises(ConfigError) as error:
        plan(_config(checkpoint, tmp_path, **fields))
    (found,) = error.value.problems
    assert (found.where, found.what.split(" (plugin")[0], found.do) == tuple(text.format(tmp_path) for text in problem)
