"""Hydra's state, passed to a process that composes nothing itself."""

import copy

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from exportkit.cli.hydra_app import unmute_tensorflow
from exportkit.cli.process import refuse_breakpoints


def pack() -> DictConfig:
    """Return the running job's Hydra config in a form that can be pickled.

    Hydra imports a plugin twice, so the class of the launcher's schema is not the one that pickle would find.
    """
    config = copy.deepcopy(HydraConfig.instance().cfg)
    if not isinstance(config, DictConfig):  # Hydra annotates it with its schema
        raise ValueError("HydraConfig was not set")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.launcher = OmegaConf.to_container(config.hydra.launcher)
    return config


def unpack(config: DictConfig) -> None:
    """Set Hydra's resolvers, config and logging in this process to those of the job that `pack` was called in."""
    setup_globals()
    HydraConfig.instance().set_config(config)
    take_over()


def take_over() -> None:
    """Set Hydra's logging in this process, whose streams are its own, and refuse breakpoints."""
    config = HydraConfig.instance().cfg
    if not isinstance(config, DictConfig):  # Hydra annotates it with its schema
        raise ValueError("HydraConfig was not set")
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    unmute_tensorflow()
    refuse_breakpoints()
