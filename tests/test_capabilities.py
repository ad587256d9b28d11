"""The audit of what graphs can do, and that nothing hostile is exported or run."""

import importlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hostile
import numpy as np
import pytest
import toys
from google.protobuf import text_format
from hostile import CLASSES, HIDING, Type, node, number, text

import exportkit
from exportkit import cli, metagraph
from exportkit.capabilities import ALLOWANCES, CAPABILITIES, Audit, audit, audit_loaded, of_op
from exportkit.capabilities.oplist import is_listed, on_import
from exportkit.errors import BindingError, ConfigError
from exportkit.processes import sandbox, workers
from exportkit.protos import GraphDef, MetaGraphDef, SavedModel, op_def_pb2, types_pb2
from exportkit.serving import loading, native, running
from exportkit.spec import Allow

ROOT = Path(__file__).parents[1]
EVERYTHING = [name for name in ALLOWANCES if name in CAPABILITIES]


@pytest.fixture
def innocent(checkpoint):
    """A factory of the graph that hostile nodes are hung on."""
    return lambda: metagraph.read(checkpoint("softmax").meta)


@pytest.fixture
def config(checkpoint, tmp_path):
    """A factory of configs that export a meta graph with the values of the innocent one."""

    def make(meta, **changes):
        file = tmp_path / "model.meta"
        file.write_bytes(meta.SerializeToString())
        source = {"kind": "meta_graph", "checkpoint": checkpoint("softmax").prefix, "meta": str(file)}
        return toys.config(checkpoint("softmax").prefix, tmp_path, source=source, **changes)

    return make


def found(meta, fetches=("probs:0",)):
    return set(audit(meta, fetches=fetches).dangers())


# The list


@pytest.fixture(scope="module")
def installed():
    """The ops that the installed TensorFlow registers, by its C API: name → whether they are stateful."""
    code = "import sys; from exportkit.core.capi import op_list; sys.stdout.buffer.write(op_list())"
    listing = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    return {op.name: op.is_stateful for op in op_def_pb2.OpList.FromString(listing).op}


def test_every_op_of_the_installed_tensorflow_is_on_the_list(installed):
    assert len(installed) > 1700
    assert [op for op in installed if not is_listed(op)] == []


def test_what_an_import_may_evaluate_is_what_is_not_stateful(installed):
    dangerous = {op for op in installed if any(CAPABILITIES[name].refused for name in of_op(op))}
    assert {op for op in dangerous if on_import(op)} == {op for op in dangerous if not installed[op]}


def test_every_line_of_the_list_names_capabilities():
    lines = [line for line in (ROOT / "exportkit/capabilities/ops.txt").read_text().splitlines() if line[0] != "#"]
    assert lines == sorted(lines, key=lambda line: line.partition(":")[0])
    words = {word for line in lines for word in line.partition(": ")[2].split()}
    assert words <= {*CAPABILITIES, "pure", "on_import"}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("MatMul", set()),
        ("WriteFile", {"writes_host_files"}),
        ("ReadFile", {"reads_host_files"}),
        ("PyFunc", {"python"}),
        ("DataServiceDatasetV4", {"network"}),
        ("RandomUniform", {"random"}),
        ("AssignAdd", {"stateful"}),
        ("StatelessWhile", {"unbounded"}),
        ("NoSuchOpAnywhere", {"unknown"}),
    ],
)
def test_an_op_has_its_capabilities(op, expected):
    assert of_op(op) == expected


# Hostile models


def test_there_are_enough_of_them():
    assert len({one.name for one in CLASSES}) == len(CLASSES) >= 60


@pytest.mark.parametrize("one", CLASSES, ids=str)
def test_a_hostile_class_is_found_and_refused(one, innocent, config, tmp_path):
    target = tmp_path / "pwned"
    meta = hostile.hang(innocent(), one.nodes(str(target)), "probs")
    assert one.capability in found(meta)
    assert one.capability in audit(meta).dangers(present=True)
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config(meta))
    assert refused.value.exit_code == 2
    assert any("evil" in str(problem) or "data" in str(problem) for problem in refused.value.problems), refused.value
    assert not target.exists()


@pytest.mark.parametrize("one", CLASSES, ids=str)
def test_a_plan_that_was_let_through_is_refused_before_the_import(one, innocent, config, tmp_path):
    target = tmp_path / "pwned"
    meta = hostile.hang(innocent(), one.nodes(str(target)), "probs")
    try:
        plan = exportkit.plan(config(meta, allow={"ops": EVERYTHING}))
    except ConfigError:
        return  # a server cannot run it at all, which no allowance changes
    with pytest.raises(BindingError, match=f"can {CAPABILITIES[one.capability].can}: "):
        exportkit.run(replace(plan, allow=Allow()))
    assert not target.exists()
    assert not list((tmp_path / "exports").glob("*/[0-9]*"))


@pytest.mark.parametrize("hide", HIDING, ids=lambda hide: hide.__name__)
@pytest.mark.parametrize("one", [one for one in CLASSES if one.name in ("WriteFile", "SaveV2", "PyFunc", "RpcClient")], ids=str)
def test_hiding_does_not_help(hide, one, innocent, config, tmp_path):
    target, meta = tmp_path / "pwned", innocent()
    meta = hostile.hang(meta, hide(meta, one.nodes(str(target))), "probs")
    assert one.capability in found(meta)
    with pytest.raises(ConfigError):
        exportkit.plan(config(meta))
    assert not target.exists()


@pytest.mark.parametrize("seed", range(40))
def test_no_drawn_mixture_passes(seed, innocent, config, tmp_path):
    """Some hostile classes, each hidden in one way or two, in one graph."""
    draw, meta, target = random.Random(seed), innocent(), tmp_path / "pwned"
    chosen, hung, last = draw.sample(CLASSES, draw.randint(1, 3)), [], []
    for number_, one in enumerate(chosen):
        nodes = [_renamed(each, number_) for each in one.nodes(str(target))]
        if draw.random() < 0.7:
            inner = MetaGraphDef()
            nodes = [_renamed(each, number_) for each in draw.choice(HIDING)(inner, nodes)]
            for function in inner.graph_def.library.function:
                function.signature.name += f"_{number_}"
                for each in function.node_def:
                    _rename_calls(each, number_)
            for each in nodes:
                _rename_calls(each, number_)
            for gradient in inner.graph_def.library.gradient:
                gradient.function_name += f"_{number_}"
                gradient.gradient_func += f"_{number_}"
            meta.graph_def.library.MergeFrom(inner.graph_def.library)
        hung += nodes
        last.append(f"^{nodes[-1].name}")
    hung.append(node("all", "NoOp", *last))
    meta = hostile.hang(meta, hung, "probs")
    assert {one.capability for one in chosen} <= found(meta)
    with pytest.raises(ConfigError):
        exportkit.plan(config(meta))
    assert not target.exists()


def _renamed(one, number_):
    copy = node("", "")
    copy.CopyFrom(one)
    copy.name = f"{one.name}_{number_}"
    copy.input[:] = [i if i == "x" else f"{i}_{number_}" for i in one.input]
    return copy


def _rename_calls(one, number_):
    for value in one.attr.values():
        if value.func.name:
            value.func.name += f"_{number_}"
            for inner in value.func.attr.values():
                inner.func.name += f"_{number_}"
    if "shape_inference_graph" in one.attr:
        one.attr["shape_inference_graph"].s += f"_{number_}".encode()
    if one.op in ("f", "g"):
        one.op += f"_{number_}"


# Attributes and inputs


def one(*nodes, **options):
    meta = MetaGraphDef()
    meta.graph_def.node.extend(nodes)
    fetches = [each.name for each in nodes]
    return audit(meta, whole=True, fetches=fetches, **options).by_capability()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("p", "PrintV2", output_stream="stderr")], {"prints": ["PrintV2"]}),
        ([node("p", "PrintV2")], {"prints": ["PrintV2"]}),
        ([node("p", "PrintV2", output_stream="file:///x")], {"writes_host_files": ["PrintV2"], "prints": ["PrintV2"]}),
        ([node("d", "DebugIdentity", debug_urls=[])], {}),
        ([node("d", "DebugIdentity", debug_urls=["file:///x"])], {"writes_host_files": ["DebugIdentity"]}),
        ([node("d", "DebugIdentity", debug_urls=["grpc://h:1"])], {"network": ["DebugIdentity"]}),
        (
            [node("d", "DebugIdentity", debug_urls=["other"])],
            {"writes_host_files": ["DebugIdentity"], "network": ["DebugIdentity"]},
        ),
        ([text("f", ""), node("c", "CacheDataset", "f", "f")], {"stateful": ["CacheDataset"]}),
        (
            [node("f", "Placeholder"), node("c", "CacheDataset", "f", "f")],
            {"writes_host_files": ["CacheDataset"], "reads_host_files": ["CacheDataset"], "stateful": ["CacheDataset"]},
        ),
        ([node("d", "DecodeProtoV2", descriptor_source="local://")], {}),
        ([node("d", "DecodeProtoV2", descriptor_source="/x")], {"reads_host_files": ["DecodeProtoV2"]}),
        ([node("s", "FixedUnigramCandidateSampler", vocab_file="")], {"random": ["FixedUnigramCandidateSampler"]}),
        ([text("f", "/x"), node("r", "ReadFile", "f")], {"reads_host_files": ["ReadFile"]}),
    ],
    ids=range(13),
)
def test_what_attributes_and_inputs_decide(nodes, expected):
    assert one(*nodes) == expected


def test_a_file_that_is_an_asset_is_read_as_one():
    nodes = [text("f", "/x"), node("i", "Identity", "f"), node("r", "ReadFile", "i")]
    assert one(*nodes, assets=["f"]) == {"reads_assets": ["ReadFile"]}
    clients = [text("f", "/x"), node("p", "PlaceholderWithDefault", "f"), node("r", "ReadFile", "p")]
    meta = MetaGraphDef()
    meta.graph_def.node.extend(clients)
    meta.signature_def["s"].inputs["path"].name = "p:0"
    meta.signature_def["s"].outputs["content"].name = "r:0"
    assert set(audit(meta, assets=["f"]).dangers()) == {"reads_host_files"}


def test_an_asset_outside_of_its_directory_is_a_host_file():
    meta = MetaGraphDef()
    meta.graph_def.node.extend([text("f", "/x"), node("r", "ReadFile", "f")])
    meta.signature_def["s"].outputs["content"].name = "r:0"
    definition = meta.asset_file_def.add(filename="words.txt")
    definition.tensor_info.name = "f:0"
    assert set(audit(meta).dangers()) == set()
    definition.filename = "../../../etc/shadow"
    assert set(audit(meta).dangers()) == {"reads_host_files"}


def test_a_recursive_function_is_unbounded():
    meta = MetaGraphDef()
    meta.graph_def.library.function.append(hostile.function("f", [], calls=[node("c", "g")]))
    meta.graph_def.library.function.append(hostile.function("g", [], calls=[node("c", "PartitionedCall", f=("f",))]))
    meta.graph_def.library.function.append(hostile.function("leaf", []))
    assert one() == {}
    uses = audit(meta, whole=True).uses
    assert [(use.capability, use.node) for use in uses] == [("unbounded", "function f"), ("unbounded", "function g")]


def test_what_only_lies_in_a_graph_is_present_and_not_reachable(innocent):
    meta = innocent()
    meta.graph_def.library.function.append(hostile.function("unused", [node("w", "WriteFile")]))
    meta.collection_def["odd"].bytes_list.value.append(GraphDef(node=[node("r", "RpcClient")]).SerializeToString())
    meta.signature_def["s"].outputs["y"].name = "probs:0"
    found = audit(meta)
    assert set(found.dangers()) == set()
    assert {name: list(map(str, uses)) for name, uses in found.dangers(present=True).items()} == {
        "writes_host_files": ["w in function unused (WriteFile)"],
        "network": ["r in the graph in the collection odd (RpcClient)"],
    }


def test_names_cannot_command_a_terminal():
    (use,) = audit(MetaGraphDef(graph_def=GraphDef(node=[node("a\x1b[2Jb", "WriteFile")])), whole=True).uses
    assert str(use) == "a�[2Jb (WriteFile)"


def test_vocabularies_are_no_graphs():
    words = [word.encode() for word in ("plain", "two words", "naïve Bäume", "日本語のテキスト", "\t\n")]
    noise = [np.random.default_rng(seed).bytes(64) for seed in range(2000)]
    assert one(text("words", *words, *noise)) == {}


# Nothing runs


@pytest.fixture
def version(tmp_path):
    """A factory of SavedModels with a signature without inputs, whose output hangs on nodes."""

    def make(nodes, **changes):
        meta = MetaGraphDef()
        meta.meta_info_def.tags.append("serve")
        meta.graph_def.versions.producer = 1882
        meta.graph_def.node.extend([*nodes, number("y", 7, types_pb2.DT_INT64)])
        last = nodes[-1].name
        meta.graph_def.node.append(node("out", "Identity", "y", f"^{last}", T=Type(types_pb2.DT_INT64)))
        info = meta.signature_def["serving_default"].outputs["y"]
        info.name, info.dtype = "out:0", types_pb2.DT_INT64
        directory = tmp_path / "1"
        directory.mkdir()
        model = SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
        (directory / "saved_model.pb").write_bytes(model.SerializeToString())
        return directory

    return make


def write_file(path):
    return [text("path", str(path)), text("content", "pwned"), node("evil", "WriteFile", "path", "content")]


def debug_shape(path):
    """A constant, for shape inference: it is evaluated when the graph is imported, though nothing asks for it."""
    shape = number("shape", 1, types_pb2.DT_INT32)
    shape.attr["value"].tensor.tensor_shape.dim.add().size = 1
    one = Type(types_pb2.DT_INT32)
    return [
        shape,
        node("debug", "DebugIdentity", "shape", T=one, tensor_name="t:0", device_name="d", debug_urls=[f"file://{path}"]),
        number("value", 1, types_pb2.DT_INT64),
        node("idle", "Reshape", "value", "debug", T=Type(types_pb2.DT_INT64), Tshape=one),
        node("harmless", "NoOp"),
    ]


@pytest.mark.parametrize("nodes", [write_file, debug_shape])
def test_no_process_loads_a_version_that_can_write(nodes, version, tmp_path, monkeypatch):
    monkeypatch.setenv(sandbox.OFF, "off")  # the sandbox would keep it from writing as well
    monkeypatch.setattr(workers, "_lacks", [])  # else a later test's report says so
    target = tmp_path / "pwned"
    directory = version(nodes(target))
    request = loading.Request("serving_default", {})
    with pytest.raises(
        BindingError, match=r"can write host files: (evil \(WriteFile|debug \(DebugIdentity)\); .* \[host_files\]"
    ):
        native.run_signatures(directory, ["serve"], [request])
    with pytest.raises(BindingError):
        running.Running(directory, ["serve"])
    assert not target.exists()
    served = native.run_signatures(directory, ["serve"], [request], allowed=["host_files"])
    assert served.outputs[0]["y"] == 7
    assert target.exists()  # it does what it is refused for


def test_no_process_loads_assets_that_have_no_end(version):
    directory = version([node("harmless", "NoOp")])
    (directory / "assets").mkdir()
    asset = directory / "assets" / "words.txt"
    request = loading.Request("serving_default", {})
    os.mkfifo(asset)
    with pytest.raises(BindingError) as caught:
        native.run_signatures(directory, ["serve"], [request])
    assert str(caught.value) == (
        f"{asset}: cannot be read: it is a FIFO (named pipe), not a regular file; "
        "it was made by hand: copy the whole version again"
    )
    asset.unlink()
    asset.touch()
    os.truncate(asset, 1 << 40)
    with pytest.raises(BindingError, match="has 1,099,511,627,776 bytes, of which the disk holds 0; the rest are holes"):
        native.run_signatures(directory, ["serve"], [request])
    os.truncate(asset, 0)
    assert native.run_signatures(directory, ["serve"], [request]).outputs[0]["y"] == 7


def test_a_text_beside_the_binary_is_not_what_runs(version, tmp_path):
    directory = version(write_file(tmp_path / "pwned"))
    harmless = metagraph.read_saved_model(directory)
    del harmless.meta_graphs[0].graph_def.node[:]
    (directory / "saved_model.pbtxt").write_text(text_format.MessageToString(harmless))
    with pytest.raises(BindingError, match="can write host files"):
        native.run_signatures(directory, ["serve"], [loading.Request("serving_default", {})])
    assert not (tmp_path / "pwned").exists()


def test_a_saved_model_in_pieces_is_refused(version, tmp_path):
    directory = version([node("harmless", "NoOp")])
    (directory / "saved_model.cpb").write_bytes(b"pieces")
    with pytest.raises(BindingError, match=r"saved_model\.cpb: is a SavedModel in pieces"):
        native.run_signatures(directory, ["serve"], [loading.Request("serving_default", {})])


def test_verify_does_not_import_what_the_training_graph_does_not_need(innocent, config, tmp_path):
    """A node that only an import would evaluate is left out of the reference, and the export is compared as ever."""
    target, meta = tmp_path / "pwned", innocent()
    hostile.hang(meta, debug_shape(target), "loss")
    report = toys.export(config(meta, post={"verify": {"kind": "verify"}}))
    assert report.status == "exported"
    (details,) = [step.details for step in report.steps]
    assert f"whole graph of {len(meta.graph_def.node)} nodes, but for 2 that an import might run" in str(details)
    assert not target.exists()


# The config and the plan


def test_what_is_allowed_by_name_is_exported(innocent, config, tmp_path):
    meta = hostile.hang(innocent(), write_file(tmp_path / "pwned"), "probs")
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config(meta))
    assert str(refused.value) == (
        "meta_graphs.serving: can write host files: evil (WriteFile); bind tensors that do not need it, "
        "or write allow: {ops: [host_files]} if this model may do that"
    )
    plan = exportkit.plan(config(meta, allow={"ops": ["host_files"]}))
    assert [c.what for c in plan.checks if c.stage == "audit"] == ["the graph can write host files (WriteFile)"]


def test_a_wrong_allowance_is_reported(innocent, config):
    with pytest.raises(ConfigError) as refused:
        exportkit.plan(config(innocent(), allow={"ops": ["host_file", "random"], "opts": []}))
    assert str(refused.value).splitlines() == [
        "allow.opts: no such key; did you mean ops?",
        "allow.ops[0]: there is no capability 'host_file'; did you mean host_files?",
        "allow.ops[1]: random needs no allowance; leave it out",
    ]


def test_an_allowance_that_nothing_needs_is_a_note(innocent, config):
    plan = exportkit.plan(config(innocent(), allow={"ops": ["network"]}))
    assert [w for w in plan.warnings if w.startswith("allow")] == ["allow.ops: no graph needs network; leave it out"]


# The command


def audited(capsys, *words):
    """The exit code of ``exportkit audit``, and what it prints."""
    code = cli.main(["audit", *map(str, words)])
    return code, capsys.readouterr()


def test_the_command_shows_what_a_model_can_do(innocent, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "model.meta"
    path.write_bytes(hostile.hang(innocent(), write_file("/x"), "probs").SerializeToString())
    code, said = audited(capsys, path)
    assert code == 2
    lines = said.out.splitlines()
    assert lines[0] == f"{path}: 1 graph, {len(metagraph.read(path).graph_def.node)} nodes"
    assert "!   writes_host_files    present     WriteFile: evil" in lines
    assert "    saves_variables      reachable   SaveV2: save/SaveV2" in lines
    assert max(map(len, lines[1:])) <= 80
    assert "It has no signature, so what an export reaches depends on its config: exportkit" in lines


def test_a_checkpoint_is_named_by_its_prefix_or_directory(checkpoint, capsys):
    prefix = checkpoint("dense").prefix
    texts = []
    for path in (f"{prefix}.meta", prefix, Path(prefix).parent):
        assert cli.main(["audit", str(path)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith(f"{prefix}.meta: 1 graph, ")
    assert texts == [texts[0]] * 3


def test_the_command_prints_json(version, capsys):
    code, said = audited(capsys, version(write_file("/x")), "--json")
    found = json.loads(said.out)
    assert code == 2
    assert found["reachable"] == {"writes_host_files": ["WriteFile"]}
    assert found["dangers"] == {"reachable": ["writes_host_files"], "present": ["writes_host_files"]}
    assert found["uses"] == [{"capability": "writes_host_files", "op": "WriteFile", "node": "evil", "reachable": True}]


def test_the_exit_code_is_0_where_nothing_is_dangerous(checkpoint, capsys):
    code, said = audited(capsys, checkpoint("softmax").meta)
    assert (code, said.err) == (0, "")
    assert "!" not in said.out


def test_a_text_beside_the_binary_is_audited_too(version, capsys):
    directory = version([node("harmless", "NoOp")])
    assert audited(capsys, directory)[0] == 0
    model = metagraph.read_saved_model(directory)
    model.meta_graphs[0].graph_def.node.append(node("evil", "RpcClient"))
    (directory / "saved_model.pbtxt").write_text(text_format.MessageToString(model))
    for path in (directory, directory / "saved_model.pb", directory / "saved_model.pbtxt"):
        code, said = audited(capsys, path)
        assert code == 2 and "RpcClient: evil" in said.out


def test_the_newest_version_below_a_base_path_is_audited(version, tmp_path, capsys):
    directory = version(write_file("/x"))
    code, said = audited(capsys, tmp_path)
    assert (code, said.out.splitlines()[0]) == (2, f"{directory}: 1 graph, 5 nodes")
    code, said = audited(capsys, tmp_path / "nowhere")
    assert (code, said.err) == (2, f"{tmp_path}/nowhere: no such file; hand in a .meta, a SavedModel or a GraphDef\n")


@pytest.mark.parametrize("as_text", [False, True])
def test_a_graph_def_is_audited(as_text, tmp_path, capsys):
    graph, path = GraphDef(node=write_file("/x")), tmp_path / "frozen.pb"
    path.write_bytes(text_format.MessageToString(graph).encode() if as_text else graph.SerializeToString())
    code, said = audited(capsys, path)
    assert code == 2 and "WriteFile: evil" in said.out


def test_what_is_no_graph_is_one_line(tmp_path, capsys):
    (tmp_path / "odd.pb").write_bytes(b"no graph")
    code, said = audited(capsys, tmp_path / "odd.pb")
    assert (code, said.out) == (2, "")
    assert said.err == (f"{tmp_path}/odd.pb: holds no graph: it is no .meta, SavedModel or GraphDef; hand in one of these\n")


def test_the_command_does_not_import_tensorflow(checkpoint):
    code = (
        "import sys; from exportkit import cli; cli.main(['audit', sys.argv[1]]); "
        "assert not any(name.startswith(('tensorflow.python', 'hydra')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, checkpoint("softmax").meta], check=True, capture_output=True)


def test_equal_graphs_are_audited_once_as_a_loader_runs_them(monkeypatch):
    audits, audited = importlib.import_module("exportkit.capabilities.audit"), []
    monkeypatch.setattr(audits, "_audits", {})
    monkeypatch.setattr(audits, "audit", lambda meta: audited.append(meta) or Audit(nodes=len(meta.graph_def.node)))

    def meta(size):
        return MetaGraphDef(graph_def={"node": [{"name": f"n{i}", "op": "NoOp"} for i in range(size)]})

    assert audit_loaded([meta(1), meta(2)]).nodes == 3
    assert audit_loaded([meta(1)]).nodes == 1
    assert len(audited) == 2
    for size in range(3, 20):
        audit_loaded([meta(size)])
    assert len(audits._audits) == 8
    monkeypatch.setattr(audits, "_LARGE", 0)
    assert audit_loaded([meta(19)]).nodes == 19
    assert len(audited) == 20
