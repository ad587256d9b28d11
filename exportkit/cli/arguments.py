"""The words of a command line, before Hydra reads them."""

import re
from collections.abc import Iterator, Mapping, Sequence

from exportkit.config.reader import optional_keys
from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.spec import MetaGraph, Signature

COMPOSING = ("export", "plan")  # the commands that take overrides
COMPLETED = (*COMPOSING, "inspect", "verify", "plugins")
OWN = ("--build", "--force", "--keep-going", "--quiet")  # exportkit's own flags, which Hydra never sees
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
OPTIONAL = {  # keys of free-form entries that need not be in a file to be set
    "signatures": optional_keys(Signature),
    "meta_graphs": optional_keys(MetaGraph),
}
_ENTRY = re.compile(r"(\w+)\.[^.=]+\.(\w+)=")


def arrange(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags with their values, and overrides: Hydra wants all flags first.

    ``signatures.NAME.method=…`` and its like, which have defaults, become ``++signatures…``: Hydra only sets what a file has.

    Raises:
        ConfigError: a flag that Hydra does not have, or one without its value.
    """
    flags: list[str] = []
    overrides: list[str] = []
    for words in _grouped(list(arguments)):
        if words[0].startswith("-"):
            flags.extend(words)
        else:
            overrides.append(f"++{words[0]}" if _has_default(words[0]) else words[0])
    return flags, overrides


def _has_default(override: str) -> bool:
    found = _ENTRY.match(override)
    return found is not None and found[2] in OPTIONAL.get(found[1], ())


def _grouped(words: list[str]) -> Iterator[list[str]]:
    """Each flag with its value, each override alone."""
    while words:
        length = _length(words)
        yield words[:length]
        words = words[length:]


def _length(words: Sequence[str]) -> int:
    name, joined, value = words[0].partition("=")
    if not name.startswith("-"):
        return 1
    if name not in TAKES_VALUE | TAKES_NONE | set(MAY_TAKE):
        raise ConfigError(
            Problem(name, "is not a flag", did_you_mean(name, {*TAKES_VALUE, *TAKES_NONE, *MAY_TAKE, *OWN}, most=1))
        )
    if name in TAKES_VALUE and not joined and len(words) == 1:
        raise ConfigError(Problem(name, "needs a value"))
    if name in CFG and (given := value or words[1]) not in CFG[name]:
        raise ConfigError(Problem(name, f"cannot be '{given}'", f"one of {', '.join(CFG[name])}"))
    if joined or name in TAKES_NONE:
        return 1
    return 2 if name in TAKES_VALUE or (words[1:2] and words[1] in MAY_TAKE[name]) else 1


def without_effect(overrides: Sequence[str]) -> list[Problem]:
    """Return the overrides ``KEY={}``: Hydra merges mappings, and with an empty one nothing becomes of it."""
    found = (re.fullmatch(r"([^+~=]+)=\s*\{\s*\}\s*(,.*)?", word) for word in overrides)
    keys = [match[1] for match in found if match]
    return [Problem(key, "{} changes nothing, as Hydra merges mappings", f"take out each entry: ~{key}.NAME") for key in keys]


def value_of(flags: Sequence[str], *names: str) -> str | None:
    """The value of the flag that is called one of `names`."""
    for at, flag in enumerate(flags):
        name, joined, value = flag.partition("=")
        if name in names:
            return value if joined else flags[at + 1]
    return None


def has(flags: Sequence[str], *names: str) -> bool:
    return any(flag in names for flag in flags)


def completion(environment: Mapping[str, str]) -> dict[str, str]:
    """``COMP_LINE`` as Hydra understands it: without the command, the word under the cursor last."""
    line = environment.get("COMP_LINE")
    if line is None:
        return {}
    program, *words = line.split() or [""]
    last = [words.pop()] if words and not line[-1].isspace() else [""]
    if words[:1] and words[0] in COMPOSING:
        words = words[1:]
    flags, overrides = arrange(words)
    return {"COMP_LINE": " ".join([program, *flags, *overrides, *last])}


def completions(line: str, kinds: Sequence[str]) -> tuple[list[str], bool]:
    """What the words of a command line may become beside overrides, and whether that is all.

    A word that begins with a dash may become a flag; the first one a command; after ``plugins`` comes one of `kinds`, after
    ``inspect`` a path, which the shell completes where it gets no answer.
    """
    words = line.split()[1:] + [""] * line[-1:].isspace()
    if len(words) < 2:
        if words[:1] and words[0].startswith("-"):
            return _flag_completions("", words[0])
        return [name for name in COMPLETED if name.startswith("".join(words))], False
    if words[0] in COMPOSING or words[0] not in COMPLETED:
        return _flag_completions(words[-2], words[-1])
    return [kind for kind in kinds if kind.startswith(words[-1])] if words[0] == "plugins" else [], True


def _flag_completions(before: str, word: str) -> tuple[list[str], bool]:
    """What `word` may become where it begins a flag, or where the flag `before` it has values to choose from."""
    if word.startswith("-"):
        return sorted(flag for flag in {*TAKES_VALUE, *TAKES_NONE, *MAY_TAKE, *OWN} if flag.startswith(word)), True
    if before in TAKES_VALUE or before in MAY_TAKE:
        return [value for value in {**CFG, **MAY_TAKE}.get(before, ()) if value.startswith(word)], before in TAKES_VALUE
    return [], False
