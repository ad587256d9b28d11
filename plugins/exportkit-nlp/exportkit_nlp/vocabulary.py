"""A vocabulary file, one word per line: the line's number, from 0, is the word's id."""

import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit.plugin import ConfigError, Problem, did_you_mean


@dataclass(frozen=True)
class Vocabulary:
    """The words of `path` and their ids."""

    path: Path
    words: Mapping[str, int]

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary as TensorFlow's table does.

        Raises:
            ConfigError: the file cannot be read, or TensorFlow could not fill a table from it.
        """
        try:
            if path.exists() and not path.is_file():  # a FIFO or a device would be waited for, or never end
                raise OSError(errno.EINVAL, "it is not a regular file", path)
            lines = path.read_bytes().decode(errors="surrogateescape").split("\n")
        except OSError as cause:
            what = f"{path} cannot be read: {(cause.strerror or str(cause)).lower()}"
            raise ConfigError(Problem("vocabulary", what, "name a file with one word per line")) from None
        lines = [line.removesuffix("\r") for line in lines[: -1 if lines[-1] == "" else None]]
        if problems := list(_problems(path, lines)):
            raise ConfigError(*problems)
        return cls(path, {word: number for number, word in enumerate(lines)})

    def id(self, word: str | int, where: str) -> int:
        """Return the id of `word`, or `word` itself where it is a number.

        Raises:
            ConfigError: it is neither a word of the vocabulary nor a number.
        """
        if isinstance(word, int) and not isinstance(word, bool):
            return word
        if word in self.words:
            return self.words[word]
        near = did_you_mean(word, self.words) if isinstance(word, str) else ""
        raise ConfigError(Problem(where, f"'{word}' is not in {self.path}", near or "write a word of it, or an id"))

    def ids(self, **words: Any) -> dict[str, int]:
        """Return the ids of special words by the keys that name them; a null is left out.

        Raises:
            ConfigError: all those that the vocabulary does not have.
        """
        found: dict[str, int] = {}
        problems: list[Problem] = []
        for where, word in words.items():
            try:
                found |= {} if word is None else {where: self.id(word, where)}
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(*problems)
        return found


def _problems(path: Path, lines: list[str]) -> Iterator[Problem]:
    if not lines:
        yield Problem("vocabulary", f"{path} is empty", "name a file with one word per line")
    for word, count in Counter(lines).items():
        first = lines.index(word) + 1
        if not word:
            yield Problem("vocabulary", f"{path}:{first}: the line is empty, which no table can be filled from", "remove it")
        elif count > 1:
            second = lines.index(word, first) + 1
            yield Problem("vocabulary", f"{path}:{second}: '{word}' stands in line {first} already", "keep one of them")
