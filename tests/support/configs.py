"""Problems of a config, by their paths."""

from __future__ import annotations

from typing import Any

import pytest

from lossreg import ConfigError


def problems(call: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return dict(caught.value.problems)
