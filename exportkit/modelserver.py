"""How tensorflow_model_server is started: which meta graph of a version it loads, and the command line for that."""

from collections.abc import Iterable, Mapping
from shlex import quote

from exportkit.spec import ExportPlan

PORT = 8500  # of gRPC, where the server is not given another; REST is one above
SERVE = frozenset({"serve"})  # the tags that it looks for, where it is not given others


def loaded(tags: Mapping[str, Iterable[str]]) -> str:
    """Return the meta graph that is served: the one tagged ``serve``, which needs no flag, or else the first.

    Args:
        tags: meta graph key → its tags.
    """
    return next((key for key, own in tags.items() if set(own) == SERVE), next(iter(tags)))


def default_meta_graph(plan: ExportPlan) -> str:
    """Return the key of the meta graph that a model server loads if no flag names another."""
    return loaded({key: meta_graph.tags for key, meta_graph in plan.meta_graphs.items()})


def command(options: Mapping[str, str], tags: Iterable[str], number: int = 0) -> str:
    """Return a command line for the shell.

    Args:
        options: flag → value, beside ports and tags.
        tags: of the meta graphs to load; they hold for all models of the server (main.cc: ``saved_model_tags``).
        number: of several servers on one machine, which need ports of their own, from 0.
    """
    port = PORT + 2 * number
    flags = {**({"port": str(port)} if number else {}), "rest_api_port": str(port + 1), **options}
    if set(tags) != SERVE:
        flags["saved_model_tags"] = ",".join(tags)
    return " ".join(["tensorflow_model_server", *(f"--{flag}={quote(value)}" for flag, value in flags.items())])
