"""Composition without Hydra, whose import and composition take longer than the rest of a plan.

Most configs need little of Hydra: a model's file, choices of groups, a few values. They are composed here to the same plain
data, or to the same refusal of a name that is not there. Whatever is not certain to come out the same (another kind of
override, a resolver, a value that OmegaConf would convert) is left to Hydra. A sweep is Hydra's, but most of its jobs are
composed here.
"""


class NeedsHydra(Exception):
    """The config has something that only Hydra composes."""
