"""The source `template_linear`."""

from dataclasses import dataclass
from pathlib import Path

from exportkit.plugin import ModelSource, Preview, Problem, capture


@dataclass(kw_only=True)
class Linear(ModelSource):
    """A linear model: scores = x @ weights + bias."""

    kind: str = "template_linear"

    file: Path
    """An .npz file with the arrays `weights` [n, m] and `bias` [m]."""

    def preview(self):
        if not self.file.is_file():
            return Preview(problems=[Problem("file", f"there is no file {self.file}", "write the path of an .npz file")])
        return Preview(checked=[f"weights in {self.file}"], when_built=["their shapes"], files=[self.file])

    def build(self, preview, scratch, wanted):
        import numpy as np
        import tensorflow as tf

        v1 = tf.compat.v1
        with np.load(self.file) as arrays, tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            weights = v1.get_variable("weights", initializer=tf.constant(arrays["weights"], tf.float32))
            bias = v1.get_variable("bias", initializer=tf.constant(arrays["bias"], tf.float32))
            x = v1.placeholder(tf.float32, [None, weights.shape[0]], "x")
            scores = tf.add(tf.matmul(x, weights), bias, name="scores")
            session.run(v1.global_variables_initializer())
            return capture(graph, session, scratch, tensors={"x": x.name, "scores": scores.name}, wanted=wanted)
