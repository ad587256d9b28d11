"""What a graph can do beyond computing its outputs, by an allow-list of TensorFlow's ops.

An op is pure or has capabilities (`CAPABILITIES`); one that the list does not have is ``unknown``. The list says what an op can
do; it never says that a graph is safe. Nothing is run, and TensorFlow is not imported.
"""

from exportkit.capabilities.audit import Audit, Use, audit, audit_loaded, joined
from exportkit.capabilities.gate import NotAllowed, allowance, demand, nodes, problems
from exportkit.capabilities.idle import drop_idle_dangers
from exportkit.capabilities.oplist import ALLOWANCES, CAPABILITIES, of_op, refused

__all__ = [
    "ALLOWANCES",
    "CAPABILITIES",
    "Audit",
    "NotAllowed",
    "Use",
    "allowance",
    "audit",
    "audit_loaded",
    "demand",
    "drop_idle_dangers",
    "joined",
    "nodes",
    "of_op",
    "problems",
    "refused",
]
