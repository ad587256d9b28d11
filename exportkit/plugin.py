"""The door: everything that a plugin may use.

A plugin imports from here, and in its tests from `exportkit.testing`; what lies elsewhere may change with any release. A name
is imported when it is first used, so that plugins load quickly. None of them imports TensorFlow before it is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportkit.capture import capture, export_meta_graph
    from exportkit.capture_function import capture_function
    from exportkit.config.ranges import Seconds
    from exportkit.contract import (
        BoundTensor,
        Command,
        Export,
        ModelSource,
        Phase,
        PostStep,
        Preview,
        ReferenceAnswer,
        SourceModel,
        hookimpl,
        signatures_of,
        under_reporter,
    )
    from exportkit.metagraph.tensors import Facts
    from exportkit.planning.prepare import Prepared

_MODULES = {
    "capture": ("capture", "export_meta_graph"),
    "capture_function": ("capture_function",),
    "config.ranges": ("Seconds",),
    "contract": (
        "BoundTensor",
        "Command",
        "Export",
        "ModelSource",
        "Phase",
        "PostStep",
        "Preview",
        "ReferenceAnswer",
        "SourceModel",
        "hookimpl",
        "signatures_of",
        "under_reporter",
    ),
    "metagraph.tensors": ("Facts",),
    "planning.prepare": ("Prepared",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BoundTensor",
    "Command",
    "Export",
    "Facts",
    "ModelSource",
    "Phase",
    "PostStep",
    "Prepared",
    "Preview",
    "ReferenceAnswer",
    "Seconds",
    "SourceModel",
    "capture",
    "capture_function",
    "export_meta_graph",
    "hookimpl",
    "signatures_of",
    "under_reporter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"exportkit.{_HOMES[name]}"), name)
