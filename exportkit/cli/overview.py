"""``exportkit --help``: the commands, and what there is to choose from."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from exportkit.commands import COMMANDS, DEFAULT, load
from exportkit.contract import Command
from exportkit.registry import Plugins, Provider

EXAMPLES = {
    "exportkit model={0}": "",
    "exportkit model={0} version=7 export_dir=/srv/models/{0}": "",
    "exportkit plan model={0} --build": "build and bind, write nothing",
    "exportkit model={0} --cfg job": "the whole config, composed",
    "exportkit model={0} --config-dir DIR": "configs from DIR, not ./conf",
    "exportkit -m model={1}": "one export each, of what changed",
    "exportkit plan -m model={1}": "what that would do",
    "exportkit -m 'model=glob(*)' --keep-going": "all models that can be exported",
    'eval "$(exportkit -sc install=bash)"': "completion with the tab key",
}

FLAGS = """\
-m, --multirun      a job for each combination of comma-separated values; all
                    jobs are checked before the first one starts
--force             with -m: export again what is unchanged
--keep-going        with -m: export the other jobs where some cannot be
                    composed or planned
-q, --quiet         print problems only; without it, one line where there is
                    no terminal for the report
-c, --cfg job       print the config and do nothing; -p KEY for a part of it,
                    --resolve for values
-cd, --config-dir   the directory of your configs, instead of ./conf
-i, --info          how the config comes about: defaults, searchpath, plugins
--hydra-help        all flags and groups of Hydra
--version
"""

WIDTH = 80
COLUMN = 45  # where the description of a command begins


def overview(plugins: Plugins, groups: Mapping[str, Sequence[str]], head: str = "") -> str:
    """Return the text of ``--help``.

    Args:
        plugins: the loaded plugins.
        groups: config group → its options.
        head: what comes first; by default the list of commands.
    """
    chosen = {**groups, "source": list(plugins.sources), "post": list(plugins.steps)}
    return (
        (head or _commands(plugins))
        + "\n"
        + _choices(chosen)
        + "\nExamples\n"
        + _examples(groups["model"])
        + "\nFlags\n"
        + textwrap.indent(FLAGS, "  ")
    )


def short_overview(plugins: Plugins, groups: Mapping[str, Sequence[str]]) -> str:
    """Return the text for a command line without arguments."""
    return _commands(plugins) + "\n" + _choices({"model": groups["model"]}) + "\nexportkit --help says more"


def _commands(plugins: Plugins) -> str:
    head = "Exports TensorFlow graphs to SavedModel versions that TensorFlow Serving loads,\nfrom configuration alone.\n\n"
    return head + "".join([*(_command(load(name)) for name in COMMANDS), *_commands_of_plugins(plugins)])


def _commands_of_plugins(plugins: Plugins) -> Iterable[str]:
    """Yield a title and the commands of each distribution that brings some."""

    def title(cls: type[Command]) -> str:
        provider: Provider = plugins.providers[cls]
        return f"{provider.distribution} {provider.version}".rstrip()

    for distribution, classes in groupby(plugins.commands.values(), title):
        yield f"\nCommands of {distribution}\n"
        yield from (_command(cls()) for cls in classes)


def _command(command: Command) -> str:
    """Return the lines of a command; what it does goes below a usage that is too long for its column."""
    name = "" if command.name == DEFAULT else command.name
    usage = "  " + " ".join(filter(None, ["exportkit", name, command.usage]))
    help_ = textwrap.indent(textwrap.fill(command.help, WIDTH - COLUMN), " " * COLUMN) + "\n"
    return f"{usage}\n{help_}" if len(usage) > COLUMN - 2 else usage.ljust(COLUMN) + help_[COLUMN:]


def _choices(groups: Mapping[str, Sequence[str]]) -> str:
    return "Choices\n" + "".join(_choice(group, names) for group, names in groups.items() if names or group == "model")


def _choice(group: str, options: Sequence[str]) -> str:
    names = ", ".join(options) or "none; write conf/model/NAME.yaml"
    shape = "[A,B]" if group == "post" else "NAME"
    return textwrap.fill(names, WIDTH, initial_indent=f"  {group}={shape}".ljust(20), subsequent_indent=" " * 20) + "\n"


def _examples(models: Sequence[str]) -> str:
    shown = [*models[:2], *["NAME", "OTHER"][len(models[:2]) :]]
    return "".join(_example(command.format(shown[0], ",".join(shown)), meaning) for command, meaning in EXAMPLES.items())


def _example(command: str, meaning: str, column: int = 47) -> str:
    """Return a command and what it does, which goes below a command that is too long for its column."""
    first = f"  {command}".ljust(column)
    return f"{first}{meaning}".rstrip() + "\n" if len(first) == column or not meaning else f"{first}\n{' ' * column}{meaning}\n"
