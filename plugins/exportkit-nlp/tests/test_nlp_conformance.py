"""The source `text` under exportkit's own suite, in front of a .meta and in front of code."""

import shutil

import pytest
from exportkit.testing import SourceSuite
from nlp_toys import save, write_vocabulary

from exportkit_nlp.source import TextSource


@pytest.mark.quick(20)
class TestText(SourceSuite):
    source = TextSource
    bindings = {"sentences": "sentences", "mean": "mean:0", "ids": "ids"}
    signatures = {"serving_default": {"inputs": {"sentences": "sentences"}, "outputs": {"mean": "mean", "ids": "ids"}}}
    sample = {"sentences": [b"The river!", b""]}
    answer = {"ids": [[4, 5], [0, 0]]}

    def keys(self, directory):
        return {
            "model": {"kind": "meta_graph", "checkpoint": save(directory)},
            "vocabulary": str(write_vocabulary(directory)),
            "ids": "token_ids:0",
            "mask": "token_mask:0",
            "lengths": "token_lengths:0",
        }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with a small encoder that was trained for a step, and its vocabulary."""
    from exportkit.examples import thought_encoder

    directory = tmp_path_factory.mktemp("trained")
    thought_encoder.train(directory, steps=1, dim=4, vocab_size=50)
    return directory / "thought_encoder"


@pytest.mark.quick(20)
class TestTextBeforeAnEncoder(SourceSuite):
    source = TextSource
    varies = ("saved_model.pb",)  # TensorFlow numbers the functions of while loops through the life of a process
    bindings = {"sentences": "sentences", "vectors": "thought_vectors:0"}
    signatures = {"serving_default": {"inputs": {"sentences": "sentences"}, "outputs": {"vectors": "vectors"}}}
    sample = {"sentences": [b"Nobody spoke.", b""]}

    @pytest.fixture(autouse=True)
    def _trained(self, trained):
        self.trained = trained

    def keys(self, directory):
        shutil.copytree(self.trained, directory / "thought_encoder")
        encoder = {
            "kind": "encoder",
            "encoder": "exportkit.examples.thought_encoder:ThoughtEncoder",
            "args": {"vocab_size": 50},
            "config": {"dim": 4},
            "checkpoint": str(directory / "thought_encoder"),
        }
        return {
            "model": encoder,
            "vocabulary": str(directory / "thought_encoder" / "vocabulary.txt"),
            "ids": "encode_ids:0",
            "mask": "encode_mask:0",
            "padding": "<eos>",
            "end": "<eos>",
        }
