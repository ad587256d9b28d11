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


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up noise, which is printed only if the import fails.

    tf.compat.v1.layers, which builders of that age use, is only there with tf-keras and TF_USE_LEGACY_KERAS, read at import.

    Raises:
        EnvironmentFailed: the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    try:
        with quiet(), _uncollected():
            importlib.import_module("tensorflow").config.list_physical_devices()  # a missing GPU is told of once, here
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
