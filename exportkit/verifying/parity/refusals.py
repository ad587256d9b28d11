"""Problems for questions that TensorFlow refuses, each with the config key that changes it."""

from collections.abc import Iterator, Sequence

from exportkit.contract import Export
from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts
from exportkit.operations.parse_example import ParseExample
from exportkit.samples import Batch
from exportkit.samples.graph_hints import hints
from exportkit.samples.hints import Hint
from exportkit.serving.running import Refusal
from exportkit.verifying.parity.trials import Answer, Trial


def refused(trial: Trial, there: Answer, here: Answer, key: str, sizes: Sequence[int]) -> Iterator[Problem]:
    """Yield what is wrong where TensorFlow gave no answer; nothing where both sides have one.

    Args:
        there: the training graph's answer.
        here: the export's answer.
        key: of the meta graph.
        sizes: ``post.verify.batch_sizes``.
    """
    place, samples = f"signatures.{trial.signature}", f"samples.{trial.signature}"
    if isinstance(there, Refusal) and isinstance(here, Refusal):
        do = f"give {samples}" if trial.drawn else f"correct {samples}"
        if trial.rows in sizes:
            do = f"leave {trial.rows} out of post.verify.batch_sizes, or give {samples}"
        yield Problem(place, f"{trial} is refused, by the training graph as well: {here.text}", do)
    elif isinstance(here, Refusal):
        do = "check bindings (their shapes and constants); ensure_shape=false leaves shapes unchecked"
        yield Problem(place, f"{trial} is refused, and the training graph takes it: {here.text}", do)
    elif isinstance(there, Refusal):
        do = f"check bindings and meta_graphs.{key}.constants, which the training graph is fed, or give {samples}"
        yield Problem(place, f"{trial} is refused by the training graph, and the export takes it: {there.text}", do)


def describe_untaken(batch: Batch) -> str:
    """Return how a signature that takes none of its random values refused them."""
    number = len(batch.refused)
    if batch.elsewhere:
        return f"takes {batch.taken} of {number} random values, and the training graph none of these: {batch.elsewhere}"
    return f"takes none of {number} random values, nor does the training graph: {batch.refusal}"


def unsampled(export: Export, key: str, name: str, batch: Batch) -> Problem:
    """Return the problem of a signature that takes no random values, with the samples to fill in."""
    do = f"write {_samples(export, key, name)}; post.verify.unsampled=allow exports it unverified"
    return Problem(f"signatures.{name}", describe_untaken(batch), do)


def _samples(export: Export, key: str, name: str) -> str:
    """Return ``samples: {NAME: {x: 'samples.npz:x'}}, where x float32 [?, 4]``, with what is known of each input."""
    inputs, part = export.signatures[name].inputs, export.prepared.parts[key]
    known = hints(part.model.graph, part.wiring.inputs.values())
    values, facts = [], []
    for alias, ref in inputs.items():
        binding, tensor = export.plan.bindings[ref], export.bound[key][ref]
        if isinstance(binding, ParseExample):
            features = binding.parse_example.items()
            columns = ", ".join(f"{feature}: 'samples.npz:{feature}'" for feature, _ in features)
            values.append(f"{alias}: {{examples: {{{columns}}}}}")
            facts += [f"{feature} {Facts(spec.dtype, (None, *spec.shape))}" for feature, spec in features]
        else:
            values.append(f"{alias}: 'samples.npz:{alias}'")
            hint = known[part.wiring.inputs[ref]] if ref in part.wiring.inputs else Hint()  # none of a feeder's own input
            facts.append(f"{alias} {Facts(tensor.dtype, hint.narrowed(tensor.shape))}")
    return f"samples: {{{name}: {{{', '.join(values)}}}}}, where {', '.join(facts)}"
