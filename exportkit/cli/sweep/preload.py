"""The imports of the server process from which jobs are forked: TensorFlow's C library, exportkit's modules, no user's code.

So no job has to load them again. Nothing may run here: no operation, no session.
"""

import gc
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points

from exportkit.core.capi import library
from exportkit.errors import EnvironmentFailed
from exportkit.registry import GROUP

OURS = (
    "exportkit.cli.export",
    "exportkit.cli.sweep.process_launcher",
    "exportkit.core.worker",
    "exportkit.exporting.pipeline",
    "exportkit.planning.plan",
    "exportkit.verifying.parity",
)
HYDRAS = ("hydra.experimental.callback", "hydra._internal.core_plugins.basic_launcher", "hydra._internal.logging_config")

with suppress(EnvironmentFailed):  # each job tries again, and reports it
    library()
for name in (*OURS, *HYDRAS):
    import_module(name)
for entry in entry_points(group=GROUP):
    if entry.dist is not None and entry.dist.name == "exportkit":
        entry.load()
gc.freeze()  # a job's garbage collector must not touch these objects: that would copy their memory pages
