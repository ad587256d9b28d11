"""The reference of a graph that was taken from a SavedModel: that model, as a model server loads it from its own directory.

It shares nothing with the export: TensorFlow's loader restores the variables, feeds the assets and runs the initialisation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from exportkit.contract import Original
from exportkit.errors import BindingError, StepFailed
from exportkit.serving.running import Refusal, Running, unoptimized


class LoadedOriginal:
    """A SavedModel in a process, asked by the names of its tensors; `load` creates it."""

    def __init__(self, model: Running):
        self._model = model

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray] | Refusal:
        """Run the graph once, as `exportkit.verifying.parity.reference.Reference.run` does."""
        asked = [tensor for tensor in dict.fromkeys(fetches) if tensor not in feeds]  # a session does not return what it is fed
        answer = self._model.run(feeds, asked) if asked else []
        if isinstance(answer, Refusal):
            return answer
        values = dict(zip(asked, answer, strict=True))
        return [values[name] if name in values else np.asarray(feeds[name]) for name in fetches]


@contextmanager
def load(original: Original, timeout: float, allowed: Sequence[str], reads: Sequence[Path]) -> Iterator[LoadedOriginal | str]:
    """Load a SavedModel in a process that ends with the context; or yield why it cannot be loaded as a whole.

    Args:
        timeout: seconds that the load, or a run, may take.
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config. All of it is loaded, also what the
            export leaves out.
        reads: the files that the plan found behind links in its directory.

    Raises:
        EnvironmentFailed: its process was killed from outside, or could not start.
    """
    config = unoptimized()
    config.allow_soft_placement = True  # as model servers do: without a GPU, what is pinned to it runs on the CPU
    try:
        model = Running(original.directory, original.tags, timeout=timeout, config=config, reads=reads, allowed=allowed)
    except BindingError as error:
        yield error.problems[0].what
        return
    with model:
        yield _refusal(model) or LoadedOriginal(model)


def _refusal(model: Running) -> str:
    """Return why a model does not load; empty where it does."""
    try:
        model.load()
    except StepFailed as error:
        return error.problems[0].what
    return ""
