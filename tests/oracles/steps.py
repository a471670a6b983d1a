"""Update steps of optimizers, as their papers or torch.optim's documentation write them, in longdouble."""

import math

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


def with_decay(param, grad, lr, weight_decay, decoupled):
    """Return (param, gradient) after weight decay."""
    param, grad = wide(param), wide(grad)
    if decoupled:
        return param - lr * weight_decay * param, grad
    return param, grad + weight_decay * param


def averaged(old, new, beta):
    return beta * wide(old) + (1 - beta) * new


def adam_step_plain(
    param, grad, m, v, max_v=None, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
    decoupled_weight_decay=False,
):  # fmt: skip
    p, g = with_decay(param, grad, lr, weight_decay, decoupled_weight_decay)
    m, v = averaged(m, g, betas[0]), averaged(v, g**2, betas[1])
    states = (m, v) if max_v is None else (m, v, np.where(v > max_v, v, wide(max_v)))
    m_hat, v_hat = m / (1 - betas[0] ** step), states[-1] / (1 - betas[1] ** step)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps), *states


def nadam_step_plain(
    param, grad, m, v, *, step, mu_product=1.0, lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
    momentum_decay=4e-3, decoupled_weight_decay=False,
):  # fmt: skip
    p, g = with_decay(param, grad, lr, weight_decay, decoupled_weight_decay)
    mu = [betas[0] * (1 - 0.96 ** (t * momentum_decay) / 2) for t in (step, step + 1)]
    m, v = averaged(m, g, betas[0]), averaged(v, g**2, betas[1])
    product = mu_product * mu[0]
    m_hat = mu[1] * m / (1 - product * mu[1]) + (1 - mu[0]) * g / (1 - product)
    return p - lr * m_hat / (np.sqrt(v / (1 - betas[1] ** step)) + eps), m, v


def radam_step_plain(
    param, grad, m, v, *, step, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0,
    decoupled_weight_decay=False,
):  # fmt: skip
    p, g = with_decay(param, grad, lr, weight_decay, decoupled_weight_decay)
    m, v = averaged(m, g, betas[0]), averaged(v, g**2, betas[1])
    m_hat, left = m / (1 - betas[0] ** step), 1 - betas[1] ** step
    rho_inf = 2 / (1 - betas[1]) - 1
    rho = rho_inf - 2 * step * betas[1] ** step / left
    if rho <= 5:
        return p - lr * m_hat, m, v
    r = math.sqrt((rho - 4) / (rho_inf - 4) * (rho - 2) / (rho_inf - 2) * rho_inf / rho)
    return p - lr * m_hat * r * np.sqrt(left) / (np.sqrt(v) + eps), m, v


def rmsprop_step_plain(
    param, grad, square_avg, grad_avg=None, momentum_buffer=None, *, lr=1e-2, alpha=0.99, eps=1e-8,
    weight_decay=0.0, momentum=0.0,
):  # fmt: skip
    g = wide(grad) + weight_decay * wide(param)
    s = averaged(square_avg, g**2, alpha)
    a = None if grad_avg is None else averaged(grad_avg, g, alpha)
    u = g / (np.sqrt(s if a is None else np.clip(s - a**2, 0, None)) + eps)
    b = momentum_buffer
    if momentum:
        u = b = momentum * wide(momentum_buffer) + u
    return param - lr * u, *(x for x in (s, a, b) if x is not None)


def adagrad_step_plain(param, grad, total, *, step, lr=1e-2, lr_decay=0.0, weight_decay=0.0, eps=1e-10):
    g = wide(grad) + weight_decay * wide(param)
    total = total + g**2
    return param - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps), total


def adadelta_step_plain(
    param, grad, square_avg, acc_delta, *, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0
):  # fmt: skip
    g = wide(grad) + weight_decay * wide(param)
    s = averaged(square_avg, g**2, rho)
    u = np.sqrt(wide(acc_delta) + eps) / np.sqrt(s + eps) * g
    return param - lr * u, s, averaged(acc_delta, u**2, rho)


def lion_step_plain(param, grad, m, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    update = np.sign(averaged(m, wide(grad), betas[0]))
    return param - lr * (update + weight_decay * wide(param)), averaged(m, wide(grad), betas[1])


def muon_step_plain(
    param, grad, m, *, lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True,
    ns_coefficients=(3.4445, -4.7750, 2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None,
):  # fmt: skip
    """By singular values: a turn maps each s to a s + b s^3 + c s^5 and leaves the directions alone."""
    m = averaged(m, wide(grad), momentum)
    u = np.asarray(averaged(grad, m, 1 - momentum) if nesterov else m, np.float64)
    left, s, right = np.linalg.svd(u, full_matrices=False)
    s = s / max(np.sqrt((s**2).sum()), eps)
    a, b, c = ns_coefficients
    for _ in range(ns_steps):
        s = a * s + b * s**3 + c * s**5
    rows, columns = param.shape
    scale = np.sqrt(max(1, rows / columns))
    if adjust_lr_fn == "match_rms_adamw":
        scale = 0.2 * np.sqrt(max(rows, columns))
    return param * (1 - lr * weight_decay) - lr * scale * (left * s) @ right, m


def shrink_step_plain(param, *, threshold=0.0, factor=1.0):
    p = wide(param)
    return (factor * (p - np.clip(p, -threshold, threshold)),)


# What torch.optim calls the update steps that it has.
OPTIMIZERS = {
    "sgd_step": "SGD", "adam_step": "Adam", "nadam_step": "NAdam", "radam_step": "RAdam",
    "rmsprop_step": "RMSprop", "adagrad_step": "Adagrad", "adadelta_step": "Adadelta", "muon_step": "Muon",
}  # fmt: skip
STEPS: dict[str, Oracle] = {
    "sgd_step": sgd_step_plain,
    "adam_step": adam_step_plain,
    "nadam_step": nadam_step_plain,
    "radam_step": radam_step_plain,
    "rmsprop_step": rmsprop_step_plain,
    "adagrad_step": adagrad_step_plain,
    "adadelta_step": adadelta_step_plain,
    "lion_step": lion_step_plain,
    "muon_step": muon_step_plain,
    "shrink_step": shrink_step_plain,
}
