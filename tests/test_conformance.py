"""exportkit's own sources and steps pass the suites that its plugins' authors subclass."""

import pytest
import saved_models_made

from exportkit.operations.concat import Concat
from exportkit.operations.softmax import Softmax as SoftmaxOperation
from exportkit.operations.split import Split
from exportkit.operations.top_k import TopK
from exportkit.sources.encoder import EncoderSource
from exportkit.sources.graph_builder import GraphBuilder
from exportkit.sources.meta_graph import MetaGraphSource
from exportkit.sources.saved_model import SavedModelSource
from exportkit.steps.manifest import Manifest
from exportkit.steps.verify import Verify
from exportkit.steps.warmup import Warmup
from exportkit.testing import BindingSuite, SourceSuite, StepSuite, toys


class Softmax(SourceSuite):
    """The toy `softmax`, whichever way it comes in."""

    bindings = {"x": "x:0", "probs": "probs:0"}
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}}}
    sample = {"x": [[1.0, 2.0, 3.0, 4.0]]}

    def keys(self, directory):
        return {"checkpoint": toys.checkpoint("softmax", directory).prefix}


class TestMetaGraph(Softmax):
    source = MetaGraphSource


class TestSavedModel(SourceSuite):
    source = SavedModelSource
    bindings = {"x": "serving_default.inputs.x", "logits": "serving_default.outputs.logits"}
    signatures = {"scores": {"inputs": {"x": "x"}, "outputs": {"logits": "logits"}}}
    sample = {"x": [[8.0, 0.0, 0.0, 0.0]]}
    answer = {"logits": [[0.5, 0.5, 2.0]]}

    def keys(self, directory):
        return {"saved_model": str(saved_models_made.module(directory / "model")), "signatures": ["serving_default"]}


class TestGraphBuilder(Softmax):
    source = GraphBuilder

    def keys(self, directory):
        return {"builder": "exportkit.testing.graphs:softmax", "params": {"inputs": 4}, **super().keys(directory)}


class Encoder:
    """An encoder whose method returns a restore function."""

    def build(self, config, checkpoint):
        import tensorflow as tf

        from exportkit.testing import graphs

        graphs.softmax(config.inputs)
        return lambda session: tf.compat.v1.train.Saver().restore(session, checkpoint)


class TestEncoder(Softmax):
    source = EncoderSource

    def keys(self, directory):
        config = {"encoder": f"{__name__}:Encoder", "method": "build", "config": {"inputs": 4}}
        return {**config, **super().keys(directory)}


@pytest.mark.quick(10)
class TestVerify(StepSuite):
    step = Verify


class TestManifest(StepSuite):
    step = Manifest


class TestWarmup(StepSuite):
    step = Warmup

    def keys(self, directory):
        return {"batch_sizes": [1, 4]}


class TestTopK(BindingSuite):
    operation = TopK

    def keys(self, directory):
        return {"k": 2}


class TestSoftmaxBinding(BindingSuite):
    operation = SoftmaxOperation


class TestConcat(BindingSuite):
    operation = Concat
    of = ["x", "probs"]


class TestSplit(BindingSuite):
    operation = Split
    of = "x"

    def keys(self, directory):
        return {"num": 4}
