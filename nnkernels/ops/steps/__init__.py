"""Update steps: one step of an optimizer, in place, on a parameter and its state. Any shape.

    sgd_step                              sgd.py
    adam_step, nadam_step, radam_step     adam.py     means of the gradient over its root mean square
    rmsprop_step, adagrad_step, adadelta_step         adaptive.py   the gradient over its root mean square
    lion_step                             lion.py     the sign of a mean
    muon_step                             muon.py     a matrix made orthogonal
    shrink_step                           shrink.py   towards 0, as regularisers do

The order of operations and the treatment of the first step are those of torch.optim. What depends on the
number of steps is computed once per call, in float64. ``rules.py`` holds the loops, once for all of them.
"""

from nnkernels.ops.steps import adam, adaptive, lion, muon, sgd, shrink

OPS_HERE = (
    *sgd.OPS_HERE,
    *adam.OPS_HERE,
    *adaptive.OPS_HERE,
    *lion.OPS_HERE,
    *muon.OPS_HERE,
    *shrink.OPS_HERE,
)
