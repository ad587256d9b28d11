"""exportkit's own sources and steps pass the suites that its plugins' authors subclass."""

from shutil import copytree

import keras_made
import pytest

from exportkit.operations.concat import Concat
from exportkit.operations.softmax import Softmax as SoftmaxOperation
from exportkit.operations.split import Split
from exportkit.operations.top_k import TopK
from exportkit.sources import keras
from exportkit.sources.encoder import EncoderSource
from exportkit.sources.frozen_graph import FrozenGraph
from exportkit.sources.graph_builder import GraphBuilder
from exportkit.sources.keras import KerasSource
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


@pytest.mark.quick(10)
class TestSavedModel(SourceSuite):
    source = SavedModelSource
    bindings = {"x": "serving_default.inputs.x", "logits": "serving_default.outputs.logits"}
    signatures = {"scores": {"inputs": {"x": "x"}, "outputs": {"logits": "logits"}}}
    sample = {"x": [[8.0, 0.0, 0.0, 0.0]]}
    answer = {"logits": [[0.5, 0.5, 2.0]]}

    @pytest.fixture(autouse=True)
    def _given(self, saved_model):
        self.made = saved_model("module")

    def keys(self, directory):
        return {"saved_model": str(copytree(self.made, directory / "model")), "signatures": ["serving_default"]}


@pytest.mark.quick(10)
class TestGraphBuilder(Softmax):
    source = GraphBuilder

    def keys(self, directory):
        return {"builder": "exportkit.testing.graphs:softmax", "params": {"inputs": 4}, **super().keys(directory)}


@pytest.mark.quick(8)
class TestFrozenGraph(Softmax):
    source = FrozenGraph

    def keys(self, directory):
        import tensorflow as tf

        with tf.Graph().as_default() as graph:
            x = tf.compat.v1.placeholder(tf.float32, [None, 4], "x")
            tf.nn.softmax(tf.matmul(x, tf.ones([4, 3])), name="probs")
        (directory / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
        return {"graph": str(directory / "frozen.pb")}


@pytest.fixture(scope="module")
def keras_model(shared):
    """A model that Keras saved. What is exported of it is shared, so that Keras runs once."""
    place = shared("keras", keras_made.make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras, "EXPORTS", place / "exports")
        yield place / "model.keras"


@pytest.mark.slow
@pytest.mark.needs("keras", "h5py")
@pytest.mark.quick(6)
class TestKeras(SourceSuite):
    source = KerasSource
    bindings = {"x": "serving_default.inputs.x", "probs": "serving_default.outputs.output_0"}
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"probs": "probs"}}}
    sample = {"x": [[1.0, 2.0, 3.0, 4.0]]}

    test_planning_is_quick = None  # Keras exports a model when it is planned for the first time

    @pytest.fixture(autouse=True)
    def _given(self, keras_model):
        self.file = keras_model

    def keys(self, directory):
        return {"model": str(self.file), "signatures": ["serving_default"]}


class Encoder:
    """An encoder whose method returns a restore function."""

    def build(self, config, checkpoint):
        import tensorflow as tf

        from exportkit.testing import graphs

        graphs.softmax(config.inputs)
        return lambda session: tf.compat.v1.train.Saver().restore(session, checkpoint)


@pytest.mark.quick(10)
class TestEncoder(Softmax):
    source = EncoderSource

    def keys(self, directory):
        config = {"encoder": f"{__name__}:Encoder", "method": "build", "config": {"inputs": 4}}
        return {**config, **super().keys(directory)}


@pytest.mark.quick(6)
class TestVerify(StepSuite):
    step = Verify


@pytest.mark.quick(10)
class TestManifest(StepSuite):
    step = Manifest


@pytest.mark.quick(8)
class TestWarmup(StepSuite):
    step = Warmup

    def keys(self, directory):
        return {"batch_sizes": [1, 4]}


@pytest.mark.quick(8)
class TestTopK(BindingSuite):
    operation = TopK

    def keys(self, directory):
        return {"k": 2}


@pytest.mark.quick(5)
class TestSoftmaxBinding(BindingSuite):
    operation = SoftmaxOperation


@pytest.mark.quick(5)
class TestConcat(BindingSuite):
    operation = Concat
    of = ["x", "probs"]


@pytest.mark.quick(5)
class TestSplit(BindingSuite):
    operation = Split
    of = "x"

    def keys(self, directory):
        return {"num": 4}
