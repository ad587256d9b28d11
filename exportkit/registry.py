"""Discovery of plugins, each attributed to the distribution that it comes from.

pluggy calls implementations in an order that depends on what is installed, and raises without naming the plugin. So the
implementations are called one by one here, sorted, and every error names the plugin, its distribution and the cause. What they
print goes to stderr: stdout belongs to the command, also in tab completion.
"""

import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache, partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pluggy

from exportkit import hookspecs
from exportkit.commands import COMMANDS
from exportkit.config.reader import readable
from exportkit.contract import Command, ModelSource, Phase, PostStep
from exportkit.errors import ExportKitError, PluginError, Problem, brief, brief_in, did_you_mean, shortened, some
from exportkit.metagraph.tensors import Facts
from exportkit.operations.base import Feeder, Operation
from exportkit.operations.builtin import OPERATIONS
from exportkit.printable import PrintableStream
from exportkit.spec import BINDINGS

GROUP = "exportkit"
DISABLE = "EXPORTKIT_DISABLE_PLUGINS"
_OURS = "this process"
_POLICY = "exportkit_check_plan"
_NOUNS: dict[type, str] = {ModelSource: "source", PostStep: "step", Operation: "binding", Feeder: "binding"}


@dataclass(frozen=True)
class Provider:
    """Where a plugin comes from."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin {self.plugin} of {self.distribution} {self.version}".rstrip()


@dataclass(kw_only=True)
class Plugins:
    """All loaded plugins.

    Attributes:
        sources: kind → source class.
        steps: kind → step class.
        commands: name → class of a command of a plugin.
        bindings: key in a config → class of computed and feeding bindings, exportkit's own among them.
        conf_packages: packages of config files, for Hydra's search path.
        presets: config file of a plugin, ``experiment/acme_notice``, → where it comes from.
        providers: class of a source, step, computed binding or command → where it comes from.
        warnings: what is allowed and may surprise, as lines for the user.
    """

    sources: Mapping[str, type[ModelSource]]
    steps: Mapping[str, type[PostStep]]
    commands: Mapping[str, type[Command]]
    bindings: Mapping[str, type[Operation] | type[Feeder]]
    conf_packages: list[str]
    presets: dict[str, Provider]
    providers: dict[type, Provider]
    hooks: dict[str, list[tuple[Provider, Any]]] = field(repr=False)
    warnings: list[str] = field(default_factory=list)

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[Provider, Any]]:
        """Call the implementations of `hook` one by one; yield each answer with its provider."""
        for provider, implementation in self.hooks.get(hook, ()):
            yield provider, _guard(provider, hook, implementation, arguments)

    def policies(self) -> list[Callable[..., list[Problem]]]:
        """Return the plugins' policies, as functions of ``plan`` and ``prepared``; each problem names its plugin."""
        return [partial(_policy_problems, *found) for found in self.hooks.get(_POLICY, ())]

    def notify(self, hook: str, **arguments: Any) -> Iterator[PluginError]:
        """Call all implementations of `hook`; yield the errors of those that fail."""
        for provider, implementation in self.hooks.get(hook, ()):
            try:
                _guard(provider, hook, implementation, arguments)
            except PluginError as error:
                yield error

    def run_command(self, name: str, arguments: Sequence[str]) -> int:
        """Run the command `name` of a plugin and return its exit code. What it prints to stdout goes there.

        Raises:
            PluginError: it raised something other than an ExportKitError, which passes, or returned no exit code.
        """
        cls = self.commands[name]
        where, do = str(self.providers[cls]), "HYDRA_FULL_ERROR=1 shows where"
        try:
            code = cls().run(list(arguments))
        except (ExportKitError, BrokenPipeError):
            raise
        except Exception as cause:
            raise PluginError(Problem(where, f"the command {name} raised {brief(cause)}", do)) from cause
        if type(code) is not int or not 0 <= code <= 255:
            what = f"the command {name} returned {shortened(repr(code))}, not an exit code"
            raise PluginError(Problem(where, what, "return 0, or 1 to 255 where it failed"))
        return code


def _policy_problems(provider: Provider, implementation: pluggy.HookImpl, **arguments: Any) -> list[Problem]:
    answer = _guard(provider, _POLICY, implementation, arguments) or []
    problems = _checked(provider, _POLICY, answer, lambda p: isinstance(p, Problem), "Problems")
    return [replace(problem, what=f"{problem.what} ({provider})") for problem in problems]


def load_plugins(extra: Mapping[str, Any] | None = None) -> Plugins:
    """Load the plugins of all installed distributions, and those in `extra` (name → module or object).

    Raises:
        PluginError: a plugin cannot be imported, its hook does not fit, or two claim one kind.
    """
    manager = _Manager(GROUP)
    manager.add_hookspecs(hookspecs)
    mine = ((Provider(name, _OURS, ""), plugin) for name, plugin in (extra or {}).items())
    found = sorted([*_installed(), *mine], key=_order)
    for (before, _), (after, _) in pairwise(sorted(found, key=lambda pair: pair[0].plugin)):
        if before.plugin == after.plugin:
            raise _failure(after, f"has the name of {before}", also=before)
    for provider, plugin in found:
        _register(manager, provider, plugin)
    hooks = {name: _implementations(manager, name, {p.plugin: p for p, _ in found}) for name in _hook_names()}
    plugins = _collect(hooks)
    plugins.warnings = [line for name in sorted({p.distribution for p, _ in found}) for line in _shadowed(name)]
    return plugins


class _Manager(pluggy.PluginManager):
    """Looks for hooks among a module's functions only: for each other name pluggy's search takes as long."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        if isinstance(plugin, ModuleType) and name in vars(plugin) and not inspect.isroutine(vars(plugin)[name]):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def _order(pair: tuple[Provider, Any]) -> tuple[bool, str, str]:
    """Return a sort key: built-ins first, then by distribution and name, whatever the order of installation."""
    provider = pair[0]
    return provider.distribution != "exportkit", provider.distribution, provider.plugin


def _installed() -> Iterator[tuple[Provider, Any]]:
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")}
    seen = set()
    for provider, entry in _entry_points(tuple(map(_place_state, sys.path)), tuple(map(id, sys.meta_path))):
        if (entry.name, entry.value) in seen or disabled & {entry.name, provider.distribution}:
            continue
        seen.add((entry.name, entry.value))
        yield provider, _import(provider, entry)


@lru_cache(maxsize=1)
def _entry_points(*_places_and_finders: Any) -> list[tuple[Provider, importlib.metadata.EntryPoint]]:
    """Return the installed entry points; they are read again where a place of sys.path has changed."""
    known: dict[int, tuple[str, str]] = {}
    found = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        if entry.dist is None:
            continue
        if (name_and_version := known.get(id(entry.dist))) is None:  # one object for all entries of a distribution
            name_and_version = known[id(entry.dist)] = (entry.dist.name, entry.dist.version)
        found.append((Provider(entry.name, *name_and_version), entry))
    return found


def _place_state(place: str) -> tuple[Any, ...]:
    """Return what differs when something was installed in, or removed from, a place of sys.path."""
    try:
        found = os.stat(place or ".")
    except OSError:
        return (place,)
    return place, found.st_dev, found.st_ino, found.st_mtime_ns


@cache
def _own_version() -> str:
    return importlib.metadata.version("exportkit")


@contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Send what a plugin prints to stderr, with what a terminal would obey escaped."""
    shown: Any = PrintableStream(sys.stderr)
    with redirect_stdout(shown), redirect_stderr(shown):
        yield


def _shadowed(distribution: str) -> Iterator[str]:
    """Yield a line if more than one version of a distribution is on sys.path; Python uses the first."""
    installed = list(importlib.metadata.distributions(name=distribution))
    versions: dict[str, str] = {}
    for found in installed if len(installed) > 1 else ():  # to ask for a version is to parse a file
        versions.setdefault(found.version, str(found.locate_file("")))
    if len(versions) > 1:
        (used, place), *others = versions.items()
        rest = some([f"{version} in {directory}" for version, directory in others])
        yield f"{distribution} {used} in {place} is used, and not {rest}: uninstall one of them"


def _import(provider: Provider, entry: importlib.metadata.EntryPoint) -> Any:
    try:
        with _output_to_stderr():
            return entry.load()
    except (Exception, SystemExit) as cause:
        raise _failure(provider, f"cannot be imported: {brief_in(cause, entry.module)}") from cause


def _register(manager: pluggy.PluginManager, provider: Provider, plugin: Any) -> None:
    implemented = False
    for name in dir(plugin):
        if options := manager.parse_hookimpl_opts(plugin, name):
            _check_hook(provider, options.get("specname") or name, getattr(plugin, name), options)
            implemented = True
        elif name in _hook_names():
            raise _failure(provider, f"{name} is not marked as a hook; put @hookimpl above it")
    if not implemented:
        raise _failure(provider, f"implements no hook; there are {', '.join(_hook_names())}")
    try:
        manager.register(plugin, name=provider.plugin)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as cause:
        raise _failure(provider, brief(cause)) from cause


def _check_hook(provider: Provider, hook: str, function: Any, options: Mapping[str, Any]) -> None:
    """Raise PluginError unless the hook exists, gives the arguments that `function` takes, and can be called by itself."""
    if hook not in _hook_names():
        if options.get("optionalhook"):
            return
        raise _failure(provider, f"there is no hook '{hook}'; {did_you_mean(hook, _hook_names())}")
    given = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    asked = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if foreign := [name for name in asked if name not in given]:
        gives = ", ".join(given) or "nothing"
        raise _failure(provider, f"{hook} takes '{foreign[0]}', which the hook does not give; it gives {gives}")
    if options.get("wrapper") or options.get("hookwrapper"):
        raise _failure(provider, f"{hook} is a wrapper, but implementations are called one by one")


@cache
def _hook_names() -> tuple[str, ...]:
    return tuple(name for name in vars(hookspecs) if name.startswith("exportkit_"))


def _implementations(manager: pluggy.PluginManager, hook: str, providers: Mapping[str, Provider]) -> list[tuple[Provider, Any]]:
    found = {impl.plugin_name: impl for impl in getattr(manager.hook, hook).get_hookimpls()}
    return [(provider, found[name]) for name, provider in providers.items() if name in found]


def _guard(provider: Provider, hook: str, impl: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    try:
        with _output_to_stderr():
            answer = impl.function(*(arguments[name] for name in impl.argnames))
            return list(answer) if isinstance(answer, Iterable) and not isinstance(answer, str) else answer
    except (Exception, SystemExit) as cause:
        raise _failure(provider, f"{hook} raised {brief_in(cause, impl.function.__module__)}") from cause


def _collect(hooks: dict[str, list[tuple[Provider, Any]]]) -> Plugins:
    plugins = Plugins(sources={}, steps={}, commands={}, bindings={}, conf_packages=[], presets={}, providers={}, hooks=hooks)
    plugins.sources = _classes(plugins, "exportkit_model_sources", ModelSource)
    plugins.steps = _classes(plugins, "exportkit_post_steps", PostStep)
    plugins.bindings = {**OPERATIONS, **_classes(plugins, "exportkit_bindings", Operation, Feeder)}
    ours = Provider("operations", "exportkit", _own_version())
    plugins.providers |= dict.fromkeys(OPERATIONS.values(), ours)
    plugins.commands = _commands(plugins)
    for provider, packages in plugins.call("exportkit_conf_packages"):
        hook = "exportkit_conf_packages"
        for package in _checked(provider, hook, packages, lambda p: isinstance(p, str), "package names"):
            if package not in plugins.conf_packages:
                _add_presets(plugins.presets, provider, package)
                plugins.conf_packages.append(package)
    return plugins


def _add_presets(known: dict[str, Provider], provider: Provider, package: str) -> None:
    """Add the presets of a config package. Two of one name are refused: one would hide the other on the search path."""
    for name in _config_files(provider, package):
        if name in _own_presets():
            raise _failure(provider, f"offers the preset {name}, and so does exportkit")
        other = known.setdefault(name, provider)
        if other is not provider:
            raise _failure(provider, f"offers the preset {name}, and so does {other}", also=other)


def _classes(plugins: Plugins, hook: str, *bases: type) -> dict[str, type]:
    found: dict[str, type[Any]] = {}
    wanted = f"{' or '.join(base.__name__ for base in bases)} classes, each with a kind"
    for provider, classes in plugins.call(hook):
        fits = lambda c: isinstance(c, type) and issubclass(c, bases) and isinstance(getattr(c, "kind", None), str)  # noqa: E731
        for cls in _checked(provider, hook, classes, fits, wanted):
            base = next(base for base in bases if issubclass(cls, base))
            _check_class(provider, cls, base)
            if cls.kind in found and found[cls.kind] is not cls:
                other = plugins.providers[found[cls.kind]]
                raise _failure(provider, f"offers {_NOUNS[base]} '{cls.kind}', and so does {other}", also=other)
            found[cls.kind] = cls
            plugins.providers[cls] = provider
    return found


def _commands(plugins: Plugins) -> dict[str, type[Command]]:
    """Return the commands of plugins; a name that is taken, by exportkit too, is refused."""
    found: dict[str, type[Command]] = {}
    hook = "exportkit_commands"
    for provider, classes in plugins.call(hook):
        fits = lambda c: isinstance(c, type) and issubclass(c, Command) and isinstance(getattr(c, "name", None), str)  # noqa: E731
        for cls in _checked(provider, hook, classes, fits, "Command classes, each with a name"):
            _check_command(provider, cls)
            other = plugins.providers[found[cls.name]] if cls.name in found else None
            if found.setdefault(cls.name, cls) is not cls:
                raise _failure(provider, f"offers command '{cls.name}', and so does {other}", also=other)
            plugins.providers[cls] = provider
    return found


def _check_command(provider: Provider, cls: type[Command]) -> None:
    offer = f"offers command '{cls.name}'"
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", cls.name):
        raise _failure(provider, f"{offer}, which cannot be a command's name; write a-z, 0-9, - and _, a letter first")
    if cls.name in COMMANDS:
        raise _failure(provider, f"{offer}, and so does exportkit")
    if missing := sorted(cls.__abstractmethods__):
        raise _failure(provider, f"{offer} without {missing[0]}(); Command asks for it")
    if not isinstance(getattr(cls, "help", None), str) or len(cls.help.splitlines()) != 1:
        raise _failure(provider, f"{offer} without a help; set help to one line that says what it does")


def _check_class(provider: Provider, cls: type[Any], base: type) -> None:
    """Raise PluginError unless a config can be read into `cls` and it has what `base` requires."""
    offer = f"offers {_NOUNS[base]} '{cls.kind}'"
    if not cls.kind.isidentifier():
        raise _failure(provider, f"{offer}, which cannot be an option's name; write letters, digits and _")
    if "__annotations__" in vars(cls) and "__dataclass_fields__" not in vars(cls):
        raise _failure(provider, f"{offer}, which is not a dataclass; put @dataclass(kw_only=True) above it")
    if missing := sorted(cls.__abstractmethods__):
        raise _failure(provider, f"{offer} without {missing[0]}(); {base.__name__} asks for it")
    if base in (Operation, Feeder):
        _check_binding(provider, cls, base, offer)
    if base is PostStep and not isinstance(getattr(cls, "phase", None), Phase):
        raise _failure(provider, f"{offer} without a phase; set phase to one of Phase")
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as cause:
        raise _failure(provider, f"{offer}, whose fields cannot be read: {brief(cause)}") from cause
    for name in (f.name for f in fields(cls) if not readable(hints[f.name], [ModelSource])):
        type_ = getattr(hints[name], "__name__", hints[name])
        do = "use str, int, float, bool, Path, list, dict, Literal, Enum, a dataclass, one of these or None, or Any"
        raise _failure(provider, f"{offer}, whose field '{name}' of type {type_} no config can hold; {do}")


def _check_binding(provider: Provider, cls: type[Any], base: type[Any], offer: str) -> None:
    known = {**BINDINGS, **OPERATIONS}
    if cls.kind in known:
        raise _failure(provider, f"{offer}, and so does exportkit")
    if own := next((one for one in cls.__mro__ if one in OPERATIONS.values()), None):
        what = f"{offer}, a subclass of exportkit's {own.__name__}, for which it would be taken; subclass {base.__name__}"
        raise _failure(provider, what)
    if issubclass(cls, Operation) and issubclass(cls, Feeder):
        raise _failure(provider, f"{offer}, which is an Operation and a Feeder; make two classes of it")
    names = [field.name for field in fields(cls)]
    if cls.kind not in names:
        holds = "it is computed from" if base is Operation else "it feeds"
        raise _failure(provider, f"{offer} without a field '{cls.kind}'; it holds the bindings that {holds}")
    if other := next((name for name in names if name in known), None):
        what = f"{offer} with a field '{other}', which makes a binding another one in a config; rename it"
        raise _failure(provider, what)
    if cls.recompute is base.recompute:
        raise _failure(provider, f"{offer} without recompute(); the step verify asks for it")
    if base is Feeder and not isinstance(getattr(cls, "taken", None), Facts):
        raise _failure(provider, f"{offer} without taken; set it to the Facts of what a request sends")
    if base is Feeder and not isinstance(getattr(cls, "made", None), str):
        raise _failure(provider, f"{offer} without made; set it to words such as 'parsed from the tf.Example'")


@cache
def _own_presets() -> frozenset[str]:
    return frozenset(_names([str(files("exportkit.conf"))]))


def _names(directories: Iterable[str]) -> Iterator[str]:
    """Yield the names of the config files below some directories, as in Hydra: ``experiment/nightly``."""
    for directory in directories:
        yield from sorted(path.relative_to(directory).with_suffix("").as_posix() for path in Path(directory).rglob("*.yaml"))


def _config_files(provider: Provider, package: str) -> list[str]:
    """Return the config files of a package. Raises PluginError where there is no such package."""
    try:
        found = importlib.util.find_spec(package)
    except Exception as cause:
        raise _failure(provider, f"the config package {package} cannot be found: {brief(cause)}") from cause
    if found is None:
        raise _failure(provider, f"there is no config package {package}")
    return list(_names(found.submodule_search_locations or ()))


def _checked(provider: Provider, hook: str, answer: Any, fits: Any, wanted: str) -> list[Any]:
    if not isinstance(answer, list) or not all(map(fits, answer)):
        raise _failure(provider, f"{hook} returned {shortened(repr(answer))}, not a list of {wanted}")
    return answer


def _failure(provider: Provider, what: str, also: Provider | None = None) -> PluginError:
    names = [p.plugin if also is None or also.plugin != provider.plugin else p.distribution for p in (provider, also) if p]
    off = f"upgrade or uninstall it, or switch it off with {DISABLE}={' or '.join(names)}"
    return PluginError(Problem(str(provider), what, "fix it" if provider.distribution == _OURS else off))
