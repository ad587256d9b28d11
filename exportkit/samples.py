"""STAND-IN for the room that another branch writes; replaced when that is joined."""

import numpy as np

from exportkit.protos import dtype_name
from exportkit.spec import File, Literal
from exportkit.tensorbytes import numpy_dtype, objects


def load(export):
    found = {}
    for key, aliases in export.plan.samples.items():
        definition = next(m.signature_def[key] for m in export.meta_graphs.values() if key in m.signature_def)
        found[key] = {alias: _value(sample, dtype_name(definition.inputs[alias].dtype)) for alias, sample in aliases.items()}
    return found


def _value(sample, dtype):
    if isinstance(sample, File):
        data = np.load(sample.path)
        return np.asarray(data[sample.array] if sample.array else data, numpy_dtype(dtype))
    assert isinstance(sample, Literal)
    if dtype == "string":
        flat = np.ravel(np.array(sample.value, object)).tolist()
        return objects([v if isinstance(v, bytes) else v.encode() for v in flat]).reshape(np.shape(sample.value))
    return np.asarray(sample.value, numpy_dtype(dtype))
