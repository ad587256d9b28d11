"""Devices of an imported graph's nodes, as TensorFlow's own import sets them (python/framework/importer.py, _ProcessNewOps)."""

import re
from collections.abc import Callable, Sequence

from exportkit.exporting.savedmodel.checker import Checker
from exportkit.protos import NodeDef


def placed(nodes: Sequence[NodeDef], device: str | None, core: Checker) -> Sequence[NodeDef]:
    """Pin nodes to a device, where there is one, and return them; a colocated node has the device of what it is placed with.

    Only ops with a kernel for the device are pinned: a server without soft placement would refuse the others there.
    """
    if not device and not any(node.device for node in nodes):
        return nodes
    pin = _pinning(nodes, device, core) if device else (lambda node: node.device)
    colocated = {node.name: _colocated_with(node) for node in nodes if "_class" in node.attr}
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        node.device = "" if colocated.get(node.name) else pin(node)
    for name, others in colocated.items():
        by_name[name].device = next((by_name[o].device for o in others if o in by_name and by_name[o].device), "")
    return nodes


def _pinning(nodes: Sequence[NodeDef], device: str, core: Checker) -> Callable[[NodeDef], str]:
    kinds, kind = core.devices({node.op for node in nodes}), _kind(device)
    return lambda node: device if kind in kinds[node.op] else ""


def _kind(device: str) -> str:
    """Return ``GPU`` of ``/job:worker/device:GPU:0`` or ``/gpu:0`` (DeviceSpec.from_string)."""
    kinds = [part.removeprefix("device:").split(":")[0] for part in device.strip("/").split("/")]
    return next((kind.upper() for kind in kinds if not re.fullmatch("job|replica|task", kind)), "")


def _colocated_with(node: NodeDef) -> list[str]:
    return [value.decode().removeprefix("loc:@") for value in node.attr["_class"].list.s if value.startswith(b"loc:@")]
