"""Summaries: metrics whose results are pictures, histograms and tables."""

from __future__ import annotations

from .histograms import Buckets, Histogram
from .images import Images, ShowImages
from .tables import Rows, ShowTable

__all__ = ["Buckets", "Histogram", "Images", "Rows", "ShowImages", "ShowTable"]
