"""The imports of the server process from which a sweep's jobs are forked: all of exportkit's modules, no user's code.

So no job has to import them again. Where the server is a fork of the sweep's own process, most of them are there already, and
the plugins are loaded. TensorFlow's Python is what `preload_tensorflow` adds, for jobs whose source runs it; its C library is
loaded by workers (`exportkit.core.preload`), and no job needs it. Nothing may run here: no operation, no session, no list of
devices.
"""

import gc
from importlib import import_module

import exportkit.cli.direct.preload  # what every export needs
import exportkit.cli.sweep.preload_other  # noqa: F401 - what runs a job
from exportkit.capabilities.oplist import is_listed

OURS = (
    "exportkit.cli.export_job",
    "exportkit.cli.sweep.preflight",
    "exportkit.processes.parent",
    "exportkit.metagraph.suggest",
    "exportkit.serving.warmup",
)

for name in OURS:
    import_module(name)
is_listed("NoOp")  # the list is read once
gc.freeze()  # a job's garbage collector must not touch these objects: that would copy their memory pages
