"""What the tape keeps, when it lets go, and what it notices: changes in place, checkpoints, peak memory."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn, optim
from nnkernels.autograd.tensor import carry_back
from nnkernels.nn import functional as F


def leaf(values):
    return nnk.tensor(np.asarray(values, np.float64), requires_grad=True)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------- changes in place


def by_subtraction(x):
    with nnk.no_grad():
        x -= 1.0


def by_assignment(x):
    with nnk.no_grad():
        x[0] = 7.0


def by_copying(x):
    with nnk.no_grad():
        x.copy_(np.zeros(3))


def through_data(x):
    x.data -= 0.5


def through_a_view(x):
    with nnk.no_grad():
        x[1:][0] = 3.0


def through_another_name(x):
    x.detach()[:] = 4.0


CHANGES = (by_subtraction, by_assignment, by_copying, through_data, through_a_view, through_another_name)


@pytest.mark.parametrize("change", CHANGES)
def test_a_saved_input_that_was_changed_is_noticed(change):
    x = leaf([1.0, 2.0, 3.0])
    y = (x * x).sum()
    change(x)
    with pytest.raises(RuntimeError, match=r"mul saved \(its inputs \(3,\), \(3,\)\) was changed in place"):
        y.backward()
    assert x.grad is None
    (x * x).sum().backward()  # a graph made since sees the new values
    np.testing.assert_allclose(x.grad.data, 2 * x.data)


def test_a_saved_result_that_was_changed_is_noticed():
    x = leaf([0.5, 1.0])
    y = x.exp()  # whose slope is y itself
    with nnk.no_grad():
        y *= 2.0
    with pytest.raises(RuntimeError, match=r"exp saved"):
        y.sum().backward()


def test_an_optimizers_step_between_forward_and_backward_is_noticed():
    layer = nn.Linear(2, 1, rng=0)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    x = nnk.tensor(np.ones((4, 2), np.float32), requires_grad=True)
    early, late = (layer(x) ** 2).sum(), (layer(x) ** 2).sum()
    early.backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"linear saved.*optimizer's step.*run the forward pass again"):
        late.backward()
    layer.zero_grad()
    (layer(x) ** 2).sum().backward()
    assert layer.weight.grad is not None


def test_loading_a_state_is_noticed():
    layer = nn.Linear(2, 1, rng=0)
    y = (layer(np.ones((4, 2), np.float32)) ** 2).sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_ops_that_read_no_values_backward_do_not_mind():
    x = leaf([1.0, 2.0])
    y = (x + 1.0)[::-1].reshape(2, 1).sum()
    with nnk.no_grad():
        x *= 5.0
    y.backward()
    np.testing.assert_array_equal(x.grad.data, [1, 1])


def test_gradients_by_others_do_not_mind_what_is_not_on_their_way():
    x, w = leaf([1.0]), leaf([2.0])
    y = (x * x + w * w).sum()
    with nnk.no_grad():
        x += 1.0
    (dw,) = carry_back(y, y.cotangent(), [w])
    assert dw.item() == 4


def test_a_leaf_that_needs_gradients_is_changed_inside_no_grad_only():
    x = leaf([1.0, 2.0])
    for change in (lambda: x.__isub__(1.0), lambda: x.__setitem__(0, 3.0), lambda: x.copy_([0, 0])):
        with pytest.raises(RuntimeError, match=r"cannot be changed in place.*no_grad"):
            change()
    assert x.data.tolist() == [1, 2]
    before = x.data
    with nnk.no_grad():
        x -= [0.5, 1.0]
        x *= 2.0
        x /= 4.0
        x += nnk.tensor(np.float64([1, 1]))
    assert x.data is before
    assert x.data.tolist() == [1.25, 1.5]
    assert x.requires_grad


def test_recorded_results_add_up_by_augmented_assignment():
    x, total = leaf([1.0, 2.0]), nnk.tensor(0.0, np.float64)
    for k in range(3):
        total += (x * float(k)).sum()
    total.backward()
    np.testing.assert_array_equal(x.grad.data, [3, 3])


def test_in_place_arithmetic_keeps_the_dtype_or_refuses():
    x = nnk.tensor(np.float32([1, 2]))
    x += 0.5
    assert x.dtype == np.float32
    counts = nnk.tensor(np.array([1, 2]))
    with pytest.raises(TypeError, match="casting"):
        counts += 0.5
    assert counts.data.tolist() == [1, 2]


# ---------------------------------------------------------------- memory


def peak(run):
    """The most bytes that NumPy holds at once during run(), beyond what it held before."""
    nnk.empty_cache()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        nnk.empty_cache()


DEPTH, WIDTH = 36, 100_000
ARRAY = WIDTH * 8


def layers(first, count):
    def part(x):
        for k in range(first, first + count):
            x = (x * (1 + 0.01 * k)).sin()
        return x

    return part


def test_backward_frees_intermediate_arrays_as_it_passes_them():
    x = leaf(np.zeros(WIDTH))

    def forward_only():
        layers(0, DEPTH)(x).sum()

    def both():
        layers(0, DEPTH)(x).sum().backward()

    both()  # compiles
    forward, whole = peak(forward_only), peak(both)
    assert forward > 2 * DEPTH * ARRAY  # all of them are held for backward
    assert whole < forward + 6 * ARRAY  # gradients take the place of what has been freed


def test_an_array_is_gone_as_soon_as_backward_has_passed_it():
    x = leaf(np.zeros(1000))
    a = x.sin()
    b = a * 2.0
    seen = {}
    inner = weakref.ref(b.data)
    op = nnk.OPS["sin"]
    z = b.exp().sum()
    del b
    body = a.node.body

    def watching(*call, **attributes):
        seen["alive"] = inner() is not None
        return op.tuned.backward(*call, **attributes)

    a.node.body = body._replace(backward=watching)
    z.backward()
    assert seen == {"alive": False}  # when backward reached the first op, the third one's input was freed


def test_checkpoints_trade_a_second_forward_pass_for_memory(capsys):
    x = leaf(normal(WIDTH))

    def plain():
        layers(0, DEPTH)(x).sum().backward()

    def in_parts():
        y = x
        for first in range(0, DEPTH, 6):
            y = nnk.checkpoint(layers(first, 6), y)
        y.sum().backward()

    plain()
    wanted, x.grad = x.grad, None
    in_parts()
    np.testing.assert_array_equal(x.grad.data, wanted.data)
    x.grad = None
    whole, parts = peak(plain), peak(in_parts)
    with capsys.disabled():
        print(f"\n  {DEPTH} layers hold {whole / ARRAY:.0f} arrays, six checkpoints {parts / ARRAY:.0f}")
    assert parts < whole / 3


def test_a_checkpoint_gives_gradients_to_what_its_function_captures():
    w, b, x = leaf(normal(3, 3)), leaf(normal(3, seed=1)), leaf(normal(2, 3, seed=2))
    outer = w * 2.0  # captured, and made outside

    def f(t):
        return (t @ outer + b).tanh()

    found = []
    for run in (f, lambda t: nnk.checkpoint(f, t)):
        for t in (w, b, x):
            t.grad = None
        outer = w * 2.0
        (run(run(x)) * normal(2, 3, seed=3)).sum().backward()
        found.append([t.grad.data for t in (w, b, x)])
    for got, wanted in zip(*found):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)


def test_checkpoints_of_modules_of_arrays_and_without_gradients():
    model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.ReLU(), nn.Linear(4, 2, rng=1))
    x = np.ones((5, 3), np.float32)
    nnk.checkpoint(model, x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with nnk.no_grad():
        assert not nnk.checkpoint(model, x).requires_grad
    assert not nnk.checkpoint(lambda t: t * 2.0, nnk.tensor(x)).requires_grad


def test_checkpoints_can_be_differentiated_twice_and_pushed_forward():
    x, v = normal(4), normal(4, seed=1)
    f = lambda t: t.sin() * t  # noqa: E731
    wanted = nnk.hvp(lambda t: (f(t) ** 2).sum(), x, v)
    np.testing.assert_allclose(nnk.hvp(lambda t: (nnk.checkpoint(f, t) ** 2).sum(), x, v), wanted, rtol=1e-12)
    second = nnk.jacobian(nnk.grad(lambda t: (nnk.checkpoint(f, t) ** 2).sum()), x, "reverse")
    np.testing.assert_allclose(second @ v, wanted, rtol=1e-12)


def test_dropout_inside_a_checkpoint_draws_the_same_mask_again_given_its_generator():
    rng = np.random.default_rng(0)
    x = leaf(np.ones(1000))
    f = lambda t: F.dropout(t, 0.5, rng=rng)  # noqa: E731
    y = nnk.checkpoint(f, x, rng=rng)
    after = rng.bit_generator.state
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)  # 0 where dropped, 2 elsewhere
    assert rng.bit_generator.state == after
    with pytest.raises(RuntimeError, match=r"something else when it was run again.*rng="):
        nnk.checkpoint(f, x).sum().backward()


def test_a_checkpoint_of_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match=r"checkpoint: f must return a Tensor, got tuple"):
        nnk.checkpoint(lambda t: (t, t), leaf([1.0]))


# ---------------------------------------------------------------- freed graphs


def test_gradients_through_a_freed_graph_are_refused_and_not_zero():
    x = leaf([1.0, 2.0])
    y = x * x
    y.sum().backward()
    with pytest.raises(RuntimeError, match="freed by an earlier backward"):
        carry_back(y.sum(), nnk.tensor(np.ones(())), [x])
