"""Imported by the process that `faultlab` forks from, for what is the same in all exports; a copy of it forks their workers."""

import gc

import exportkit.core.preload
import exportkit.exporting.pipeline
import exportkit.exporting.savedmodel
import exportkit.metagraph.audit
import exportkit.metagraph.dropout
import exportkit.metagraph.feeds
import exportkit.metagraph.forward  # noqa: F401
from exportkit import processes
from exportkit.version.identity import packages

packages()
gc.freeze()  # an export's garbage collector must not touch these objects: that would copy their memory pages
processes.reserve()
