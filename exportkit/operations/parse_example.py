"""The feeder `parse_example`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exportkit.config.values import unfit
from exportkit.errors import Problem, did_you_mean
from exportkit.metagraph.tensors import Facts, compatible
from exportkit.operations.base import Feeder
from exportkit.operations.cast import CASTS

if TYPE_CHECKING:
    from exportkit.metagraph.building import GraphBuilder

_DTYPES = ("float32", "int64", "string")  # what a tf.Example holds (tensorflow/core/example/feature.proto)
_LARGEST = (2 - 2**-23) * 2.0**127  # of float32


@dataclass(kw_only=True)
class Feature:
    """One feature of a tf.Example: its key is the feature's name, `to` the binding that it feeds (default: that name).

    Without a `default` the feature is required in every example.
    """

    dtype: str
    shape: list[int] = field(default_factory=list)
    to: str | None = None
    default: Any = None

    def unsound(self) -> Iterator[Problem]:
        """Return what is wrong with its keys."""
        from exportkit.protos import DTYPE_NAMES

        for i, size in enumerate(self.shape):
            if size < 0:
                yield Problem(f"shape[{i}]", f"is {size}", "write sizes, without that of the batch")
        if self.dtype not in _DTYPES:
            within = " in a tf.Example" if self.dtype in DTYPE_NAMES else ""
            yield Problem("dtype", f"there is no dtype '{self.dtype}'{within}", did_you_mean(self.dtype, _DTYPES))
        elif self.default is not None:
            yield from self._unsound_default()

    def _unsound_default(self) -> Iterable[Problem]:
        """Return what is wrong with a default of another type, ragged, not of the shape, or out of the dtype's range."""
        import numpy as np  # a command that reads no config starts without it

        if wrong := unfit("default", self.default, self.dtype):
            return wrong
        try:
            np.broadcast_to(np.asarray(self.default), self.shape)
        except ValueError:
            do = f"write one value, or lists of the shape {self.shape}"
            return [Problem("default", f"{self.default} does not fill the shape {self.shape}", do)]
        if self.dtype != "float32":
            return ()
        outside = [n for n in np.asarray(self.default, object).flat if _LARGEST < abs(n) < math.inf]
        return [Problem("default", f"{n} is out of the range of float32", "write a smaller number") for n in outside[:1]]


@dataclass(kw_only=True)
class ParseExample(Feeder):
    """Serialized tf.Example protos, string [N]; each feature feeds the binding of its name, or `to` another."""

    kind = "parse_example"
    taken = Facts("string", (None,))
    made = "parsed from the tf.Example"

    parse_example: dict[str, Feature]

    def targets(self) -> Mapping[str, str]:
        return {key: feature.to or key for key, feature in self.parse_example.items()}

    def place(self, value: str) -> str:
        return f"parse_example.{value}.to"

    def unsound(self) -> Iterator[Problem]:
        for name, feature in self.parse_example.items():
            yield from (problem.under(f"parse_example.{name}") for problem in feature.unsound())
        if not self.parse_example:
            yield Problem("parse_example", "is empty", "write {FEATURE: {dtype: …, shape: […]}}")

    def check(self) -> Iterator[Problem]:
        feeders: dict[str, str] = {}
        for feature, target in self.targets().items():
            if feeders.setdefault(target, feature) != feature:
                what = f"'{target}' is fed by feature '{feeders[target]}' already"
                yield Problem(f"parse_example.{feature}.to", what, "feed it once")

    def problems(self, fed: Mapping[str, Facts]) -> Iterator[Problem]:
        for key, target in self.targets().items():
            feature, known = self.parse_example[key], fed.get(target, Facts())
            parsed = Facts(feature.dtype, (None, *feature.shape))
            if known.shape is not None and not compatible(known.shape, parsed.shape or ()):
                what = f"'{target}' is {known}, which the parsed {parsed} does not fit"
                yield Problem(f"parse_example.{key}.shape", what, "fix the feature's shape")
            elif known.dtype not in (None, *CASTS[feature.dtype]):
                what = f"'{target}' is {known}, which a {parsed.dtype} cannot feed"
                fits = [dtype for dtype in CASTS if known.dtype in CASTS[dtype]]
                do = f"write dtype: {' or '.join(fits)}" if fits else "no feature can: name a binding of numbers or strings"
                yield Problem(f"parse_example.{key}.dtype", what, do)

    def add(self, graph: GraphBuilder, name: str, taken: str) -> Mapping[str, str]:
        keys, targets = sorted(self.parse_example), self.targets()
        features = [self.parse_example[key] for key in keys]
        with graph.scope(f"{name}_parsed"):
            defaults = [_default(graph, key, feature) for key, feature in zip(keys, features, strict=True)]
            with graph.scope(f"{name}_parsed"):
                names, sparse, dense, ragged = (
                    graph.constant(value, "string", [len(value)], title)
                    for title, value in (("names", []), ("sparse_keys", []), ("dense_keys", keys), ("ragged_keys", []))
                )
            values = graph.add(
                "ParseExampleV2",
                [taken, names, sparse, dense, ragged, defaults],
                name=f"{name}_parsed",
                num_sparse=0,
                sparse_types=[],
                ragged_value_types=[],
                ragged_split_types=[],
                dense_shapes=[tuple(feature.shape) for feature in features],
            )
        return {targets[key]: value for key, value in zip(keys, values, strict=True)}


def _default(graph: GraphBuilder, key: str, feature: Feature) -> str:
    """Return a feature's default, repeated to its shape; a required feature has an empty one (parsing_ops.cc)."""
    if feature.default is None:
        return graph.constant([], feature.dtype, [0])
    return graph.constant(feature.default, feature.dtype, feature.shape, f"key_{re.sub('[^A-Za-z0-9_.-]', '_', key)}")
