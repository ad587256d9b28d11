"""The files that a graph takes in: which it may, which it may not, and that the planned ones are those that are copied."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import toys

import exportkit
from exportkit.errors import BindingError, ConfigError
from exportkit.exporting import savedmodel
from exportkit.metagraph import read
from exportkit.planning.plan import plan
from exportkit.protos import MetaGraphDef
from exportkit.samples.graph_hints import hints

OUTSIDE = "outside the working directory, the config's and the checkpoint's"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The prefix of a checkpoint whose graph looks words up in the file ``words.txt`` beside it."""
    import tensorflow as tf

    base = tmp_path_factory.mktemp("made")
    (base / "words.txt").write_text("zero\none\n")

    def build():
        words = toys.v1.placeholder(tf.string, [None], "words")
        lines = tf.lookup.TextFileInitializer(
            str(base / "words.txt"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        ids = tf.lookup.StaticHashTable(lines, -1).lookup(words)
        weight = toys.v1.get_variable("weight", [], initializer=toys.v1.ones_initializer())
        tf.multiply(tf.cast(ids, tf.float32), weight, name="y")

    return toys.saved(base, build)


@pytest.fixture
def naming(made, tmp_path):
    """A factory of copies of the checkpoint, in ``runs``, whose graph names another file; returns the config."""

    def make(path, name="toy", **keys):
        source, target = Path(made), tmp_path / "runs" / name
        target.mkdir(parents=True, exist_ok=True)
        for file in source.parent.glob(f"{source.name}*"):
            shutil.copy(file, target)
        meta = MetaGraphDef()
        meta.CopyFrom(read(f"{made}.meta"))
        for node in meta.graph_def.node:
            if node.op == "Const" and node.attr["value"].tensor.string_val:
                node.attr["value"].tensor.string_val[0] = os.fsencode(path)
        (target / f"{source.name}.meta").write_bytes(meta.SerializeToString())
        signature = {"inputs": {"words": "words"}, "outputs": {"y": "y"}}
        return {
            "name": "toy",
            "source": {"kind": "meta_graph", "checkpoint": str(target / source.name)},
            "bindings": {"words": "words:0", "y": "y:0"},
            "signatures": {"serving_default": signature},
            **keys,
        }

    return make


@pytest.fixture
def elsewhere(tmp_path_factory):
    """A directory that no graph may take its assets from, with a file in it."""
    directory = tmp_path_factory.mktemp("elsewhere")
    (directory / "words.txt").write_text("root\n")
    return directory


def lines(config, **keys):
    with pytest.raises(ConfigError) as refused:
        plan(config, **keys)
    return str(refused.value).splitlines()


def shown(config):
    return [check.what for check in plan(config).checks if check.stage == "assets"]


def test_a_plan_lists_the_assets_by_path_with_who_names_them(naming, tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    (tmp_path / "labels.txt").write_text("b\n")
    config = naming("words.txt")
    config["bindings"] |= {"top": {"top_k": "y", "k": 1}, "label": {"lookup": "top.indices", "vocabulary": "labels.txt"}}
    config["signatures"]["serving_default"]["outputs"] = {"label": "label"}
    (node,) = [asset.named_by for asset in plan(config).assets if asset.path.name == "words.txt"]
    assert node.startswith("node ")
    assert shown(config) == [f"{tmp_path}/labels.txt (bindings.label.vocabulary)", f"{tmp_path}/words.txt ({node})"]


@pytest.mark.parametrize("name", ["words.txt", "runs/beside.txt", "runs/toy/words.txt", "deep/er/words.txt"])
def test_a_graph_may_name_what_lies_near_it(name, naming, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("a\n")
    assert [asset.path for asset in plan(naming(tmp_path / name)).assets] == [tmp_path / name]


def test_the_directories_of_the_checkpoint_and_of_the_config_are_near(naming, elsewhere, tmp_path, monkeypatch):
    config = naming(elsewhere / "words.txt")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert OUTSIDE in lines(config)[0]
    assert [asset.path for asset in plan(config, directories=[elsewhere]).assets] == [elsewhere / "words.txt"]
    beside = naming(tmp_path / "runs" / "other" / "words.txt", "other")
    (tmp_path / "runs" / "other" / "words.txt").write_text("a\n")
    assert [asset.path.name for asset in plan(beside).assets] == ["words.txt"]


def test_a_file_elsewhere_is_refused_with_the_line_that_allows_it(naming, elsewhere):
    config = naming(elsewhere / "words.txt")
    (line,) = lines(config)
    head, _, do = line.partition("; ")
    assert head.startswith(f"source: the graph takes an asset that is {OUTSIDE}: {elsewhere}/words.txt (node ")
    assert do == f"if it may, write allow: {{assets: [{elsewhere}]}}"
    config["allow"] = {"assets": [str(elsewhere)]}
    assert [asset.path for asset in plan(config).assets] == [elsewhere / "words.txt"]


def test_a_link_counts_as_what_it_leads_to(naming, elsewhere, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "vocab").symlink_to(elsewhere / "words.txt")
    (tmp_path / "through").symlink_to(elsewhere)
    for named in ("runs/vocab", "through/words.txt", "runs/../through/words.txt"):
        (line,) = lines(naming(named, named.replace("/", "_")))
        assert f"{os.path.abspath(named)}, a link to {elsewhere}/words.txt (node " in line
        assert line.endswith(f"write allow: {{assets: [{elsewhere}]}}")


def test_a_hidden_file_is_not_near(naming, tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "key").write_text("secret\n")
    (line,) = lines(naming(".ssh/key"))
    assert line.startswith(f"source: the graph takes an asset that is hidden behind .ssh: {tmp_path}/.ssh/key (node ")
    assert plan(naming(".ssh/key", "allowed", allow={"assets": [".ssh"]})).assets


def test_a_working_directory_that_holds_everything_opens_nothing(naming, elsewhere, monkeypatch):
    config = naming(elsewhere / "words.txt")
    monkeypatch.chdir("/")
    assert OUTSIDE in lines(config)[0]


def test_all_problems_come_at_once_and_show_one_line(naming, elsewhere, tmp_path):
    (elsewhere / "more").mkdir()
    (elsewhere / "more" / "words.txt").write_text("x\n")
    config = naming(elsewhere / "words.txt")
    other = naming(elsewhere / "more" / "words.txt", "other")["source"]["checkpoint"]
    tags = {"serving": {"tags": ["serve"]}, "other": {"tags": ["x"], "source": {"checkpoint": other}}}
    found = lines({**config, "meta_graphs": tags, "version": -1})
    assert [line.split(":")[0] for line in found] == ["version", "source", "meta_graphs.other.source"]
    assert {line.partition("write ")[2] for line in found[1:]} == {f"allow: {{assets: [{elsewhere}, {elsewhere}/more]}}"}


@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "a FIFO"), (os.mkdir, "a directory"), (None, "a device")])
def test_what_is_no_file_is_refused(make, kind, naming, tmp_path):
    path = tmp_path / "odd" if make else Path("/dev/zero")
    if make:
        make(path)
    (line,) = lines(naming(path))
    assert line.startswith(f"{path}: node ")
    assert line.endswith(f" names it as an asset, and it is {kind}; put a file there")


def test_a_file_of_holes_is_refused(naming, tmp_path):
    path = tmp_path / "words.txt"
    path.touch()
    os.truncate(path, 1 << 40)
    (line,) = lines(naming(path))
    assert line.endswith(
        " names it as an asset, and it cannot be read: it has 1,099,511,627,776 bytes, of which the disk holds 0; the rest are "
        "holes; put a file there that can be"
    )


@pytest.mark.parametrize("path", ["gone.txt", "gone\0.txt", "gs://bucket/words.txt"])
def test_a_missing_file_is_reported_with_the_plan(path, naming):
    (line,) = lines(naming(path))
    assert line.endswith("the graph reads this file as an asset, and it is not there; put it back, or bake its content")


def test_notes_on_what_is_allowed(naming, elsewhere, tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    config = naming("words.txt", allow={"assets": [str(elsewhere), "/nowhere"]})
    assert shown(config)[1:] == [f"allow.assets: nothing needs {elsewhere}", "allow.assets: there is no /nowhere"]
    assert plan(config).warnings == []


def test_a_file_of_computed_name_is_refused(naming, tmp_path):
    (tmp_path / "words.txt").write_text("a\n")
    config = naming("words.txt")
    file = Path(config["source"]["checkpoint"] + ".meta")
    meta = read(file)
    graph = meta.graph_def
    (filler,) = [node for node in graph.node if node.op.startswith("InitializeTableFromText")]
    path = filler.input[1]
    graph.node.add(name="joined", op="StringJoin", input=[path, path]).attr["N"].i = 2
    filler.input[1] = "joined"
    op = meta.meta_info_def.stripped_op_list.op.add(name="StringJoin")
    op.input_arg.add(name="inputs", type=7, number_attr="N")
    op.output_arg.add(name="output", type=7)
    op.attr.add(name="N", type="int")
    meta.collection_def.clear()
    file.write_bytes(meta.SerializeToString())
    what = f"{filler.name} fills a table from a file whose name is computed by joined (StringJoin)"
    assert f"meta_graphs.serving: {what}; name the file in a constant of the graph itself" in lines(config)


def test_code_of_the_user_names_what_it_likes(elsewhere, tmp_path, monkeypatch):
    (tmp_path / "wordy.py").write_text(
        "import tensorflow as tf\n"
        "v1 = tf.compat.v1\n"
        "def build(file):\n"
        "    words = v1.placeholder(tf.string, [None], 'words')\n"
        "    index = tf.lookup.TextFileIndex\n"
        "    lines = tf.lookup.TextFileInitializer(file, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)\n"
        "    tf.identity(tf.lookup.StaticHashTable(lines, -1).lookup(words), name='y')\n"
        "    return {}, lambda session: None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {
        "name": "toy",
        "source": {"kind": "graph_builder", "builder": "wordy:build", "params": {"file": str(elsewhere / "words.txt")}},
        "bindings": {"words": "words:0", "y": "y:0"},
        "signatures": {"serving_default": {"inputs": {"words": "words"}, "outputs": {"y": "y"}}},
    }
    assert exportkit.run(plan(config)).assets == ["words.txt"]


def test_a_file_that_was_changed_after_the_plan_is_not_copied(naming, elsewhere, tmp_path):
    words = tmp_path / "words.txt"
    words.symlink_to(tmp_path / "first.txt")
    (tmp_path / "first.txt").write_text("a\n")
    (tmp_path / "second.txt").write_text("b\n")
    config = naming("words.txt")
    planned = plan(config)
    words.unlink()
    words.symlink_to(tmp_path / "second.txt")
    with pytest.raises(BindingError) as refused:
        exportkit.run(planned)
    assert str(refused.value) == f"{words}: is not the file that was planned; plan and export again"
    words.unlink()
    words.symlink_to(elsewhere / "words.txt")
    with pytest.raises(ConfigError, match=OUTSIDE):
        exportkit.run(planned)
    assert not list((tmp_path / "exports").glob("toy/[0-9]*"))


def test_a_link_that_is_swapped_while_it_is_copied_gets_no_other_file_in(naming, elsewhere, tmp_path, monkeypatch):
    words, real = tmp_path / "words.txt", savedmodel.write
    words.symlink_to(tmp_path / "first.txt")
    (tmp_path / "first.txt").write_text("a\n")

    @contextmanager
    def write(directory, *arguments):
        words.unlink()
        words.symlink_to(elsewhere / "words.txt")
        with real(directory, *arguments) as written:
            assert (directory / "assets" / "words.txt").read_text() == "root\n"
            yield written

    monkeypatch.setattr(savedmodel, "write", write)
    with pytest.raises(BindingError) as refused:
        exportkit.run(plan(naming("words.txt")))
    assert str(refused.value) == f"{words}: is not the file that was planned; plan and export again"
    assert os.listdir(tmp_path / "exports" / "toy") == []


def test_a_version_has_the_planned_files(naming, tmp_path):
    (tmp_path / "words.txt").write_text("zero\none\n")
    report = exportkit.run(plan(naming("words.txt")))
    assert report.assets == ["words.txt"]
    assert Path(report.directory, "assets", "words.txt").read_text() == "zero\none\n"


def test_samples_take_words_from_assets_alone(made):
    graph = exportkit.metagraph.Graph(read(f"{made}.meta"))
    file = Path(made).parents[1] / "words.txt"
    assert hints(graph, ["words:0"])["words:0"].texts == []
    assert hints(graph, ["words:0"], {file})["words:0"].texts == [b"zero", b"one"]
