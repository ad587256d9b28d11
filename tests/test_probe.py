"""exportkit probe: whether a live server answers what was recorded, with three outcomes."""

import json
import re
import shutil
import time

import numpy as np
import pytest
from fake_server import made_version, serving

from exportkit.checkpoint import tensorproto
from exportkit.cli import main
from exportkit.clients import probe
from exportkit.clients.probe import Checked
from exportkit.version.manifest import FILE, SAMPLES, read_manifest, write_manifest

pytestmark = pytest.mark.quick(18)


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return made_version(tmp_path_factory)


@pytest.fixture(scope="module")
def shared_server(version):
    with serving(version, "toy") as found:
        yield found


@pytest.fixture
def server(shared_server):
    model = shared_server[0]
    yield shared_server
    model.version, model.unavailable, model.change, model.labels = 1, 0, lambda outputs: outputs, {}


@pytest.fixture
def run(server, capsys):
    """Probe the server: exit code, stdout and stderr."""

    def run(*words, model="toy"):
        rest = [] if "--only" in words else ["--rest", server[2].removeprefix("http://")]
        code = main(["probe", server[1], model, *rest, "--requests", "2", *map(str, words)])
        return (code, *capsys.readouterr())

    return run


def answers(out):
    found = json.loads(out)
    return found["outcome"], {(one["signature"], one["by"]): (one["outcome"], one["detail"]) for one in found["checked"]}


def moved(version, place, change):
    """A copy of a version's manifest, changed, in a directory that looks like a version."""
    place.mkdir(parents=True)
    shutil.copy(version / "saved_model.pb", place)
    content = read_manifest(version)
    change(content)
    write_manifest(place, content)
    return place


KEYS = ("serving_default", "by_class", "by_value")


# Equal


def test_equal_is_0(run, version, server):
    code, out, err = run("--against", version)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"toy at {server[1]}"
    assert [line.split()[:4] for line in out.splitlines()[3:9]] == [
        [key, by, "1", "equal"] for by in ("gRPC", "REST") for key in KEYS
    ]
    assert out.splitlines()[-1] == f"toy at {server[1]}: equal, version 1, 3 signatures by gRPC and REST"


def test_json_has_the_latencies_of_each_request(run, version, server):
    code, out, _ = run("--against", version, "--json")
    found = json.loads(out)
    assert (code, found["model"], found["server"], found["outcome"]) == (0, "toy", server[1], "equal")
    assert [(one["signature"], one["by"], one["version"], one["requests"]) for one in found["checked"]] == [
        (key, by, 1, 2) for by in ("gRPC", "REST") for key in KEYS
    ]
    for one in found["checked"]:
        assert list(one["milliseconds"]) == ["p50", "p90", "p99"]
        assert 0 < one["milliseconds"]["p50"] <= one["milliseconds"]["p90"] == one["milliseconds"]["p99"]


def test_each_sample_is_sent_as_it_was_recorded(run, version, server):
    asked = len(server[0].requests)
    assert run("--against", version, "--only", "grpc")[0] == 0
    sent = server[0].requests[asked:]
    recorded = {key: one["inputs"] for key, one in read_manifest(version)["samples"].items()}
    assert [list(one) for one in sent] == [["x"], ["x"], ["inputs"], ["inputs"], ["inputs"], ["inputs"]]
    expected = [tensorproto.from_json(*recorded[key].values()).tolist() for key in KEYS for _ in range(2)]
    assert [next(iter(one.values())).tolist() for one in sent] == expected


def test_a_base_path_has_the_version_that_answers(run, version, server, tmp_path):
    for number in (1, 4):
        moved(version, tmp_path / "base" / str(number), lambda content: None)
    moved(version, tmp_path / "base" / "9", lambda content: content.update(samples={}))
    server[0].version = 4
    code, out, _ = run("--against", tmp_path / "base", "--only", "grpc")
    assert (code, out.splitlines()[-1]) == (0, f"toy at {server[1]}: equal, version 4, 3 signatures by gRPC")
    shutil.rmtree(tmp_path / "base" / "9" / "assets.extra")  # that one does not answer
    assert run("--against", tmp_path / "base", "--only", "grpc")[0] == 0
    server[0].version = 7
    code, out, _ = run("--against", tmp_path / "base", "--json")
    reason = f"version 7 answers, which is not in {tmp_path}/base; name the version that is served with --against"
    assert (code, *answers(out)) == (2, "not asked", {("", by): ("not asked", reason) for by in ("gRPC", "REST")})


def test_the_base_path_is_that_of_the_model_by_default(run, version, tmp_path):
    moved(version, tmp_path / "exports" / "toy" / "1", lambda content: None)
    assert run()[0] == 0
    code, out, err = run(model="other")
    assert (code, out) == (2, "")
    assert err == (
        "exports/other: does not exist, so there is nothing to compare with; "
        "name the version that is served: --against VERSION_DIR, BASE_PATH or MANIFEST\n"
    )
    assert run(model="tyo")[2] == err.replace("exports/other", "exports/tyo").replace(
        "name", "did you mean exports/toy? or name", 1
    )


def test_a_manifest_alone_is_enough(run, version, tmp_path):
    shutil.copy(version / FILE, tmp_path / "recorded.json")
    assert run("--against", "recorded.json")[0] == 0
    assert run("--against", version / FILE)[0] == 0


def test_a_version_or_a_label_is_asked(run, version, server):
    server[0].labels = {"stable": 1}
    assert run("--against", version, "--label", "stable")[0] == 0
    assert run("--against", version, "--version", "1")[0] == 0
    code, out, _ = run("--against", version, "--version", "7", "--json")
    gone = "Servable not found for request: Specific(toy, 7)"
    assert (code, *answers(out)) == (
        2,
        "not asked",
        {("", "gRPC"): ("not asked", f"NOT_FOUND: {gone}"), ("", "REST"): ("not asked", f"404: {gone}")},
    )


def test_large_samples_are_read_beside_the_manifest(run, version, server, tmp_path):
    """Inputs that are too large for a manifest are in a file of their own; of large outputs it has the digest."""
    x = read_manifest(version)["samples"]["serving_default"]["inputs"]["x"]
    value = np.array(x["values"], np.float32)

    def change(content):
        sample = content["samples"]["serving_default"]
        probs = tensorproto.from_json(sample["outputs"]["probs"])
        digest = {"dtype": "float32", "shape": [2, 4], "sha256": tensorproto.digest(value), "file": f"{SAMPLES.as_posix()}:big"}
        sample["inputs"]["x"] = digest
        sample["outputs"]["probs"] = {"dtype": "float32", "shape": [2, 3], "sha256": tensorproto.digest(probs)}

    (tmp_path / "1" / SAMPLES).parent.mkdir(parents=True)
    np.savez(tmp_path / "1" / SAMPLES, big=value)
    shutil.copy(version / "saved_model.pb", tmp_path / "1")
    content = read_manifest(version)
    change(content)
    write_manifest(tmp_path / "1", content)
    assert run("--against", tmp_path / "1")[0] == 0
    server[0].change = lambda outputs: outputs | {"probs": outputs.get("probs", 0) + np.float32(1)}
    code, out, _ = run("--against", tmp_path / "1", "--json", "--only", "grpc")
    assert answers(out)[1]["serving_default", "gRPC"] == ("different", "probs has another digest")
    shutil.copy(tmp_path / "1" / FILE, tmp_path / "alone.json")
    server[0].change = lambda outputs: outputs
    code, out, _ = run("--against", "alone.json", "--json", "--only", "grpc")
    assert (code, answers(out)[1]["serving_default", "gRPC"]) == (0, ("not compared", "no sample of it is recorded"))


# Different


def test_different_is_1(run, version, server):
    def change(outputs):
        return {alias: value if value.dtype == object else value * np.float32(0.5) for alias, value in outputs.items()}

    server[0].change = change
    code, out, _ = run("--against", version, "--json")
    outcome, found = answers(out)
    assert (code, outcome) == (1, "different")
    known = read_manifest(version)["samples"]
    largest = max(abs(value) for row in known["serving_default"]["outputs"]["probs"]["values"] for value in row)
    assert found["serving_default", "gRPC"] == ("different", f"probs differs by up to {largest / 2:.3g}")
    assert {outcome for outcome, _ in found.values()} == {"different"}
    assert run("--against", version, "--atol", "1")[0] == 0
    _, out, _ = run("--against", version)
    assert out.splitlines()[-1] == (
        f"toy at {server[1]}: different, version 1, gRPC serving_default: probs differs by up to {largest / 2:.3g}"
    )


def test_an_answer_that_differs_once_is_different(run, version, server):
    calls = []

    def change(outputs):
        calls.append(outputs)
        return {alias: -value if len(calls) == 2 and alias == "probs" else value for alias, value in outputs.items()}

    server[0].change = change
    code, out, _ = run("--against", version, "--only", "grpc", "--json")
    assert (code, [one for one, _ in answers(out)[1].values()]) == (1, ["different", "equal", "equal"])


def test_other_labels_are_different(run, version, server):
    server[0].change = lambda outputs: {a: v[:, ::-1] if v.dtype == object else v for a, v in outputs.items()}
    code, out, _ = run("--against", version, "--json")
    assert code == 1
    assert {place: one for place, one in answers(out)[1].items() if one[0] == "different"} == {
        ("by_class", by): ("different", "classes differs in 4 of 4 places") for by in ("gRPC", "REST")
    }


def test_other_signatures_are_different(run, version, server, tmp_path):
    def change(content):
        one = content["meta_graphs"][0]["signatures"][0]
        one["outputs"][0]["shape"] = [None, 4]
        one["key"] = "classify_images"
        content["samples"]["classify_images"] = content["samples"].pop("serving_default")

    code, out, _ = run("--against", moved(version, tmp_path / "1", change), "--json", "--only", "grpc")
    outcome, _ = answers(out)
    assert (code, outcome) == (1, "different")
    assert [(one["signature"], one["detail"]) for one in json.loads(out)["checked"] if one["outcome"] != "equal"] == [
        ("", "the signature classify_images is gone"),
        ("classify_images", "refused: INVALID_ARGUMENT: no such signature"),
    ]


# Not asked, not compared


def test_a_server_that_cannot_be_asked_is_2(version, capsys):
    code = main(["probe", "localhost:1", "toy", "--against", str(version), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["outcome"]) == (2, "not asked")
    assert [(one["by"], one["outcome"], one["requests"], one["milliseconds"]) for one in found["checked"]] == [
        ("gRPC", "not asked", 0, {}),
        ("REST", "not asked", 0, {}),
    ]
    assert found["checked"][0]["detail"].startswith("UNAVAILABLE: ")
    assert found["checked"][1]["detail"] == "UNAVAILABLE: [Errno 111] Connection refused"


def test_what_answers_differently_each_time_is_not_compared(run, version, tmp_path):
    def change(content):
        for sample in content["samples"].values():
            sample["outputs"] = None

    code, out, _ = run("--against", moved(version, tmp_path / "1", change), "--json", "--only", "rest")
    assert code == 2  # REST is asked at the address of gRPC
    code, out, _ = run("--against", tmp_path / "1", "--json", "--only", "grpc")
    text = "answers, and each time differently when it was exported"
    assert (code, *answers(out)) == (2, "not asked", {(key, "gRPC"): ("not compared", text) for key in KEYS})


def test_a_sample_that_does_not_fit_its_signature_is_not_asked(run, version, tmp_path):
    def change(content):
        content["meta_graphs"][0]["signatures"][0]["inputs"][0]["shape"] = [None, 5]

    code, out, _ = run("--against", moved(version, tmp_path / "1", change), "--json", "--only", "grpc")
    outcome, found = answers(out)
    text = "its sample does not fit its signature: x has the shape [2, 4], not [?, 5]"
    assert found["serving_default", "gRPC"] == ("not asked", text)
    assert (code, outcome) == (1, "different")  # by its metadata: the server's x is [?, 4]


def test_a_version_that_changes_meanwhile_is_not_compared(run, version, server):
    def change(outputs):
        server[0].version = 2
        return outputs

    server[0].change = change
    code, out, _ = run("--against", version, "--json", "--only", "grpc")
    assert (code, answers(out)[1]["by_class", "gRPC"]) == (2, ("not asked", "version 1 was replaced by 2 meanwhile"))


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["equal", "not compared"], "equal"),
        (["equal", "not asked"], "not asked"),
        (["equal", "not asked", "different"], "different"),
        (["not compared"], "not asked"),
        ([], "not asked"),
    ],
)
def test_the_outcome_of_several(outcomes, expected):
    assert probe.outcome([Checked("s", "gRPC", one) for one in outcomes]) == expected


def test_percentiles_are_by_nearest_rank():
    values = [float(n) for n in range(100, 0, -1)]
    assert [probe.percentile(values, percent) for percent in (50, 90, 99)] == [50.0, 90.0, 99.0]
    assert [probe.percentile([3.0, 1.0], percent) for percent in (50, 90, 99)] == [1.0, 3.0, 3.0]
    assert probe.percentile([2.0], 50) == 2.0


# For monitors


def test_watching_prints_a_line_each_time(run, version, server, monkeypatch):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        server[0].unavailable = 1
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, err = run("--against", version, "--only", "grpc", "--watch", "30")
    assert (code, err, waited) == (130, "exportkit: interrupted\n", [30.0, 30.0])
    lines = [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", "T ", line) for line in out.splitlines()]
    assert lines == [
        f"T toy at {server[1]}: equal, version 1, 3 signatures by gRPC",
        f"T toy at {server[1]}: could not be asked, gRPC: UNAVAILABLE: the server is starting",
    ]


def test_what_cannot_be_compared_with_is_refused_before_a_server_is_asked(version, tmp_path, capsys):
    """With exit code 2: 1 would say that an answer is different."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.json").write_text("{}")
    (tmp_path / "bare" / "1").mkdir(parents=True)
    shutil.copy(version / "saved_model.pb", tmp_path / "bare" / "1")
    (tmp_path / "ca.pem").write_text("no certificate")
    place = "name a version's directory, or a base path that holds versions"
    damaged = "take the version from where it was published, or export it again"
    pem = "name a file of certificates in PEM format"
    for words, text in (
        (["--against", "empty"], f"empty: has no version; {place}"),
        (["--against", "damaged.json"], f"assets.extra/exportkit.json: was changed: it does not have its digest; {damaged}"),
        (
            ["--against", "bare/1"],
            f"bare/1/{FILE}: does not exist, so nothing is recorded; export with the step manifest",
        ),
        (["--ca", "nowhere"], f"--ca nowhere: cannot be read: no such file or directory; {pem}"),
        (["--ca", "ca.pem"], f"--ca ca.pem: holds no certificates; {pem}"),
    ):
        assert main(["probe", "localhost:1", "toy", "--against", str(version), *words]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"{text}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["localhost"], "HOST:PORT: 'localhost' is no address; write a host and a port, as localhost:8500"),
        (["http://h:1"], "HOST:PORT: 'http://h:1' is no address; write a host and a port, as localhost:8500"),
        (["h:99999"], "HOST:PORT: 'h:99999' is no address; write a host and a port, as localhost:8500"),
        (["h:1", "--rest", "h:2", "--only", "grpc"], "--rest: has no effect beside --only grpc; leave one of them out"),
        (["h:1", "--rest", "x"], "--rest: 'x' is no address; write a host and a port, as localhost:8500"),
    ],
)
def test_what_is_no_address_is_one_line(words, text, version, capsys):
    assert main(["probe", words[0], "toy", *words[1:], "--against", str(version)]) == 2
    assert capsys.readouterr().err == f"{text}\n"
