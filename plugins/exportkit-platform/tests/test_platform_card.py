"""Model cards: whole, the same for the same model, and safe to open whatever a config says."""

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import yaml
from platform_toys import config, export

STEPS = {"policy": {"kind": "policy"}, "model_card": {"kind": "model_card", "summary": "Scores features & more."}}
VARS = {"owner": "search", "platform": {}}
NASTY = "a|b`c<script>alert(1)</script>"


def _cards(report):
    folder = Path(report.directory) / "assets.extra"
    return {name: (folder / name).read_text(encoding="utf-8") for name in ("model_card.md", "model_card.html")}


def _export(prefix, base, **changes):
    return export(config(prefix, base, **{"post": STEPS, "vars": VARS, **changes}))


def test_a_card_in_markdown(scores_prefix, tmp_path):
    assert _cards(_export(scores_prefix, tmp_path))["model_card.md"] == (
        """\
# scores, version 1

Scores features & more.

| | |
|---|---|
| owner | search |
| source | meta_graph |
| checkpoint | run/model.ckpt |
| weights | 1 variables, 48 bytes |
| proof | 1/1 variables equal to the checkpoint, 0 initialised |
| verified by | policy |

## serving_default

predict, in the meta graph tagged serve

| | name | dtype | shape |
|---|---|---|---|
| in | features | float32 | [?, 4] |
| out | scores | float32 | [?, 3] |

```sh
curl -d '{"signature_name": "serving_default", "instances": [{"features": [0.0, 0.0, 0.0, 0.0]}]}' \
http://localhost:8501/v1/models/scores:predict
```

"""
    )


class _Texts(HTMLParser):
    """What a page shows, and which elements it opens and does not close."""

    VOID = ("meta", "link", "br")

    def __init__(self):
        super().__init__()
        self.texts, self.open, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def _read(page):
    texts = _Texts()
    texts.feed(page)
    assert texts.open == []
    return texts


def test_a_card_in_html_shows_what_the_other_one_says(scores_prefix, tmp_path):
    page = _read(_cards(_export(scores_prefix, tmp_path))["model_card.html"])
    shown = " ".join(page.texts)
    for text in ("Scores features & more.", "search", "run/model.ckpt", "48 bytes", "policy", "[?, 4]", "float32", "curl -d"):
        assert text in shown


def test_nothing_in_a_config_becomes_html(scores_prefix, tmp_path):
    signatures = {NASTY: {"inputs": {NASTY: "features"}, "outputs": {"scores": "scores"}}}
    post = {"model_card": {"kind": "model_card", "summary": NASTY}}
    cards = _cards(_export(scores_prefix, tmp_path, signatures=signatures, vars={"owner": NASTY}, post=post))
    page = _read(cards["model_card.html"])
    assert "script" not in page.seen and NASTY in page.texts
    assert "| in | a\\|b`c&lt;script>alert(1)&lt;/script> | float32 | [?, 4] |" in cards["model_card.md"]


def test_two_exports_have_the_same_card(scores_prefix, tmp_path):
    first = _export(scores_prefix, tmp_path)
    cards = _cards(first)
    shutil.rmtree(first.directory)
    assert _cards(_export(scores_prefix, tmp_path)) == cards


def test_a_card_tells_no_path_of_the_machine(scores_prefix, tmp_path):
    for card in _cards(_export(scores_prefix, tmp_path)).values():
        assert str(tmp_path) not in card and str(Path(scores_prefix).parent.parent) not in card


def test_a_card_of_a_model_without_owner_and_of_several_meta_graphs(scores_prefix, tmp_path):
    meta_graphs = {"serving": {"tags": ["serve"]}, "gpu": {"tags": ["serve", "gpu"]}}
    post = {"model_card": {"kind": "model_card"}}
    card = _cards(_export(scores_prefix, tmp_path, vars={}, meta_graphs=meta_graphs, post=post))["model_card.md"]
    assert "| owner | nobody named |" in card
    assert card.count("## serving_default") == 2 and "tagged serve, gpu" in card


def test_the_command_line_writes_the_same_card(scores_prefix, tmp_path):
    cards = _cards(_export(scores_prefix, tmp_path))
    chosen = [{"override /source": "meta_graph"}, {"override /post": list(STEPS)}]
    written = {"defaults": chosen, **config(scores_prefix, tmp_path / "again", post=STEPS, vars=VARS)}
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "scores.yaml").write_text("# @package _global_\n" + yaml.safe_dump(written))
    command = [sys.executable, "-m", "exportkit", "model=scores"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "again" / "exports" / "1" / "assets.extra"
    assert {name: (folder / name).read_text(encoding="utf-8") for name in cards} == cards
