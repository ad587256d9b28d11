"""Errors of Hydra and OmegaConf as problems of one line: where, what is wrong, what to do.

OmegaConf's exceptions carry the key, its parent and the schema class, which is enough to name the nearest key that exists;
only Hydra's own errors (groups and the override grammar) have to be parsed from their text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    KeyValidationError,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import MarkedYAMLError

from exportkit.cli import conffiles
from exportkit.cli.arguments import OPTIONAL
from exportkit.cli.choices import GROUPS
from exportkit.cli.conffiles import relative
from exportkit.cli.refusals import no_key, no_option, of_steps, those
from exportkit.errors import Problem, did_you_mean
from exportkit.spec import Config

ENGINES = {  # launchers of other distributions → the extra that has them installed
    "joblib": "joblib",
    "ray": "ray",
    "ray_aws": "ray",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}
CHOSEN = (
    *GROUPS,
    "source",
    "post",
    "hydra/launcher",
    "hydra/sweeper",
    "hydra/output",
    "hydra/job_logging",
    "hydra/hydra_logging",
)
_IN_FILE = re.compile(r"In '([^']*)': ")
WANTED = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}


def explain(error: Exception, user: Path | None = None, steps: Iterable[str] = ()) -> Problem:
    """Return the problem that `error` is about.

    Args:
        error: what Hydra raised.
        user: the user's directory of configs.
        steps: the kinds of steps; Hydra's error does not list the options of a group from which a list is chosen.
    """
    if isinstance(error, UnicodeDecodeError):
        return conffiles.not_utf8(error, user)
    inner = _omegaconf(error)
    if problem := _of_content(inner, _named_file(str(error), user)):
        return problem
    problem = _no_group(str(error), user) or (_of_omegaconf(inner) if inner is not None else _of_hydra(error, user))
    return _in_file(of_steps(problem, list(steps)), str(error), user)


def _of_content(error: OmegaConfBaseException | None, file: Path | None) -> Problem | None:
    """Return the problem of the file itself, where that is why its keys were refused."""
    if file is None or error is None:
        return None
    if isinstance(error, KeyValidationError):
        return conffiles.boolean_key(file, error.full_key or "")
    return conffiles.content_problem(file) if error.full_key in GROUPS else None


def _omegaconf(error: Exception) -> OmegaConfBaseException | None:
    """Return the OmegaConf error that `error` is or was raised from, or None."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OmegaConfBaseException):
        seen = seen.__cause__ or seen.__context__
    return seen


def _of_omegaconf(error: OmegaConfBaseException) -> Problem:
    where = error.full_key or str(error.key or "config")
    for cls, describe in _DESCRIPTIONS.items():
        if isinstance(error, cls) and (problem := describe(where, error)):
            return problem
    return Problem(where, _first_line(error))


def _unknown_key(where: str, error: OmegaConfBaseException) -> Problem:
    cls, same_leaf = error.object_type, lambda: _same_leaf(where.rpartition(".")[2], error)
    return no_key(where, _known(error), is_dataclass(cls), cls is dict, same_leaf)


def _no_group(text: str, user: Path | None) -> Problem | None:
    """Return the problem of ``experiment=x`` where there are no experiments: Hydra takes it for an unknown key."""
    found = re.search(r"To append to your config use \+(\w+)=(.*)", text)
    if not found or found[1] not in GROUPS:
        return None
    group, name = found.groups()
    write = f"write {relative(user or Path('conf'))}/{group}/{name}.yaml, or name its directory with --config-dir"
    return Problem(group, f"there is no '{name}'", conffiles.misplaced(user, group, name) or write)


def _known(error: OmegaConfBaseException) -> set[str]:
    """Return the keys that exist beside the unknown one."""
    known = {f.name for f in fields(error.object_type)} if is_dataclass(error.object_type) else set()
    if isinstance(error.parent_node, DictConfig) and not error.parent_node._is_none():
        known |= {str(key) for key in error.parent_node}
    return known | set(GROUPS) if error.object_type is Config else known


def _same_leaf(name: str, error: OmegaConfBaseException) -> list[str]:
    """Return the full keys that end in `name`: ``atol`` finds ``post.verify.atol``."""
    root = _root(error.parent_node)
    entries = (f"{group}.{entry}.{name}" for group in ("signatures", "meta_graphs") for entry in root.get(group) or ())
    optional = [key for key in entries if name in OPTIONAL[key.partition(".")[0]]]
    return list(dict.fromkeys([*(key for key in _flat(root) if key.rpartition(".")[2] == name), *optional]))


def _wrong_type(where: str, error: OmegaConfBaseException) -> Problem | None:
    wanted = _wanted(error)
    return Problem(where, f"is {error.value!r}, not {wanted}") if wanted else None


def _wanted(error: OmegaConfBaseException) -> str | None:
    for mark, wanted in {r"is not a ListConfig|to List\[": "a list", r"is not a DictConfig|to Dict\[": "a mapping"}.items():
        if re.search(mark, str(error)):
            return wanted
    node = error.child_node if error.child_node is not None else error.parent_node
    kind = getattr(getattr(node, "_metadata", None), "ref_type", None)
    return WANTED.get(kind) if isinstance(kind, type) else None


def _no_interpolation(where: str, error: OmegaConfBaseException) -> Problem | None:
    found = re.search(r"Interpolation key '([^']*)' not found", str(error))
    if not found:
        return None
    near = did_you_mean(found[1], _flat(_root(error.parent_node)))
    return Problem(where, f"${{{found[1]}}} is not in the config", near)


def _root(node: Any) -> Any:
    while node is not None and node._get_parent() is not None:
        node = node._get_parent()
    return node


def _flat(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the full keys of all values below `node`."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        for key in node:
            yield from _flat(node._get_node(key), f"{prefix}.{key!s}")
    else:
        yield prefix[1:]


_DESCRIPTIONS: dict[type, Callable[[str, Any], Problem | None]] = {
    InterpolationKeyError: _no_interpolation,
    ConfigKeyError: _unknown_key,
    ConfigAttributeError: _unknown_key,
    ValidationError: _wrong_type,
}


def _of_hydra(error: Exception, user: Path | None) -> Problem:
    if isinstance(error, MissingConfigException):
        return _missing_file(error, user)
    if isinstance(error, OverrideParseException):
        return _grammar(error)
    if isinstance(error, MarkedYAMLError):
        return _not_yaml(error)
    return (
        _composition(str(error))
        if isinstance(error, ConfigCompositionException)
        else Problem("command line", _first_line(error))
    )


def _missing_file(error: MissingConfigException, user: Path | None) -> Problem:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group == "hydra/launcher" and name in ENGINES:
        extra = ENGINES[name]
        return Problem(group, f"{_preset(error) or name} needs hydra-{extra}-launcher", f"pip install 'exportkit[{extra}]'")
    options = error.options or ()
    if group and not name:
        return Problem(group, "names no file", "; ".join(filter(None, (f"write {group}=NAME", those(options)))))
    if group:
        return no_option(group, name, options, user)
    return Problem(f"{name}.yaml", "is in no directory of the search path", "exportkit --info searchpath shows them")


def _preset(error: Exception) -> str:
    """Return the name of the launcher config that needs the missing engine, or an empty text."""
    found = re.match(r"In 'hydra/launcher/([^']*)': ", str(error))
    return found[1] if found else ""


def _grammar(error: OverrideParseException) -> Problem:
    if "=" not in error.override and not error.override.startswith("~"):
        return Problem(error.override, "is neither a flag nor key=value", "write key=value; a command comes first")
    lines = [line for line in error.message.splitlines() if line.strip() and not line.startswith(("See ", "Error parsing"))]
    what = re.sub(r"^LexerNoViableAltException: .*", _pointed(lines), lines[0]) if lines else "cannot be read"
    return Problem(error.override, what, "quote what is not plain, for the shell too: 'key=\"a: b\"'")


def _pointed(lines: list[str]) -> str:
    """Return what is wrong, with the character that the caret in the ANTLR message points at."""
    at = lines[1].find("^") - len("LexerNoViableAltException: ") + 1 if lines[1:] else 0
    return f"cannot be read from character {at} on" if at > 0 else "cannot be read"


def _not_yaml(error: MarkedYAMLError) -> Problem:
    mark = error.problem_mark
    where = f"{relative(Path(mark.name))}:{mark.line + 1}" if mark else "config"
    return Problem(where, f"is not YAML: {error.problem or _first_line(error)}")


_COMPOSITION: dict[str, Callable[..., Problem]] = {
    r"Ambiguous value for argument '([^=]*)=(.*)'": lambda key, value: Problem(
        key, f"{value} is several values", f"add -m for a job with each, or write {key}=[{value}] for a list"
    ),
    r"Sweep parameters '([^=]*)=(.*)' requires --multirun": lambda key, value: Problem(key, f"{value} is a sweep", "add -m"),
    r"Could not override '(\w+)@\w+\.\w+'": lambda group: Problem(
        f"override /{group}", "finds no such group here", "make # @package _global_ the first line of the file"
    ),
    rf"Could not override '(?:{'|'.join(GROUPS)})/([\w/]+)@.*'\. No match": lambda group: Problem(
        f"override {group}", "is looked for below the file's own directory", f"write override /{group}, with a slash"
    ),
    r"Could not override '([^']*)'\. No match in the defaults list": lambda key: Problem(
        key, "no such group", did_you_mean(key, CHOSEN)
    ),
    r"Could not delete(?: from config\. The value of)? '?from config\. '([^']*)' does not exist": lambda key: Problem(
        key, "cannot be deleted: it is not there"
    ),
    r"Could not delete(?: from config\.)? '([^']*)'": lambda key: Problem(key, "cannot be deleted: it is not there"),
    r"Could not append to config\. An item is already at '([^']*)'": lambda key: Problem(
        key, "is there already", f"write {key}=VALUE, without +"
    ),
    r"Additional config directory '([^']*)' not found": lambda path: Problem("--config-dir", f"there is no directory {path}"),
}


def _composition(text: str) -> Problem:
    for pattern, problem in _COMPOSITION.items():
        if found := re.search(pattern, text):
            return problem(*found.groups())
    return Problem("command line", " ".join(text.split("\nConfig search path:")[0].split()))


def _in_file(problem: Problem, text: str, user: Path | None) -> Problem:
    """Return the problem with the file that it is in, where Hydra's text names one that is not the root config."""
    found = _IN_FILE.match(text)
    if not found or found[1] == "config" or found[1].startswith("hydra/"):
        return problem
    file = _named_file(text, user)
    return Problem(problem.where, f"{problem.what} ({relative(file) if file else found[1]})", problem.do)


def _named_file(text: str, user: Path | None) -> Path | None:
    """Return the user's file that Hydra's text begins with, or None."""
    found = _IN_FILE.match(text)
    file = (user or Path("conf").absolute()) / f"{found[1]}.yaml" if found else None
    return file if file and file.is_file() else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip()
