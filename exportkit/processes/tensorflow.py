"""The import of TensorFlow: without its start-up noise, and only when a graph is built or run."""

import gc
import importlib
import importlib.util
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from exportkit.errors import EnvironmentFailed, Problem

# As its last act TensorFlow's import loads one module of Keras, for the optimizers of saved Keras models, and continues without
# it if that fails. It brings in all of Keras and, if they are installed, scikit-learn and matplotlib: nearly half of the whole
# import's time, and 100 MB. `tf.keras` is imported by its first use anyway.
_EAGER = ("keras.src.optimizers", "tf_keras.src.optimizers")
# If it is installed, a seventh of that import: the old Keras within TensorFlow, which is not public, asks it whether data is
# sparse, and does without it.
_SPARSE = "scipy"


def import_tensorflow() -> None:
    """Import TensorFlow and list its devices; what it logs meanwhile is printed only if that fails.

    Raises:
        EnvironmentFailed: the import fails.
    """
    preload_tensorflow()
    with _import_errors(), quiet():
        sys.modules["tensorflow"].config.list_physical_devices()  # TensorFlow warns of a missing GPU once, here


def preload_tensorflow() -> None:
    """Import TensorFlow and do no more: such a process may be forked, while one that has listed its GPUs may not.

    Builders written for TF 1 use tf.compat.v1.layers, which needs tf-keras and TF_USE_LEGACY_KERAS; that is read at import.

    Raises:
        EnvironmentFailed: the import fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    alone = threading.active_count() == 1  # another thread may want SciPy just now
    held = (*_EAGER, _SPARSE) if alone and "tensorflow" not in sys.modules else _EAGER
    with _import_errors(), quiet(), _without_garbage_collection(), _without(*held):
        importlib.import_module("tensorflow")


def import_keras() -> None:
    """Import Keras 3, and TensorFlow with it, as a process needs them that loads a model: in 2.5 s of processor time, not 6.5.

    Both import what they can do without, for plots and for wrappers of scikit-learn, if it is installed.
    """
    with _without_garbage_collection(), _without("sklearn", "matplotlib", _SPARSE):
        importlib.import_module("keras")


@contextmanager
def _import_errors() -> Iterator[None]:
    try:
        yield
    except Exception as cause:
        brief = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise EnvironmentFailed(Problem("tensorflow", f"cannot be imported: {brief}")) from cause


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Exempt the objects that TensorFlow's import creates from garbage collection: its modules live as long as the process.

    Collections during the import, and one more when the interpreter ends, cost 1.3 s of 4.3 s.
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
def _without(*modules: str) -> Iterator[None]:
    """Have the import of modules fail that are not imported yet: a None in sys.modules does that."""
    held = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(held))  # type: ignore[arg-type]  # typeshed has no None there; Python's reference has
    try:
        yield
    finally:
        for name in held:
            del sys.modules[name]


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what TensorFlow's C++ code logs; print it only if the body raises.

    Its messages at import, and about missing GPUs at the first session, go to file descriptor 2 whatever
    TF_CPP_MIN_LOG_LEVEL is.
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
