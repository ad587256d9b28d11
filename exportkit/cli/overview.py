"""``exportkit --help``: the commands, and what there is to choose from."""

import textwrap
from collections.abc import Mapping, Sequence

from exportkit.registry import Plugins

COMMANDS = """\
exportkit model=NAME [key=value ...]         export; also spelled exportkit export ...
exportkit plan model=NAME [key=value ...]    show what an export would do; --build goes as far as binding
exportkit inspect PATH                       look into a .meta, a checkpoint or a SavedModel; suggests a config
exportkit verify VERSION_DIR                 check a published version again: digests, weights, signatures, answers
exportkit plugins [NAME]                     sources, steps, presets and policies; or one of them with its keys
"""

PLAN = """\
exportkit plan model=NAME [key=value ...] [--build]

Shows what an export would do, in the order in which it would, and writes nothing. What a line says is 'checked', or
is told only 'when built'; --build builds the graph and binds the signatures, to tell that too.
"""

EXAMPLES = """\
exportkit model={0}
exportkit model={0} version=7 export_dir=/srv/models/{0}
exportkit model={0} --cfg job                the whole config, composed
exportkit -m model={1}                       one export each, of what changed since the last one
exportkit -m 'model=glob(*)' --keep-going    all models; those that can be, where others cannot
exportkit plan -m model={1}                  what that would do
exportkit plan model={0} --build
exportkit plan --config-dir DIR model=NAME   configs from DIR instead of ./conf
eval "$(exportkit -sc install=bash)"         completion with the tab key
"""

FLAGS = """\
-m, --multirun      a job for each combination of comma-separated values; every job is checked before the first starts
--force             with -m: export again what is unchanged
--keep-going        with -m: export the other jobs where some cannot be composed or planned
-q, --quiet         print problems only; without it, one line where no terminal shows the report
-c, --cfg job       print the config and do nothing; -p KEY for a part of it, --resolve for values
-cd, --config-dir   the directory of your configs, instead of ./conf
-i, --info          how the config comes about: defaults, searchpath, plugins
--hydra-help        all flags and groups of Hydra
--version
"""


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
        "Exports TensorFlow graphs to SavedModel versions that TensorFlow Serving loads, from configuration alone.\n\n"
        + textwrap.indent(COMMANDS, "  ")
    )


def _choices(groups: Mapping[str, Sequence[str]]) -> str:
    return "Choices\n" + "".join(map(_choice, groups, groups.values()))


def _choice(group: str, options: Sequence[str]) -> str:
    names = ", ".join(options) or ("none; write conf/model/NAME.yaml" if group == "model" else "none")
    shape = "[A,B]" if group == "post" else "NAME"
    return textwrap.fill(names, 100, initial_indent=f"  {group}={shape}".ljust(20), subsequent_indent=" " * 20) + "\n"


def _examples(models: Sequence[str]) -> str:
    shown = [*models[:2], *["NAME", "OTHER"][len(models[:2]) :]]
    return textwrap.indent(EXAMPLES.format(shown[0], ",".join(shown)), "  ")
