"""Which models are served: base paths, or a models.config as tensorflow_model_server reads it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from exportkit import files
from exportkit.errors import ConfigError, Problem
from exportkit.server.messages import ModelServerConfig
from exportkit.server.status import Status, invalid
from exportkit.version.nearby import meant

PLATFORM = "tensorflow"
_UNSUPPORTED = "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"


@dataclass(frozen=True)
class Model:
    """A model to serve.

    Attributes:
        name: as requests name it.
        base: the directory of its versions.
        latest: how many of the highest versions are served; 0: those of `versions`, or all.
        versions: the versions to serve; None: not chosen by number.
        labels: label → version.
    """

    name: str
    base: Path
    latest: int = 1
    versions: frozenset[int] | None = None
    labels: Mapping[str, int] = field(default_factory=dict)

    def aspired(self, present: Sequence[int]) -> set[int]:
        """Return those of the versions on disk that its policy serves."""
        if self.versions is not None:
            return set(self.versions.intersection(present))
        return set(sorted(present)[-self.latest :]) if self.latest else set(present)


def models_at(paths: Sequence[str]) -> list[Model]:
    """Return the models of a command line: base paths, each a model called after its last folder, or one models.config.

    Raises:
        ConfigError: with all problems.
    """
    if len(paths) == 1 and os.path.isfile(paths[0]):
        return read(paths[0])
    problems = [problem for path in paths for problem in _wrong(Path(path))]
    models = [Model(Path(os.path.abspath(path)).name, Path(os.path.abspath(path))) for path in paths]
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [Problem(name, "is the name of several base paths", "list them in a models.config") for name in twice]
    if problems:
        raise ConfigError(*problems)
    return models


def _wrong(path: Path) -> Iterator[Problem]:
    """Yield why a path is no base path."""
    if path.is_file():
        yield Problem(str(path), "is a file beside other paths", "serve one models.config, or base paths")
    elif not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        yield Problem(str(path), what, meant(path) or "give the directory that holds a model's numbered versions")
    elif (path / "saved_model.pb").exists():
        where = path.parent if path.name.isdecimal() else None
        do = f"serve its base path: {where}" if where else "move it into a directory with a number, such as NAME/1"
        yield Problem(str(path), "is a version, not the directory of versions", do)
    elif not versions_in(path):
        yield Problem(str(path), "has no version: no directory whose name is a number", meant(path) or "export one to it")


def read(path: str | os.PathLike[str]) -> list[Model]:
    """Return the models of a models.config.

    Raises:
        ConfigError: it cannot be read, or a model server would refuse it.
    """
    config = ModelServerConfig()
    try:
        with files.opened(path, files.TEXT) as file:
            text_format.Parse(file.read().decode(), config)
        return models_of(config)
    except OSError as error:
        do = files.similar(path) if isinstance(error, FileNotFoundError) else "name a models.config, as a sweep writes it"
        raise ConfigError(Problem(os.fspath(path), f"cannot be read: {error.strerror}", do)) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem(os.fspath(path), "is no models.config: it is no text", "serve a base path, or one")) from None
    except text_format.ParseError as error:
        raise ConfigError(Problem(os.fspath(path), f"is no models.config: {' '.join(str(error).split())}")) from None
    except Status as status:
        raise ConfigError(Problem(os.fspath(path), status.text)) from None


def models_of(config: Any) -> list[Model]:
    """Return the models of a ModelServerConfig, as a server checks it (server_core.cc).

    Raises:
        Status: a server would refuse it.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(_UNSUPPORTED)
    found: dict[str, Model] = {}
    for entry in config.model_config_list.config:
        if entry.name in found:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        if not os.path.isabs(entry.base_path):
            what = f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            raise invalid(what)
        _check_platform(entry)
        found[entry.name] = Model(entry.name, Path(entry.base_path), **_policy(entry), labels=dict(entry.version_labels))
    return list(found.values())


def _check_platform(entry: Any) -> None:
    if not entry.model_platform and not entry.model_type:
        neither = "ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        raise invalid(f"Illegal setting neither {neither}")
    if entry.model_platform not in ("", PLATFORM):
        raise invalid(f"Model {entry.name} requests unsupported platform {entry.model_platform}")


def _policy(entry: Any) -> dict[str, Any]:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return {"latest": 0}
    if choice == "specific":
        return {"latest": 0, "versions": frozenset(policy.specific.versions)}
    return {"latest": policy.latest.num_versions or 1}


def versions_in(base: Path) -> dict[int, Path]:
    """Return the versions below a base path, number → directory; of two names of one number the later one wins.

    Raises:
        OSError: it cannot be listed.
    """
    names = sorted(os.listdir(base))
    return {int(name): base / name for name in names if name.isascii() and name.isdecimal() and int(name) < 1 << 63}
