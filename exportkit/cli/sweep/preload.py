"""What the server imports from which a sweep's jobs are forked, so that no job has to: all that is exportkit's, no user's code.

Nothing may run here: no operation, no session, no list of devices (`preload_tensorflow` says why).
"""

import gc
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points

from exportkit.errors import EnvironmentFailed
from exportkit.processes.tensorflow import preload_tensorflow
from exportkit.registry import GROUP

OURS = (
    "exportkit.cli.export",
    "exportkit.cli.sweep.process_launcher",
    "exportkit.planning.plan",
    "exportkit.exporting.pipeline",
)
HYDRAS = ("hydra.experimental.callback", "hydra._internal.core_plugins.basic_launcher", "hydra._internal.logging_config")

with suppress(EnvironmentFailed):  # each job tries again, and says so
    preload_tensorflow()
    import_module("exportkit.exporting.savedmodel")
for name in (*OURS, *HYDRAS):
    import_module(name)
for entry in entry_points(group=GROUP):
    if entry.dist.name == "exportkit":
        entry.load()
gc.freeze()  # what is here stays: no job looks through it for garbage, which would copy it
