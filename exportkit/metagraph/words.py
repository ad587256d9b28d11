"""Words in the names of training graphs: for outputs, labels, losses and copies of a net."""

import re
from collections.abc import Iterable
from functools import lru_cache


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OUTPUTS = _words_of(
    """
    prob probs probability probabilities softmax pred preds predict predicted prediction predictions output outputs out
    logit logits score scores sigmoid policy pi q qvalue qvalues result results generated reconstruction reconstructed
    decoded yhat hat hypothesis inference response answer detections classes embedding embeddings vectors normalize tags
    sample sampler mu action actions value prob_distribution deconv infer
    """
)
_LABELS = _words_of(
    """
    label labels target targets truth y answer expected gt weights reward rewards action actions advantage returns
    """
)
_ANSWERS = _words_of(
    """
    output outputs prediction predictions pred preds prob probs probability probabilities y_pred y_hat yhat y_prob
    predict predicted result final_result pred_prob
    """
)
_DECODERS = frozenset({"viterbi", "crf", "beam"})
_LOSSES = _words_of(
    """
    loss losses cost costs error err mse rmse mae regularizer regularization correct perplexity entropy crossentropy
    xentropy xent l2norm kl
    """
)
_METRICS = _words_of(
    """
    accuracy acc metric metrics precision recall auc summary summaries histogram fraction iou psnr ssim
    """
)
_SERVES = _words_of(
    """
    sampler infer inference predict eval test serving generator actor global
    """
)
_TRAINS = _words_of(
    """
    train training val valid aux auxiliary discriminator critic
    """
)
_COPIES = frozenset(["target", "old", "oldpi", "teacher", "worker"])  # copied from another net, to train it
_TRAINING = re.compile(
    r"gradients\w*|save(_\d+)?|report_uninitialized\w*|init(_\d+)?|train_op|.*(optimi[sz]er|adam|rmsprop|momentum|adagrad).*|"
    r"\w*[Ii]nitializer|Assign(_\d+)?|.*ExponentialMovingAverage",
    re.I,
)
_LOSS_FUNCTION = re.compile(  # the name scopes that TensorFlow's own loss functions open
    r"(log_loss|logistic_loss|huber_loss|hinge_loss|absolute_difference|mean_(pairwise_)?squared_error|cosine_distance_loss|"
    r"(sparse_)?(softmax|sigmoid)_cross_entropy(_loss)?|weighted_loss|log_poisson_loss)(_\d+)?"
)
_AVERAGES = re.compile(r"AssignMovingAvg(_\d+)?")
_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_DEFAULT = re.compile(r"_\d+$")


@lru_cache(maxsize=100_000)
def words(name: str) -> frozenset[str]:
    """Return the words in one part of a name, in lower case: ``predictedReward_1`` → predicted, reward."""
    return frozenset(word.lower() for word in _SPLIT.findall(name))


def like_output(part: str) -> bool:
    """Return whether a part of a name has a word for an output."""
    return not _OUTPUTS.isdisjoint(words(part))


def like_answer(part: str) -> bool:
    """Return whether a part of a name, as a whole, means the answer, and does not only contain such a word."""
    return part.lower().strip("_0123456789") in _ANSWERS


def like_decoder(part: str) -> bool:
    """Return whether a part of a name has a word for a decoder."""
    return not _DECODERS.isdisjoint(words(part))


def like_label(part: str) -> bool:
    """Return whether a part of a name has a word for a label."""
    return not _LABELS.isdisjoint(words(part))


def like_loss(part: str) -> bool:
    """Return whether a part of a name has a word for a loss."""
    return not _LOSSES.isdisjoint(words(part))


def like_metric(part: str) -> bool:
    """Return whether a part of a name has a word for a metric."""
    return not _METRICS.isdisjoint(words(part))


def in_loss_function(name: str) -> bool:
    """Return whether a node lies in the scope of one of TensorFlow's loss functions, such as ``log_loss_1/add``."""
    return any(map(_LOSS_FUNCTION.fullmatch, name.split("/")[:-1]))


def averages(name: str) -> bool:
    """Return whether a node updates a moving average."""
    return any(map(_AVERAGES.fullmatch, name.split("/")))


def chosen(leaf: str, op: str) -> bool:
    """Return whether somebody chose this name: it is not TensorFlow's default name for a node of that op."""
    return _DEFAULT.sub("", leaf).lower() != op.removesuffix("V2").lower()


def trains(name: str) -> bool:
    """Return whether a node of that name belongs to training: to gradients, an optimizer, the Saver."""
    scope, _, leaf = name.rpartition("/")
    return _is_training_part(leaf) or (scope != "" and _is_training_scope(scope))


@lru_cache(maxsize=100_000)
def _is_training_scope(scope: str) -> bool:
    return trains(scope)


@lru_cache(maxsize=10_000)
def _is_training_part(part: str) -> bool:
    return _TRAINING.fullmatch(part) is not None


def copy_of(parts: Iterable[str]) -> float:
    """Return how likely scopes are those of the copy of a net that serves (above 0), or of one that trains (below 0)."""
    found = frozenset().union(*map(words, parts))
    return len(found & _SERVES) - len(found & _TRAINS) - 4 * len(found & _COPIES)
