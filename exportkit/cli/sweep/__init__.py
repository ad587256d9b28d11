"""Sweeps: many jobs by one command, composed and checked before the first starts."""
