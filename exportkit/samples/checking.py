"""Samples against what is known of their inputs before anything is built: written values, and the headers of files."""

from collections.abc import Iterator, Mapping, Sequence

from exportkit.checkpoint import npy
from exportkit.errors import Problem
from exportkit.metagraph.tensors import Facts, Shape, compatible
from exportkit.operations.base import Feeder
from exportkit.operations.bindings import Binding
from exportkit.operations.parse_example import ParseExample
from exportkit.spec import Examples, ExportPlan, File, Literal, Placeholder, Sample, Tensor


def problems(plan: ExportPlan, facts: Sequence[Mapping[str, Facts]]) -> Iterator[Problem]:
    """Yield a problem for each sample of `plan` that cannot be the value of its input, with its config key.

    Args:
        plan: signatures, bindings and samples may be None where they are broken and were reported already.
        facts: of each meta graph that is known, binding → dtype and shape; what the config asserts counts where none is.
    """
    for key, given in plan.samples.items():
        signature = plan.signatures.get(key)
        if signature is None:
            continue
        for alias, sample in given.items():
            ref = signature.inputs.get(alias, "")
            binding = plan.bindings.get(ref)
            known = next((f[ref] for f in facts if ref in f), _asserted(binding))
            yield from _misfits(f"samples.{key}.{alias}", sample, binding, known)


def _asserted(binding: Binding | None) -> Facts:
    if isinstance(binding, Feeder):
        return binding.taken
    if isinstance(binding, Tensor | Placeholder):
        return Facts(binding.dtype, None if binding.shape is None else tuple(binding.shape))
    return Facts()


def _misfits(where: str, sample: Sample | None, binding: Binding | None, known: Facts) -> Iterator[Problem]:
    if isinstance(sample, Examples) and isinstance(binding, ParseExample):
        for name, column in sample.features.items():
            if feature := binding.parse_example.get(name):
                yield from _misfit(f"{where}.examples.{name}", column, feature.dtype, (None, *feature.shape))
    elif known.dtype is not None:
        yield from _misfit(where, sample, known.dtype, known.shape)


def _misfit(where: str, sample: Sample | None, dtype: str, shape: Shape) -> Iterator[Problem]:
    if sample is None or (isinstance(sample, File) and _plainly_fits(sample, dtype, shape)):
        return
    import numpy as np

    from exportkit.samples.arrays import Misfit, fit, fit_header, header

    try:
        if isinstance(sample, Literal):
            fit(sample.value, dtype, shape)
        elif isinstance(sample, File) and sample.path.suffix == ".tfrecord":
            fit_header(np.dtype(object), None, dtype, shape)
        elif isinstance(sample, File):
            fit_header(*header(sample.path, sample.array), dtype, shape)
    except Misfit as cause:
        yield Problem(where, cause.what, cause.do)


def _plainly_fits(sample: File, dtype: str, shape: Shape) -> bool:
    """Return whether a file's header, read without NumPy, gives the very dtype and shape: then there is nothing to report."""
    found = npy.plain_header(sample.path, sample.array)
    return found is not None and found[0] == dtype and (shape is None or compatible(found[1], shape))
