"""The door: everything that a plugin may use.

A plugin imports from here, and in its tests from `exportkit.testing`; what lies elsewhere may change with any release. A name
is imported when it is first used, so that plugins load quickly. None of them imports TensorFlow before it is called.

What to subclass and return:
    `ModelSource`, `SourceModel`, `Preview` with `Facts` of its tensors and each `Signature` that is kept, `ReferenceAnswer`,
    `Original`; `PostStep`, `Phase`, `Export`, `BoundTensor`; `Operation`, `Feeder`; `Command`. `hookimpl` marks the hooks that
    `exportkit.hookspecs` lists.

Fields and other settings:
    `Seconds` is the type of a time limit, `ModelSource` that of a source which another source holds; `read_fields` reads a
    dataclass from elsewhere than the plugin's own keys.

Problems:
    `Problem` with `ConfigError`, `BindingError`, `WeightsError`, `StepFailed` or `EnvironmentFailed`, all of them
    `ExportKitError`; `did_you_mean`, `some`, `brief` and `shortened` word them; `under_reporter` puts the place of a source
    that another source holds before its problems.

Making a model:
    `capture` and `export_meta_graph` from a live graph, `capture_function` from a function of TensorFlow 2;
    `open_checkpoint` and `Bundle` from a checkpoint.

Reading graphs:
    `MetaGraphDef`, `Graph`, `serving_subgraph`, `Pruned`, `split`, `read_saved_model`; `Prepared`: the graphs and weights that
    a version is made from.

Trying a version:
    `samples_of`, `Batch`, `rest_request`; `run_signatures`, `run_tensors`, `Request`, `Served`; `compare`, `Tolerance`,
    `Difference`; `default_meta_graph` is what a server loads.

The plan and the report:
    `ExportPlan`, `Lookup`, `ExportReport`, `SignatureReport`, `TensorReport`.

Processes:
    `call_apart` calls a function in a process of its own; `import_tensorflow` imports TensorFlow without its noise.
"""

from typing import TYPE_CHECKING

from exportkit.lazy import lazy

if TYPE_CHECKING:
    from exportkit.capture import capture, capture_function, export_meta_graph
    from exportkit.checkpoint import Bundle, open_checkpoint
    from exportkit.config.ranges import Seconds
    from exportkit.config.reader import read_fields
    from exportkit.contract import (
        BoundTensor,
        Command,
        Export,
        ModelSource,
        Original,
        Phase,
        PostStep,
        Preview,
        ReferenceAnswer,
        SourceModel,
        hookimpl,
        signatures_of,
        under_reporter,
    )
    from exportkit.errors import (
        BindingError,
        ConfigError,
        EnvironmentFailed,
        ExportKitError,
        Problem,
        StepFailed,
        WeightsError,
        brief,
        did_you_mean,
        shortened,
        some,
    )
    from exportkit.metagraph import Graph, Pruned, read_saved_model, serving_subgraph, split
    from exportkit.metagraph.tensors import Facts
    from exportkit.modelserver import default_meta_graph
    from exportkit.operations.base import Feeder, Operation
    from exportkit.operations.lookup import Lookup
    from exportkit.planning.prepare import Prepared
    from exportkit.processes import call_apart
    from exportkit.processes.tensorflow import import_tensorflow
    from exportkit.protos import MetaGraphDef
    from exportkit.report import ExportReport, SignatureReport, TensorReport
    from exportkit.samples import Batch
    from exportkit.serving.loading import Request
    from exportkit.serving.native import Served, run_signatures
    from exportkit.serving.native import run as run_tensors
    from exportkit.serving.rest_request import zero_request as rest_request
    from exportkit.serving.tried_samples import tried as samples_of
    from exportkit.spec import ExportPlan, Signature
    from exportkit.verifying.parity import Difference, Tolerance, compare

_NAMES = {
    "capture": "capture capture_function export_meta_graph",
    "checkpoint": "Bundle open_checkpoint",
    "config.ranges": "Seconds",
    "config.reader": "read_fields",
    "contract": "BoundTensor Command Export ModelSource Original Phase PostStep Preview ReferenceAnswer SourceModel "
    "hookimpl signatures_of under_reporter",
    "errors": "BindingError ConfigError EnvironmentFailed ExportKitError Problem StepFailed WeightsError "
    "brief did_you_mean shortened some",
    "metagraph": "Graph Pruned read_saved_model serving_subgraph split",
    "metagraph.tensors": "Facts",
    "modelserver": "default_meta_graph",
    "planning.prepare": "Prepared",
    "processes": "call_apart",
    "processes.tensorflow": "import_tensorflow",
    "protos": "MetaGraphDef",
    "report": "ExportReport SignatureReport TensorReport",
    "samples": "Batch",
    "serving.tried_samples": "samples_of=tried",
    "serving.loading": "Request",
    "serving.native": "Served run_signatures run_tensors=run",
    "serving.rest_request": "rest_request=zero_request",
    "operations.base": "Feeder Operation",
    "operations.lookup": "Lookup",
    "spec": "ExportPlan Signature",
    "verifying.parity": "Difference Tolerance compare",
}
"""Module → its names; ``NAME=ITS_NAME_THERE`` where that says too little outside of the module."""

__getattr__ = lazy(__name__, _NAMES, "exportkit")

__all__ = [
    "Batch",
    "BindingError",
    "BoundTensor",
    "Bundle",
    "Command",
    "ConfigError",
    "Difference",
    "EnvironmentFailed",
    "Export",
    "ExportKitError",
    "ExportPlan",
    "ExportReport",
    "Facts",
    "Feeder",
    "Graph",
    "Lookup",
    "MetaGraphDef",
    "ModelSource",
    "Operation",
    "Original",
    "Phase",
    "PostStep",
    "Prepared",
    "Preview",
    "Problem",
    "Pruned",
    "ReferenceAnswer",
    "Request",
    "Seconds",
    "Served",
    "Signature",
    "SignatureReport",
    "SourceModel",
    "StepFailed",
    "TensorReport",
    "Tolerance",
    "WeightsError",
    "brief",
    "call_apart",
    "capture",
    "capture_function",
    "compare",
    "default_meta_graph",
    "did_you_mean",
    "export_meta_graph",
    "hookimpl",
    "import_tensorflow",
    "open_checkpoint",
    "read_fields",
    "read_saved_model",
    "rest_request",
    "run_signatures",
    "run_tensors",
    "samples_of",
    "serving_subgraph",
    "shortened",
    "signatures_of",
    "some",
    "split",
    "under_reporter",
]
