"""The benchmarks run, compare what they exported, and print the rows that their README speaks of. No time is asserted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trained

pytestmark = pytest.mark.quick(1)
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(name, directory, *arguments):
    """What the benchmark printed; it raises where two exports differ."""
    command = [sys.executable, str(BENCHMARKS / name), "--directory", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(text):
    """First cell → the other cells of each table row."""
    cells = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if line.startswith("│")]
    return {first: rest for first, *rest in cells}


@pytest.fixture(autouse=True)
def _without_keras(monkeypatch):
    """No benchmark uses it."""
    for name, value in trained.WITHOUT_KERAS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def digits(shared, monkeypatch):
    """The digits example is trained once for all that measure it."""
    monkeypatch.setenv("DIGITS", str(trained.digits(shared)))


@pytest.mark.slow
def test_a_large_graph_is_inspected_and_its_suggestion_planned(tmp_path):
    assert list(rows(run("large_graphs.py", tmp_path, "--nodes", "2000"))) == ["2,000"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_weights_are_exported_in_each_way(tmp_path):
    printed = run("export_weights.py", tmp_path, "--gigabytes", "0.003", "--repeats", "1")
    found = rows(printed)
    assert list(found)[:4] == ["by hand", "exportkit, default steps", "exportkit", "cp"]
    assert float(found["by hand"][-1]) > 2.9
    assert found["exportkit"][-1] == found["cp"][-1] == found["bytes written / trainable bytes"][0]
    assert "exportkit's peak memory: " in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_overhead_compares_equal_exports(tmp_path):
    printed = run("export_overhead.py", tmp_path, "--rounds", "1")
    ways = ["mnist_meta", "mnist_meta, post=[]", "mnist_mlp"]
    compared = ["by hand", *ways, *(f"{way} / by hand" for way in ways), "mnist_meta: largest process, MB"]
    assert list(rows(printed))[: len(compared)] == compared
    assert "equal answers to 360 digits" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
@pytest.mark.needs("ray")
def test_a_cluster_that_loses_a_machine_exports_everything_once(tmp_path):
    printed = run("ray_cluster.py", tmp_path, "--models", "3")
    assert {way: [cells[1], cells[3]] for way, cells in rows(printed).items()} == {
        "undisturbed": ["3 exported", "3 with 1"],
        "a raylet killed": ["3 exported", "3 with 1"],
        "that sweep again": ["3 unchanged", "3 with 1"],
    }
    assert "versions that verify: 6 of 6" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_a_sweep_is_measured_against_scripts(tmp_path):
    printed = run("sweep.py", tmp_path, "--models", "2", "--scripts", "1")
    assert list(rows(printed))[:4] == ["a script per model", "sweep, post=[]", "sweep", "the same sweep again"]
    assert "digits_000: equal answers to 360 digits" in printed
    assert "versions after both sweeps: 2 of 2 models" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_large_sweeps_are_planned(tmp_path):
    printed = run("sweep_planned.py", tmp_path, "--distinct", "10", "--versions", "1")
    assert list(rows(printed)) == ["10 models x 1 versions", "10 distinct models"]


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_a_sweep_that_is_killed_is_completed_by_the_next(tmp_path):
    printed = run("sweep_killed.py", tmp_path, "--times", "2", "--twins", "1", "--models", "2")
    assert "2 of 2 reruns completed" in printed
    assert "two sweeps at once: 1 of 1 as they should be" in printed


@pytest.mark.slow
def test_exports_while_training_saves_say_what_they_are_made_from(tmp_path):
    printed = run("export_while_saving.py", tmp_path, "--exports", "4", "--alone", "2")
    assert "alone: 2 of 2 exported; the sweep: exit 0, 2 exported, 0 unchanged, 0 failed" in printed
    assert {name: [cells[0], cells[-1]] for name, cells in rows(printed).items()} == {"meta": ["3", "0"], "code": ["3", "0"]}
    last = printed.partition("the last save: step ")[2].partition(";")[0]
    assert f"exported by the sweep after it: {{'meta': {last}, 'code': {last}}}" in printed
    assert "that sweep: exit 0, 2 exported, 0 unchanged, 0 failed" in printed
    assert "the same sweep again: exit 0, 0 exported, 2 unchanged, 0 failed" in printed
    assert "wrong manifests: 0 of 6" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
def test_answers_are_measured_beside_bare_starts(tmp_path):
    printed = run("answers.py", tmp_path, "--times", "1")
    assert list(rows(printed))[:3] == ["python -c pass", 'python -c "import hydra"', "--help"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
@pytest.mark.needs("grpc_health", "grpc_reflection", "tensorflow_serving", "uvicorn")
def test_serve_load_asks_four_ways_and_changes_versions(tmp_path):
    printed = run("serve_load.py", tmp_path, "--requests", "64", "--changes", "1")
    found = rows(printed)
    ways = ["tf.saved_model.load, a loop", "the worker, 16 threads", "serve, grpc, 16 clients", "serve, rest, 16 clients"]
    assert [name for name in found if name in ways] == ways
    assert [found[name][3] for name in ways] == ["0"] * 4
    assert re.search(r"1 changes of the version in \d+ s: \d+ requests, 0 failed, 1 different answers", printed)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_adopting_keeps_what_a_model_answers(tmp_path):
    made = [sys.executable, str(BENCHMARKS / "saved_models.py"), str(tmp_path / "made"), "module_dense"]
    subprocess.run(made, check=True, capture_output=True)
    printed = run("adopt.py", tmp_path, str(tmp_path / "made")).splitlines()[-1]
    name, _, signatures, new, before, after, lines, kept, variables, loaders, _ = (
        cell.strip() for cell in printed[1:-1].split("|")
    )
    assert (name, signatures, new, lines) == ("module_dense", "1", "classify, labels", "9")
    assert (kept, variables, loaders) == ("1/1", "2/2 of 3", "2/2")
    assert int(after.replace(",", "")) < int(before.replace(",", ""))
