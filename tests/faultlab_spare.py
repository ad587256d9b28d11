"""Imported by the process that `faultlab` forks from: workers of undisturbed exports are forked from a copy of it."""

from exportkit import processes

processes.reserve("exportkit.core.preload")
