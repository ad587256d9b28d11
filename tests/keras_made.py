"""Files that Keras writes, made in a process of its own: importing Keras takes seconds, so they are made once."""

import subprocess
import sys

MODULE = """
import keras


class Twice(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x
"""
MAKER = """
import numpy as np
from exportkit.processes.tensorflow import import_keras
import_keras()
import keras
from their_layers import Twice


def model(*layers):
    made = keras.Sequential([keras.Input((4,), name="x"), *layers, keras.layers.Dense(2, "softmax", use_bias=False)])
    made.set_weights([np.arange(8, dtype=np.float32).reshape(4, 2) / 8])
    return made


dense = model(keras.layers.Dropout(0.5))
dense.save("dense.keras")
dense.save("dense.h5")
dense.save_weights("dense.weights.h5")
model(Twice()).save("twice.keras")
keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3, "softmax")]).save("model.keras")
runs = model(keras.layers.Lambda(lambda x: x + 1))
runs.save("lambda.keras")
runs.save("lambda.h5")
"""


def make(directory):
    """Write the files into `directory`."""
    (directory / "their_layers.py").write_text(MODULE)
    (directory / "maker.py").write_text(MAKER)
    subprocess.run([sys.executable, "maker.py"], cwd=directory, check=True, capture_output=True)
