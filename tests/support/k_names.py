"""The names of the k api."""

from __future__ import annotations

NAMES = [
    "bce",
    "bcelogits",
    "ce",
    "cosineloss",
    "ctc",
    "hinge",
    "huber",
    "kl",
    "l1",
    "margin",
    "mse",
    "multilabel",
    "multimargin",
    "multisoft",
    "nll",
    "pairwise",
    "poissonloss",
    "similar",
    "smoothl1",
    "softmargin",
    "triplet",
]
