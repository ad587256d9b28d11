"""What there is of Hydra for user code and plugins in a job that Hydra did not compose.

They find the job's ``HydraConfig``, which is composed when it is first asked for, and Hydra's resolvers for configs of
their own. Importing Hydra takes longer than all else here, so nothing is set before ``omegaconf`` or
``hydra.core.hydra_config`` is imported.
"""

import contextlib
import importlib.util
import logging.config
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from exportkit import files
from exportkit.cli import choices, process
from exportkit.cli.direct import reading

_PRELOAD = ("exportkit.cli.direct.preload",)
_PRELOAD_TENSORFLOW = ("exportkit.cli.direct.preload_tensorflow", *_PRELOAD)
_LOGGING = "hydra/job_logging/exportkit.yaml"

Action = Callable[[ModuleType], Callable[[], None]]  # with a module that was imported; returns what undoes it


@dataclass(frozen=True)
class Composed:
    """The state of a job that Hydra did not compose, for its process (`exportkit.cli.single.State`).

    Attributes:
        overrides: of the command line.
        directory: in which they were given.
        user: the user's directory of configs.
    """

    overrides: tuple[str, ...]
    directory: str
    user: Path | None

    @classmethod
    def here(cls, overrides: Sequence[str]) -> "Composed":
        """Return the state of overrides that were given in this process."""
        return cls(tuple(overrides), os.getcwd(), choices.user_conf(()))

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Set in this process what user code reads of a job, and restore at the end what was there."""
        watcher = _Watcher(self._actions())
        with process.for_user_code(self.overrides, self.directory):
            watcher.start()
            try:
                yield
            finally:
                watcher.stop()

    def install(self) -> None:
        _Watcher(self._actions()).start()
        self.take_over()

    def take_over(self) -> None:
        configure_log()
        process.refuse_breakpoints()

    def directories(self) -> Sequence[Path]:
        return [self.user] if self.user else []

    def preload(self, uses_tensorflow: bool) -> Sequence[str]:
        return _PRELOAD_TENSORFLOW if uses_tensorflow else _PRELOAD

    def timeout(self) -> float | None:
        return None

    def _actions(self) -> Mapping[str, Action]:
        return {"omegaconf": _register_resolvers, "hydra.core.hydra_config": self._offer_config}

    def _offer_config(self, module: ModuleType) -> Callable[[], None]:
        """Have ``HydraConfig`` compose the job's config when it is first asked for."""

        def compose() -> Any:
            from exportkit.cli import hydra_app

            with contextlib.chdir(self.directory):
                return hydra_app.job_config(self.overrides)

        return offer_config(module, compose)


def offer_config(module: ModuleType, compose: Callable[[], Any]) -> Callable[[], None]:
    """Have the ``HydraConfig`` of Hydra's module call `compose` when it is first read; return what undoes that."""
    instances = module.Singleton._instances

    class Config(module.HydraConfig):  # type: ignore[misc, name-defined]  # the module is known at run time only
        @property
        def cfg(self) -> Any:
            if self._composed is None:
                self.set_config(compose())
            return self._composed

        @cfg.setter
        def cfg(self, value: Any) -> None:
            self._composed = value

    before = instances.get(module.HydraConfig)
    instances[module.HydraConfig] = Config()

    def undo() -> None:
        del instances[module.HydraConfig], instances[Config]
        if before is not None:
            instances[module.HydraConfig] = before

    return undo


def _register_resolvers(module: ModuleType) -> Callable[[], None]:
    """Register the resolvers of Hydra (``hydra.core.utils.setup_globals``), which registers its own when it is imported."""
    omegaconf = module.OmegaConf
    version = sys.version_info
    levels = {"major": f"{version[0]}", "minor": f"{version[0]}.{version[1]}", "micro": ".".join(map(str, version[:3]))}

    def of_hydra(path: str) -> Any:
        from hydra.core.hydra_config import HydraConfig

        return omegaconf.select(HydraConfig.get(), path)

    def now(pattern: str) -> str:
        return datetime.now().strftime(pattern)

    def python_version(level: str = "minor") -> str | None:
        return levels.get(level)

    for name, resolver in {"now": now, "hydra": of_hydra, "python_version": python_version}.items():
        if not omegaconf.has_resolver(name):
            omegaconf.register_new_resolver(name, resolver, use_cache=resolver is now)
    return lambda: None  # Hydra leaves its own too


def configure_log() -> None:
    """Configure logging as Hydra does for a job, from exportkit's file of it."""
    text = files.read(reading.Places(None, ()).packaged(_LOGGING), files.TEXT).decode()
    logging.config.dictConfig(reading.parsed(text))


class _Watcher:
    """Acts on modules: on those that are imported already at once, on others when they are imported; a finder of imports."""

    def __init__(self, actions: Mapping[str, Action]):
        self._waiting = dict(actions)
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        for name in self._waiting.keys() & sys.modules:
            self._undo.append(self._waiting.pop(name)(sys.modules[name]))
        sys.meta_path.insert(0, self)

    def stop(self) -> None:
        sys.meta_path.remove(self)
        self._waiting.clear()
        while self._undo:
            self._undo.pop()()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if (action := self._waiting.pop(name, None)) is None or (spec := importlib.util.find_spec(name)) is None:
            return None
        loader = spec.loader
        assert loader is not None  # a package with a file
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._undo.append(action(module))

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
