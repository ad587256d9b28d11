"""``exportkit plugins`` lists what plugins offer; ``exportkit plugins NAME`` shows one source, step or binding."""

import argparse
import inspect
from collections.abc import Iterator, Sequence

from exportkit.cli.fielddocs import field_docs
from exportkit.cli.tables import line, table, text
from exportkit.contract import Command
from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.registry import Plugins, load_plugins


class PluginsCommand(Command):
    """Sources, steps, computed bindings, presets, commands, policies and observers."""

    name = "plugins"
    help = "list sources, steps, presets and policies, or show the keys of one"
    usage = "[NAME]"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", nargs="?", help="a source, step or binding, to see its keys")

    def run(self, arguments: Sequence[str]) -> int:
        name = self.parse(arguments).name
        plugins = load_plugins()
        if name is None:
            _list(plugins)
        else:
            _show(name, plugins)
        return 0

    def complete(self, words: Sequence[str]) -> Sequence[str]:
        if words[-1].startswith("-"):
            return super().complete(words)
        plugins = load_plugins()
        return [kind for kind in (*plugins.sources, *plugins.steps, *plugins.bindings) if kind.startswith(words[-1])]


def _list(plugins: Plugins) -> None:
    """Print a table for each distribution."""
    found: list[tuple[str, str, str, type]] = [("source", kind, "", cls) for kind, cls in plugins.sources.items()]
    found += [("step", kind, cls.phase.name.lower(), cls) for kind, cls in plugins.steps.items()]
    found += [("binding", kind, "", cls) for kind, cls in plugins.bindings.items()]
    rows = [(what, kind, phase, _summary(cls), _origin(plugins, cls)) for what, kind, phase, cls in found]
    rows += [
        ("preset", "=".join(name.rsplit("/", 1)), "", "", (p.distribution, p.version)) for name, p in plugins.presets.items()
    ]
    rows += [("command", name, "", cls.help, _origin(plugins, cls)) for name, cls in plugins.commands.items()]
    rows += [
        *_hook_rows(plugins, "policy", "exportkit_check_plan"),
        *_hook_rows(plugins, "observer", "exportkit_export_finished"),
    ]
    for origin in dict.fromkeys(row[-1] for row in rows):
        own = [row[:-1] for row in rows if row[-1] == origin]
        table(f"Plugins of {' '.join(origin)}", ["", "name", "phase", "what it does"], own, once=1)
        line()
    for warning in plugins.warnings:
        text(f"warning: {warning}\n")


def _hook_rows(plugins: Plugins, what: str, hook: str) -> Iterator[tuple]:
    """Yield a row for each plugin that implements `hook`."""
    for provider, implementation in plugins.hooks.get(hook, ()):
        summary = (inspect.getdoc(implementation.function) or "").partition("\n")[0]
        yield what, provider.plugin, "", summary, (provider.distribution, provider.version)


def _show(name: str, plugins: Plugins) -> None:
    known: dict[str, type] = {**plugins.bindings, **plugins.steps, **plugins.sources}
    cls = known.get(name)
    if cls is None:
        raise ConfigError(Problem(name, "there is no such source, step or binding", did_you_mean(name, known)))
    distribution, version = _origin(plugins, cls)
    chosen = f"{{{name}: …}}" if name in plugins.bindings else f"post=[{name}]"
    chosen = f"source={name}" if name in plugins.sources else chosen
    text(f"{chosen}    {cls.__module__}.{cls.__qualname__} of {distribution} {version}\n")
    for paragraph in (inspect.getdoc(cls) or "").split("\n\n"):
        _show_paragraph(paragraph)
    rows = [(f.name, f.type, f.default, f.doc) for f in field_docs(cls) if f.name != "kind"]
    table("Keys", ["key", "type", "default", ""], [(n, t, d or "must be given", doc) for n, t, d, doc in rows])


def _show_paragraph(paragraph: str) -> None:
    """Print a paragraph in lines of the terminal's width; one that has indented lines as it is."""
    if any(part.startswith(" ") for part in paragraph.splitlines()):
        line(f"{paragraph}\n")
    else:
        text(" ".join(paragraph.split()) + "\n")


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _origin(plugins: Plugins, cls: type) -> tuple[str, str]:
    provider = plugins.providers[cls]
    return provider.distribution, provider.version
