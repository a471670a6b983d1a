"""Facts of the lecture, held at the level where a reader of the lecture would check them."""

import math
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.optim import SGD

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is the oracle here")
needs_sklearn = pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is the oracle here")

BACKENDS = ("loops", "vectorized", "tuned")


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nnk.use_backend(request.param):
        yield request.param


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def leaf(values, dtype=np.float64):
    return nnk.tensor(np.asarray(values, dtype), requires_grad=True)


# ---------------------------------------------------------------- S2, S3, S32: stable functions


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sigmoid_is_stable_at_1000_and_its_slope_is_s_times_1_minus_s(backend, dtype):
    x = leaf([-1000, -100, -30, -1.5, 0, 0.25, 2, 30, 100, 1000], dtype)
    s = x.sigmoid()
    s.backward(np.ones(10))
    exact = 1 / (1 + np.exp(-x.data.astype(np.longdouble)))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(s.data, exact, rtol=4 * eps, atol=np.finfo(dtype).tiny)
    assert (s.data[0], s.data[4], s.data[-1]) == (0, 0.5, 1)
    np.testing.assert_allclose(x.grad.data, s.data * (1 - s.data), rtol=4 * eps)
    # on the left, where nothing cancels, the slope itself is exact
    np.testing.assert_allclose(x.grad.data[:7], (exact * (1 - exact))[:7], rtol=8 * eps, atol=1e-37)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_binary_cross_entropy_is_finite_at_10000_and_equals_the_formula(backend, dtype, tolerance):
    z = np.repeat(np.array([-1e4, -700, -90, -20, -1, 0, 0.5, 3, 40, 700, 1e4], dtype), 3)
    y = np.tile(np.array([0, 1, 0.3], dtype), 11)
    wide, t = z.astype(np.longdouble), y.astype(np.longdouble)  # e^10000 is finite there
    if not np.isfinite(np.exp(wide)).all():
        pytest.skip("longdouble is no wider than float64 here")
    x = leaf(z, dtype)
    losses = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    losses.backward(np.ones(33))
    value = t * np.log1p(np.exp(-wide)) + (1 - t) * np.log1p(np.exp(wide))
    np.testing.assert_allclose(losses.data, value, rtol=tolerance, atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(x.grad.data, 1 / (1 + np.exp(-wide)) - t, rtol=tolerance, atol=tolerance / 4)
    mean = F.binary_cross_entropy_with_logits(z, y)
    assert float(mean) == pytest.approx(float(value.mean()), rel=10 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_softmax_and_cross_entropy_are_stable_at_10000(backend, dtype, tolerance):
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, 0], [1, 2, 3], [-5, 0, 1e4]], dtype)
    wide = np.exp(z.astype(np.longdouble) - z.max(axis=1, keepdims=True))
    exact = wide / wide.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(F.softmax(z), exact, rtol=tolerance, atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(F.softmax(z).sum(axis=1), 1, rtol=tolerance)
    labels = np.array([1, 0, 1, 2, 0])
    x = leaf(z, dtype)
    losses = F.cross_entropy(x, labels, reduction="none")
    losses.backward(np.ones(5))
    shift = z.max(axis=1).astype(np.longdouble)
    wanted = shift + np.log(wide.sum(axis=1)) - z[np.arange(5), labels]
    np.testing.assert_allclose(losses.data, wanted, rtol=tolerance)
    assert losses.data[0] == 2e4
    np.testing.assert_allclose(x.grad.data, exact - np.eye(3)[labels], rtol=tolerance, atol=tolerance)


def test_one_hot_targets_are_integer_labels_written_out(backend):
    z, labels = normal(6, 4), np.array([0, 3, 1, 1, 2, 0])
    a, b = leaf(z), leaf(z)
    one, other = F.cross_entropy(a, labels), F.cross_entropy(b, np.eye(4)[labels])
    one.backward()
    other.backward()
    assert one.item() == pytest.approx(other.item(), rel=1e-14)
    np.testing.assert_allclose(a.grad.data, b.grad.data, rtol=1e-12, atol=1e-16)


@needs_torch
def test_softmax_equals_torchs_at_extreme_logits():
    import torch

    z = np.float32([[1e4, -1e4, 3], [-1e4, -9999, -1e4], [0, 1e4, 1e4]])
    np.testing.assert_allclose(F.softmax(z), torch.softmax(torch.from_numpy(z), 1).numpy(), rtol=1e-6)
    np.testing.assert_allclose(F.log_softmax(z), torch.log_softmax(torch.from_numpy(z), 1).numpy(), rtol=1e-6)


# ---------------------------------------------------------------- S5: steepest descent


def mlp_loss(parameters):
    """Mean squared error of a two-layer network at given parameters; returns a Tensor."""
    U, a, w = parameters
    x, y = normal(20, 3, seed=5), normal(20, seed=6)
    return F.mse_loss(F.tanh(F.linear(x, U, a)) @ w, y)


def test_the_measured_slope_along_any_direction_is_the_gradients_share_of_it():
    start = [normal(4, 3), normal(4, seed=1), normal(4, seed=2)]
    theta = [leaf(p) for p in start]
    mlp_loss(theta).backward()
    gradient = np.concatenate([p.grad.data.ravel() for p in theta])

    def slope(v, step=1e-5):
        ends = []
        for sign in (1, -1):
            parts = np.split(sign * step * v, [12, 16])
            ends.append(mlp_loss([leaf(p + d.reshape(p.shape)) for p, d in zip(start, parts)]).item())
        return (ends[0] - ends[1]) / (2 * step)

    directions = [v / np.linalg.norm(v) for v in normal(20, 20, seed=3)]
    for v in directions:
        assert slope(v) == pytest.approx(v @ gradient, rel=1e-6, abs=1e-8)
    steepest = slope(-gradient / np.linalg.norm(gradient))
    assert steepest == pytest.approx(-np.linalg.norm(gradient), rel=1e-6)
    assert steepest < min(slope(v) for v in directions)


# ---------------------------------------------------------------- S9: logistic regression is convex


def clouds(n=200):
    """Two overlapping clouds: x (n, 2), y (n) of 0 and 1."""
    y = np.arange(n) % 2
    return normal(n, 2, seed=4) + np.outer(y, [1.5, -0.5]), y.astype(np.float64)


def logistic_regression(start, x, y, C=1.0):
    """Minimise C * sum of losses + |w|^2 / 2 from the given (w, b)."""
    w, b = nn.Parameter(np.array(start[:2])), nn.Parameter(np.array(start[2]))
    optimizer = SGD([w, b], lr=1.0)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ w + b, y) + (w * w).sum() * (0.5 / (C * len(x)))
        loss.backward()
        optimizer.step()
    return np.append(w.data, b.data)


def test_two_starts_of_a_logistic_regression_end_at_the_same_weights():
    x, y = clouds()
    one, other = logistic_regression([0.0, 0.0, 0.0], x, y), logistic_regression([-4.0, 6.0, 3.0], x, y)
    np.testing.assert_allclose(one, other, rtol=1e-9)
    # and there the gradient vanishes: the lecture's sum of (sigma(h) - y) x, plus the penalty's share
    error = 1 / (1 + np.exp(-(x @ one[:2] + one[2]))) - y
    np.testing.assert_allclose(error @ x + one[:2], 0, atol=1e-7)
    assert abs(error.sum()) < 1e-7


@needs_sklearn
def test_logistic_regression_equals_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    x, y = clouds()
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x, y)
    ours = logistic_regression([0.0, 0.0, 0.0], x, y)
    np.testing.assert_allclose(ours, [*theirs.coef_[0], *theirs.intercept_], rtol=1e-5)


# ---------------------------------------------------------------- S11, S13: the chain rule by hand


def sigma(t):
    return 1 / (1 + math.exp(-t))


def by_hand(x, y, w, U, loss):
    """Value and gradients of the sum of losses of h(x) = w . sigma(U x), as the lecture writes them out."""
    total, dw, dU = 0.0, np.zeros_like(w), np.zeros_like(U)
    for i in range(len(x)):
        hidden = [sigma(sum(U[j, k] * x[i, k] for k in range(U.shape[1]))) for j in range(len(w))]
        h = sum(w[j] * hidden[j] for j in range(len(w)))
        if loss == "mse":
            total += 0.5 * (h - y[i]) ** 2
            error = h - y[i]
        else:
            total += -y[i] * math.log(sigma(h)) - (1 - y[i]) * math.log(1 - sigma(h))
            error = sigma(h) - y[i]
        for j in range(len(w)):
            dw[j] += error * hidden[j]
            for k in range(U.shape[1]):
                dU[j, k] += error * w[j] * hidden[j] * (1 - hidden[j]) * x[i, k]
    return total, dw, dU


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_hand_derived_gradients_of_one_hidden_layer_equal_the_tapes(backend, loss):
    x, y = normal(9, 4), (normal(9, seed=1) > 0).astype(np.float64)
    w, U = leaf(normal(5, seed=2)), leaf(normal(5, 4, seed=3))
    h = F.linear(x, U).sigmoid() @ w
    if loss == "mse":
        value = F.mse_loss(h, y, "sum", half=True)
    else:
        value = F.binary_cross_entropy_with_logits(h, y, reduction="sum")
    value.backward()
    total, dw, dU = by_hand(x, y, w.data, U.data, loss)
    assert value.item() == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(w.grad.data, dw, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(U.grad.data, dU, rtol=1e-12, atol=1e-12)


def test_the_recursion_of_deltas_through_many_layers_equals_the_tapes_gradients():
    sizes, x = [3, 6, 5, 4, 2], normal(7, 3)
    weights = [leaf(normal(o, i, seed=i)) for i, o in pairwise(sizes)]
    y = normal(7, 2, seed=9)
    layers, h = [x], nnk.tensor(x)
    for w in weights:
        h = F.tanh(F.linear(h, w))
        layers.append(h.data)
    F.mse_loss(h, y, "sum", half=True).backward()
    delta = (layers[-1] - y) * (1 - layers[-1] ** 2)
    for depth in reversed(range(len(weights))):
        np.testing.assert_allclose(weights[depth].grad.data, delta.T @ layers[depth], rtol=1e-11, atol=1e-12)
        delta = (delta @ weights[depth].data) * (1 - layers[depth] ** 2)


# ---------------------------------------------------------------- S24 to S28: convolution and pooling


def test_the_difference_operator_finds_the_slope(backend):
    x = np.float64([0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4]).reshape(1, 1, 1, 11)
    u = np.float64([-1, 1]).reshape(1, 1, 1, 2)
    y = F.conv2d(x, u)
    assert y.shape == (1, 1, 1, 11 - 2 + 1)
    assert y.ravel().tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.data())
def test_convolution_of_many_channels_equals_scipys_on_ragged_shapes(data):
    from scipy.signal import correlate2d

    def draw(low, high):
        return data.draw(st.integers(low, high))

    N, C, K, R, S = draw(1, 3), draw(1, 4), draw(1, 5), draw(1, 4), draw(1, 4)
    H, W = R + draw(0, 9), S + draw(0, 9)
    x, w, b = normal(N, C, H, W), normal(K, C, R, S, seed=1), normal(K, seed=2)
    y = F.conv2d(x, w, b)
    assert y.shape == (N, K, H - R + 1, W - S + 1)
    for n in range(N):
        for k in range(K):
            wanted = b[k] + sum(correlate2d(x[n, c], w[k, c], "valid") for c in range(C))
            np.testing.assert_allclose(y[n, k], wanted, rtol=1e-12, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.sampled_from(BACKENDS))
def test_the_output_has_one_position_for_every_stride_that_fits(size, kernel, stride, padding, backend):
    positions = len(range(0, size + 2 * padding - kernel + 1, stride))
    x, w = np.ones((1, 1, size, 2)), np.ones((1, 1, kernel, 1))
    with nnk.use_backend(backend):
        if positions == 0:
            with pytest.raises(ValueError, match="larger than the padded input"):
                F.conv2d(x, w, stride=(stride, 1), padding=(padding, 0))
        else:
            y = F.conv2d(x, w, stride=(stride, 1), padding=(padding, 0))
            covered = [
                sum(0 <= p * stride + r - padding < size for r in range(kernel)) for p in range(positions)
            ]
            assert y[0, 0, :, 1].tolist() == covered


def test_shifting_the_input_shifts_the_output(backend):
    x = np.zeros((1, 2, 16, 17))
    x[:, :, 5:10, 6:11] = normal(1, 2, 5, 5)
    w = normal(3, 2, 3, 3, seed=1)
    for stride, shift in ((1, (2, -3)), (1, (-1, 2)), (2, (2, -4)), (3, (3, 3))):
        moved = np.roll(x, shift, axis=(2, 3))
        y, z = (F.conv2d(a, w, stride=stride, padding=1) for a in (x, moved))
        steps = tuple(s // stride for s in shift)
        np.testing.assert_array_equal(z, np.roll(y, steps, axis=(2, 3)))
        assert not np.array_equal(z, y)
    odd = F.conv2d(np.roll(x, 1, axis=2), w, stride=2, padding=1)  # stride 2 sees shifts of 2 only
    plain = F.conv2d(x, w, stride=2, padding=1)
    assert not any(np.allclose(odd, np.roll(plain, s, axis=2)) for s in range(-4, 5))


def test_sharing_weights_needs_27_where_full_connections_need_4e10():
    assert sum(p.size for p in nn.Conv2d(3, 1, 3, bias=False).parameters()) == 27
    pixels = 8 * 8 * 3
    assert sum(p.size for p in nn.Linear(pixels, pixels, bias=False).parameters()) == pixels**2
    assert pytest.approx(3.9e10, rel=0.01) == (256 * 256 * 3) ** 2


def test_a_convolution_is_a_full_connection_whose_weights_are_shared(backend):
    x, w = leaf(normal(1, 2, 4, 5)), leaf(normal(3, 2, 3, 2, seed=1))
    y = F.conv2d(x, w)
    full = np.zeros((y.size, x.size))  # column i: the answer to pixel i alone
    for i in range(x.size):
        pixel = np.zeros(x.size)
        pixel[i] = 1
        full[:, i] = F.conv2d(pixel.reshape(x.shape), w.data).ravel()
    np.testing.assert_allclose(y.data.ravel(), full @ x.data.ravel(), rtol=1e-12, atol=1e-13)
    g = normal(*y.shape, seed=2)
    y.backward(g)
    np.testing.assert_allclose(x.grad.data.ravel(), full.T @ g.ravel(), rtol=1e-12, atol=1e-13)
    # each shared weight collects the gradients of all the connections it stands for
    dfull = np.outer(g.ravel(), x.data.ravel())
    for k, c, r, s in np.ndindex(w.shape):
        one = np.zeros(w.shape)
        one[k, c, r, s] = 1
        where = [
            (np.ravel_multi_index((0, k, p, q), y.shape), np.ravel_multi_index((0, c, p + r, q + s), x.shape))
            for p in range(y.shape[2])
            for q in range(y.shape[3])
        ]
        assert w.grad.data[k, c, r, s] == pytest.approx(
            sum(dfull[i, j] for i, j in where), rel=1e-11, abs=1e-12
        )


def permuted_inside_windows(x, rng):
    """Shuffle the four pixels of each 2x2 window among themselves."""
    N, C, H, W = x.shape
    windows = x.reshape(N, C, H // 2, 2, W // 2, 2).swapaxes(3, 4).reshape(N, C, H // 2, W // 2, 4)
    windows = rng.permuted(windows, axis=-1)
    return windows.reshape(N, C, H // 2, W // 2, 2, 2).swapaxes(3, 4).reshape(x.shape)


def test_permuting_pixels_inside_a_window_leaves_pooled_maps_alone(backend):
    x = normal(2, 3, 8, 6)
    shuffled = permuted_inside_windows(x, np.random.default_rng(1))
    assert not np.array_equal(x, shuffled)
    np.testing.assert_array_equal(F.max_pool2d(shuffled, 2), F.max_pool2d(x, 2))
    np.testing.assert_allclose(F.avg_pool2d(shuffled, 2), F.avg_pool2d(x, 2), rtol=1e-12, atol=1e-15)
    across = np.roll(x, 1, axis=3)
    assert not np.array_equal(F.max_pool2d(across, 2), F.max_pool2d(x, 2))


def test_small_shifts_change_max_pooled_maps_less_than_raw_ones():
    x = np.zeros((50, 1, 24, 24))
    rng = np.random.default_rng(0)
    for image in x[:, 0]:  # a few bright spots
        image[tuple(rng.integers(2, 22, (2, 6)))] = rng.uniform(1, 2, 6)
    moved = np.roll(x, 1, axis=3)

    def change(f):
        before, after = f(x), f(moved)
        return np.abs(after - before).sum() / np.abs(before).sum()

    raw, by_2, by_4 = (
        change(lambda a: a),
        change(lambda a: F.max_pool2d(a, 2)),
        change(lambda a: F.max_pool2d(a, 4)),
    )
    assert raw > 1.5  # almost every spot left its pixel
    assert by_4 < by_2 < 0.7 * raw
    assert by_4 < 0.4 * raw
