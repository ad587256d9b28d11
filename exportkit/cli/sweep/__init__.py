"""Sweeps: many jobs by one command, composed and checked before the first starts.

The way of a sweep is `sweeping`. Before the first job: `composing` with its `templates`, and `preflight`. Who runs the jobs:
`jobs`, each in a process of its own, with `preload`; other engines by `foreign` here and `elsewhere` there. In a job it is
`attempts`. What is left: `records` of jobs, the `ledger` of all. What is seen: `view` and `closing`.
"""
