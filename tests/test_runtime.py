"""How TensorFlow is started."""

import subprocess
import sys

import pytest

COLLECTOR_AND_KERAS = """
import gc, sys
from exportkit.processes.tensorflow import import_tensorflow
before = gc.get_freeze_count()
import_tensorflow()
frozen = gc.get_freeze_count()
assert gc.isenabled() and frozen > before + 100_000, (before, frozen)
import_tensorflow()
assert gc.isenabled() and gc.get_freeze_count() <= frozen
import tensorflow as tf
assert not {"keras", "tf_keras", "sklearn", "matplotlib", "scipy"} & set(sys.modules)
assert tf.losses.MeanSquaredError().name == "mean_squared_error"
assert tf.keras.Sequential([tf.keras.layers.Dense(2)])(tf.ones([1, 3])).shape == (1, 2)
assert tf.keras.optimizers.get("adam").name == "adam"
"""

LEFT_ALONE = """
import gc, sys
from exportkit.processes.tensorflow import import_keras, import_tensorflow
gc.disable()
before = gc.get_freeze_count()
import_tensorflow()
assert not gc.isenabled() and gc.get_freeze_count() == before
import_keras()
assert "keras" in sys.modules and not {"sklearn", "matplotlib", "scipy"} & set(sys.modules)
assert not gc.isenabled() and gc.get_freeze_count() == before
"""


@pytest.mark.slow
def test_garbage_collector_is_as_it_was_and_keras_is_imported_by_its_first_use():
    run(COLLECTOR_AND_KERAS)


@pytest.mark.slow
@pytest.mark.needs("keras")
def test_a_garbage_collector_that_is_off_stays_off_and_keras_brings_no_plots():
    run(LEFT_ALONE)


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
