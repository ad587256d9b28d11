"""What the team `template` adds to exportkit. A module of a plugin imports no TensorFlow; its methods do."""

from exportkit.plugin import Problem, hookimpl
from exportkit_template.linear import Linear
from exportkit_template.notice import Notice


@hookimpl
def exportkit_model_sources():
    return [Linear]


@hookimpl
def exportkit_post_steps():
    return [Notice]


@hookimpl
def exportkit_conf_packages():
    return ["exportkit_template.conf"]


@hookimpl
def exportkit_check_plan(plan):
    if plan.config["vars"].get("stage") == "draft":
        yield Problem("vars.stage", "a draft is not exported", "set it to release")
