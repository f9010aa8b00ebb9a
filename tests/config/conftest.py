"""Registries as they were."""

from __future__ import annotations

from typing import Any

import catalogue
import pytest

from lossreg.config.resolve import ALIASES


@pytest.fixture
def clean_registries() -> Any:
    """Whatever a test registers is gone after it."""
    before = dict(catalogue.REGISTRY)
    aliases = dict(ALIASES)
    yield
    catalogue.REGISTRY.clear()
    catalogue.REGISTRY.update(before)
    ALIASES.clear()
    ALIASES.update(aliases)
