"""Hydra, with what it needs to know of exportkit, and with the repairs that it needs here.

Hydra composes: overrides, ``-m``, launchers, ``--cfg``, ``--info``, ``--config-dir`` and tab completion are all its own. Added
are: flags may follow overrides; a command before them does not disturb completion; errors are raised, to be said in one line;
the user's own code and ``conf/`` in the working directory are found, by workers too.

A user's directory of configs (``./conf``, or the one that ``--config-dir`` names instead) comes first on the search path, so
that it may replace packaged files one by one. Its own ``config.yaml`` replaces exportkit's root too, and must then list
``exportkit_schema`` in its defaults: a ``conf/config.yaml`` of another Hydra application is refused, not half understood.
"""

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import hydra_plugins.exportkit as launcher
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins as HydraPlugins
from hydra.errors import CompactHydraException, HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from exportkit import registry
from exportkit.cli import arguments as cli_arguments
from exportkit.cli import print_problems, process, wants_tracebacks
from exportkit.cli.explain import explain
from exportkit.cli.overview import overview
from exportkit.cli.schema import schema_of
from exportkit.errors import ConfigError, EnvironmentFailed, ExportKitError, PluginError, Problem
from exportkit.spec import Config

SCHEMA = "exportkit_schema"
CONF = "exportkit.conf"
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


class JobFailed(CompactHydraException):
    """What leaves a job that failed: its problems' text and its exit code. Both survive a worker's pipe, causes do not."""

    def __init__(self, text: str, exit_code: int = 1):
        super().__init__(text, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.args[0]


class ConfDirectories(SearchPathPlugin):
    """Puts the user's configs before exportkit's, and those of plugins behind."""

    user: Path | None = None
    packages: Sequence[str] = ()

    def manipulate_search_path(self, search_path: Any) -> None:
        if self.user is not None:
            search_path.prepend("user", f"file://{self.user}")
        for package in self.packages:
            search_path.append("exportkit-plugin", f"pkg://{package}")


def run(arguments: Sequence[str], job: Callable[[DictConfig], Any], more: Sequence[str] = ()) -> None:
    """Compose what `arguments` say and call `job` with it; under ``-m`` once for each combination.

    Args:
        arguments: flags and overrides, in any order.
        job: an importable function, so that a launcher can hand it to a worker; decorated with `reporting`.
        more: overrides that come last.

    Raises:
        ConfigError: Hydra refused something.
        JobFailed: `job` did; of a sweep, the first one.
    """
    flags, overrides = cli_arguments.arrange(arguments)
    with _as_hydra_expects(flags, [*overrides, *more]):
        hydra.main(config_path=f"pkg://{CONF}", config_name="config", **_version_base(hydra.main))(job)()


def run_alone(arguments: Sequence[str], job: Callable[[DictConfig], Any]) -> None:
    """As `run`, for a job that needs neither logging nor directories: twice as fast, where no flag asks for more."""
    flags, overrides = cli_arguments.arrange(arguments)
    if flags:
        return run(arguments, job)
    with _as_hydra_expects(flags, overrides):
        HydraConfig.instance().set_config(config := _composed(overrides))
        job(task_config(config))


def task_config(config: DictConfig) -> DictConfig:
    """What a job is called with: the config without Hydra's own node."""
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether `arguments` ask for many jobs: by a flag, or by a config that sets ``hydra.mode``."""
    flags, overrides = cli_arguments.arrange(arguments)
    if cli_arguments.has(flags, "-m", "--multirun"):
        return True
    if not any(word.startswith(("experiment=", "hydra")) for word in overrides):
        return False
    with _as_hydra_expects(flags, overrides):
        return _composed(overrides).hydra.mode == RunMode.MULTIRUN


def sweep_switches(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return `arguments` without the switches that only sweeps have, and those as overrides.

    Raises:
        ConfigError: there are such switches, and no sweep.
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


def show_overview(form: str = "", arguments: Sequence[str] = ()) -> None:
    """Print what there is to choose from. Nothing is composed, so that a broken config does not stand in the way of help."""
    flags, _ = cli_arguments.arrange(arguments)
    _teach(plugins(), _user_conf(flags))
    with hydra.initialize_config_module(CONF, **_version_base(hydra.initialize_config_module)):
        options = GlobalHydra.instance().config_loader().get_group_options
        groups = {group: list(options(group)) for group in ("model", "signature", "experiment")}
    print(overview(plugins(), groups, form))


def complete(arguments: Sequence[str]) -> None:
    """Install tab completion, or answer the shell that asks: whatever is wrong then, the user is in the middle of typing."""
    if not any(word.startswith("query=") for word in arguments):
        return run(arguments, _nothing)
    line = os.environ.get("COMP_LINE", "")
    own, complete = cli_arguments.completions(line, [*plugins().sources, *plugins().steps])
    print(*own)
    if line and not complete:
        with suppress(ExportKitError):
            run(arguments, _nothing)


def _nothing(config: DictConfig) -> None:
    """The job of a command that only asks Hydra something."""


@cache
def plugins() -> registry.Plugins:
    """All plugins, loaded once in a process, a worker's too."""
    return registry.load_plugins()


def unmute_tensorflow() -> None:
    """Let TensorFlow's loggers speak under ``hydra.verbose=true``; Hydra's own level does not reach them."""
    if HydraConfig.get().verbose is True:
        for name in ("tensorflow", "absl"):
            logging.getLogger(name).setLevel(logging.NOTSET)


def reporting(work: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Make `work` raise one picklable `JobFailed`, whatever it meets."""

    def job(config: DictConfig) -> Any:
        try:
            return work(config)
        except (JobFailed, BrokenPipeError):
            raise
        except Exception as error:
            raise failure(error) from error

    job.__module__, job.__name__, job.__qualname__ = work.__module__, work.__name__, work.__qualname__
    return job


def failure(error: Exception) -> JobFailed:
    """`error` as what may leave a job."""
    if isinstance(error, JobFailed):
        return error
    if isinstance(error, ExportKitError):
        return JobFailed(str(error), error.exit_code)
    if isinstance(error, OmegaConfBaseException):
        return JobFailed(str(explain(error)), ConfigError.exit_code)
    return JobFailed(str(unexpected(error)))


def told(failed: JobFailed) -> int:
    """Say why a job failed, and return the exit code; its traceback is raised for those who ask."""
    if wants_tracebacks():
        raise failed
    print_problems(str(failed))
    return failed.exit_code


def unexpected(error: Exception) -> Problem:
    """What is nobody's problem but ours, or a plugin's."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Problem("exportkit", what, "this is a fault in exportkit or in a plugin; HYDRA_FULL_ERROR=1 shows where")


def _teach(found: registry.Plugins, user: Path | None) -> None:
    """Tell Hydra of the schema, of the plugins' classes, which are the options of their groups, and of the config packages."""
    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=Config, provider="exportkit")
    for kind, cls in found.sources.items():
        _store(store, found, cls, group="source", name=kind, package="source")
    for kind, cls in found.steps.items():
        _store(store, found, cls, group="post", name=kind, package=f"post.{kind}")
    yaml.add_multi_representer(Path, lambda dumper, path: dumper.represent_str(str(path)))  # for --cfg
    ConfDirectories.user, ConfDirectories.packages = user, found.conf_packages
    HydraPlugins.instance().register(ConfDirectories)
    for cls in (launcher.ProcessLauncher, launcher.FleetSweeper):  # Hydra does not look into editable installs
        HydraPlugins.instance().register(cls)


def _store(store: ConfigStore, found: registry.Plugins, cls: type, **place: str) -> None:
    """A plugin's class is the option, its schema and its docs; if OmegaConf cannot hold it, that is the plugin's fault."""
    try:
        store.store(node=OmegaConf.structured(schema_of(cls)), provider="exportkit", **place)
    except OmegaConfBaseException as cause:
        provider = found.providers[cls]
        what = f"{cls.__name__} cannot be a config schema: {str(cause).splitlines()[0]}"
        raise PluginError(Problem(str(provider), what, "use types that OmegaConf knows, or Any")) from cause


def _user_conf(flags: Sequence[str]) -> Path | None:
    """The user's directory of configs, absolute; None where there is none."""
    named = cli_arguments.value_of(flags, "--config-dir", "-cd")
    directory = Path(named or "conf").absolute()
    if not directory.is_dir():
        if named:
            raise ConfigError(Problem("--config-dir", f"there is no directory {named}"))
        return None
    _check_root(directory / "config.yaml")
    return directory


def _check_root(file: Path) -> None:
    """Refuse a ``config.yaml`` that would take the place of exportkit's own without being one."""
    if file.is_file() and SCHEMA not in file.read_text(errors="replace"):
        what = f"is another application's: its defaults do not list {SCHEMA}"
        do = "keep exportkit's files in a directory of their own and name it with --config-dir"
        raise ConfigError(Problem(os.path.relpath(file), what, do))


def _version_base(function: Callable[..., Any]) -> dict[str, str]:
    """Hydra 1.4 has one behaviour and no longer takes the argument."""
    return {"version_base": "1.3"} if "version_base" in inspect.signature(function).parameters else {}


@contextmanager
def _as_hydra_expects(flags: Sequence[str], overrides: Sequence[str]) -> Iterator[None]:
    """Hydra's registries and the state of the process as Hydra and the user's code need them; Hydra's refusals as ours."""
    if problems := cli_arguments.without_effect(overrides):
        raise ConfigError(*problems)
    _teach(plugins(), _user_conf(flags))
    here = os.getcwd()
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    environment = {"HYDRA_FULL_ERROR": "1", "PYTHONPATH": path, **cli_arguments.completion(os.environ)}
    stderr = sys.stderr if wants_tracebacks() else process.WithoutHydrasLine(sys.stderr)
    with (
        process.environment(environment),
        process.interpreter([*flags, *overrides], here),
        redirect_stderr(stderr),
        _refusals(),
    ):
        yield


@contextmanager
def _refusals() -> Iterator[None]:
    """Hydra's errors in our words; that it ends the process where it had only to print something is none."""
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
    """What Hydra, or a look at what it composed, raised, in our words."""
    if isinstance(error, ExportKitError):
        return error
    if isinstance(error, COMPOSITION_ERRORS):
        return ConfigError(explain(error, ConfDirectories.user, plugins().steps))
    if isinstance(error, OSError):
        return EnvironmentFailed(Problem(str(error.filename or "files"), error.strerror or str(error)))
    return PluginError(unexpected(error))
