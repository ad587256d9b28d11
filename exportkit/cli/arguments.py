"""Flags and overrides on a command line, before Hydra reads them."""

import re
from collections.abc import Collection, Iterator, Sequence

from exportkit.config.reader import optional_keys
from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.spec import MetaGraph, Signature

SWITCHES = {"--force": "hydra.sweeper.force=true", "--keep-going": "hydra.sweeper.keep_going=true"}  # of sweeps
TAKES_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
}
TAKES_NONE = {
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "-r",
    "--multirun",
    "-m",
    "-sc",
    "--shell-completion",
}
CFG = {"--cfg": ("job", "hydra", "all"), "-c": ("job", "hydra", "all")}
MAY_TAKE = {"--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")}
MAY_TAKE["-i"] = MAY_TAKE["--info"]
CHOICES = {**CFG, **MAY_TAKE}  # flag → its values, where they are known
HYDRA_FLAGS = (*TAKES_VALUE, *TAKES_NONE, *MAY_TAKE)
OPTIONAL = {  # keys of entries with free names; an override may set them although no file has them
    "signatures": optional_keys(Signature),
    "meta_graphs": optional_keys(MetaGraph),
}
_ENTRY = re.compile(r"(\w+)\.[^.=]+\.(\w+)=")


def arrange(arguments: Sequence[str], known: Collection[str] = HYDRA_FLAGS) -> tuple[list[str], list[str]]:
    """Return the flags with their values, and the overrides: Hydra wants all flags first.

    ``signatures.NAME.method=…`` and its like, which have defaults, become ``++signatures…``: Hydra only sets what a file has.

    Args:
        arguments: flags and overrides, in any order.
        known: the flags that there may be.

    Raises:
        ConfigError: a flag that is not known, or one without its value.
    """
    flags: list[str] = []
    overrides: list[str] = []
    for words in _grouped(list(arguments), known):
        if words[0].startswith("-"):
            flags.extend(words)
        else:
            overrides.append(f"++{words[0]}" if _has_default(words[0]) else words[0])
    return flags, overrides


def _has_default(override: str) -> bool:
    """Return whether an override sets a key of `OPTIONAL`."""
    found = _ENTRY.match(override)
    return found is not None and found[2] in OPTIONAL.get(found[1], ())


def _grouped(words: list[str], known: Collection[str]) -> Iterator[list[str]]:
    """Yield each flag with its value, and each override alone."""
    while words:
        length = _length(words, known)
        yield words[:length]
        words = words[length:]


def _length(words: Sequence[str], known: Collection[str]) -> int:
    """Return how many words the first one takes: 2 for a flag with its value."""
    name, joined, value = words[0].partition("=")
    if not name.startswith("-"):
        return 1
    if name not in known:
        raise ConfigError(Problem(name, "is not a flag", did_you_mean(name, known, most=1)))
    if name in TAKES_VALUE and not joined and len(words) == 1:
        raise ConfigError(Problem(name, "needs a value"))
    if name in CFG and (given := value or words[1]) not in CFG[name]:
        raise ConfigError(Problem(name, f"cannot be '{given}'", f"one of {', '.join(CFG[name])}"))
    if joined:
        return 1
    return 2 if name in TAKES_VALUE or (words[1:2] and words[1] in MAY_TAKE.get(name, ())) else 1


def without_effect(overrides: Sequence[str]) -> list[Problem]:
    """Return a problem for each override ``KEY={}``: Hydra merges mappings, so an empty one changes nothing."""
    found = (re.fullmatch(r"([^+~=]+)=\s*\{\s*\}\s*(,.*)?", word) for word in overrides)
    keys = [match[1] for match in found if match]
    return [Problem(key, "{} changes nothing, as Hydra merges mappings", f"take out each entry: ~{key}.NAME") for key in keys]


def value_of(flags: Sequence[str], *names: str) -> str | None:
    """Return the value of the flag that has one of `names`, or None where it is not given."""
    for at, flag in enumerate(flags):
        name, joined, value = flag.partition("=")
        if name in names:
            return value if joined else flags[at + 1]
    return None


def has(flags: Sequence[str], *names: str) -> bool:
    """Return whether one of `names` is among `flags`."""
    return any(flag in names for flag in flags)
