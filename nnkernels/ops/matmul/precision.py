"""How exactly a GPU multiplies matrices of float32, in products and in convolutions.

"highest" computes in float32. "high" lets tensor cores multiply: they look at 10 of the 23 bits of a factor's
mantissa (TF32), so that products are off by up to 0.1 %, and add up in float32; much faster. float64 and the
CPU do not mind.
"""

from nnkernels.ops.validate import choice

PRECISIONS = ("highest", "high")

_precision = "highest"


def set_matmul_precision(precision: str) -> None:
    """Choose how a GPU multiplies matrices of float32, from now on: "highest" (at first), or "high", by TF32.

    >>> set_matmul_precision("high")
    >>> get_matmul_precision()
    'high'
    >>> set_matmul_precision("highest")
    """
    global _precision
    choice("set_matmul_precision", "precision", precision, PRECISIONS)
    _precision = precision


def get_matmul_precision() -> str:
    """Return how a GPU multiplies matrices of float32: "highest" or "high"."""
    return _precision
