"""The policy: what a plan is refused for, and what only the built graph tells."""

import re
from pathlib import Path

import pytest
import yaml
from exportkit.plugin import ConfigError, StepFailed
from platform_toys import config, export, plan, refusal

from exportkit_platform.policy import POLICY_FILE, Policy

BY = "(plugin policy of exportkit-platform 0.1.0)"
STEP = {"policy": {"kind": "policy"}}


@pytest.fixture(autouse=True)
def _no_policy_of_this_machine(monkeypatch):
    monkeypatch.delenv(POLICY_FILE, raising=False)


@pytest.fixture
def built_by_code(tmp_path, monkeypatch, scores_prefix):
    """The same model from a builder, whose graph no plan can see."""
    (tmp_path / "scores_builder.py").write_text("from platform_toys import scores\n\n\ndef build():\n    scores()\n")
    monkeypatch.syspath_prepend(tmp_path)
    return {"kind": "graph_builder", "builder": "scores_builder:build", "checkpoint": scores_prefix}


def _under(policy, prefix, base, owner="search", **changes):
    return config(prefix, base, vars={"owner": owner, "platform": policy}, **{"post": STEP, **changes})


def test_without_a_policy_nothing_is_asked(scores_prefix, tmp_path):
    assert plan(config(scores_prefix, tmp_path)).name == "scores"


def test_what_keeps_the_policy_is_exported(scores_prefix, tmp_path):
    report = export(_under({"owners": ["search"], "max_bytes": 48}, scores_prefix, tmp_path))
    assert report.steps[0].details["bytes"] == 48


def test_all_that_is_against_the_policy_is_told_at_once(scores_prefix, tmp_path):
    policy = {"owners": ["search", "ads"], "max_bytes": 47, "forbidden_ops": ["Mat.*"], "tags": [["serve"], ["serve", "gpu"]]}
    changes = {"meta_graphs": {"tuned": {"tags": ["serve", "tpu"]}}}
    assert refusal(ConfigError, plan, _under(policy, scores_prefix, tmp_path, owner="me", **changes)) == [
        f"vars.owner: 'me' may not own a model {BY}; write one of search, ads",
        f"meta_graphs.tuned.tags: the policy does not allow [serve, tpu] {BY}; write [serve] or [serve, gpu]",
        f"policy.max_bytes: the weights have 48 bytes, of 47 that the policy allows {BY}; "
        "export a smaller model, or ask the platform team for room",
        f"policy.forbidden_ops: the signatures need scores (MatMul), which the policy forbids {BY}; "
        "bind an input behind it, or an output before it",
    ]


def test_a_capability_that_is_not_on_the_policys_list_is_refused(scores_prefix, tmp_path):
    assert plan(_under({"capabilities": []}, scores_prefix, tmp_path)).name == "scores"
    spied = {"features": "features:0", "scores": "spied:0"}
    policy = {"capabilities": ["random"], "forbidden_ops": []}
    data = _under(policy, scores_prefix, tmp_path, bindings=spied, allow={"ops": ["host_files"]})
    assert refusal(ConfigError, plan, data) == [
        "meta_graphs.serving: the graph has the capability writes_host_files (WriteFile), which the policy does not "
        f"allow {BY}; bind tensors that do not need it, or ask the platform team"
    ]


@pytest.mark.parametrize("owner", [None, "", " ", 7])
def test_an_owner_is_a_name(scores_prefix, tmp_path, owner):
    assert refusal(ConfigError, plan, _under({}, scores_prefix, tmp_path, owner=owner)) == [
        f"vars.owner: every model needs an owner {BY}; set it to the team that answers for the model"
    ]


def test_tags_are_sets(scores_prefix, tmp_path):
    changes = {"meta_graphs": {"gpu": {"tags": ["gpu", "serve"]}}}
    assert plan(_under({"tags": [["serve", "gpu"]]}, scores_prefix, tmp_path, **changes))


def test_ops_count_that_only_a_control_edge_reaches(scores_prefix, tmp_path):
    changes = {"bindings": {"features": "features:0", "scores": "spied:0"}, "allow": {"ops": ["host_files"]}}
    (line,) = refusal(ConfigError, plan, _under({}, scores_prefix, tmp_path, **changes))
    assert line.startswith("policy.forbidden_ops: the signatures need spy (WriteFile), which the policy forbids")


def test_ops_count_that_a_function_holds(scores_prefix, tmp_path):
    changes = {"bindings": {"features": "features:0", "scores": "rounded:0"}}
    (line,) = refusal(ConfigError, plan, _under({"forbidden_ops": ["Rint"]}, scores_prefix, tmp_path, **changes))
    assert "(Rint), which the policy forbids" in line


def test_what_code_builds_is_judged_before_the_commit(built_by_code, tmp_path):
    data = _under({"max_bytes": 47, "forbidden_ops": ["MatMul"]}, "", tmp_path, source=built_by_code)
    assert refusal(ConfigError, export, data) == [
        f"policy.max_bytes: the weights have 48 bytes, of 47 that the policy allows {BY}; "
        "export a smaller model, or ask the platform team for room",
        f"policy.forbidden_ops: the signatures need scores (MatMul), which the policy forbids {BY}; "
        "bind an input behind it, or an output before it",
    ]
    assert not list((tmp_path / "exports").glob("[0-9]*"))


def test_what_code_builds_is_judged_without_the_step(built_by_code, tmp_path):
    data = _under({"max_bytes": 47}, "", tmp_path, source=built_by_code, post={})
    assert plan(data).name == data["name"]
    (line,) = refusal(ConfigError, export, data)
    assert line.startswith("policy.max_bytes: the weights have 48 bytes, of 47 that the policy allows")


def test_a_policy_that_cannot_be_read(scores_prefix, tmp_path):
    policy = {"max_byte": 1, "owners": "search", "forbidden_ops": "MatMul"}
    assert refusal(ConfigError, plan, _under(policy, scores_prefix, tmp_path)) == [
        f"vars.platform.max_byte: no such key {BY}; did you mean max_bytes?",
        f"vars.platform.owners: is the text 'search', not a list {BY}; write [search]",
        f"vars.platform.forbidden_ops: is the text 'MatMul', not a list {BY}; write [MatMul]",
    ]


def test_a_pattern_that_is_none(scores_prefix, tmp_path):
    (line,) = refusal(ConfigError, plan, _under({"forbidden_ops": ["(Mat"]}, scores_prefix, tmp_path))
    assert line.startswith("vars.platform.forbidden_ops[0]: '(Mat' is not a pattern: missing )")


def test_the_file_that_the_environment_names_is_the_policy(scores_prefix, tmp_path, monkeypatch):
    (tmp_path / "policy.yaml").write_text("max_bytes: 47\n")
    monkeypatch.setenv(POLICY_FILE, str(tmp_path / "policy.yaml"))
    (line,) = refusal(ConfigError, plan, _under({"max_bytes": 10**9}, scores_prefix, tmp_path))
    assert line.startswith("policy.max_bytes: the weights have 48 bytes, of 47 that the policy allows")


@pytest.mark.parametrize("content", [None, "a: [", "${nothing}"])
def test_a_file_that_cannot_be_read_lets_nothing_through(scores_prefix, tmp_path, monkeypatch, content):
    file = tmp_path / "policy.yaml"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv(POLICY_FILE, str(file))
    (line,) = refusal(ConfigError, plan, config(scores_prefix, tmp_path))
    assert str(file) in line


def test_the_step_without_a_policy_fails(scores_prefix, tmp_path):
    (line,) = refusal(StepFailed, export, config(scores_prefix, tmp_path, post=STEP))
    assert line == f"post.policy {BY}: there is no policy to keep; set vars.platform or {POLICY_FILE}"


def test_the_defaults_forbid_what_reads_and_writes_files_and_runs_python():
    assert Policy().forbidden_ops == ["(Eager)?PyFunc(Stateless)?", "ReadFile", "WriteFile"]


def test_the_readmes_policy_and_the_preset_can_be_read(scores_prefix, tmp_path):
    home = Path(__file__).parents[1]
    (block,) = re.findall(r"```yaml\n(vars:.*?)```", home.joinpath("README.md").read_text(encoding="utf-8"), re.DOTALL)
    written = yaml.safe_load(block)["vars"]
    preset = yaml.safe_load((home / "exportkit_platform/conf/platform/serving.yaml").read_text())
    for policy in (written["platform"], preset):
        assert plan(_under(policy, scores_prefix, tmp_path, owner=written["owner"]))
