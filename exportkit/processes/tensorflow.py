"""TensorFlow's start: imported without its noise, and only when a graph is built or run."""

import gc
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from exportkit.errors import EnvironmentFailed, Problem

_EAGER = ("keras.src.optimizers", "tf_keras.src.optimizers")


def import_tensorflow() -> None:
    """Make TensorFlow ready, without its start-up noise, which is printed only if that fails.

    Raises:
        EnvironmentFailed: the import fails.
    """
    preload_tensorflow()
    with _refusal(), quiet():
        sys.modules["tensorflow"].config.list_physical_devices()  # a missing GPU is told of once, here


def preload_tensorflow() -> None:
    """Import TensorFlow and do no more: such a process may be forked, while one that has listed its GPUs may not.

    tf.compat.v1.layers, which builders of that age use, is only there with tf-keras and TF_USE_LEGACY_KERAS, read at import.

    Raises:
        EnvironmentFailed: the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with _refusal(), quiet(), _uncollected(), _keras_when_used():
        importlib.import_module("tensorflow")


@contextmanager
def _refusal() -> Iterator[None]:
    try:
        yield
    except Exception as cause:
        brief = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise EnvironmentFailed(Problem("tensorflow", f"cannot be imported: {brief}")) from cause


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector off what TensorFlow's import makes: its modules live as long as the process.

    Searching them for garbage, many times while they are made and once more as the interpreter ends, costs 1.3 s of 4.3 s.
    """
    if "tensorflow" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def _keras_when_used() -> Iterator[None]:
    """Leave Keras to be imported by the first use of `tf.keras`, which is lazy anyway.

    At its end TensorFlow's import loads one module of Keras, for the optimizers of saved Keras models, and goes on without it
    where it cannot. With it come all of Keras and, where they are installed, scikit-learn and matplotlib: nearly half of the
    time of the whole import, and 100 MB. A None in sys.modules is Python's way to say that a module cannot be imported.
    """
    held = [name for name in _EAGER if name not in sys.modules]
    sys.modules.update(dict.fromkeys(held))
    try:
        yield
    finally:
        for name in held:
            del sys.modules[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what TensorFlow's C++ logs off the terminal, unless what happens inside fails.

    What it logs at import, and of missing GPUs at the first session, goes to file descriptor 2 whatever
    TF_CPP_MIN_LOG_LEVEL says.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as noise:
        terminal = os.dup(2)
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException:
            noise.seek(0)
            os.write(terminal, noise.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
