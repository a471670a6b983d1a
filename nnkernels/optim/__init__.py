"""Optimizers, learning-rate schedules and regularisers: policy around the update steps of ``ops``.

PyTorch's names, argument order, defaults and semantics; ``optim.lr_scheduler`` holds the schedules.
"""

from nnkernels.optim import lr_scheduler
from nnkernels.optim.adam import Adam, AdamW, NAdam, RAdam
from nnkernels.optim.adaptive import Adadelta, Adagrad, RMSprop
from nnkernels.optim.base import Optimizer
from nnkernels.optim.finder import RateSearch, lr_finder
from nnkernels.optim.lion import Lion
from nnkernels.optim.muon import Muon
from nnkernels.optim.regularizers import L1, L2, ElasticNet, MaxNorm
from nnkernels.optim.sgd import SGD

__all__ = [
    "L1", "L2", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "ElasticNet", "Lion", "MaxNorm", "Muon",
    "NAdam", "Optimizer", "RAdam", "RMSprop", "RateSearch", "lr_finder", "lr_scheduler",
]  # fmt: skip
