"""The imports of the server process from which an export that needs nothing of Hydra is forked: all modules that it uses."""

import gc
from importlib import import_module
from importlib.metadata import entry_points

from exportkit.registry import GROUP
from exportkit.version import identity

OURS = (
    "exportkit.capture",
    "exportkit.cli.direct.stand_in",
    "exportkit.cli.single",
    "exportkit.core.host",
    "exportkit.exporting.pipeline",
    "exportkit.metagraph.audit",
    "exportkit.planning.plan",
    "exportkit.samples.batches",
    "exportkit.serving.hosts",
    "exportkit.serving.tried_samples",
    "exportkit.verifying.parity",
)

for name in OURS:
    import_module(name)
for entry in entry_points(group=GROUP):
    if entry.dist is not None and entry.dist.name == "exportkit":
        entry.load()
identity.versions()
gc.freeze()  # the export's garbage collector must not touch these objects: that would copy their memory pages
