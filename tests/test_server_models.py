"""What `exportkit serve` serves: versions, labels, policies, what changes while it runs, and requests that kill or block."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import serverlab
import toys

from exportkit.cli import main
from exportkit.cli.serve import _reloading
from exportkit.errors import BindingError, ConfigError, EnvironmentFailed
from exportkit.protos import TensorProto
from exportkit.server import messages
from exportkit.server.asgi import Limits
from exportkit.server.interfaces import Address, Server
from exportkit.server.model_config import Model, models_at, models_of
from exportkit.server.models import Models, Spec
from exportkit.server.servable import Servable
from exportkit.server.status import Status

pytestmark = pytest.mark.quick(20)
NO_MODEL = "no such file; hand in the saved_model.pb of a SavedModel version"
X = {"x": np.array([1], np.float32)}


def answer(models, name="m", **asked):
    """What the model adds to 1."""
    with models.use(Spec(name, **asked)) as version:
        return version.run({"x:0": X["x"]}, ["add:0"], 30)[0][0] - 1


def states(models, name="m"):
    return {number: held.state.name for number, held in models.states(name).items()}


@pytest.fixture
def base(tmp_path):
    for number in (1, 2):
        serverlab.numbered(tmp_path / "m", number)
    return tmp_path / "m"


@pytest.fixture
def models():
    lines = []
    served = Models(["serve"], report=lines.append)
    served.lines = lines
    yield served
    served.stop()


# which versions


def test_the_highest_version_is_served_and_a_new_one_replaces_it(base, models):
    models.start([Model("m", base)])
    assert (answer(models), states(models)) == (2, {2: "AVAILABLE"})
    serverlab.numbered(base, 10)
    (base / "notes.txt").write_text("no version")
    models.poll()
    assert (answer(models), states(models)) == (10, {10: "AVAILABLE", 2: "END"})
    (base / "10").rename(base.parent / "gone")
    models.poll()
    assert (answer(models), states(models)) == (2, {10: "END", 2: "AVAILABLE"})
    assert models.lines == [
        "m 2 is available",
        "m 10 is available",
        "m 2 was unloaded",
        "m 2 is available",
        "m 10 was unloaded",
    ]


def test_a_version_is_unloaded_when_its_last_request_is_answered(base, models):
    models.start([Model("m", base)])
    with models.use(Spec("m")) as version:
        serverlab.numbered(base, 3)
        changing = threading.Thread(target=models.poll)
        changing.start()
        while states(models).get(3) != "AVAILABLE":
            changing.join(0.01)
        assert answer(models) == 3
        assert version.run({"x:0": X["x"]}, ["add:0"], 30)[0].tolist() == [3.0]
        assert changing.is_alive()
    changing.join()
    assert states(models) == {3: "AVAILABLE", 2: "END"}


@pytest.mark.parametrize(
    ("policy", "served"),
    [({}, [2]), ({"latest": 2}, [1, 2]), ({"latest": 0}, [1, 2]), ({"latest": 0, "versions": frozenset([1])}, [1])],
)
def test_the_policy_chooses_versions(base, models, policy, served):
    models.start([Model("m", base, **policy)])
    assert sorted(models.listed()["m"]) == served


def test_a_version_that_does_not_load_leaves_the_old_one(base, models):
    models.start([Model("m", base)])
    (base / "3").mkdir()
    models.poll()
    models.poll()
    error = f"{base / '3' / 'saved_model.pb'}: {NO_MODEL}"
    assert (answer(models), states(models)) == (2, {3: "END", 2: "AVAILABLE"})
    assert models.lines[1:] == [f"m 3 cannot be served: {error}"]
    assert models.states("m", 3)[3].error.text == error


def test_a_base_path_that_went_away_changes_nothing(base, models):
    models.start([Model("m", base)])
    base.rename(base.parent / "gone")
    models.poll()
    models.poll()
    assert answer(models) == 2
    assert models.lines[1:] == [f"m: {base} cannot be listed: no such file or directory; what is served stays"]


def test_chosen_versions_that_are_not_there_unload_the_others(base, models):
    models.start([Model("m", base)])
    models.reload([Model("m", base, latest=0, versions=frozenset([77]))])
    assert states(models) == {2: "END"}
    assert models.lines[1:] == [f"m: version 77 is not in {base}", "m 2 was unloaded"]


# reloads and labels


def test_labels_are_of_available_versions(base, models):
    both = {"latest": 2}
    models.start([Model("m", base, **both, labels={"stable": 1})])
    assert answer(models, label="stable") == 1
    with pytest.raises(Status, match="Unrecognized servable version label: canary"):
        answer(models, label="canary")
    with pytest.raises(Status) as refused:
        models.reload([Model("m", base, labels={"stable": 7})])
    assert refused.value.args == (
        "FAILED_PRECONDITION",
        "Request to assign label to version 7 of model m, which is not currently available for inference",
    )
    assert answer(models, label="stable") == 1
    models.reload([Model("m", base, **both, labels={"canary": 2})])
    assert answer(models, label="canary") == 2
    with pytest.raises(Status, match="Unrecognized servable version label: stable"):
        answer(models, label="stable")
    models.reload([Model("m", base, labels={"canary": 2})])
    models.reload([Model("m", base, latest=0, versions=frozenset([1]), labels={"canary": 2})])
    with pytest.raises(Status, match=r"Servable not found for request: Specific\(m, 2\)"):
        answer(models, label="canary")


def test_models_come_and_go(base, models):
    models.start([Model("m", base)])
    models.reload([Model("other", base)])
    assert list(models.listed()) == ["other"]
    with pytest.raises(Status, match=r"Servable not found for request: Latest\(m\)"):
        answer(models)
    with pytest.raises(Status) as refused:
        models.reload([Model("other", base), Model("empty", base.parent / "nowhere")])
    assert refused.value.args == ("UNKNOWN", "Some models did not become available: {empty}")


CONFIG = 'model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow" {more} }} }}'


@pytest.mark.parametrize(
    ("more", "model"),
    [
        ("", {}),
        ("model_version_policy { all {} }", {"latest": 0}),
        ("model_version_policy { latest { num_versions: 3 } }", {"latest": 3}),
        ("model_version_policy { latest {} }", {}),
        ("model_version_policy { specific { versions: 2 versions: 5 } }", {"latest": 0, "versions": frozenset([2, 5])}),
        ('version_labels { key: "stable" value: 1 }', {"labels": {"stable": 1}}),
    ],
)
def test_a_models_config_is_read_as_a_server_reads_it(tmp_path, more, model):
    (tmp_path / "models.config").write_text(CONFIG.format(base="/models/m", more=more))
    assert models_at([str(tmp_path / "models.config")]) == [Model("m", Path("/models/m"), **model)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "model_config_list { config { nam",
            'is no models.config: 1:30 : Message type "tensorflow.serving.ModelConfig" ',
        ),
        (CONFIG.format(base="m", more=""), "Expected model m to have an absolute path or URI; got base_path()=m"),
        (
            CONFIG.format(base="/m", more='model_platform: "x"').replace('model_platform: "tensorflow"', ""),
            "Model m requests un",
        ),
        (
            CONFIG.format(base="/m", more="").replace('model_platform: "tensorflow"', ""),
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.",
        ),
        ("", "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"),
    ],
)
def test_a_models_config_that_a_server_refuses(tmp_path, text, what):
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ConfigError) as error:
        models_at([str(tmp_path / "models.config")])
    assert error.value.problems[0].where == str(tmp_path / "models.config")
    assert error.value.problems[0].what.startswith(what)


def test_a_model_is_listed_once():
    config = messages.ModelServerConfig()
    for _ in range(2):
        config.model_config_list.config.add(name="m", base_path="/m", model_platform="tensorflow")
    with pytest.raises(Status, match="Illegal to list model m multiple times in config list"):
        models_of(config)


def test_base_paths_with_all_their_problems(base, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "m").symlink_to(base)
    paths = [base, tmp_path / "other" / "m", base / "1", tmp_path / "nowhere", tmp_path / "other"]
    with pytest.raises(ConfigError) as error:
        models_at([str(path) for path in paths])
    assert str(error.value).splitlines() == [
        f"{base / '1'}: is a version, not the directory of versions; serve its base path: {base}",
        f"{tmp_path / 'nowhere'}: is not a directory; give the directory that holds a model's numbered versions",
        f"{tmp_path / 'other'}: has no version: no directory whose name is a number; export one to it",
        "m: is the name of several base paths; list them in a models.config",
    ]


# loads


def test_all_that_does_not_load_ends_the_start(base, models):
    (base / "3").mkdir()
    with pytest.raises(BindingError) as error:
        models.start([Model("m", base), Model("none", base.parent / "nowhere")])
    assert str(error.value).splitlines() == [
        f"{base / '3' / 'saved_model.pb'}: {NO_MODEL}",
        f"{base.parent / 'nowhere'}: has no version that model none would serve; export one, or change its policy",
    ]


def test_what_a_graph_may_not_do_is_refused_before_it_is_loaded(tmp_path, models):
    with toys.tf.Graph().as_default():
        x = toys.v1.placeholder("string", [], "x")
        serverlab.written(tmp_path / "m" / "1", serving_default=({"x": x}, {"y": toys.tf.io.read_file(x)}))
    with pytest.raises(BindingError) as error:
        models.start([Model("m", tmp_path / "m")])
    (problem,) = error.value.problems
    assert (problem.what, problem.do) == (
        "can read host files: ReadFile (ReadFile)",
        "--allow host_files serves it if it may do that",
    )


def test_warmup_requests_are_run_before_a_version_is_available(base, models):
    serverlab.warmed(base / "2", ("serving_default", X))
    models.start([Model("m", base)])
    serverlab.numbered(base, 3)
    serverlab.warmed(base / "3", ("serving_default", {"x": X["x"].astype(np.float64)}))
    models.poll()
    assert answer(models) == 2
    file = base / "3" / "assets.extra" / "tf_serving_warmup_requests"
    expected = "record 0 (serving_default): INVALID_ARGUMENT: Expects arg[0] to be float but double is provided"
    assert models.lines[1] == f"m 3 cannot be served: {file}: {expected}; without it the version loads; write it again"


# requests that kill or block


@pytest.fixture(scope="module")
def trapped(tmp_path_factory):
    servable = Servable("traps", 1, serverlab.traps(tmp_path_factory.mktemp("trapped") / "traps") / "1", ["serve"])
    servable.load()
    yield servable
    servable.unload()


def ask(servable, signature, value, timeout=30):
    definition = servable.signatures[signature]
    ((_, info),) = definition.inputs.items()
    return servable.run({info.name: value}, [each.name for each in definition.outputs.values()], timeout)[0]


def test_a_request_that_kills_its_process_is_an_error_of_its_sender_alone(trapped):
    results = [None] * 12

    def send(number):
        kills = number == 5
        try:
            wrong = np.zeros((4, 4), np.float32)
            results[number] = ask(trapped, "convolve", wrong) if kills else ask(trapped, "serving_default", X["x"] * number)
        except Status as status:
            results[number] = status

    threads = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    killer = results.pop(5)
    assert killer.code == "INTERNAL"
    assert re.match(r"The process that computed it died of SIGABRT; its last line: Check failed: index >= 0", killer.text)
    assert killer.text.endswith("; tensorflow_model_server itself would have ended")
    assert [float(result[0]) for result in results] == [2.0 * number for number in range(12) if number != 5]
    assert ask(trapped, "serving_default", X["x"]).tolist() == [2.0]


def test_a_request_that_takes_too_long_is_stopped(trapped):
    with pytest.raises(Status) as late:
        ask(trapped, "loop", X["x"], timeout=0.3)
    assert late.value.code == "DEADLINE_EXCEEDED"
    assert ask(trapped, "serving_default", X["x"]).tolist() == [2.0]


def test_a_process_that_was_killed_is_started_again(trapped):
    before = trapped.restarts
    os.kill(trapped._worker._conversation._process.pid, signal.SIGKILL)
    assert [ask(trapped, "serving_default", X["x"]).tolist() for _ in range(3)] == [[2.0]] * 3
    assert trapped.restarts in (before, before + 1)


def test_a_request_under_way_when_its_version_ends_starts_nothing_anew(tmp_path):
    servable = Servable("traps", 1, serverlab.traps(tmp_path / "traps") / "1", ["serve"])
    servable.load()
    worker, ended = servable._worker, []

    def block():
        try:
            ask(servable, "loop", X["x"])
        except Status as status:
            ended.append(status)

    thread = threading.Thread(target=block)
    thread.start()
    while not worker._waiting:
        thread.join(0.01)
    servable.unload()
    thread.join()
    assert [status.args for status in ended] == [("UNAVAILABLE", "Version 1 of model traps was unloaded")]
    assert servable._second is None


# limits


def test_a_body_that_is_too_long_is_refused(base):
    with serverlab.serving([Model("m", base)], Limits(body=1000)) as server, serverlab.Rest(server) as rest:
        status, answered = rest.predict("m", {"instances": [1.0] * 400})
        assert (status, answered) == (413, {"error": "The body has more than 1000 bytes"})
        for body in ((b"x" * 100_000 for _ in range(300)), b"x" * 30_000_000):  # more than the socket's buffers hold
            rest._connection.request("POST", "/v1/models/m:predict", body, encode_chunked=not isinstance(body, bytes))
            with rest._connection.getresponse() as refused:
                assert (refused.status, refused.headers["Connection"]) == (413, "close")
                assert json.load(refused) == {"error": "The body has more than 1000 bytes"}
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            request = messages.predict_pb2.PredictRequest()
            request.inputs["x"].CopyFrom(TensorProto(dtype=1, tensor_content=b"0" * 2000))
            with pytest.raises(grpc.RpcError) as error:
                messages.prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_body_that_does_not_arrive_is_given_up(base):
    with (
        serverlab.serving([Model("m", base)], Limits(seconds=0.2)) as server,
        socket.create_connection(("127.0.0.1", server.rest_port)) as client,
    ):
        client.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nContent-Length: 10\r\n\r\n{")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


def test_too_many_requests_at_a_time_are_refused(tmp_path):
    base = serverlab.traps(tmp_path / "traps")
    limits = Limits(requests=1, seconds=3)
    with (
        serverlab.serving([Model("traps", base)], limits) as server,
        serverlab.Rest(server) as first,
        serverlab.Rest(server) as second,
    ):
        body = b'{"signature_name": "loop", "inputs": [1.0]}'
        blocked = []

        def block():
            while not blocked or blocked[-1][0] == 429:  # the other one may have come first
                blocked.append(first.ask("POST", "/v1/models/traps:predict", body))

        thread = threading.Thread(target=block)
        thread.start()
        answers = []
        while thread.is_alive() and not any(status == 429 for status, _ in answers):
            answers.append(second.predict("traps", {"instances": [1.0]}))
        thread.join()
        assert answers[-1] == (429, {"error": "More than 1 requests at a time"})
        assert blocked[-1][0] == 504


# the server


def test_a_load_does_not_hold_up_the_end(base, models):
    models.start([Model("m", base)])
    with models._changing:  # as a load does
        models.stop(0.1)
    assert models.listed() == {}


def test_a_reload_by_grpc(base):
    with (
        serverlab.serving([Model("m", base)]) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        serverlab.Rest(server) as rest,
    ):
        stub = messages.model_service_pb2_grpc.ModelServiceStub(channel)
        request = messages.model_management_pb2.ReloadConfigRequest()
        with pytest.raises(grpc.RpcError, match="Only ModelConfigList is currently supported"):
            stub.HandleReloadConfigRequest(request)
        entry = request.config.model_config_list.config.add(name="n", base_path=str(base), model_platform="tensorflow")
        entry.model_version_policy.specific.versions.append(1)
        assert stub.HandleReloadConfigRequest(request).status.error_code == 0
        assert rest.predict("n", {"instances": [1.0]}) == (200, {"predictions": [2.0]})
        assert rest.predict("m", {"instances": [1.0]})[0] == 404
        entry.version_labels["stable"] = 2
        with pytest.raises(grpc.RpcError) as error:
            stub.HandleReloadConfigRequest(request)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_port_that_is_taken(base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for address, option in ((Address(rest=port, grpc=0), "--rest-port"), (Address(rest=0, grpc=port), "--grpc-port")):
            with Server(Models(["serve"]), address, Limits()) as server, pytest.raises(EnvironmentFailed) as error:
                server.start([Model("m", base)])
            assert error.value.problems[0].where == f"127.0.0.1:{port}"
            assert error.value.problems[0].do == f"choose another port with {option}, 0 for a free one"


@pytest.fixture
def command(base):
    """``exportkit serve`` on free ports, once it says where."""
    arguments = ["serve", str(base), "--rest-port", "0", "--grpc-port", "0", "--poll", "0.1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "EXPORTKIT_SANDBOX": "off"}
    with subprocess.Popen([sys.executable, "-m", "exportkit", *arguments], env=environment, **pipes) as process:
        lines = []
        while not lines or not lines[-1].startswith("gRPC "):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        process.lines = [line.rstrip("\n") for line in lines]
        yield process
        process.kill()


def children(pid):
    """The processes below a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_serves_new_versions_and_leaves_nothing_behind(base, command, sent, code):
    nature, sandbox, model, rest_line, _ = command.lines
    assert nature.startswith("For development, tests and demonstrations: no TLS,")
    assert (sandbox, model) == ("not sandboxed: EXPORTKIT_SANDBOX=off", "model m: version 2")
    port = int(re.fullmatch(r"REST http://127\.0\.0\.1:(\d+)/v1/models", rest_line)[1])
    with serverlab.Rest(type("Server", (), {"rest_port": port})) as rest:
        assert rest.predict("m", {"instances": [1.0]}) == (200, {"predictions": [3.0]})
        serverlab.numbered(base, 3)
        while rest.predict("m", {"instances": [1.0]}) == (200, {"predictions": [3.0]}):
            pass
        assert rest.predict("m", {"instances": [1.0]}) == (200, {"predictions": [4.0]})
    below = children(command.pid)
    assert below
    command.send_signal(sent)
    assert command.wait(30) == code
    command.stderr.read()
    assert not {pid for pid in below if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text()}


def test_a_models_config_that_changes_is_read_again(base, models, tmp_path):
    file = tmp_path / "models.config"
    file.write_text(CONFIG.format(base=base, more=""))
    models.start(models_at([str(file)]))
    look = _reloading(argparse.Namespace(poll_config=True, paths=[str(file)]), models)
    look()
    assert states(models) == {2: "AVAILABLE"}
    file.write_text(CONFIG.format(base=base, more="model_version_policy { specific { versions: 1 } }"))
    look()
    assert states(models) == {2: "END", 1: "AVAILABLE"}
    file.write_text("model_config_list { ")
    look()
    look()
    assert states(models) == {2: "END", 1: "AVAILABLE"}


def test_nothing_of_the_server_imports_tensorflow():
    code = "import sys, exportkit.server.interfaces, exportkit.server.page; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_missing_package_is_named(monkeypatch, capsys, base):
    monkeypatch.setattr("exportkit.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    assert main(["serve", str(base)]) == 1
    assert capsys.readouterr().err == "exportkit serve: needs uvicorn; pip install 'exportkit[serve]'\n"


def test_wrong_options(capsys):
    for option, value, wanted in (("--rest-port", "70000", "a number of 0 to 65535"), ("--timeout", "0", "a number above 0")):
        assert main(["serve", "m", option, value]) == 2
        assert capsys.readouterr().err == f"{option}: '{value}' is not {wanted}\n"
