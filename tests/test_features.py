"""Feature maps: their kernels, their gradients, and what becomes linear under them."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn.features import Features, Fourier, Polynomial, RadialBasis
from nnkernels.ops import checks


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_polynomial_of_two_numbers_is_the_textbooks():
    y = Polynomial(2)(np.array([[2.0, 3.0], [-1.0, 0.5]]))
    np.testing.assert_allclose(y, [[4, np.sqrt(2) * 6, 9], [1, -np.sqrt(2) / 2, 0.25]], rtol=1e-14)


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("D", [1, 2, 4])
def test_polynomial_features_have_the_kernel_of_their_degree(D, degree):
    x, z, phi = normal(6, D), normal(5, D, seed=1), Polynomial(degree)
    np.testing.assert_allclose(phi(x) @ phi(z).T, (x @ z.T) ** degree, rtol=1e-10, atol=1e-10)


def test_random_fourier_features_approach_the_gaussian_kernel():
    x, z = normal(8, 3), normal(7, 3, seed=1)
    phi = Fourier.random(3, 20000, width=1.7, rng=0, dtype=np.float64)
    distance = ((x[:, None] - z) ** 2).sum(axis=2)
    np.testing.assert_allclose(phi(x) @ phi(z).T, np.exp(-distance / (2 * 1.7**2)), atol=5 / np.sqrt(20000))


def test_fourier_features_of_given_frequencies():
    frequencies = np.array([[1.0, 0.0], [0.5, -2.0]])
    x = normal(5, 2)
    angles = x @ frequencies.T
    wanted = np.hstack((np.cos(angles), np.sin(angles))) / np.sqrt(2)
    np.testing.assert_allclose(Fourier(frequencies, dtype=np.float64)(x), wanted, atol=1e-14)


def test_radial_basis_functions_peak_at_their_centres():
    centres, x = normal(4, 3), normal(6, 3, seed=1)
    phi = RadialBasis(centres, 0.7, dtype=np.float64)
    np.testing.assert_array_equal(np.diag(phi(centres)), 1)
    wanted = [[np.exp(-np.sum((a - c) ** 2) / (2 * 0.49)) for c in centres] for a in x]
    np.testing.assert_allclose(phi(x), wanted, rtol=1e-12)
    moved = RadialBasis(centres + 1e6, 0.7, dtype=np.float64)
    np.testing.assert_allclose(moved(x + 1e6), wanted, rtol=1e-6)


MAPS = [
    Polynomial(3),
    Fourier.random(3, 4, rng=0, dtype=np.float64),
    RadialBasis(normal(5, 3), 1.3, dtype=np.float64),
    Features(lambda x: x, lambda x: x[:, 0] * x[:, 2], Polynomial(2)),
]


@pytest.mark.parametrize("phi", MAPS, ids=lambda phi: type(phi).__name__)
def test_gradients_flow_through(phi):
    x = normal(4, 3, seed=2)
    leaf = nnk.tensor(x, requires_grad=True)
    y = phi(leaf)
    np.testing.assert_array_equal(y.data, phi(x))
    dy = normal(*y.shape, seed=3)
    y.backward(dy)
    np.testing.assert_allclose(
        leaf.grad.data, checks.numeric_gradient(lambda: phi(x), x, dy, 1e-6), atol=1e-8
    )


def test_float32_stays_float32():
    x = normal(4, 3, dtype=np.float32)
    for phi in (Polynomial(2), Fourier.random(3, 4), RadialBasis(normal(2, 3)), Features(np.abs)):
        assert phi(x).dtype == np.float32


def test_frequencies_and_centres_are_state_but_not_learnt():
    a, b = Fourier.random(2, 3, rng=0), Fourier.random(2, 3, rng=1)
    assert list(a.parameters()) == []
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(a.frequencies, b.frequencies)
    assert list(RadialBasis([[0, 1]]).state_dict()) == ["centres"]
    assert repr(Features(Polynomial(3))) == "Features(\n  (0): Polynomial(degree=3)\n)"


def accuracy(phi):
    """Train a linear classifier on phi of two circles of radius 1 and 2; return how many it gets right."""
    rng = np.random.default_rng(0)
    angle, label = rng.uniform(0, 2 * np.pi, 200), np.arange(200) % 2
    radius = 1.0 + label + rng.uniform(-0.3, 0.3, 200)
    x = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).astype(np.float32)
    features = phi(x)
    model = nn.Linear(features.shape[1], 1, rng=0)
    loss, target = nn.BCEWithLogitsLoss(), label[:, None].astype(np.float32)
    for _ in range(300):
        model.zero_grad()
        loss(model(features), target).backward()
        for p in model.parameters():
            p.data -= 1.0 * p.grad.data
    return np.mean((model(features).data > 0)[:, 0] == label)


def test_circles_become_linearly_separable_under_the_degree_2_map():
    assert accuracy(lambda x: x) < 0.7
    assert accuracy(Polynomial(2)) == 1
    assert accuracy(Features(lambda x: x[:, 0] ** 2 + x[:, 1] ** 2)) == 1


def test_errors_say_what_was_wanted():
    x = normal(4, 3)
    for call, error, words in (
        (lambda: Polynomial(0), ValueError, "degree must be at least 1, got 0"),
        (lambda: Polynomial(2)(x[0]), ValueError, r"x must have shape \(N, D\), got \(3,\)"),
        (lambda: Fourier([1.0, 2.0]), ValueError, r"frequencies must have shape \(M, D\), got \(2,\)"),
        (lambda: Fourier.random(2, 3, width=0), ValueError, "width must be positive, got 0"),
        (lambda: Fourier.random(2, 3)(x), ValueError, r"x must have shape \(N, 2\), got \(4, 3\)"),
        (lambda: RadialBasis(x, -1), ValueError, "width must be positive, got -1"),
        (lambda: RadialBasis(x[0]), ValueError, "centres must have shape"),
        (lambda: RadialBasis(x, dtype=np.float64)(x[:, :2]), ValueError, r"\(N, 3\), got \(4, 2\)"),
        (lambda: Features(), ValueError, "at least one function"),
        (lambda: Features(np.abs, 3), TypeError, "argument 1 must be callable, got int"),
        (lambda: Features(lambda x: x.sum())(x), ValueError, r"function 0 must return \(N, M\) or \(N,\)"),
        (lambda: Features(lambda x: x[:2])(x), ValueError, r"with N = 4, got \(2, 3\)"),
    ):
        with pytest.raises(error, match=words):
            call()
