"""Update steps of optimizers."""

import numpy as np

from oracles.common import Oracle, wide


def sgd_step_plain(
    param, grad, velocity=None, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False,
    first=False,
):  # fmt: skip
    g = wide(grad) + weight_decay * wide(param)
    if not momentum:
        return (param - lr * g,) if velocity is None else (param - lr * g, velocity)
    new = g if first else momentum * wide(velocity) + (1 - dampening) * g
    return param - lr * (g + momentum * new if nesterov else new), new


def adam_step_plain(
    param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
):  # fmt: skip
    g = wide(grad) + weight_decay * wide(param)
    m = betas[0] * wide(m) + (1 - betas[0]) * g
    v = betas[1] * wide(v) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


STEPS: dict[str, Oracle] = {
    "sgd_step": sgd_step_plain,
    "adam_step": adam_step_plain,
}
