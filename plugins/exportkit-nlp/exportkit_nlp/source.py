"""The source `text`: another source's model, with a tokenizer and a vocabulary before it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge
from exportkit.plugin import (
    BindingError,
    ConfigError,
    ExportKitError,
    Graph,
    ModelSource,
    Preview,
    Problem,
    SourceModel,
    export_meta_graph,
    hookimpl,
    under_reporter,
)

from exportkit_nlp.graft import free_scope, grafted
from exportkit_nlp.tokens import Tokenizer, build_front
from exportkit_nlp.vocabulary import Vocabulary

if TYPE_CHECKING:
    from exportkit.plugin import MetaGraphDef

_FEEDS = ("ids", "mask", "lengths")
OFFERED = ("sentences", *_FEEDS)


@dataclass(kw_only=True)
class TextSource(ModelSource):
    """Another source's model that is served sentences: the graph tokenizes them and looks their words up.

    Offers `sentences` (string [batch]) and what it makes of them, as far as the model reads it: `ids`, `mask` and `lengths`;
    besides, whatever the model offers. The vocabulary travels with the export.
    """

    kind: str = "text"

    model: ModelSource
    """The model: another source's config with its `kind`, or `/source@source.model: KIND` in defaults."""

    vocabulary: Path
    """A file with one word per line; the line's number, from 0, is the word's id."""

    ids: str
    """The model's tensor that reads ids, integers [batch, length]. A fixed length is kept."""

    mask: str | None = None
    """The model's tensor that reads 1 where there is a word and 0 behind the sentence's end, [batch, length]."""

    lengths: str | None = None
    """The model's tensor that reads the sentences' lengths, integers [batch]."""

    lowercase: bool = True
    """Whether words are looked up in lower case."""

    separator: str = r"[^\pL\pM\pN']+"
    """What stands between words, beside white space: an RE2 pattern, by default all but letters, digits and apostrophes."""

    unknown: Any = "<unk>"
    """What a word becomes that the vocabulary does not have: a word of it, or an id."""

    padding: Any = 0
    """What stands behind the end of a sentence up to that of the longest: a word of the vocabulary, or an id."""

    start: Any = None
    """What stands before the first word: a word of the vocabulary, or an id; null for nothing."""

    end: Any = None
    """What stands behind the last word, of a sentence that is cut too: a word of the vocabulary, or an id; null for nothing."""

    max_length: Annotated[int, Ge(1)] | None = None
    """How many ids a sentence has at most, start and end counted; null for as many as it has, or as the model reads."""

    def __post_init__(self) -> None:
        if isinstance(self.model, TextSource):
            raise ConfigError(Problem("model.kind", f"is '{self.kind}' too", "choose the source of the model itself"))

    def preview(self) -> Preview:
        problems = self._length_problems(self.max_length, "max_length")
        try:
            size = len(self._specials()[0].words)
        except ConfigError as error:
            problems += error.problems
        with _problems_of(self.model, "model"):
            held = self.model.preview()
        problems += [problem.under("model") for problem in held.problems]
        if held.meta_graph is not None:
            problems += _unknown_tensors(self._fed(), Graph(held.meta_graph))
        checked = [] if problems else [f"vocabulary {self.vocabulary}: {size} words", *held.checked]
        when_built = [*held.when_built, "the tokenizer before it"]
        return Preview(None, held.checkpoint, problems, checked, when_built, found=held, by_code=held.by_code)

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        with _problems_of(self.model, "model"):
            model = self.model.build(preview.found, scratch, self._wanted(wanted))
        graph, fed = Graph(model.meta_graph), self._fed(model.tensors)
        if problems := _unknown_tensors(fed, graph):
            raise BindingError(*problems)
        meta, offered = self._joined(graph, {name: graph.find(tensor) for name, tensor in fed.items()})
        return SourceModel(meta, model.checkpoint, {**model.tensors, **offered}, model.notes)

    def _joined(self, graph: Graph, fed: Mapping[str, str]) -> tuple["MetaGraphDef", dict[str, str]]:
        """Return the model's graph behind the tokenizer's, and the names of the latter's tensors."""
        batch, length = graph.shape(fed["ids"]) or (None, None)
        scope = free_scope(graph.meta, "text")
        front, offered = build_front(self._tokenizer(length), scope, batch, {name: graph.dtype(fed[name]) for name in fed})
        return grafted(export_meta_graph(front), graph.meta, {fed[name]: offered[name] for name in fed}), offered

    def _tokenizer(self, fixed_length: int | None) -> Tokenizer:
        vocabulary, specials = self._specials()
        length = fixed_length if self.max_length is None else self.max_length
        if problems := self._length_problems(length, "ids" if self.max_length is None else "max_length"):
            raise ConfigError(*problems)
        return Tokenizer(
            vocabulary=vocabulary.path,
            separator=self.separator,
            lowercase=self.lowercase,
            max_length=length if fixed_length is None else min(length, fixed_length),
            fixed_length=fixed_length,
            **specials,
        )

    def _specials(self) -> tuple[Vocabulary, dict[str, int]]:
        vocabulary = Vocabulary.read(self.vocabulary)
        return vocabulary, vocabulary.ids(unknown=self.unknown, padding=self.padding, start=self.start, end=self.end)

    def _length_problems(self, length: int | None, where: str) -> list[Problem]:
        least = 1 + (self.start is not None) + (self.end is not None)
        if length is None or length >= least:
            return []
        return [Problem(where, f"is a length of {length}, which leaves no room for a word", f"{least} or more are needed")]

    def _fed(self, offered: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what the model reads of ids, mask and lengths → its tensor."""
        named = {name: getattr(self, name) for name in _FEEDS}
        return {name: (offered or {}).get(tensor, tensor) for name, tensor in named.items() if tensor is not None}

    def _wanted(self, wanted: Sequence[str]) -> list[str]:
        """Return what the model has to provide: what bindings name and this source does not make, and its inputs."""
        return list(dict.fromkeys([*(name for name in wanted if name not in OFFERED), *self._fed().values()]))


@contextmanager
def _problems_of(source: ModelSource, where: str) -> Iterator[None]:
    """Put `where` before the places of problems that the held source reports of itself."""
    try:
        yield
    except ExportKitError as error:
        raise type(error)(*(under_reporter(problem, source, where) or problem for problem in error.problems)) from error


def _unknown_tensors(fed: Mapping[str, str], graph: Graph) -> list[Problem]:
    found = {name: graph.find(tensor) for name, tensor in fed.items()}
    return [problem.under(name) for name, problem in found.items() if isinstance(problem, Problem)]


@hookimpl
def exportkit_model_sources():
    return [TextSource]


@hookimpl
def exportkit_conf_packages():
    return ["exportkit_nlp.conf"]
