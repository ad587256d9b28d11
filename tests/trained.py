"""The digits example as programs of the tests find it, and an import of TensorFlow that costs them less."""

import os
import subprocess
import sys

# TensorFlow's import ends with that of Keras, scikit-learn and matplotlib, half of its time. With this it looks for tf-keras
# instead, and goes on without, as a program does that uses none of them.
WITHOUT_KERAS = {"TF_USE_LEGACY_KERAS": "1"}


def digits(shared):
    """Return a directory in which the digits example was trained, once for the workers of pytest-xdist together."""

    def train(directory):
        command = [sys.executable, "-m", "exportkit.examples.mnist_mlp"]
        subprocess.run(command, cwd=directory, env={**os.environ, **WITHOUT_KERAS}, check=True, capture_output=True)

    return shared("digits", train)
