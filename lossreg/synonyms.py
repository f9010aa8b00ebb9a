"""What people call things in other libraries, and what to write here: the hints of errors about unknown names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = [
    "CALL_ARGUMENTS",
    "LOSSES",
    "NOTES",
    "OPTIONS",
    "OPTIONS_OF_K",
    "closest",
    "closest_attribute",
    "closest_loss",
    "closest_option",
    "folded_name",
    "is_same_argument",
]

LOSSES: dict[str, tuple[str, ...]] = {
    "absolutedifference": ("MeanAbsoluteError.v1",),
    "absoluteerror": ("MeanAbsoluteError.v1",),
    "bce": ("BinaryCrossEntropy.v1",),
    "bcewithlogits": ("BinaryCrossEntropyWithLogits.v1",),
    "binarycrossentropy": ("BinaryCrossEntropy.v1",),
    "categoricalcrossentropy": ("CategoricalCrossentropy.v4", "CrossEntropy.v1"),
    "contrastive": ("InfoNCE.v1",),
    "cosine": ("CosineSimilarity.v1", "CosineEmbedding.v1"),
    "cosinedistance": ("CosineSimilarity.v1", "CosineDistance.v1"),
    "focal": ("SigmoidFocal.v1",),
    "kldiv": ("KLDivergence.v1",),
    "kullbackleibler": ("KLDivergence.v1",),
    "l1": ("MeanAbsoluteError.v1",),
    "l2": ("MeanSquaredError.v1", "L2Distance.v1"),
    "logistic": ("BinaryCrossEntropyWithLogits.v1", "SoftMargin.v1"),
    "log": ("BinaryCrossEntropy.v1", "CrossEntropy.v1"),
    "mae": ("MeanAbsoluteError.v1",),
    "mse": ("MeanSquaredError.v1",),
    "negativeloglikelihood": ("NLL.v1",),
    "ntxent": ("InfoNCE.v1",),
    "pinball": ("Quantile.v1",),
    "poisson": ("PoissonNLL.v1",),
    "poissonregression": ("PoissonNLL.v1",),
    "quantileregression": ("Quantile.v1",),
    "reglinear": ("MeanSquaredError.v1",),
    "rmse": ("MeanSquaredError.v1",),
    "rootmeansquarederror": ("MeanSquaredError.v1",),
    "sigmoidcrossentropy": ("BinaryCrossEntropyWithLogits.v1",),
    "softmax": ("CrossEntropy.v1",),
    "softmaxcrossentropy": ("CrossEntropy.v1",),
    "softmaxcrossentropywithintlabels": ("CrossEntropy.v1",),
    "sparsecategoricalcrossentropy": ("CrossEntropy.v1",),
    "squarederror": ("MeanSquaredError.v1",),
}
"""Names of losses elsewhere, in small letters without "_" and "loss" -> names here."""

OPTIONS_OF_K: dict[str, tuple[str, ...]] = {
    "weight": ("pos_weight", "class_weight"),
    "ignore": ("ignore_index",),
    "smoothing": ("label_smoothing",),
    "reduce": ("reduction",),
    "dim": ("axis",),
    "keepdim": ("keepdims",),
    "log": ("log_input",),
    "zeroinf": ("zero_infinity",),
}
"""Option names of the k api, which the functions with its forms take -> names here; the first that a class has."""

OPTIONS: dict[str, tuple[str, ...]] = OPTIONS_OF_K | {
    "beta": ("delta",),
    "calculate_per_token_loss": ("per_token",),
    "check_for_nan_in_loss_and_grad": ("check_finite",),
    "class_names": ("names",),
    "class_weights": ("class_weight", "pos_weight"),
    "classes": ("names",),
    "epsilon": ("eps",),
    "labels": ("names",),
    "p_norm": ("p",),
    "q": ("quantile",),
    "size_average": ("reduction",),
    "tau": ("quantile", "temperature"),
    "threshold": ("delta", "beta"),
    "weights": ("class_weight", "pos_weight"),
}
"""Names of options elsewhere -> names here; the first that a class has is meant."""

NOTES: dict[str, str] = {
    "calculate_per_sample_loss": 'write reduction="none"',
    "from_logits": "the class says what guesses are: CrossEntropy and BinaryCrossEntropyWithLogits take logits, "
    "CategoricalCrossentropy.v4 and BinaryCrossEntropy probabilities",
    "monitor_device_local_loss": "add up what get_state returns and compute() its result",
    "parallel_config": "on each device make the loss for its own rows, and add up the states",
    "seq_split": "write per_token=True, and add up the states of the parts of a sequence",
    "seq_split_num": "write per_token=True, and add up the states of the parts of a sequence",
}
"""What to write in the place of options that have no other name here."""

CALL_ARGUMENTS: dict[str, str] = {
    "input": "guesses",
    "input_mask": "mask",
    "label": "truths",
    "labels": "truths",
    "logits": "guesses",
    "loss_mask": "mask",
    "output": "guesses",
    "outputs": "guesses",
    "pred": "guesses",
    "predictions": "guesses",
    "preds": "guesses",
    "target": "truths",
    "targets": "truths",
    "weight": "sample_weight",
    "weights": "sample_weight",
    "where": "mask",
    "y_pred": "guesses",
    "y_true": "truths",
}
"""Names of what a call takes elsewhere -> names here."""

_MAX_NAME = 100
"""Length up to which a name is compared with others: the comparison takes quadratic time."""

_ALIKE = 0.72
"""How much of two names must agree for one to be a slip of the other. At 0.7, softmax would be softmargin."""


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'delta'?`, or nothing when no known name is close."""
    return _question(_slips_of(name, list(known)))


def closest_option(name: str, known: Iterable[str]) -> str:
    """As `closest`, for an option: a synonym is sure, where a slip is a guess."""
    known = list(known)
    synonyms = [word for word in OPTIONS.get(name, ()) if word in known]
    return _question(synonyms[:1] or _slips_of(name, known))


def closest_loss(name: str, known: Iterable[str]) -> str:
    """As `closest`, for the name of a loss."""
    known = list(known)
    folded = folded_name(name[:_MAX_NAME])
    same = [word for word in known if folded_name(word) == folded]
    synonyms = [word for word in LOSSES.get(folded, ()) if word in known]
    return _question(same or synonyms or _slips_of(name, known))


def is_same_argument(one: str, other: str) -> bool:
    """Whether two names of arguments, here or elsewhere, mean the same."""
    return CALL_ARGUMENTS.get(one, one) == CALL_ARGUMENTS.get(other, other)


def closest_attribute(name: str, known: Mapping[str, str]) -> str:
    """As `closest`, for an attribute of a module.

    known: {name: attribute}, where the name is that of the attribute itself or one under which it is registered.
    """
    folded = folded_name(name[:_MAX_NAME])
    synonyms = [word for word in LOSSES.get(folded, ()) if word in known]
    same = [word for word in known if folded_name(word) == folded]
    close = synonyms or same or _slips_of(name, list(known))
    return _question(list(dict.fromkeys(known[word] for word in close)))


def _question(names: list[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def folded_name(name: str) -> str:
    """The name of a loss as the table has it."""
    return re.sub(r"[^a-z0-9]|loss", "", _stem(name))


def _slips_of(name: str, known: list[str]) -> list[str]:
    """Known names that differ by a few letters, versions and the case of letters aside."""
    import difflib  # only errors need it

    if len(name) > _MAX_NAME:
        return []
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.9)
    if near:
        return near
    stems: dict[str, list[str]] = {}
    for word in known:
        stems.setdefault(_stem(word), []).append(word)
    stem = _stem(name)
    matches = difflib.get_close_matches(stem, stems, n=3, cutoff=_ALIKE)
    # Beside a name that is nearly the same, one that is only similar would mislead.
    likeness = {match: difflib.SequenceMatcher(None, stem, match).ratio() for match in matches}
    least = max(likeness.values(), default=0.0) - 0.1
    return [word for match in matches if likeness[match] >= least for word in stems[match]][:3]


def _stem(name: str) -> str:
    return re.sub(r"\.v\d+$", "", name).lower()
