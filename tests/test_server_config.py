"""The models of a sweep for a model server: a file for each set of tags, and nothing that keeps a server from starting."""

import json

import pytest
from google.protobuf import text_format

from exportkit.cli.sweep.job_record import Job
from exportkit.cli.sweep.server_config import write_server_configs
from exportkit.protos import SavedModel

START = "tensorflow_model_server --rest_api_port=8501 --model_config_file="
POLLED = "# a running server reads this file again only with --model_config_file_poll_wait_seconds=SECONDS\n"


def version(base, number, *tags):
    """A version with a meta graph for each of `tags` (``serve,gpu``)."""
    saved_model = SavedModel()
    for text in tags:
        saved_model.meta_graphs.add().meta_info_def.tags.extend(text.split(","))
    directory = base / str(number)
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return directory


def jobs(tmp_path, *names, **more):
    return [Job(number=n, name=name, status="unchanged", base=str(tmp_path / name), **more) for n, name in enumerate(names)]


def block(name, base):
    return f'  config {{\n    name: "{name}"\n    base_path: "{base}"\n    model_platform: "tensorflow"\n  }}\n'


def test_a_file_says_how_it_is_served(tmp_path):
    version(tmp_path / "a", 1, "serve")
    configs, warnings = write_server_configs(tmp_path, jobs(tmp_path, "a"))
    assert ([c.command for c in configs], warnings) == ([f"{START}{tmp_path}/models.config"], [])
    assert configs[0].file.read_text() == (
        f"# {START}{tmp_path}/models.config\n{POLLED}model_config_list {{\n{block('a', tmp_path / 'a')}}}\n"
    )


def test_a_server_is_given_every_model_that_has_a_version(tmp_path):
    pytest.importorskip("tensorflow_serving")
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    for name in ("b", 'quo"ted é\n\x01\\'):
        version(tmp_path / name, 1, "serve")
    (tmp_path / "empty").mkdir()
    found = jobs(tmp_path, 'quo"ted é\n\x01\\', "b", "b", "never", "empty")  # b's version is yesterday's
    (config,), warnings = write_server_configs(tmp_path, found)
    read = text_format.Parse(config.file.read_text(encoding="utf-8"), ModelServerConfig()).model_config_list.config
    assert [(model.name, model.base_path, model.model_platform) for model in read] == [
        ("b", str(tmp_path / "b"), "tensorflow"),
        ('quo"ted é\n\x01\\', str(tmp_path / 'quo"ted é\n\x01\\'), "tensorflow"),
    ]
    assert warnings == []


def test_each_set_of_tags_has_a_file_and_a_server(tmp_path):
    for name, tags in {
        "a": ["serve"],
        "b": ["tpu,serve"],
        "c": ["serve,gpu", "serve"],
        "d": ["serve,tpu"],
        "e": ["a/b"],
    }.items():
        version(tmp_path / name, 1, *tags)
    configs, warnings = write_server_configs(tmp_path, jobs(tmp_path, *"abcde"))
    second, third = (
        f"tensorflow_model_server --port={p} --rest_api_port={p + 1} --model_config_file={tmp_path}" for p in (8502, 8504)
    )
    assert [config.command for config in configs] == [
        f"{START}{tmp_path}/models.config",
        f"{second}/models.serve+tpu.config --saved_model_tags=serve,tpu",
        f"{third}/models.a%2Fb.config --saved_model_tags=a/b",
    ]
    assert [config.file.read_text().partition("list {\n")[2] for config in configs] == [
        block("a", tmp_path / "a") + block("c", tmp_path / "c") + "}\n",
        block("b", tmp_path / "b") + block("d", tmp_path / "d") + "}\n",
        block("e", tmp_path / "e") + "}\n",
    ]
    assert warnings == []


def test_one_set_of_other_tags_is_in_models_config(tmp_path):
    version(tmp_path / "a", 1, "serve,tpu")
    (config,), _ = write_server_configs(tmp_path, jobs(tmp_path, "a"))
    assert config.command == f"{START}{tmp_path}/models.config --saved_model_tags=serve,tpu"


def test_the_newest_version_counts_whichever_job_made_it(tmp_path):
    version(tmp_path / "a", 9, "serve")
    made = version(tmp_path / "a", 10, "serve")
    made.joinpath("saved_model.pb").unlink()  # its job's report is at hand, and nothing is read
    report = {"meta_graphs": [{"tags": ["gpu"]}]}
    (config,), _ = write_server_configs(tmp_path, jobs(tmp_path, "a", directory=str(made), report=report))
    assert config.command.endswith(" --saved_model_tags=gpu")
    version(tmp_path / "a", "011", "serve")
    (config,), _ = write_server_configs(tmp_path, jobs(tmp_path, "a", directory=str(made), report=report))
    assert config.command == f"{START}{tmp_path}/models.config"


def test_what_would_keep_a_server_from_starting_is_left_out(tmp_path):
    version(tmp_path / "good", 1, "serve")
    version(tmp_path / "file", 1, "serve")
    (tmp_path / "file/9").write_text("")
    version(tmp_path / "cut", 1, "serve").joinpath("saved_model.pb").write_bytes(b"\xff")
    (tmp_path / "empty/1").mkdir(parents=True)
    configs, warnings = write_server_configs(tmp_path, jobs(tmp_path, "file", "cut", "good", "empty"))
    assert [config.file.read_text().count("config {") for config in configs] == [1]
    assert [warning.partition(": ")[::2] for warning in warnings if "file" in warning.split()[0]] == [
        ("file is not in models.config", f"{tmp_path}/file/9 is a file, and a server takes it for a version; remove it")
    ]
    assert [warning.split(":")[0] for warning in warnings] == [f"{n} is not in models.config" for n in ("cut", "empty", "file")]


def test_a_version_without_a_meta_graph_is_left_out(tmp_path):
    made = version(tmp_path / "a", 1, "serve")
    found = write_server_configs(tmp_path, jobs(tmp_path, "a", directory=str(made), report={"meta_graphs": []}))
    assert found == ([], [f"a is not in models.config: {made} has no meta graph"])


def test_a_name_of_two_models_is_no_config(tmp_path):
    (tmp_path / "models.config").write_text("of another sweep")
    for place in "abc":
        version(tmp_path / place, 1, "serve")
    found = [Job(number=n, name="m", status="exported", base=str(tmp_path / place)) for n, place in enumerate("ab")]
    found.append(Job(number=2, name="n", status="exported", base=str(tmp_path / "c")))
    assert write_server_configs(tmp_path, found) == (
        [],
        ["no models.config: m is the name of 2 base paths; give each its own name"],
    )
    assert not (tmp_path / "models.config").exists()


def test_files_of_an_earlier_sweep_are_not_left(tmp_path):
    version(tmp_path / "a", 1, "serve")
    version(tmp_path / "b", 1, "gpu")
    assert len(write_server_configs(tmp_path, jobs(tmp_path, "a", "b"))[0]) == 2
    write_server_configs(tmp_path, jobs(tmp_path, "a"))
    assert [path.name for path in tmp_path.glob("*.config")] == ["models.config"]


def test_nothing_to_serve_is_no_config(tmp_path):
    assert write_server_configs(tmp_path, [Job(number=0, base=str(tmp_path / "m"))]) == ([], [])


def test_a_path_with_blanks_can_be_pasted(tmp_path):
    place = tmp_path / "my records"
    place.mkdir()
    version(tmp_path / "a", 1, "serve")
    (config,), _ = write_server_configs(place, jobs(tmp_path, "a"))
    assert config.command == f"tensorflow_model_server --rest_api_port=8501 --model_config_file='{place}/models.config'"
    assert json.dumps(str(tmp_path / "a")) in config.file.read_text()
