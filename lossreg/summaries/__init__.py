"""Summaries: metrics whose results are pictures, histograms and tables."""

from __future__ import annotations

from .boxes import ShowBoxes
from .histograms import Buckets, Histogram
from .images import Images, ShowDifferenceImages, ShowImages
from .segmentations import ShowSegmentations
from .tables import Rows, ShowTable

__all__ = [
    "Buckets", "Histogram", "Images", "Rows", "ShowBoxes", "ShowDifferenceImages", "ShowImages", "ShowSegmentations",
    "ShowTable",
]  # fmt: skip
