"""What the commands that compose a config have in common: Hydra's flags beside their own, overrides, tab completion of both."""

from collections.abc import Sequence
from typing import ClassVar

from exportkit.cli import arguments as cli_arguments
from exportkit.contract import Command


class HydraCommand(Command):
    """A command whose arguments are Hydra's flags, flags of its own, and overrides."""

    own_flags: ClassVar[Sequence[str]]
    """The flags that Hydra never sees; none takes a value."""

    @property
    def flags(self) -> Sequence[str]:
        return (*cli_arguments.HYDRA_FLAGS, *self.own_flags)

    def complete(self, words: Sequence[str]) -> Sequence[str]:
        """Return the flags, values of the flag before, or overrides that the last of `words` may become."""
        if words[-1].startswith("-"):
            return super().complete(words)
        before = words[-2] if len(words) > 1 else ""
        values = [value for value in cli_arguments.CHOICES.get(before, ()) if value.startswith(words[-1])]
        if before in cli_arguments.TAKES_VALUE:
            return values
        from exportkit.cli import hydra_app

        return values + hydra_app.completions([word for word in words if word not in self.own_flags])
