"""Independent oracles for the ``loops`` bodies, since several bodies can share one wrong idea.

``PLAIN`` maps an op's name to a function of NumPy arrays, made of SciPy or of the textbook's formula in
``longdouble``; it returns the result only, in any float dtype. ``STEPS`` does so for the update steps and
returns all updated arrays; ``OPTIMIZERS`` names those that torch.optim has. ``TORCH`` maps a name to a
function of PyTorch tensors, differentiable by PyTorch. ``DRAWS`` maps a name to what draws one
call of it by Hypothesis: ``case(draw, rng) -> (arrays, attributes)``, sizes and attributes from ``draw``,
numbers from ``rng`` (float64).

One file per family. Nothing here imports nnkernels, and nothing but the functions of ``TORCH`` needs torch.
"""

from oracles import (
    activation,
    convolution,
    elementwise,
    graph,
    loss,
    normalization,
    pooling,
    product,
    reduction,
    sequence,
    shape,
    steps,
)
from oracles.common import Draw, Oracle

FAMILIES = (
    elementwise,
    activation,
    reduction,
    shape,
    product,
    convolution,
    pooling,
    normalization,
    graph,
    loss,
    sequence,
)

PLAIN: dict[str, Oracle] = {name: oracle for family in FAMILIES for name, oracle in family.PLAIN.items()}
TORCH: dict[str, Oracle] = {name: oracle for family in FAMILIES for name, oracle in family.TORCH.items()}
DRAWS: dict[str, Draw] = {name: draw for family in FAMILIES for name, draw in family.DRAWS.items()}
STEPS: dict[str, Oracle] = steps.STEPS
OPTIMIZERS: dict[str, str] = steps.OPTIMIZERS
