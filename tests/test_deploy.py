"""`exportkit deploy`: files for Compose and Kubernetes, by their schemas, and what would keep a server from starting."""

import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tensorflow as tf
import toys
import versions_made
import yaml
from deployment_schemas import COMPOSE, KUBERNETES
from google.protobuf import text_format

from exportkit import cli
from exportkit.cli.deploy import _name
from exportkit.server.messages import ModelServerConfig
from exportkit.serving import warmup
from exportkit.serving.prediction_log import Logged

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base path of a model that can be batched, versions 1 and 2."""
    checkpoint = toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)
    data = versions_made.config(checkpoint, tmp_path_factory.mktemp("base"), post={"manifest": {"kind": "manifest"}})
    base = Path(versions_made.export(data).directory).parent
    shutil.copytree(base / "1", base / "2")
    return base


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The base path of a model without a manifest, tagged [gpu, serve]."""
    base = tmp_path_factory.mktemp("stranger")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        definition = v1.saved_model.predict_signature_def({"x": x}, {"y": x + 1})
        builder = v1.saved_model.Builder(str(base / "5"))
        builder.add_meta_graph_and_variables(session, ["serve", "gpu"], {"serving_default": definition})
        builder.save()
    return base


def model(name, base, more=""):
    return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'


@pytest.fixture
def deploy(capsys):
    """Write a models.config of models and deploy it; return exit code, stdout and stderr."""

    def deploy(*models, to="compose", out="Prod_1", words=()):
        Path("models.config").write_text(f"model_config_list {{ {' '.join(models)} }}")
        code = cli.main(["deploy", "models.config", "--to", to, "--out", out, *words])
        return code, *capsys.readouterr()

    return deploy


def parsed(text):
    return text_format.Parse(text, ModelServerConfig()).model_config_list.config


FLAGS = [
    "--port=8500",
    "--rest_api_port=8501",
    "--model_config_file=/config/models.config",
    "--model_config_file_poll_wait_seconds=30",
    "--file_system_poll_wait_seconds=30",
]
BATCHED = ["--enable_batching=true", "--batching_parameters_file=/config/batching.config"]


def test_compose(deploy, base):
    code, out, err = deploy(model("toy", base))
    names = ["compose.yaml", "config/models.config", "config/available.sh", "config/batching.config"]
    assert (code, out.split(), err) == (0, [f"Prod_1/{name}" for name in names], "")
    content = yaml.safe_load(Path("Prod_1/compose.yaml").read_text())
    jsonschema.validate(content, COMPOSE)
    service = content["services"]["serving"]
    assert (content["name"], service["image"], service["command"]) == ("prod-1", "tensorflow/serving", [*FLAGS, *BATCHED])
    assert [(one["source"], one["target"], one["read_only"]) for one in service["volumes"]] == [
        ("./config", "/config", True),
        (str(base), "/models/toy", True),
    ]
    (config,) = parsed(Path("Prod_1/config/models.config").read_text())
    assert (config.name, config.base_path, config.model_version_policy.latest.num_versions) == ("toy", "/models/toy", 1)
    assert Path("Prod_1/config/batching.config").read_text().splitlines()[1:] == [
        *("max_batch_size { value: 32 }", "batch_timeout_micros { value: 1000 }"),
        *("max_enqueued_batches { value: 100 }", "num_batch_threads { value: 4 }"),
    ]


def test_kubernetes(deploy, base):
    code, out, err = deploy(model("toy", base), to="kubernetes", words=["--image", "tensorflow/serving:2.19.1", "--poll", "5"])
    assert (code, out, err) == (0, "Prod_1/kubernetes.yaml\n", "")
    text = Path("Prod_1/kubernetes.yaml").read_text()
    documents = {one["kind"]: one for one in yaml.safe_load_all(text)}
    assert documents.keys() == KUBERNETES.keys()
    for kind, document in documents.items():
        jsonschema.validate(document, KUBERNETES[kind])
    assert f"#   {base} as toy\n" in text
    config, claim, deployment, service = documents.values()
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    five = [flag.replace("seconds=30", "seconds=5") for flag in FLAGS]
    assert (container["image"], container["args"]) == ("tensorflow/serving:2.19.1", [*five, *BATCHED])
    assert container["livenessProbe"]["httpGet"] == {"path": "/v1/models/toy", "port": "rest"}
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"] == ["bash", "/config/available.sh"]
    labels = pod["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert (mounts, config["data"].keys()) == (
        {"config": "/config", "models": "/models"},
        {"models.config", "batching.config", "available.sh"},
    )
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {port["name"] for port in container["ports"]}


def test_policies_and_labels_are_kept(deploy, base):
    policy = 'model_version_policy { specific { versions: 1 versions: 2 } } version_labels { key: "stable" value: 1 }'
    code, _, _ = deploy(model("a", base, policy), model("b c", base, "model_version_policy { all {} }"))
    assert code == 0
    one, other = parsed(Path("Prod_1/config/models.config").read_text())
    assert (list(one.model_version_policy.specific.versions), dict(one.version_labels)) == ([1, 2], {"stable": 1})
    assert (other.name, other.base_path, other.model_version_policy.WhichOneof("policy_choice")) == (
        *("b c", "/models/b%20c", "all"),
    )
    service = yaml.safe_load(Path("Prod_1/compose.yaml").read_text())["services"]["serving"]
    assert service["command"] == [*FLAGS, *BATCHED, "--allow_version_labels_for_unavailable_models=true"]
    assert service["deploy"]["resources"]["limits"] == {"memory": "512M"}


def test_a_model_that_cannot_be_batched_leaves_out_batching(deploy, stranger):
    code, out, _ = deploy(model("a", stranger))
    assert code == 0
    assert " ".join(out.split()).endswith(
        "not batched, for --enable_batching holds for all models of a server: a 5: it has no manifest, so nothing is known of "
        "its batches"
    )
    service = yaml.safe_load(Path("Prod_1/compose.yaml").read_text())["services"]["serving"]
    assert service["command"] == [*FLAGS, "--saved_model_tags=gpu,serve"]
    assert not Path("Prod_1/config/batching.config").exists()


def test_a_batch_holds_the_largest_warmup_record(deploy, base, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    x = np.zeros((100, 4), np.float32)
    warmup.write_warmup(copy / "2", "toy", [Logged("predict", "serving_default", {"x": x})])
    assert deploy(model("toy", copy))[0] == 0
    assert "max_batch_size { value: 100 }" in Path("Prod_1/config/batching.config").read_text()


def test_what_keeps_a_server_from_starting_is_refused_all_at_once(deploy, base, stranger, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "3").touch()
    (tmp_path / "bare" / "1").mkdir(parents=True)
    specific = "model_version_policy { specific { %s } }"
    code, out, err = deploy(
        model("a:b", base),
        model("gone", tmp_path / "gone"),
        model("empty", tmp_path / "empty"),
        model("file", tmp_path / "file"),
        model("bare", tmp_path / "bare"),
        model("none", base, specific % ""),
        model("missing", base, specific % "versions: 1 versions: 77"),
        model("label", base, 'version_labels { key: "stable" value: 1 }'),
        model("toy", base),
        model("stranger", stranger),
    )
    assert (code, out) == (2, "")
    waits = "a server waits for it for ever; export"
    assert err.splitlines() == [
        "exportkit: 9 problems",
        "a:b: has a colon, so REST cannot ask for its status; rename it",
        f"gone: {tmp_path}/gone is not a directory, and {waits} a version to it first",
        f"empty: {tmp_path}/empty has no version, and {waits} one to it first",
        f"file: {tmp_path}/file/3 is a file, and a server takes it for a version; remove it",
        f"{tmp_path}/bare/1/saved_model.pb: no such file; hand in the saved_model.pb of a SavedModel version",
        "none: serves specific versions and names none; name them",
        f"missing: there is no version 77 in {base}; it has 1, 2",
        "label: label 'stable' is of version 1, which its policy does not serve; it serves 2",
        "models.config: has models of several sets of tags, and a server loads one set: [gpu, serve]: stranger; [serve]: toy; "
        "write a models.config for each set, and deploy each",
    ]
    assert not Path("Prod_1").exists()


def test_a_file_of_somebody_else_is_not_replaced(deploy, base):
    Path("Prod_1").mkdir()
    Path("Prod_1/compose.yaml").write_text("services: {}\n")
    code, _, err = deploy(model("toy", base))
    do = "move it away, or choose another directory"
    assert (code, err) == (2, f"Prod_1/compose.yaml: was not generated by exportkit; {do}\n")
    assert deploy(model("toy", base), out="again")[0] == deploy(model("toy", base), out="again")[0] == 0


def test_dollars_are_not_interpolated(deploy, base, tmp_path):
    copy = tmp_path / "a$HOME"
    shutil.copytree(base, copy)
    assert deploy(model("toy", copy))[0] == 0
    text = Path("Prod_1/compose.yaml").read_text()
    assert f"source: {tmp_path}/a$$HOME\n" in text


@pytest.mark.parametrize(
    ("directory", "name"),
    [("Prod_1", "prod-1"), ("9", "serving-9"), ("ü", "serving"), ("a" * 80, "a" * 50), ("-x-", "x")],
)
def test_a_deployment_is_called_after_its_directory(directory, name):
    assert _name(Path(directory)) == name


class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        state = self.server.states.get(self.path)
        body = json.dumps({"model_version_status": [{"version": "1", "state": state}]}, indent=1).encode()
        self.send_response(404 if state is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.needs("bash")
def test_the_probe_asks_for_the_status_of_every_model(deploy, base):
    assert deploy(model("toy", base), model("b c", base))[0] == 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Status) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        words = ["bash", "Prod_1/config/available.sh", str(server.server_port)]

        def probe(**states):
            server.states = {f"/v1/models/{name.replace('_', '%20')}": state for name, state in states.items()}
            return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode

        assert probe(toy="AVAILABLE", b_c="AVAILABLE") == 0
        assert probe(toy="AVAILABLE", b_c="LOADING") == 1
        assert probe(toy="AVAILABLE") == 1
        server.shutdown()
    assert subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 1
