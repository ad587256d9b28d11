"""The report: plain data, its times, its JSON, and the server's command line."""

import json
import shlex
from pathlib import Path

import pytest

from exportkit import report as reporting
from exportkit.report import ExportReport, MetaGraphReport, SignatureReport, StepReport, TensorReport, WeightsReport

TENSOR = TensorReport(alias="x", binding="images", tensor="inputs/images:0", dtype="float32", shape=[None, 4])
WHOLE = ExportReport(
    name="digits",
    status="exported",
    version=3,
    directory="/models/digits/3",
    base_path="/models/digits",
    meta_graphs=[
        MetaGraphReport(
            key="serving",
            tags=["serve"],
            nodes_before=90,
            nodes_after=12,
            signatures=[SignatureReport(key="serving_default", method="predict", inputs=[TENSOR], outputs=[])],
        )
    ],
    weights=WeightsReport(variables=2, bytes=60, proof="2/2 from the checkpoint, 0 initialised", notes=["é"]),
    assets=["labels.txt"],
    bytes=700,
    warnings=["w"],
    stages={"build": 0.5, "write": 0.25},
    steps=[StepReport(kind="verify", phase="VERIFY", status="passed", seconds=0.125, details={"max": 0.0})],
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: ``clock[0] = 2.0``."""
    now = [0.0]
    monkeypatch.setattr(reporting, "perf_counter", lambda: now[0])
    return now


def test_a_stage_is_timed_also_when_it_fails(clock):
    report = ExportReport(name="m")
    with report.stage("build"):
        clock[0] = 1.5
    with pytest.raises(ValueError), report.stage("write"):
        clock[0] = 2.0
        raise ValueError
    with report.stage("build"):
        clock[0] = 2.25
    assert list(report.stages.items()) == [("build", 1.75), ("write", 0.5)]
    assert report.seconds == 2.25


def test_json_holds_everything():
    data = json.loads(WHOLE.to_json())
    assert list(data) == [
        "name",
        "status",
        "version",
        "directory",
        "base_path",
        "error",
        "meta_graphs",
        "weights",
        "assets",
        "bytes",
        "warnings",
        "unverified",
        "not_sandboxed",
        "stages",
        "steps",
    ]
    assert data["meta_graphs"][0]["signatures"][0]["inputs"] == [
        {"alias": "x", "binding": "images", "tensor": "inputs/images:0", "dtype": "float32", "shape": [None, 4]}
        | {"rows": "", "tried": None}
    ]
    assert data["weights"] == {
        "variables": 2,
        "bytes": 60,
        "proof": "2/2 from the checkpoint, 0 initialised",
        "how": "",
        "notes": ["é"],
    }
    assert data["steps"] == [
        {"kind": "verify", "phase": "VERIFY", "status": "passed", "seconds": 0.125, "details": {"max": 0.0}}
    ]


def test_what_a_step_returns_need_not_be_of_json():
    import numpy as np

    step = StepReport(kind="s", phase="VERIFY", details={"path": Path("/a"), "n": np.float32(0.5), "nan": float("nan"), 3: {1}})
    text = ExportReport(name="m", steps=[step]).to_json()
    assert json.loads(text, parse_constant=pytest.fail)["steps"][0]["details"] == {
        "path": "/a",
        "n": 0.5,
        "nan": "nan",
        "3": "{1}",
    }


def test_it_is_written_whole_into_a_new_directory(tmp_path):
    WHOLE.write(tmp_path / "a/b/report.json")
    assert json.loads((tmp_path / "a/b/report.json").read_text(encoding="utf-8"))["name"] == "digits"
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["report.json"]


@pytest.mark.parametrize("base", ["/models/digits", "/my models/it's"])
def test_the_server_command_can_be_pasted(base):
    command = ExportReport(name="digits", base_path=base).server_command
    assert shlex.split(command) == [
        "tensorflow_model_server",
        "--rest_api_port=8501",
        "--model_name=digits",
        f"--model_base_path={base}",
    ]
    assert base != "/models/digits" or command.endswith("--model_base_path=/models/digits")


def meta_graph(key, *tags):
    return MetaGraphReport(key=key, tags=list(tags), nodes_before=1, nodes_after=1, signatures=[])


def test_the_server_command_asks_for_other_tags_than_serve():
    gpu, tpu = meta_graph("gpu", "serve", "gpu"), meta_graph("tpu", "serve", "tpu")
    start = "tensorflow_model_server --rest_api_port=8501 --model_name=m --model_base_path=/m"
    report = ExportReport(name="m", base_path="/m", meta_graphs=[gpu, tpu])
    assert report.served == gpu
    assert report.server_command == f"{start} --saved_model_tags=serve,gpu"
    assert report.server_command_of(tpu) == f"{start} --saved_model_tags=serve,tpu"
    report.meta_graphs.append(meta_graph("cpu", "serve"))
    assert report.server_command == start
    assert ExportReport(name="m").served is None
