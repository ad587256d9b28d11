"""What an op is to a model server: nothing special, or one of the kinds that cannot be served as they are."""

import re
from functools import cache

from exportkit.metagraph.graph import RESTORE_OPS

TABLES = frozenset({"HashTable", "HashTableV2"})

_KINDS = {
    "placeholder": r"Placeholder(V2)?",
    "queue": r"Queue\w+|\w+Queue(V2)?|\w*Unstage\w*|\w*StagePeek|MapPeek|OrderedMapPeek|Stage|Barrier\w*",
    "iterator": r"\w*Iterator\w*|\w*FunctionBufferingResource\w*|DatasetToSingleElement",
    "reader": r"\w+Reader(V2)?|ReaderRead\w*|ReadFile|MatchingFiles|(TextLine|TFRecord|FixedLengthRecord|\w*CSV)Dataset(V\d)?",
    "python": r"(Eager)?PyFunc(Stateless)?",
    "mutable table": r"(Anonymous)?Mutable\w*HashTable\w*",
    "TPU": r"_?TPU\w+|(Configure|Shutdown)DistributedTPU|\w*(In|Out)feed\w+|CrossReplicaSum",
    "restore": "|".join(sorted(RESTORE_OPS)),
}

# Custom ops of tf.contrib (TensorFlow 1.15) that came with shared libraries of their own: no TensorFlow 2 has them.
_CONTRIB = (
    "AdjustHsvInYiq|BipartiteMatch|BytesInUse|BytesLimit|CenterTreeEnsemble\\w*|DecodeAudio|DecodeVideo|EncodeAudio|"
    "GatherTree|GradientTrees\\w*|GRUBlockCell\\w*V1|HyperplaneLSHProbes|ImageConnectedComponents|ImageProjectiveTransform|"
    "MaxBytesInUse|ObtainNext|PeriodicResample\\w*|RangeDecode|RangeEncode|ReduceSlice\\w+|Resampler\\w*|"
    "SkipGramGenerateCandidates|SingleImageRandomDotStereograms|SparseFeatureCross(V2)?|TreeEnsemble\\w+|"
    "TreePredictions\\w*|TRTEngineOp"
)
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in {**_KINDS, "tf.contrib": _CONTRIB}.items()}


@cache
def kind(op: str) -> str | None:
    """The kind of an op that a server cannot run as it stands: a key of the table above, or None."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(op)), None)
