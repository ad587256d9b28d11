"""Answers that a session has given: where none depends on those before it, they are answers to the same request later, too."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from exportkit.checkpoint import tensorproto
from exportkit.files import MIB

Values = Mapping[str, np.ndarray]
_MOST = 64 * MIB  # of values that are remembered; a model with larger answers is asked again


class Remembered:
    """The answers of one session, by request."""

    def __init__(self) -> None:
        self._answers: dict[tuple, list[dict[str, np.ndarray]]] = defaultdict(list)
        self._size = 0

    def to(self, signature: str, inputs: Values) -> list[dict[str, np.ndarray]]:
        """Return the answers to a request, in the order in which they were given."""
        return list(self._answers.get(_key(signature, inputs), ()))

    def add(self, signature: str, inputs: Values, answer: dict[str, np.ndarray]) -> None:
        """Remember an answer, while all of them together are small."""
        self._size += sum(value.nbytes for value in answer.values())
        if self._size <= _MOST:
            self._answers[_key(signature, inputs)].append(answer)


def _key(signature: str, inputs: Values) -> tuple:
    return signature, *((alias, v.dtype.str, v.shape, tensorproto.digest(v)) for alias, v in sorted(inputs.items()))
