"""All calculators, one module a family; importing this package registers them."""

from . import binary, categorical, embedding, regression, thinc, thinc_v4

__all__ = [  # noqa: PLE0604
    *binary.__all__, *categorical.__all__, *embedding.__all__, *regression.__all__, *thinc.__all__, *thinc_v4.__all__,
]  # fmt: skip
