"""exportkit's own commands, listed here and nowhere else: dispatch, help, tab completion and the registry read this list.

A command's module is imported when the command is used, and Hydra by those that compose a config.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exportkit.contract import Command

COMMANDS = {  # name → class, in the order of ``exportkit --help``
    "export": "exportkit.cli.export:ExportCommand",
    "plan": "exportkit.cli.plan:PlanCommand",
    "inspect": "exportkit.cli.inspect:InspectCommand",
    "audit": "exportkit.cli.audit:AuditCommand",
    "verify": "exportkit.cli.verify:VerifyCommand",
    "try": "exportkit.cli.try_version:TryCommand",
    "serve": "exportkit.cli.serve:ServeCommand",
    "client": "exportkit.cli.client:ClientCommand",
    "probe": "exportkit.cli.probe:ProbeCommand",
    "deploy": "exportkit.cli.deploy:DeployCommand",
    "plugins": "exportkit.cli.plugins:PluginsCommand",
}
DEFAULT = "export"
"""The command of a command line that begins with a flag or an override."""


def load(name: str) -> "Command":
    """Import the command `name` of `COMMANDS` and return it."""
    module, _, cls = COMMANDS[name].partition(":")
    return getattr(import_module(module), cls)()
