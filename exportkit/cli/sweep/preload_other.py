"""The imports of the server process from which jobs of another Hydra application than exportkit are forked: what runs a job."""

import gc
from importlib import import_module

HYDRAS = ("hydra.experimental.callback", "hydra._internal.core_plugins.basic_launcher", "hydra._internal.logging_config")
PYTHONS = ("multiprocessing.popen_fork", "multiprocessing.popen_forkserver")

for name in ("exportkit.cli.sweep.job_process", *HYDRAS, *PYTHONS):
    import_module(name)
gc.freeze()  # a job's garbage collector must not touch these objects: that would copy their memory pages
