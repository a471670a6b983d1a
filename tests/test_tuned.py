"""The turnings of the tuned bodies: each class of shapes that takes its own path, on one thread and on all.

``tests/test_ops.py`` holds every body against small samples; here are the sizes at which rows become long,
columns are cut into groups, blocks are summed up again and threads share the work.
"""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from nnkernels.ops import OPS, checks, use_backend
from nnkernels.ops.op import Sample

BROADCASTING = ("add", "mul", "pow", "maximum")
CLASSES = [
    *(("relu", [shape], {}) for shape in ((70_001,), (300, 1001))),
    *((name, [(70_001,)], {}) for name in ("log", "sigmoid", "sin", "tanh")),
    # outer x n x inner: short and long rows, narrow, wide and very wide columns, few and many blocks
    *((name, [shape], {"dim": dim}) for name in ("sum", "mean", "max") for shape, dim in (
        ((40_001, 7), 1), ((9001, 33), 1), ((301, 1000), 1), ((2, 300_001), 1), ((300_001,), None),
        ((40_001, 7), 0), ((9001, 33), 0), ((301, 1000), 0), ((3, 100_001), 0), ((5, 100, 601), 1),
        ((5, 7001, 9), 1), ((40, 30, 15, 17), (0, 2, 3)), ((40, 30, 15, 17), (1, 3)), ((60, 5, 1001), (0, 2)),
    )),
    *((name, [shape], {"dim": dim}) for name in ("softmax", "log_softmax") for shape, dim in (
        ((5003, 10), 1), ((503, 70), 1), ((41, 1003), 1), ((3, 33_001), 1), ((10, 5003), 0),
        ((7, 12, 501), 1), ((200, 300), 0), ((3, 300, 65), 1),
    )),
    # flat, a scalar on either side, a row, a column, a plane, and both stretched
    *((name, shapes, {}) for name in BROADCASTING for shapes in (
        [(300_001,), (300_001,)], [(600, 501), ()], [(), (600, 501)], [(600, 501), (501,)],
        [(600, 501), (600, 1)], [(40, 30, 301), (30, 1)], [(40, 30, 301), (40, 1, 301)], [(600, 1), (1, 501)],
        [(3, 1, 40, 1), (2, 1, 701)],
    )),
    *((name, [(70_001,), (70_001,)], {"reduction": reduction}) for name in ("mse", "bce_with_logits")
      for reduction in ("mean", "sum", "none")),
    *((name, [shape], attributes) for name in ("max_pool2d", "avg_pool2d") for shape, attributes in (
        ((30, 40, 7, 7), {"kernel_size": 7}), ((2, 3, 90, 91), {"kernel_size": (90, 91), "stride": 1}),
        ((20, 30, 10, 10), {"kernel_size": 2}), ((9, 5, 29, 33), {"kernel_size": 2}),
        ((9, 5, 29, 33), {"kernel_size": 3, "stride": 1, "padding": 1}),
        ((2, 3, 110, 111), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((9, 5, 31, 32), {"kernel_size": 3}),
        ((9, 5, 31, 32), {"kernel_size": (2, 3), "stride": (3, 2)}),
    )),
    *(("pad", [shape], {"padding": padding, "value": 2.5}) for shape, padding in (
        ((60, 3, 40, 40), (1, 2, 3, 0)), ((600, 501), (1, 0)), ((600, 501), (0, 0, 1, 2)),
        ((20, 12, 30, 30), (1, 1, 1, 1, 2, 1, 0, 3)),
    )),
    *(("concatenate", shapes, {"dim": dim}) for shapes, dim in (
        ([(3, 100_001), (4, 100_001)], 0), ([(300, 1001), (300, 1002), (300, 1)], 1),
        ([(60, 70, 70), (60, 10, 70)], -2),
    )),
]  # fmt: skip
IDS = [f"{name} {shapes} {attributes}" for name, shapes, attributes in CLASSES]


def arrays_for(name, shapes):
    rng = np.random.default_rng(0)
    # Gradients of stretched inputs are long sums, which `loops` adds up in the dtype of the input.
    dtype = np.float64 if name in BROADCASTING else np.float32
    xs = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    if name in ("log", "pow"):
        xs = [np.abs(x) + x.dtype.type(0.1) for x in xs]
    if name == "bce_with_logits":
        xs[1] = rng.uniform(0, 1, shapes[1]).astype(dtype)
    return tuple(np.asarray(x) for x in xs)


@pytest.mark.parametrize(("name", "shapes", "attributes"), CLASSES, ids=IDS)
def test_every_class_of_shapes_agrees_with_loops_on_any_number_of_threads(name, shapes, attributes):
    op, rng = replace(OPS[name], tolerance=512.0), np.random.default_rng(0)  # long sums in another order
    sample = Sample("large", arrays_for(name, shapes), attributes)
    checks.check_agreement(op, "tuned", sample, rng)
    checks.check_threads(op, sample, rng)


@pytest.mark.parametrize("rows", [3, 5000])
@pytest.mark.parametrize("classes", [10, 101])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_cross_entropy_of_labels_and_of_probabilities_agrees(rows, classes, reduction):
    rng = np.random.default_rng(0)
    x = (5 * rng.standard_normal((rows, classes))).astype(np.float32)
    t = rng.uniform(0, 1, x.shape).astype(np.float32)
    for targets in (rng.integers(0, classes, rows), t / t.sum(axis=1, keepdims=True)):
        sample = Sample("large", (x, targets), {"reduction": reduction})
        checks.check_agreement(OPS["softmax_cross_entropy"], "tuned", sample, rng)
        checks.check_threads(OPS["softmax_cross_entropy"], sample, rng)


# --- NaN, infinities and zeros of both signs ---

SPECIALS = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40]


def sprinkled(shape):
    """Return rows of numbers with one special in most of them, at every distance from the row's ends."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    flat = x.reshape(-1)
    every = max(flat.size // 40, 1)
    for i in range(0, flat.size, every):
        flat[i] = SPECIALS[(i // every) % len(SPECIALS)]
    return x


@pytest.mark.parametrize(("name", "shape", "attributes"), [
    *((name, (50, 41), {}) for name in ("relu", "leaky_relu", "neg", "exp", "sin", "tanh", "sigmoid", "log")),
    *((name, shape, {"dim": dim}) for name in ("sum", "max", "softmax", "log_softmax") for shape, dim in (
        ((50, 41), 1), ((50, 41), 0), ((41, 7), 1), ((41, 7), 0), ((80, 700), 1), ((80, 700), 0),
    )),
    *(("max_pool2d", (5, 8, 12, 14), attributes) for attributes in (
        {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (12, 14)},
    )),
    *(("avg_pool2d", (5, 8, 12, 14), {"kernel_size": k}) for k in (2, (3, 4), (12, 14))),
])  # fmt: skip
def test_specials_come_out_as_from_loops(name, shape, attributes):
    x = sprinkled(shape)
    with np.errstate(all="ignore"):
        sample = Sample("specials", (x,), attributes)
        got, wanted = (checks.run(OPS[name], body, sample) for body in ("tuned", "loops"))
    for g, w in zip(got, wanted):
        checks.assert_close(g, w, OPS[name].tolerance, name)
        if name in ("max", "max_pool2d", "relu", "neg") and g.dtype == x.dtype:
            numbers = ~np.isnan(w)
            np.testing.assert_array_equal(np.signbit(g[numbers]), np.signbit(w[numbers]))


@pytest.mark.parametrize("body", ["loops", "vectorized", "tuned"])
def test_a_class_that_a_logit_rules_out_has_no_part_in_softmax_and_its_loss(body):
    x, labels = np.float32([[-np.inf, 1, 2], [0, -np.inf, 0]]), np.array([2, 0])
    p = np.float32([[0, 0.26894143, 0.73105854], [0.5, 0, 0.5]])
    with use_backend(body), np.errstate(divide="ignore"):
        np.testing.assert_allclose(OPS["softmax"](x), p, rtol=1e-6)
        np.testing.assert_allclose(OPS["log_softmax"](x), np.log(p), rtol=1e-6)
        loss = OPS["softmax_cross_entropy"](x, labels, reduction="none")
        np.testing.assert_allclose(loss, -np.log([p[0, 2], p[1, 0]]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_of_equal_zeros_is_the_maximum_whatever_its_sign(dtype):
    op = OPS["max"]
    for n in (2, 5, 40, 300):
        for first in (0.0, -0.0):
            x = np.full((6, n), -first, dtype)
            x[:, 0] = first
            y, argmax = op.tuned.forward(x, 1)
            assert argmax.tolist() == [i * n for i in range(6)]
            np.testing.assert_array_equal(np.signbit(y), np.signbit(x[:, 0]))


# --- the cache ---

COUNT_COMPILATIONS = """
import sys
import numpy as np
from numba.core import event
from nnkernels.ops import OPS, checks

class Listener(event.Listener):
    names = []
    def on_start(self, event):
        self.names.append(str(event.data["dispatcher"]))
    def on_end(self, event):
        pass

listener = Listener()
event.register("numba:compile", listener)
for name in sys.argv[1:]:
    op, rng = OPS[name], np.random.default_rng(0)
    for samples in (op.samples(rng, np.float32), op.bench_samples(rng, np.float32)):
        sample = next(samples)
        outputs = op.tuned.forward(*sample.arrays, **sample.attributes)
        dy, needs = checks.cotangent(rng, outputs), checks.differentiable(op, sample)
        op.tuned.backward(dy, outputs, sample.arrays, needs, **sample.attributes)
print(listener.names)
"""


def test_the_next_process_compiles_nothing():
    names = [
        *("add", "pow", "exp", "sin", "leaky_relu", "sum", "mean", "max", "softmax", "log_softmax", "mse"),
        *(
            "bce_with_logits",
            "gaussian_nll",
            "nll_loss",
            "softmax_cross_entropy",
            "max_pool2d",
            "avg_pool2d",
            "pad",
            "concatenate",
        ),
    ]
    for _ in range(2):
        command = [sys.executable, "-c", COUNT_COMPILATIONS, *names]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert result.stdout.strip() == "[]"


def test_far_from_zero_on_all_bodies():
    x = np.float32([1e30, -1e30, 3.0])
    for body in ("loops", "vectorized", "tuned"):
        with use_backend(body):
            assert OPS["tanh"](x).tolist()[:2] == [1, -1]
            assert OPS["sigmoid"](x).tolist()[:2] == [1, 0]
