"""Hydra, set up for exportkit.

Overrides, ``-m``, launchers, ``--cfg``, ``--info``, ``--config-dir`` and tab completion are all Hydra's own. Added here: flags
may follow overrides; a command before them does not disturb completion; Hydra's errors are raised as problems of one line; the
user's own code and ``conf/`` in the working directory are found, by workers too.

A user's directory of configs (``./conf``, or the one that ``--config-dir`` names instead) comes first on the search path, so
that it may replace packaged files one by one. Its own ``config.yaml`` replaces exportkit's root too, and must then list
``exportkit_schema`` in its defaults: a ``conf/config.yaml`` of another Hydra application is refused.
"""

import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import hydra
import hydra_plugins.exportkit as launcher
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins as HydraPlugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from exportkit import registry
from exportkit.cli import arguments as cli_arguments
from exportkit.cli import config_source, process, running, wants_tracebacks
from exportkit.cli.choices import CONF, SCHEMA, plugins, user_conf
from exportkit.cli.explain import explain
from exportkit.cli.failures import JobFailed, failure, unexpected
from exportkit.cli.schema import schema_of
from exportkit.errors import ConfigError, EnvironmentFailed, ExportKitError, PluginError, Problem
from exportkit.spec import Config

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


class ConfDirectories(SearchPathPlugin):
    """Puts the user's configs before exportkit's on Hydra's search path, and those of plugins behind."""

    user: Path | None = None
    packages: Sequence[str] = ()

    def manipulate_search_path(self, search_path: Any) -> None:
        if self.user is not None:
            search_path.prepend("user", f"file://{self.user}")
        for package in self.packages:
            search_path.append("exportkit-plugin", f"pkg://{package}")


def run(arguments: Sequence[str], job: Callable[[DictConfig], Any], more: Sequence[str] = ()) -> None:
    """Compose a config from `arguments` and call `job` with it; under ``-m`` once for each combination.

    Args:
        arguments: flags and overrides, in any order.
        job: an importable function, so that a launcher can hand it to a worker; decorated with `reporting`.
        more: overrides that come last.

    Raises:
        ConfigError: Hydra refused the arguments or a config file.
        JobFailed: `job` raised it; of a sweep, the first one.
    """
    flags, overrides = cli_arguments.arrange(arguments)
    with _as_hydra_expects(flags, [*overrides, *more]):
        hydra.main(config_path=f"pkg://{CONF}", config_name="config", **_version_base(hydra.main))(job)()


def run_alone(arguments: Sequence[str], job: Callable[[DictConfig], Any]) -> None:
    """Do as `run` for a job that needs neither Hydra's logging nor its directories: twice as fast, where there are no flags."""
    flags, overrides = cli_arguments.arrange(arguments)
    if flags:
        return run(arguments, job)
    with _as_hydra_expects(flags, overrides):
        HydraConfig.instance().set_config(config := _composed(overrides))
        job(task_config(config))


def task_config(config: DictConfig) -> DictConfig:
    """Return what a job is called with: the config without Hydra's own node."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def job_config(overrides: Sequence[str]) -> DictConfig:
    """Return the whole config of one job, Hydra's own node included, as `HydraConfig` has it while Hydra runs that job."""
    _register(plugins(), user_conf(()))
    config = _composed([*overrides, "hydra.mode=RUN"])
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = os.path.abspath(str(config.hydra.run.dir))
    return config


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether `arguments` ask for many jobs: by a flag, or by a config that sets ``hydra.mode``."""
    flags, overrides = cli_arguments.arrange(arguments)
    if cli_arguments.has(flags, "-m", "--multirun"):
        return True
    if not any(word.startswith(("experiment=", "hydra")) for word in overrides):
        return False
    with _as_hydra_expects(flags, overrides):
        return _composed(overrides).hydra.mode == RunMode.MULTIRUN


def sweep_switches(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return `arguments` without the flags that only sweeps have, and those flags as overrides.

    Raises:
        ConfigError: there are such flags, but this is no sweep.
    """
    rest = [word for word in arguments if word not in cli_arguments.SWITCHES]
    switches = [word for word in arguments if word in cli_arguments.SWITCHES]
    if switches and not is_sweep(rest):
        what, do = "is for sweeps, and this is one export", "add -m, or leave it out"
        raise ConfigError(*(Problem(word, what, do) for word in dict.fromkeys(switches)))
    return rest, [cli_arguments.SWITCHES[word] for word in switches]


def _composed(overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_module(CONF, **_version_base(hydra.initialize_config_module)):
        return hydra.compose("config", list(overrides), return_hydra_config=True)


def group_options(group: str, user: Path | None) -> list[str]:
    """Return the options of a config group, from all that is on Hydra's search path."""
    _register(plugins(), user)
    with hydra.initialize_config_module(CONF, **_version_base(hydra.initialize_config_module)):
        return list(GlobalHydra.instance().config_loader().get_group_options(group))


def shell_completion(arguments: Sequence[str]) -> None:
    """Install or remove tab completion, in Hydra's way."""
    run(arguments, _nothing)


def completions(words: Sequence[str]) -> list[str]:
    """Return what Hydra completes the last of `words` to, flags and overrides; nothing where those before it are wrong."""
    *before, last = words
    printed = io.StringIO()
    with suppress(ExportKitError), redirect_stdout(printed):
        flags, overrides = cli_arguments.arrange(before)
        with process.environment({"COMP_LINE": " ".join(["exportkit", *flags, *overrides, last])}):
            run(["-sc", "query=bash"], _nothing)
    return printed.getvalue().split()


def _nothing(config: DictConfig) -> None:
    """Do nothing: the job of a command line on which Hydra only prints something."""


def directories() -> list[Path]:
    """Return the directories of the config's files, in any process that runs a job."""
    if (job := running.job()) is not None:
        return list(job.conf)
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return list(dict.fromkeys(Path(source.path) for source in sources if source.schema == "file"))


def unmute_tensorflow() -> None:
    """Let TensorFlow's loggers log everything under ``hydra.verbose=true``; Hydra's own level does not reach them."""
    if running.job() is None and HydraConfig.get().verbose is True:
        for name in ("tensorflow", "absl"):
            logging.getLogger(name).setLevel(logging.NOTSET)


def reporting(work: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap `work` so that whatever it raises becomes a `JobFailed`, which can be pickled."""

    def job(config: DictConfig) -> Any:
        try:
            return work(config)
        except (JobFailed, BrokenPipeError):
            raise
        except Exception as error:
            raise failure(error) from error

    job.__module__, job.__name__, job.__qualname__ = work.__module__, work.__name__, work.__qualname__
    return job


def _register(found: registry.Plugins, user: Path | None) -> None:
    """Register with Hydra the schema, the plugins' classes as the options of their groups, and the config packages."""
    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=Config, provider="exportkit")
    for kind, cls in found.sources.items():
        _store(store, found, cls, group="source", name=kind, package="source")
    for kind, step in found.steps.items():
        _store(store, found, step, group="post", name=kind, package=f"post.{kind}")
    yaml.add_multi_representer(Path, lambda dumper, path: dumper.represent_str(str(path)))  # for --cfg
    ConfDirectories.user, ConfDirectories.packages = user, found.conf_packages
    HydraPlugins.instance().register(ConfDirectories)
    config_source.install()
    for cls in (launcher.ProcessLauncher, launcher.FleetSweeper):  # Hydra does not look into editable installs
        HydraPlugins.instance().register(cls)


def _store(store: ConfigStore, found: registry.Plugins, cls: type, **place: str) -> None:
    """Store a plugin's class as an option of a config group; if OmegaConf cannot hold it, that is the plugin's fault."""
    try:
        store.store(node=OmegaConf.structured(schema_of(cls)), provider="exportkit", **place)
    except OmegaConfBaseException as cause:
        provider = found.providers[cls]
        what = f"{cls.__name__} cannot be a config schema: {str(cause).splitlines()[0]}"
        raise PluginError(Problem(str(provider), what, "use types that OmegaConf knows, or Any")) from cause


def _version_base(function: Callable[..., Any]) -> dict[str, str]:
    """Return the argument ``version_base`` for `function`, if it takes one: Hydra 1.4 has one behaviour only."""
    return {"version_base": "1.3"} if "version_base" in inspect.signature(function).parameters else {}


@contextmanager
def _as_hydra_expects(flags: Sequence[str], overrides: Sequence[str]) -> Iterator[None]:
    """Set Hydra's registries and the state of the process as Hydra and the user's code need them; convert Hydra's errors."""
    if problems := cli_arguments.without_effect(overrides):
        raise ConfigError(*problems)
    _register(plugins(), user_conf(flags))
    stderr = sys.stderr if wants_tracebacks() else process.WithoutHydrasLine(sys.stderr)
    with (
        process.environment({"HYDRA_FULL_ERROR": "1"}),
        process.for_user_code([*flags, *overrides], os.getcwd()),
        redirect_stderr(stderr),
        _converted_errors(),
    ):
        yield


@contextmanager
def _converted_errors() -> Iterator[None]:
    """Raise Hydra's errors as exportkit's. Hydra ends the process after it printed something: that is no error."""
    try:
        yield
    except (JobFailed, ExportKitError, BrokenPipeError):
        raise
    except SystemExit as end:
        if end.code:
            raise
    except Exception as error:
        raise refusal(error) from error


def refusal(error: Exception) -> ExportKitError:
    """Return an error that Hydra raised, or that a composed config caused, as one of exportkit's."""
    if isinstance(error, ExportKitError):
        return error
    if isinstance(error, COMPOSITION_ERRORS):
        return ConfigError(explain(error, ConfDirectories.user, plugins().steps))
    if isinstance(error, RecursionError):
        return ConfigError(
            Problem("defaults", "a file of the config includes itself, or nests too deep", "see its defaults list")
        )
    if isinstance(error, OSError):
        return EnvironmentFailed(Problem(str(error.filename or "files"), error.strerror or str(error)))
    return PluginError(unexpected(error))
