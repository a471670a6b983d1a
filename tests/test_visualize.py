"""What a network sees: each method against a hand-written one, and the network left as it was."""

import numpy as np
import pytest

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, visualize
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import checks

X = (2, 3, 12, 12)


def images(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Net(nn.Module):
    """Two convolutions and a full connection: relu inside a layer, as a layer, and as a function."""

    def __init__(self, rng=0, dtype=np.float64):
        super().__init__()
        rng = np.random.default_rng(rng)
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1, activation="relu", rng=rng, dtype=dtype)
        self.pool = nn.MaxPool2d(2)
        self.block = nn.Sequential(nn.Conv2d(5, 6, 3, rng=rng, dtype=dtype), nn.ReLU(), nn.Dropout(0.5))
        self.fc1 = nn.Linear(96, 7, rng=rng, dtype=dtype)
        self.fc2 = nn.Linear(7, 4, rng=rng, dtype=dtype)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(F.flatten(self.block(self.pool(self.conv1(x))), 1))))


# --- layers and units ---


def test_feature_maps_are_what_the_layer_returns():
    model, x = Net().eval(), images(*X)
    y = model.pool(model.conv1(x)).data
    np.testing.assert_array_equal(visualize.feature_maps(model, x, "pool"), y)
    first = F.conv2d(y, model.block[0].weight.data, model.block[0].bias.data)
    np.testing.assert_allclose(visualize.feature_maps(model, x, "block.0"), first, rtol=1e-12)
    np.testing.assert_allclose(visualize.feature_maps(model, x, "block"), np.maximum(first, 0), rtol=1e-12)
    np.testing.assert_array_equal(visualize.feature_maps(model, nnk.tensor(x), ""), model(x).data)


def test_filters_are_copies_of_the_weights():
    model = Net()
    w = visualize.filters(model, "conv1")
    np.testing.assert_array_equal(w, model.conv1.weight.data)
    w[:] = 0
    assert np.abs(model.conv1.weight.data).min() > 0


@pytest.mark.parametrize("see", [visualize.gradient, visualize.deconvnet, visualize.guided_backprop])
def test_the_strongest_unit_is_taken_where_none_is_named(see):
    model, x = Net(), images(*X)
    y = visualize.feature_maps(model, x, "block.0")
    for n in range(2):
        k, p, q = np.unravel_index(y[n].argmax(), y[n].shape)
        one = x[n : n + 1]
        named = see(model, one, "block.0", k, (p, q))
        np.testing.assert_allclose(see(model, x, "block.0")[n : n + 1], named, atol=1e-14)
        np.testing.assert_allclose(see(model, one, "block.0", k), named, atol=1e-14)
        p, q = np.unravel_index(y[n, 2].argmax(), y.shape[2:])
        np.testing.assert_allclose(
            see(model, x, "block.0", 2)[n], see(model, one, "block.0", 2, (p, q))[0], atol=1e-14
        )
        k = y[n, :, 1, 0].argmax()
        np.testing.assert_allclose(
            see(model, x, "block.0", place=(1, 0))[n], see(model, one, "block.0", k, (1, 0))[0], atol=1e-14
        )
    each = see(model, x, "", [3, 1])
    np.testing.assert_allclose(each[1:], see(model, x[1:], "", 1), atol=1e-14)


# --- from a unit back to the pixels ---


def test_gradient_is_the_units_derivative():
    model, x = Net().eval(), images(*X)

    def units():
        return model.block(model.pool(model.conv1(x))).data[:, 1, 1, 2]

    wanted = checks.numeric_gradient(units, x, np.ones(2), 1e-6)
    np.testing.assert_allclose(visualize.gradient(model, x, "block", 1, (1, 2)), wanted, atol=1e-8)
    assert np.abs(wanted).max() > 0.01


def by_hand(model, x, k, place, rule):
    """Project unit ``k`` at ``place`` of block.0 back through unpooling, ``rule`` and transposed filters."""
    y1 = model.conv1(x).data
    pooled, switches = F.max_pool2d(y1, 2, return_indices=True)
    y2 = F.conv2d(pooled, model.block[0].weight.data, model.block[0].bias.data)
    unit = np.zeros_like(y2)
    unit[(slice(None), k, *place)] = 1
    back = F.conv_transpose2d(rule(unit, y2), model.block[0].weight.data)
    back = F.max_unpool2d(back, switches, 2)
    return F.conv_transpose2d(rule(back, y1), model.conv1.weight.data, padding=1)


RULES = {
    "gradient": lambda dy, y: dy * (y > 0),
    "deconvnet": lambda dy, y: np.maximum(dy, 0),
    "guided_backprop": lambda dy, y: np.maximum(dy, 0) * (y > 0),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_the_ways_back_are_unpooling_a_rule_and_transposed_filters(name, dtype, error):
    model, x = Net(dtype=dtype), images(*X, dtype=dtype)
    for k, place in ((0, (0, 0)), (5, (3, 1))):
        found = getattr(visualize, name)(model, x, "block.1", k, place)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, by_hand(model, x, k, place, RULES[name]), atol=error)


def test_the_three_ways_differ_and_only_where_a_relu_is():
    x = images(*X)
    ways = visualize.gradient, visualize.deconvnet, visualize.guided_backprop
    maps = [way(Net(), x, "", 1) for way in ways]
    for i in range(3):
        assert np.abs(maps[i] - maps[i - 1]).max() > 1e-3
    smooth = nn.Sequential(
        nn.Conv2d(3, 4, 3, rng=0, dtype=np.float64),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(100, 3, rng=1, dtype=np.float64),
    )
    maps = [way(smooth, x, "", 1) for way in ways]
    np.testing.assert_array_equal(maps[1], maps[0])
    np.testing.assert_array_equal(maps[2], maps[0])


CROSS = np.array([[1, -1, -1, -1, 1], [-1, 1, -1, 1, -1], [-1, -1, 2, -1, -1], [-1, 1, -1, 1, -1],
                  [1, -1, -1, -1, 1]], np.float32)  # fmt: skip


def cross_detector():
    """Edges of both signs along both diagonals, pooled twice over noise, find a planted cross."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 1, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data[:] = 0
    model[0].weight.data[:, 0] = CROSS, -CROSS
    model[3].weight.data[0, 0] = 0.1
    model[3].weight.data[0, 0, 1, 1] = 1
    return model


def test_the_deconvnet_of_a_planted_pattern_points_at_its_place():
    rng = np.random.default_rng(0)
    x = (0.4 * rng.standard_normal((40, 1, 32, 32))).astype(np.float32)
    corners = rng.integers(0, 28, (40, 2))
    for picture, (i, j) in zip(x[:, 0], corners):
        picture[i : i + 5, j : j + 5] += CROSS
    pattern = np.abs(visualize.deconvnet(cross_detector(), x, "5"))[:, 0]
    for found, (i, j) in zip(pattern, corners):
        weight = found / found.sum()
        rows, columns = np.indices(found.shape)
        centre = np.array([(weight * rows).sum(), (weight * columns).sum()])
        assert np.abs(centre - (i + 2, j + 2)).max() < 1.5
        around = weight[max(i - 1, 0) : i + 6, max(j - 1, 0) : j + 6].sum()
        assert around > 0.8


# --- which pixels make for a class ---


def test_saliency_is_the_largest_difference_quotient_over_the_colours():
    model, x = Net().eval(), images(*X)
    slopes = checks.numeric_gradient(lambda: model(x).data[:, 2], x, np.ones(2), 1e-6)
    np.testing.assert_allclose(visualize.saliency(model, x, 2), np.abs(slopes).max(axis=1), atol=1e-8)
    best = model(x).data.argmax(axis=1)
    np.testing.assert_array_equal(visualize.saliency(model, x), visualize.saliency(model, x, best))


@pytest.mark.parametrize("baseline", [0.0, 0.5, images(3, 1, 1, seed=5), images(*X, seed=6)])
def test_integrated_gradients_add_up_to_the_difference_of_scores(baseline):
    model, x = Net().eval(), 3 * images(*X)
    start = np.broadcast_to(baseline, x.shape).copy()
    difference = (model(x) - model(start)).data[[0, 1], [1, 3]]
    shares = visualize.integrated_gradients(model, x, [1, 3], baseline, steps=300)
    assert shares.shape == x.shape
    np.testing.assert_allclose(shares.sum(axis=(1, 2, 3)), difference, atol=1e-3)
    assert np.abs(difference).max() > 0.1
    crude = visualize.integrated_gradients(model, x, [1, 3], baseline, steps=1)
    slope = visualize.gradient(model, start + 0.5 * (x - start), "", [1, 3])
    np.testing.assert_allclose(crude, (x - start) * slope, atol=1e-12)


def test_integrated_gradients_of_a_linear_network_are_its_products():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, rng=0, dtype=np.float64))
    x = images(5, 3, 2, 2)
    wanted = x * model[1].weight.data[1].reshape(3, 2, 2)
    np.testing.assert_allclose(visualize.integrated_gradients(model, x, 1, steps=3), wanted, rtol=1e-12)


def test_grad_cam_is_the_weighted_sum_of_the_maps():
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, padding=1, activation="relu", rng=0, dtype=np.float64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3, rng=1, dtype=np.float64),
    )
    x = images(2, 3, 12, 8)
    A = model[0](x).data  # (2, 5, 6, 4); the mean over 24 places, times w
    w = model[3].weight.data
    for target in range(3):
        small = np.maximum(np.einsum("k,nkpq->npq", w[target] / 24, A), 0)
        found = visualize.grad_cam(model, x, "0", target)
        wanted = F.interpolate(small[:, None], size=(12, 8), mode="bilinear")[:, 0]
        np.testing.assert_allclose(found, wanted, atol=1e-14)
        assert (found >= 0).all()
    assert np.abs(found).max() > 0.01


@pytest.mark.parametrize(
    ("size", "stride", "value"),
    [(4, 4, 0.0), (5, 3, 0.5), ((3, 6), (2, 5), images(3, seed=4)), ((12, 1), 1, 0.0), (12, 12, 1.0)],
)
def test_occlusion_is_the_mean_fall_of_all_windows_over_a_pixel(size, stride, value):
    model, x = Net().eval(), images(*X)
    (h, w), (sh, sw) = (v if isinstance(v, tuple) else (v, v) for v in (size, stride))
    scores = model(x).data
    total, count = np.zeros((2, 12, 12)), np.zeros((2, 12, 12))
    for i in sorted({*range(0, 12 - h, sh), 12 - h}):
        for j in sorted({*range(0, 12 - w, sw), 12 - w}):
            hidden = x.copy()
            hidden[:, :, i : i + h, j : j + w] = np.reshape(value, (-1, 1, 1))
            fall = (scores - model(hidden).data)[[0, 1], [3, 0]]
            total[:, i : i + h, j : j + w] += fall.reshape(2, 1, 1)
            count[:, i : i + h, j : j + w] += 1
    before = x.copy()
    found = visualize.occlusion(model, x, [3, 0], size, stride, value)
    np.testing.assert_allclose(found, total / count, atol=1e-12)
    np.testing.assert_array_equal(x, before)


# --- what a unit would like to see ---


def test_activation_maximisation_finds_the_image_that_a_linear_unit_likes_best():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3, rng=0, dtype=np.float64))
    found = visualize.activation_maximisation(
        model, (3, 4, 4), channels=[2, 0], steps=400, lr=0.05, l2=0.5, rng=0
    )
    for x, k in zip(found, (2, 0)):  # where g / rms(g) = l2 x
        w = model[1].weight.data[k]
        np.testing.assert_allclose(x.ravel(), w / np.sqrt((w * w).mean()) / 0.5, atol=1e-3)


def test_activation_maximisation_excites_the_unit_that_was_asked_for():
    model, options = Net().eval(), {"steps": 30, "rng": 0}
    start = visualize.activation_maximisation(model, (3, 12, 12), "block", [0, 3], (1, 2), steps=0, rng=0)
    found = visualize.activation_maximisation(model, (3, 12, 12), "block.0", [0, 3], (1, 2), **options)
    before, after = (
        visualize.feature_maps(model, x, "block.0")[[0, 1], [0, 3], 1, 2] for x in (start, found)
    )
    assert (after > before + 1).all()
    field = visualize.receptive_field(model, "block.0", (1, 2), (3, 12, 12))
    still = start * (1 - 0.1 * 0.01) ** 30  # the decay alone
    np.testing.assert_allclose(found[:, :, ~field], still[:, :, ~field], rtol=1e-12)
    middle = visualize.activation_maximisation(model, (3, 12, 12), "block.0", 1, **options)
    named = visualize.activation_maximisation(model, (3, 12, 12), "block.0", 1, (2, 2), **options)
    np.testing.assert_array_equal(middle, named)


def test_each_regulariser_does_its_part():
    model = Net()

    def image(**options):
        options = {"steps": 40, "l2": 0.0, "rng": 0} | options
        return visualize.activation_maximisation(model, (3, 12, 12), "", 1, **options)

    plain = image()
    size, rough = np.abs(plain).mean(), visualize.total_variation(plain) / np.abs(plain).sum()
    assert np.abs(image(l2=1.0)).mean() < 0.8 * size
    for smooth in (image(variation=0.5), image(blur=0.6)):
        assert visualize.total_variation(smooth) / np.abs(smooth).sum() < 0.8 * rough
    bounded = image(limits=(-0.2, 0.3))
    assert (bounded.min(), bounded.max()) == (-0.2, 0.3)
    assert np.abs(image(jitter=2) - plain).max() > 0.1
    np.testing.assert_array_equal(image(jitter=2), image(jitter=2))
    near = plain + 0.01 * images(1, 3, 12, 12)
    np.testing.assert_array_equal(image(start=near, steps=0), near)


def test_a_jittered_gradient_comes_back_to_where_the_pixels_were():
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 1, rng=0, dtype=np.float64))
    model[1].weight.data[...] = np.arange(49) == 3 * 7 + 3  # it sees the pixel in the middle
    start = images(1, 7, 7)
    x = visualize.activation_maximisation(model, (1, 7, 7), start=start, jitter=3, steps=1, l2=0.0, rng=4)
    down, right = np.random.default_rng(4).integers(-3, 4, 2)
    assert down * right * (down - right)  # else turned round, or exchanged, they would be the same
    (place,) = np.argwhere(x[0, 0] != start[0])
    assert tuple(place) == (3 - down, 3 - right)


def test_blur_is_a_gaussian_with_borders_continued():
    ndimage = pytest.importorskip("scipy.ndimage")
    model, x = Net(), images(1, 3, 12, 12)
    found = visualize.activation_maximisation(model, (3, 12, 12), start=x, steps=1, lr=0.0, blur=1.0, rng=0)
    wanted = ndimage.gaussian_filter(x, (0, 0, 1, 1), mode="nearest", truncate=3)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_total_variation_is_the_sum_of_slopes_and_differentiable():
    x = np.zeros((2, 1, 4, 5))
    x[0, 0, :, 2:] = 3.0  # a step of 3 along 3 of 4 rows: the last row has none below
    x[1] = np.arange(4).reshape(4, 1) * 2.0 + np.arange(5)  # slope (2, 1) at 3 x 4 pixels
    np.testing.assert_allclose(visualize.total_variation(x), [9, 12 * np.sqrt(5)], rtol=1e-3)
    x = images(2, 2, 4, 5)
    leaf = nnk.tensor(x, requires_grad=True)
    visualize.total_variation(leaf).sum().backward()
    wanted = checks.numeric_gradient(lambda: visualize.total_variation(x), x, np.ones(2), 1e-6)
    np.testing.assert_allclose(leaf.grad.data, wanted, atol=1e-7)


# --- the network is left alone ---

CALLS = {
    "feature_maps": lambda m, x: visualize.feature_maps(m, x, "pool"),
    "gradient": lambda m, x: visualize.gradient(m, x, "fc1"),
    "deconvnet": lambda m, x: visualize.deconvnet(m, x, "block.0"),
    "guided_backprop": lambda m, x: visualize.guided_backprop(m, x),
    "saliency": lambda m, x: visualize.saliency(m, x),
    "integrated_gradients": lambda m, x: visualize.integrated_gradients(m, x, steps=2),
    "grad_cam": lambda m, x: visualize.grad_cam(m, x, "conv1"),
    "occlusion": lambda m, x: visualize.occlusion(m, x),
    "activation_maximisation": lambda m, x: visualize.activation_maximisation(m, x.shape[1:], steps=2),
    "receptive_field": lambda m, x: visualize.receptive_field(m, "block", (0, 1), x.shape[1:]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(call, fails):
    model, x = Net(), images(*X)
    model.block.eval()
    calls = []
    model.conv1.register_forward_hook(lambda m, inputs, y: calls.append(y))
    model.fc1.weight.grad = nnk.tensor(np.ones((7, 96)))
    state, modes = model.state_dict(), [m.training for m in model.modules()]
    if fails:
        model.fc2.weight.data = np.zeros((4, 6))  # fc1 has 7 outputs
        state["fc2.weight"] = np.zeros((4, 6))
        with pytest.raises(ValueError, match="linear"):
            call(model, x)
    else:
        with nnk.no_grad():  # as the caller has it
            call(model, x)
            assert not nnk.tensor([1.0], requires_grad=True).sin().requires_grad
    assert [m.training for m in model.modules()] == modes
    assert [len(m._forward_hooks) for m in model.modules()] == [0, 1, *[0] * (len(modes) - 2)]
    assert calls
    grads = [name for name, p in model.named_parameters() if p.grad is not None]
    assert grads == ["fc1.weight"]
    assert (model.fc1.weight.grad.data == 1).all()
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_a_graph_recorded_before_can_still_be_walked():
    model, x = Net(), images(*X)
    loss = model(x).sum()
    for call in CALLS.values():
        call(model, x)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_module_that_runs_twice_shows_its_last_run():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.unused = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.relu(x - 1) + self.relu(x)

    x = images(*X)
    np.testing.assert_array_equal(visualize.feature_maps(Twice(), x, "relu"), np.maximum(x, 0))
    with pytest.raises(ValueError, match="'unused' did not run"):
        visualize.feature_maps(Twice(), x, "unused")


@pytest.mark.sim
def test_networks_on_a_gpu_show_the_same():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, activation="relu", rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(18, 2, rng=1),
    )  # fmt: skip
    x = images(2, 1, 8, 8, dtype=np.float32)
    calls = {
        **{name: CALLS[name] for name in ("guided_backprop", "saliency", "occlusion")},
        "gradient": lambda m, x: visualize.gradient(m, x, "2"),
        "deconvnet": lambda m, x: visualize.deconvnet(m, x, "1", 0),
        "grad_cam": lambda m, x: visualize.grad_cam(m, x, "2"),
        "field": lambda m, x: visualize.receptive_field(m, "2", (1, 1), (1, 8, 8)),
        "filters": lambda m, x: visualize.filters(m, "0"),
        "maximisation": lambda m, x: visualize.activation_maximisation(m, (1, 8, 8), steps=2, rng=0),
    }
    here = {name: call(model, x) for name, call in calls.items()}
    with simulate_gpu():
        model.to("cuda")
        there = {name: call(model, x) for name, call in calls.items()}
        model.to("cpu")
    for name, found in there.items():
        np.testing.assert_allclose(found, here[name], atol=1e-5, err_msg=name)


# --- errors ---


v, maximise = visualize, visualize.activation_maximisation


class TwoResults(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x), x


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, x: v.feature_maps(m, x, "conv3"), ValueError, "layer must be one of conv1, pool, bl"),
        (lambda m, x: v.gradient(m.forward, x), TypeError, "model must be a Module, got method"),
        (lambda m, x: v.filters(m, "fc1"), ValueError, "'fc1' has a weight of shape"),
        (lambda m, x: v.filters(m, "pool"), ValueError, "'pool' has no weight"),
        (lambda m, x: v.gradient(m, x[0], "pool"), ValueError, r"x must have 4 axes \(N, C, H, W\)"),
        (lambda m, x: v.gradient(m, x[:0], "pool"), ValueError, "x must hold images with pixels"),
        (lambda m, x: v.gradient(m, x.astype(int), ""), TypeError, "x must be float32 or float64"),
        (lambda m, x: v.gradient(m, [[1.0]]), TypeError, "gradient: x must be a NumPy array"),
        (lambda m, x: v.deconvnet(m, x, "pool", 5), ValueError, "channel must be from 0 to 4, got 5"),
        (lambda m, x: v.deconvnet(m, x, "pool", 0.5), TypeError, "channel must be an int, one int"),
        (lambda m, x: v.deconvnet(m, x, "pool", [0, 1, 2]), TypeError, "each of the 2 images"),
        (lambda m, x: v.deconvnet(m, x, "pool", 0, (6, 0)), ValueError, r"place must lie in \(6, 6\)"),
        (lambda m, x: v.deconvnet(m, x, "pool", 0, (-1, 0)), ValueError, r"place must lie in"),
        (lambda m, x: v.deconvnet(m, x, "pool", 0, 3), TypeError, "place must be a tuple of ints"),
        (lambda m, x: v.deconvnet(m, x, "fc1", 0, (0, 0)), ValueError, r"place must lie in \(\)"),
        (lambda m, x: v.saliency(m, x, 4), ValueError, "target must be from 0 to 3, got 4"),
        (lambda m, x: v.saliency(m.conv1, x), ValueError, r"scores \(N, K\), got shape \(2, 5, 12"),
        (lambda m, x: v.grad_cam(m, x, "fc1"), ValueError, r"'fc1' returns \(2, 7\)"),
        (lambda m, x: v.grad_cam(TwoResults(), x, "inner"), TypeError, "the network must return a Ten"),
        (lambda m, x: v.feature_maps(TwoResults(), x, ""), TypeError, "Tensor .*, got tuple"),
        (lambda m, x: v.occlusion(m, x, size=13), ValueError, r"size must be at most .*\(12, 12\)"),
        (lambda m, x: v.occlusion(m, x, size=3, stride=4), ValueError, "stride must be at most size"),
        (lambda m, x: v.occlusion(m, x, value=[0, 1]), ValueError, "one for each of 3 channels"),
        (lambda m, x: v.integrated_gradients(m, x, steps=0), ValueError, "steps must be at least 1"),
        (lambda m, x: v.integrated_gradients(m, x, 0, x[:, :2]), ValueError, "baseline must broadcast"),
        (lambda m, x: maximise(m, (3, 12)), ValueError, r"image_shape must be \(C, H"),
        (lambda m, x: maximise(m, X[1:], "x"), ValueError, "layer must be one of"),
        (lambda m, x: maximise(m, X[1:], channels=4), ValueError, "from 0 to 3, got"),
        (lambda m, x: maximise(m, X[1:], channels=None), TypeError, "channels must be"),
        (lambda m, x: maximise(m, X[1:], lr=-1), ValueError, "lr must be at least 0"),
        (lambda m, x: maximise(m, X[1:], limits=(1, 0)), ValueError, "limits must be"),
        (lambda m, x: maximise(m, X[1:], start=x), ValueError, "start must broadcast"),
        (lambda m, x: v.receptive_field(m, "pool", (6, 6), X[1:]), ValueError, "place must lie in"),
        (lambda m, x: v.receptive_field(m, "pool", (0, 0), X), ValueError, "image_shape must be"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call(Net(), images(*X))


def test_a_unit_that_no_pixel_reaches_is_an_error():
    class Constant(nn.Module):
        def forward(self, x):
            return nnk.tensor(np.ones((len(x), 3)))

    with pytest.raises(ValueError, match="does not depend on its images"):
        visualize.saliency(Constant(), images(*X))
