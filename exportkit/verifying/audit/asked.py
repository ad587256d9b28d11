"""A published version asked once: with inputs that a user writes, or with its recorded samples, whose answers are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exportkit import modelserver
from exportkit.errors import ConfigError, Problem, StepFailed, did_you_mean, some
from exportkit.metagraph import Graph, read_saved_model
from exportkit.metagraph.tensors import Facts
from exportkit.protos import ConfigProto, dtype_name
from exportkit.samples import parsers, written
from exportkit.samples.arrays import Misfit
from exportkit.samples.written import Wanted
from exportkit.serving import rest_body
from exportkit.serving.prediction_log import DEFAULT_SIGNATURE
from exportkit.serving.running import Refusal, Running
from exportkit.spec import METHODS
from exportkit.verifying.audit import recorded, runs
from exportkit.verifying.audit.graphs import shape_of, signatures
from exportkit.version.manifest import FILE, read_manifest

_METHODS = {name: method for method, name in METHODS.items()}
_FLAG = "--input"


@dataclass(frozen=True)
class Asked:
    """An answer.

    Attributes:
        directory: the version that answered.
        signature: its signature.
        others: the signatures that were not asked.
        method: ``predict``, ``classify`` or ``regress``.
        outputs: alias → value.
        by_rows: whether REST is asked and answers by rows, ``instances`` and ``predictions``.
        samples: whether the inputs were the recorded samples.
        difference: how the outputs differ from the recorded ones; empty where they are equal, None where none were recorded.
    """

    directory: Path
    signature: str
    others: Sequence[str]
    method: str
    outputs: Mapping[str, np.ndarray]
    by_rows: bool
    samples: bool = False
    difference: str | None = None


def ask(directory: Path, signature: str | None, texts: Sequence[str], allowed: Collection[str] = ()) -> Asked:
    """Run a signature of a version once and return its answer.

    Args:
        directory: the version.
        signature: its key; default: ``serving_default``, or the only one.
        texts: inputs, each ``ALIAS=VALUE`` (`exportkit.samples.written`), or one file with a REST request; none: the samples.
        allowed: what it may do beyond computing its answers, as in `allow.ops` of a config.

    Raises:
        ConfigError: there is no such signature or sample, or the inputs do not fit.
        BindingError: it can do what is not allowed.
        StepFailed: it does not load, or refuses the inputs.
    """
    version = _Version(directory)
    if not texts:
        return version.answer_samples(version.key(signature), allowed)
    if whole := [text for text in texts if "=" not in text]:
        return version.answer_request(signature, texts, whole[0], allowed)
    key = version.key(signature)
    return version.answer(key, version.inputs(key, texts), allowed)


class _Version:
    def __init__(self, directory: Path):
        self._directory, self._where = directory, str(directory)
        metas = {str(number): meta for number, meta in enumerate(read_saved_model(directory).meta_graphs)}
        meta = metas[modelserver.loaded({key: meta.meta_info_def.tags for key, meta in metas.items()})]
        self._graph, self._tags = Graph(meta), list(meta.meta_info_def.tags)
        self._signatures = signatures(self._graph)

    def key(self, named: str | None) -> str:
        """Return the signature that is meant."""
        known = list(self._signatures)
        if named is not None and named not in known:
            do = did_you_mean(named, known) or f"known: {some(known)}"
            raise ConfigError(Problem("--signature", f"there is no signature '{named}'", do))
        if named is None and DEFAULT_SIGNATURE not in known and len(known) != 1:
            what = f"{self._where} has no {DEFAULT_SIGNATURE}"
            do = f"name one: {some(known)}" if known else "it has no signature at all"
            raise ConfigError(Problem("--signature", what, do))
        return named or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in known else known[0])

    def _wanted(self, key: str) -> dict[str, Wanted]:
        """Return alias → what the input takes."""
        found = {}
        for alias, info in sorted(self._signatures[key].inputs.items()):
            facts = Facts(dtype_name(info.dtype), shape_of(info))
            found[alias] = Wanted(facts, self._features if facts.dtype == "string" else None)
        return found

    @cached_property
    def _features(self) -> Mapping[str, Facts] | None:
        return parsers.parsed(self._graph)

    def inputs(self, key: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return alias → value of inputs written as ``ALIAS=VALUE``, with all problems at once."""
        wanted = self._wanted(key)
        given = [(self._alias(alias, wanted), text) for alias, _, text in (text.partition("=") for text in texts)]
        problems = list(rest_body.misnamed(dict(given), wanted, _FLAG))
        problems += [Problem(f"{_FLAG} {alias}", "is given twice", "give it once") for alias in _repeated(given)]
        found = {}
        for alias, text in given:
            try:
                if alias in wanted:
                    found[alias] = written.value(text, wanted[alias])
            except Misfit as cause:
                problems.append(Problem(f"{_FLAG} {alias}", cause.what, cause.do))
        if problems:
            raise ConfigError(*problems)
        return found

    def _alias(self, alias: str, wanted: Mapping[str, Wanted]) -> str:
        """Return the only input that parses tf.Examples for ``examples``, which is what REST calls it."""
        parsing = [name for name, one in wanted.items() if one.features is not None]
        return parsing[0] if alias == "examples" and alias not in wanted and len(parsing) == 1 else alias

    def answer_request(self, signature: str | None, texts: Sequence[str], file: str, allowed: Collection[str]) -> Asked:
        """Answer the REST request in a file."""
        if len(texts) > 1:
            what = f"{file} is a whole request, or an input without its alias"
            raise ConfigError(Problem(_FLAG, what, f"write ALIAS={file}, or give nothing else"))
        try:
            if not file.endswith(".json"):
                raise Misfit(f"{file!r} is neither ALIAS=VALUE nor the .json file of a request")
            body = written.json_file(Path(file))
        except Misfit as cause:
            raise ConfigError(Problem(_FLAG, cause.what, cause.do)) from None
        named = body.get("signature_name") if isinstance(body, dict) else None
        if named is not None and signature not in (None, named):
            raise ConfigError(Problem("--signature", f"is {signature}, and {file} asks {named}", "leave one of them out"))
        key = self.key(named if named is None else str(named)) if signature is None else self.key(signature)
        problems: list[Problem] = []
        inputs = rest_body.read(body, self._wanted(key), problems, file)
        if problems:
            raise ConfigError(*problems)
        return self.answer(key, inputs, allowed, "inputs" not in body)

    def answer_samples(self, key: str, allowed: Collection[str]) -> Asked:
        """Answer the recorded sample of a signature, and compare."""
        manifest = read_manifest(self._directory) or {}
        record = manifest.get("samples", {}).get(key)
        with _readable(key):
            inputs = recorded.inputs(self._directory, record) if self._signatures[key].inputs else {}
        if inputs is None:
            flags = " ".join(f"{_FLAG} {alias}=…" for alias in self._wanted(key))
            facts = ", ".join(_described(alias, one) for alias, one in self._wanted(key).items())
            what = f"has no recorded sample of {key}" if manifest else "has no manifest, so no recorded samples"
            raise ConfigError(Problem(self._where, what, f"give its inputs: {flags} ({facts})"))
        answer, difference = self.answer(key, inputs, allowed), None
        if record is not None and record["outputs"] is not None:
            with _readable(key):
                difference = _differences(record["outputs"], answer.outputs, manifest.get("tolerances", {}))
        return replace(answer, samples=record is not None, difference=difference)

    def answer(
        self, key: str, inputs: Mapping[str, np.ndarray], allowed: Collection[str], by_rows: bool | None = None
    ) -> Asked:
        """Run signature `key`; REST answers by rows where `by_rows` does not say otherwise and all values have rows."""
        config = ConfigProto(allow_soft_placement=True)
        with Running(self._directory, self._tags, timeout=runs.TIMEOUT, config=config, allowed=allowed) as model:
            outputs = model.ask(key, inputs)
        if isinstance(outputs, Refusal):
            raise StepFailed(Problem(f"{self._where} {key}", outputs.text))
        method = _METHODS.get(self._signatures[key].method_name, "predict")
        if by_rows is None:
            by_rows = rest_body.have_rows([*inputs.values(), *outputs.values()])
        others = [other for other in self._signatures if other != key]
        return Asked(self._directory, key, others, method, outputs, by_rows)


@contextmanager
def _readable(key: str) -> Iterator[None]:
    """Raise StepFailed where a sample in the manifest, which anyone can have made, is not of the values that it declares."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, AttributeError):
        do = "take the version from where it was published, or export it again"
        raise StepFailed(Problem(FILE.as_posix(), f"has a sample of {key} whose values cannot be read", do)) from None


def _described(alias: str, wanted: Wanted) -> str:
    features = some([f"{name} {facts}" for name, facts in (wanted.features or {}).items()])
    return f"{alias} is {wanted.facts}{f', tf.Examples of {features}' if features else ''}"


def _repeated(given: Sequence[tuple[str, Any]]) -> Iterator[str]:
    names = [name for name, _ in given]
    return (name for name in dict.fromkeys(names) if names.count(name) > 1)


def _differences(known: Mapping[str, Any], outputs: Mapping[str, np.ndarray], tolerances: Mapping[str, float]) -> str:
    exactly = {"atol": 0.0, "rtol": 0.0}
    found = {alias: runs.difference(one, outputs.get(alias), {**exactly, **tolerances}) for alias, one in known.items()}
    return "; ".join(f"{alias} {text}" for alias, text in found.items() if text)
