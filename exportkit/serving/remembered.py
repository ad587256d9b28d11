"""Answers that a session has given: where none depends on those before it, they are answers to the same request later, too."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from exportkit.checkpoint import tensorproto
from exportkit.files import MIB

Values = Mapping[str, np.ndarray]
Key = tuple
_MOST = 64 * MIB  # of values that are remembered; a model with larger answers is asked again


class Remembered:
    """The answers of one session, by request."""

    def __init__(self) -> None:
        self._answers: dict[Key, list[dict[str, np.ndarray]]] = defaultdict(list)
        self._size = 0

    def to(self, request: Key) -> list[dict[str, np.ndarray]]:
        """Return the answers to a request, in the order in which they were given."""
        return list(self._answers.get(request, ()))

    def add(self, request: Key, answer: dict[str, np.ndarray]) -> None:
        """Remember an answer, while all of them together are small."""
        self._size += sum(value.nbytes for value in answer.values())
        if self._size <= _MOST:
            self._answers[request].append(answer)


def request_key(signature: str, inputs: Values) -> Key:
    """Return what two requests have in common if they are the same."""
    return signature, *((alias, v.dtype.str, v.shape, tensorproto.digest(v)) for alias, v in sorted(inputs.items()))
