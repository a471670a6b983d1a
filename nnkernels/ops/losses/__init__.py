"""Losses of arrays of one shape, element by element: ``regression.py``, ``binary.py``, ``divergence.py``.

They share the loops (``elementwise.py``) and what becomes of the l_i (``reduction.py``). Cross-entropy and
nll_loss, which look up labels, have rooms of their own.
"""

from nnkernels.ops.losses import binary, divergence, regression

OPS_HERE = (*binary.OPS_HERE, *regression.OPS_HERE, *divergence.OPS_HERE)
