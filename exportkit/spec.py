"""The contents of a config, as plain dataclasses.

`Config` is the root of the Hydra schema. Its free-form parts (bindings, signatures, meta graphs, samples) are turned into
the classes below by `exportkit.plan`, key by key, so that all their problems are reported together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportkit.operations.bindings import Bindings


@dataclass(kw_only=True)
class Tensor:
    """A tensor of the graph: ``op:0``, or a name that the source offers."""

    tensor: str
    dtype: str | None = None
    shape: list[int | None] | None = None


@dataclass(kw_only=True)
class Placeholder:
    """A fresh placeholder in place of the tensor `placeholder`: the graph is cut there.

    `dtype` is asserted; `shape` defaults to the tensor's own.
    """

    placeholder: str
    dtype: str | None = None
    shape: list[int | None] | None = None


@dataclass(kw_only=True)
class Constant:
    """The value `constant` baked in place of the tensor `replaces`."""

    constant: Any
    replaces: str


@dataclass(kw_only=True)
class Replacement:
    """The tensor `tensor` of the graph in the place of its tensor `replaces`: what takes that takes this instead."""

    tensor: str
    replaces: str


BINDINGS: Mapping[str, type] = {
    "tensor": Tensor,
    "placeholder": Placeholder,
    "constant": Constant,
}
"""Config key → binding, of those that name a tensor; `exportkit.operations` has those that are computed, or feed others."""

METHODS: Mapping[str, str] = {
    "predict": "tensorflow/serving/predict",
    "classify": "tensorflow/serving/classify",
    "regress": "tensorflow/serving/regress",
}


@dataclass(kw_only=True)
class Signature:
    """A SignatureDef: alias → binding for its inputs and outputs; `method` is predict, classify or regress."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    method: str = "predict"


@dataclass(kw_only=True)
class MetaGraph:
    """One meta graph of the SavedModel, found by its set of `tags`.

    `signatures` defaults to all; `constants` gives other values to constant bindings here (null leaves one unbaked);
    `device` pins every op; `source` overrides fields of the source for a build of its own; `train_op` is kept and recorded.
    """

    tags: list[str]
    signatures: list[str] | None = None
    constants: dict[str, Any] = field(default_factory=dict)
    device: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    train_op: str | None = None


@dataclass(kw_only=True)
class NameRule:
    """Variables whose whole name matches the regular expression `variable` take the checkpoint key `key` (``\\1`` works)."""

    variable: str
    key: str


@dataclass(kw_only=True)
class Weights:
    """Where the variables' values come from, beside checkpoint keys of their own names.

    `names` rules are tried in order and the first that matches wins; `moving_average` takes ``v/ExponentialMovingAverage``
    for ``v`` where there is one; variables that match a pattern of `initialize` take their initialiser's value. `prove` reads
    the export back and compares every checksum with the checkpoint's.
    """

    moving_average: bool = False
    names: list[NameRule] = field(default_factory=list)
    initialize: list[str] = field(default_factory=list)
    prove: bool = True


@dataclass(kw_only=True)
class Literal:
    """A sample written in the config."""

    value: Any


@dataclass(kw_only=True)
class File:
    """A sample from a file: ``.npz:array``, ``.npy``, or a TFRecord of tf.Example."""

    path: Path
    array: str | None = None


@dataclass(kw_only=True)
class Random:
    """A sample drawn with `seed` from [low, high); integers for integer dtypes."""

    seed: int = 0
    low: float = 0.0
    high: float = 1.0


@dataclass(kw_only=True)
class Examples:
    """Serialized tf.Example protos, one per row of its features' samples."""

    features: dict[str, "Sample | None"]  # None for one that is broken and was reported already


Sample = Literal | File | Random | Examples


@dataclass(kw_only=True)
class ReportTo:
    """Where the report goes: `path` of a JSON file; null for nowhere but the terminal."""

    path: Path | None = None


@dataclass(kw_only=True)
class Allow:
    """What a model may do beyond computing its answers; everything else that is dangerous is refused."""

    ops: list[str] = field(default_factory=list)
    """Capabilities that exported graphs may have: host_files, network, python, host_code, aborts, unknown."""

    assets: list[str] = field(default_factory=list)
    """Directories outside the working directory from which a graph may take its assets."""


@dataclass(kw_only=True)
class Config:
    """The root of a config.

    Attributes:
        name: the model's name: the last part of the default `export_dir`, and what the model server calls it.
        source: where the model comes from; one of the `source` group.
        bindings: names for tensors, and for what is computed from them.
        signatures: SignatureDefs by their keys.
        samples: signature → alias → values to try it with.
        weights: where the variables' values come from.
        allow: what the model may do beyond computing its answers.
        meta_graphs: the meta graphs of the SavedModel.
        post: the steps after the export; of the `post` group.
        vars: free keys, for interpolations.
        ensure_shape: check the shape of each fed input in the graph, so that a wrong one is an error and not a crash.
        clear_devices: take the devices of the training machine out of the graph.
        strip_default_attrs: leave out attributes at their defaults, so that older servers can read the graph.
        export_dir: the directory that holds the versions, the server's ``--model_base_path``.
        version: ``auto`` (one more than the highest there), ``timestamp`` (seconds), or an integer.
        report: where the report goes.
    """

    name: Any = None
    source: Any = None
    bindings: dict[str, Any] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)
    allow: Allow = field(default_factory=Allow)
    meta_graphs: dict[str, Any] = field(default_factory=lambda: {"serving": {"tags": ["serve"]}})
    post: dict[str, Any] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)
    ensure_shape: bool = True
    clear_devices: bool = True
    strip_default_attrs: bool = True
    export_dir: str = "exports/${name}"
    version: Any = "auto"
    report: ReportTo = field(default_factory=ReportTo)


@dataclass(frozen=True)
class Check:
    """A line of the plan: what happens at `stage`, and whether it was `checked`, or can be only when the graph is built."""

    stage: str
    what: str
    checked: bool


@dataclass(frozen=True)
class Asset:
    """A file that an export takes in, beside its variables.

    Attributes:
        path: absolute, as it is named.
        named_by: the key of the config, or the node of the graph, that names it.
        resolved: the same with its symbolic links followed.
        identity: device, inode, bytes and time of the last change.
    """

    path: Path
    named_by: str
    resolved: Path
    identity: tuple[int, int, int, int]


@dataclass(kw_only=True)
class ExportPlan:
    """A config that was read, checked as far as that goes without TensorFlow, and made absolute.

    `source` is a `exportkit.contract.ModelSource`, `post` holds `exportkit.contract.PostStep`s by their keys in the order in
    which they run, `sources` the sources of meta graphs with a build of their own, `config` the resolved config as plain data.

    `resolved` holds for each meta graph its resolved source (`exportkit.planning.resolving.Resolved`). `prepared` is what could
    be prepared unbuilt (`exportkit.planning.prepare.Prepared`); pickle leaves it out, and it is made again where it is missing.

    `assets` are the files that the graphs known so far take in; `directories` those of the config's files.
    """

    name: str
    source: Any
    bindings: "Bindings"
    signatures: dict[str, Signature]
    meta_graphs: dict[str, MetaGraph]
    export_dir: Path
    version: str | int
    sources: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, dict[str, Sample]] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)
    allow: Allow = field(default_factory=Allow)
    post: dict[str, Any] = field(default_factory=dict)
    ensure_shape: bool = True
    clear_devices: bool = True
    strip_default_attrs: bool = True
    report: Path | None = None
    assets: list[Asset] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    prepared: Any = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "prepared": None}

    @property
    def uses_tensorflow(self) -> bool:
        """Whether a source's build runs TensorFlow's Python."""
        return any(one.source.uses_tensorflow for one in self.resolved_sources())

    def resolved_sources(self) -> list[Any]:
        """Return each resolved source once, in the order of the meta graphs that use it."""
        return list({one.where: one for one in self.resolved.values()}.values())
