"""How a model server is started on an export: its tags, its ports, its shell."""

import shlex

from exportkit import modelserver


def test_the_default_tags_need_no_flag():
    assert modelserver.command({"model_name": "m"}, ["serve"]) == "tensorflow_model_server --rest_api_port=8501 --model_name=m"


def test_other_tags_are_for_the_whole_server():
    assert (
        modelserver.command({}, ["serve", "tpu"]) == "tensorflow_model_server --rest_api_port=8501 --saved_model_tags=serve,tpu"
    )


def test_several_servers_on_one_machine_have_ports_of_their_own():
    assert modelserver.command({}, ["gpu"], 2) == (
        "tensorflow_model_server --port=8504 --rest_api_port=8505 --saved_model_tags=gpu"
    )


def test_a_shell_reads_every_value_as_it_is():
    options = {"model_name": "it's", "model_base_path": "/my models/$HOME"}
    assert shlex.split(modelserver.command(options, ["serve", "a tag"]))[2:] == [
        "--model_name=it's",
        "--model_base_path=/my models/$HOME",
        "--saved_model_tags=serve,a tag",
    ]
