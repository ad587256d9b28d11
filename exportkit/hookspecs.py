"""The hooks that a plugin may implement. None is firstresult, none is ordered; each example below is run by a test."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from exportkit.contract import Command, ModelSource, PostStep
from exportkit.errors import Problem
from exportkit.operations.base import Feeder, Operation
from exportkit.spec import ExportPlan

if TYPE_CHECKING:
    from exportkit.planning.prepare import Prepared
    from exportkit.report import ExportReport

hookspec = pluggy.HookspecMarker("exportkit")


@hookspec
def exportkit_model_sources() -> Iterable[type[ModelSource]]:
    """Contribute model sources: classes, each selected in a config by its `kind`.

    Example:
        from dataclasses import dataclass

        from exportkit.plugin import ModelSource, SourceModel, export_meta_graph, hookimpl, open_checkpoint

        @dataclass(kw_only=True)
        class Doubled(ModelSource):
            '''A model that doubles what it is fed.'''

            kind: str = "doubled"
            checkpoint: str

            def build(self, preview, scratch, wanted):
                import tensorflow as tf

                with tf.Graph().as_default() as graph:
                    x = tf.compat.v1.placeholder(tf.float32, [None], "x")
                    tf.multiply(x, 2.0, name="y")
                return SourceModel(export_meta_graph(graph), open_checkpoint(self.checkpoint).prefix)

        @hookimpl
        def exportkit_model_sources():
            return [Doubled]
    """


@hookspec
def exportkit_post_steps() -> Iterable[type[PostStep]]:
    """Contribute post-export steps: classes, each selected in a config by its `kind`, run in the order of their phases.

    Example:
        from dataclasses import dataclass

        from exportkit.plugin import Phase, PostStep, hookimpl

        @dataclass(kw_only=True)
        class Licence(PostStep):
            '''Puts a licence beside the model.'''

            kind: str = "licence"
            phase = Phase.AUGMENT
            text: str = "Apache-2.0"

            def run(self, export):
                (export.directory / "assets.extra").mkdir(exist_ok=True)
                (export.directory / "assets.extra" / "LICENSE").write_text(self.text)

        @hookimpl
        def exportkit_post_steps():
            return [Licence]
    """


@hookspec
def exportkit_bindings() -> Iterable[type[Operation] | type[Feeder]]:
    """Contribute bindings that are computed from others, or feed others: classes, each the key `kind` of a binding.

    Example:
        from dataclasses import dataclass

        from exportkit.plugin import Operation, hookimpl

        @dataclass(kw_only=True)
        class Negative(Operation):
            '''Binding `negative` with the other sign.'''

            kind = "negative"
            negative: str

            def facts(self, inputs):
                return inputs

            def add(self, graph, name, inputs):
                return graph.add("Neg", inputs, name=name)

            def recompute(self, inputs):
                return [-inputs[0]]

        @hookimpl
        def exportkit_bindings():
            return [Negative]
    """


@hookspec
def exportkit_conf_packages() -> Iterable[str]:
    """Contribute packages of config files, each with a unique name, to Hydra's search path, behind the user's own.

    Example:
        from exportkit.plugin import hookimpl

        @hookimpl
        def exportkit_conf_packages():
            return ["acme_exports.conf"]
    """


@hookspec
def exportkit_commands() -> Iterable[type[Command]]:
    """Contribute commands: classes, each run as ``exportkit NAME …``.

    Example:
        from pathlib import Path

        from exportkit.plugin import Command, hookimpl

        class Count(Command):
            '''Count the versions below a base path.'''

            name = "count"
            help = "count the versions below a base path"
            usage = "BASE_PATH"

            def add_arguments(self, parser):
                parser.add_argument("base_path", metavar="BASE_PATH", type=Path, help="such as exports/mnist")

            def run(self, arguments):
                base_path = self.parse(arguments).base_path
                print(sum(path.name.isdecimal() for path in base_path.iterdir()))
                return 0

        @hookimpl
        def exportkit_commands():
            return [Count]
    """


@hookspec
def exportkit_check_plan(plan: ExportPlan, prepared: Prepared) -> Iterable[Problem]:
    """Return what a policy has against a plan; each problem refuses the export. It is asked twice.

    First for the plan, before anything is built: `prepared.parts` then holds the pruned graph of each meta graph whose source
    has it in a file, and `prepared.sources` where the variables get their values from. Then again when the graphs that code
    builds are known too, before anything is written: every meta graph of `plan.meta_graphs` is in `prepared.parts`. So a policy
    judges the parts that are there. An implementation names the arguments that it needs.

    A plan that has other problems is judged as well: its broken bindings and signatures are None, its broken steps are missing.
    What is raised there is ignored, as the plan is refused anyway.

    Example:
        from exportkit.plugin import Problem, hookimpl

        @hookimpl
        def exportkit_check_plan(plan):
            if "owner" not in plan.config.get("vars", {}):
                yield Problem("vars.owner", "every model needs an owner", "set vars.owner to a team")
    """


@hookspec
def exportkit_export_finished(report: ExportReport) -> None:
    """Observe the end of an export, successful or not. What is raised here is logged and changes nothing.

    Example:
        import logging

        from exportkit.plugin import hookimpl

        @hookimpl
        def exportkit_export_finished(report):
            logging.getLogger("audit").info("%s %s %s", report.name, report.version, report.status)
    """
