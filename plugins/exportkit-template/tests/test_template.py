"""The suites of exportkit, and what is particular to this plugin."""

import numpy as np
import pytest
from exportkit_template.linear import Linear
from exportkit_template.notice import Notice

import exportkit
from exportkit.plugin import ConfigError
from exportkit.testing import SourceSuite, StepSuite, main


class TestLinear(SourceSuite):
    source = Linear
    bindings = {"x": "x", "scores": "scores"}
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"scores": "scores"}}}
    sample = {"x": [[1.0, 2.0]]}
    answer = {"scores": [[12.0, 15.0, 18.0]]}

    def keys(self, directory):
        np.savez(directory / "model.npz", weights=[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], bias=[6.0, 6.0, 6.0])
        return {"file": str(directory / "model.npz")}

    def test_a_file_that_is_not_there(self, data, plugins):
        wrong = self.changed(data, file="/nowhere.npz")
        assert self.refused(wrong, plugins) == ["source.file: there is no file /nowhere.npz; write the path of an .npz file"]

    def test_a_draft_is_not_exported(self, data, plugins):
        with pytest.raises(ConfigError, match="a draft is not exported"):
            exportkit.plan({**data, "vars": {"stage": "draft"}}, plugins)


class TestNotice(StepSuite):
    step = Notice

    def keys(self, directory):
        return {"text": "Ask first."}

    def check(self, directory, report):
        assert (directory / "assets.extra" / "NOTICE").read_text() == "toy: Ask first.\n"


def test_the_preset_adds_the_notice_to_the_default_steps(capsys):
    assert main(["experiment=template_notice", "--cfg", "job", "--package", "post"]) == 0
    kinds = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  kind: ")]
    assert kinds == ["verify", "warmup", "manifest", "template_notice"]
