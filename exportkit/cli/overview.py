"""``exportkit --help``: the commands, and what there is to choose from."""

import textwrap
from collections.abc import Mapping, Sequence

from exportkit.registry import Plugins

COMMANDS = """\
exportkit model=NAME [KEY=VALUE ...]       export; or: exportkit export ...
exportkit plan model=NAME [KEY=VALUE ...]  show what an export would do
exportkit inspect PATH                     look into a checkpoint, a .meta or
                                           a SavedModel; suggests a config
exportkit verify VERSION_DIR               check a published version again
exportkit plugins [NAME]                   list sources, steps, presets and
                                           policies, or show the keys of one
"""

PLAN = """\
exportkit plan model=NAME [KEY=VALUE ...] [--build]

Shows what an export would do, in the order in which it would, and writes
nothing. Each line says 'checked', or 'when built' where only a built graph can
tell; --build builds the graph and binds the signatures, to check that too.
"""

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


def overview(plugins: Plugins, groups: Mapping[str, Sequence[str]], form: str = "") -> str:
    """The text of ``--help``; `form` is ``short`` for what is said when nothing was asked, or ``plan``."""
    chosen = {**groups, "source": list(plugins.sources), "post": list(plugins.steps)}
    if form == "short":
        return _commands() + "\n" + _choices({"model": groups["model"]}) + "\nexportkit --help says more"
    head = textwrap.dedent(PLAN) if form == "plan" else _commands()
    return (
        head
        + "\n"
        + _choices(chosen)
        + "\nExamples\n"
        + _examples(groups["model"])
        + "\nFlags\n"
        + textwrap.indent(FLAGS, "  ")
    )


def _commands() -> str:
    return (
        "Exports TensorFlow graphs to SavedModel versions that TensorFlow Serving loads,\nfrom configuration alone.\n\n"
        + textwrap.indent(COMMANDS, "  ")
    )


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
    """A command and what it does, which goes below a command that is too long for its column."""
    first = f"  {command}".ljust(column)
    return f"{first}{meaning}".rstrip() + "\n" if len(first) == column or not meaning else f"{first}\n{' ' * column}{meaning}\n"
