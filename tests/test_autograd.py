"""The tape: what backward gives, what it frees, what it refuses."""

import gc
import math
import statistics
import threading
import time
import weakref
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnkernels as nnk
from nnkernels import OPS
from nnkernels.autograd.tape import topological_order
from nnkernels.nn import Parameter

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is the oracle here")


def leaf(values, dtype=np.float64):
    return nnk.tensor(np.asarray(values, dtype), requires_grad=True)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def numeric(f, x, g, eps=1e-6):
    """The gradient of sum(g * f(x)) in x by central differences; f takes and returns arrays."""
    dx = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = eps
        dx[i] = (g * (f(x + step) - f(x - step))).sum() / (2 * eps)
    return dx


# ---------------------------------------------------------------- the chain rule over a graph


def test_sine_plus_product_at_2_3_has_the_lectures_value_and_derivatives():
    x1, x2 = leaf(2.0), leaf(3.0)
    z = x1.sin() + x1 * x2
    z.backward()
    assert z.item() == pytest.approx(6.909297, abs=5e-7)
    assert x1.grad.item() == pytest.approx(2.583853, abs=5e-7)
    assert x1.grad.item() == pytest.approx(math.cos(2) + 3, rel=1e-14)
    assert x2.grad.item() == 2


def backward_in_order_of_discovery(root):
    """What a tape without a topological order does: nearest to the root first, each tensor once."""
    gradients, queue, seen = {id(root): np.ones_like(root.data)}, [root], {id(root)}
    for tensor in queue:
        if tensor.node is None:
            continue
        node = tensor.node
        for parent, dx in zip(node.inputs, node.pull_back(gradients[id(tensor)], node.needs)):
            if dx is None:
                continue
            gradients[id(parent)] = gradients.get(id(parent), 0) + dx
            if id(parent) not in seen:
                seen.add(id(parent))
                queue.append(parent)
    return gradients


def test_a_diamond_with_sides_of_different_length_needs_topological_order():
    x = leaf(1.5)
    a = x * 2.0
    z = a + (a * a).sin()  # a is one step from z on one side, three on the other
    wanted = 2 + 4 * 3.0 * math.cos(9.0)
    naive = backward_in_order_of_discovery(z)[id(x)]
    assert naive == pytest.approx(2.0)  # a passed its gradient on before the long side's share came
    z.backward()
    assert x.grad.item() == pytest.approx(wanted, rel=1e-14)
    assert abs(wanted - naive) > 1


def test_topological_order_puts_every_tensor_after_all_that_use_it():
    x = leaf(0.3)
    a = x.sin()
    b = a * x
    z = (b + a) * b.exp()
    place = {id(t): i for i, t in enumerate(topological_order(z))}
    assert len(place) == 6
    for t in topological_order(z):
        for parent in t.node.inputs if t.node else ():
            assert place[id(parent)] > place[id(t)]


STEPS = {
    "add": (lambda a, b: a + b, lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "sub": (lambda a, b: a - b, lambda a, b: (a[0] - b[0], a[1] - b[1])),
    "mul": (lambda a, b: a * b * 0.5, lambda a, b: (a[0] * b[0] / 2, (a[1] * b[0] + a[0] * b[1]) / 2)),
    "sin": (lambda a, b: a.sin(), lambda a, b: (np.sin(a[0]), a[1] * np.cos(a[0]))),
}


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=25,
    )
)
def test_any_graph_of_scalars_agrees_with_the_derivative_carried_forward(program):
    x = leaf(0.7)
    tensors, pairs = [x], [(0.7, 1.0)]  # the pair is (value, d value / dx)
    for name, i, j in program:
        i, j = i % len(tensors), j % len(tensors)
        on_tape, by_hand = STEPS[name]
        tensors.append(on_tape(tensors[i], tensors[j]))
        pairs.append(by_hand(pairs[i], pairs[j]))
    tensors[-1].backward()
    value, slope = pairs[-1]
    assert tensors[-1].item() == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert x.grad.item() == pytest.approx(slope, rel=1e-9, abs=1e-9)


# ---------------------------------------------------------------- accumulation and freeing


def test_gradients_of_two_graphs_accumulate_until_zero_grad():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [5.0, 7.0])
    x.zero_grad()
    assert x.grad is None
    (x * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [3.0, 3.0])


def test_accumulating_makes_a_new_array_and_leaves_the_old_one_to_its_holder():
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    first = x.grad.data
    (x * x).sum().backward()
    np.testing.assert_array_equal(first, [2.0, 4.0])
    np.testing.assert_array_equal(x.grad.data, [4.0, 8.0])


def test_a_second_backward_says_what_to_do_and_changes_no_gradient():
    x = leaf(2.0)
    z = (x * x).sin()
    z.backward()
    kept = x.grad.item()
    with pytest.raises(RuntimeError, match=r"freed.*forward pass again.*retain_graph=True"):
        z.backward()
    assert x.grad.item() == kept


def test_a_graph_freed_in_part_is_refused_before_anything_changes():
    x, w = leaf(2.0), leaf(5.0)
    shared = x * x
    other = w * 4.0
    (shared * 3.0).backward()
    assert x.grad.item() == 12
    z = other + x + shared  # reaches w and x through nodes that are still whole
    for _ in range(2):
        with pytest.raises(RuntimeError, match="freed by an earlier backward"):
            z.backward()
        assert x.grad.item() == 12
        assert w.grad is None
    (other + x).backward()  # the refused calls freed nothing
    assert (x.grad.item(), w.grad.item()) == (13, 4)


def test_retain_graph_allows_another_backward_and_only_while_it_is_asked_for():
    x = leaf(3.0)
    z = x * x * x
    z.backward(retain_graph=True)
    z.backward(retain_graph=True)
    z.backward()
    assert x.grad.item() == 3 * 27
    with pytest.raises(RuntimeError, match="retain_graph"):
        z.backward()


def test_backward_lets_go_of_intermediate_arrays():
    x = leaf(np.ones(100_000))
    y = (x * 2.0).exp()
    z = y.sum()
    big = weakref.ref(y.data)
    del y
    assert big() is not None  # the graph needs it
    z.backward()
    assert big() is None
    assert z.node is not None
    np.testing.assert_allclose(x.grad.data, 2 * math.exp(2))


def test_a_graph_without_backward_dies_with_its_last_reference():
    x = leaf(np.ones(10))
    gc.disable()
    try:
        y = (x * 2.0).exp()
        inner = weakref.ref(y.node.inputs[0])
        del y
        assert inner() is None  # no reference cycles: no garbage collection needed
    finally:
        gc.enable()


def test_chains_of_20000_ops_meet_no_recursion_limit():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y + x
    y.backward()
    assert x.grad.item() == 20_001


def test_a_chain_of_100000_ops_is_collected_without_a_crash():
    x = leaf(1.0)
    y = x * 1.0
    middle = weakref.ref(y)
    for _ in range(100_000):
        y = -y
    assert middle() is not None
    del y
    assert middle() is None


def test_gradients_share_no_memory_with_anything_else():
    a, b = leaf(normal(3, 4)), leaf(normal(3, 4, seed=1))
    g = normal(4, 3, seed=2)
    y = (a + b).transpose(0, 1).reshape(4, 3)
    before = g.copy()
    y.backward(g)
    arrays = [a.grad.data, b.grad.data, a.data, b.data, y.data, g]
    for i, one in enumerate(arrays[:2]):
        for other in arrays[i + 1 :]:
            assert not np.shares_memory(one, other)
    a.grad.data[...] = 0
    np.testing.assert_array_equal(b.grad.data, before.T)
    np.testing.assert_array_equal(g, before)


def test_the_gradient_of_a_leaf_by_itself_is_a_copy_of_the_cotangent():
    x, g = leaf([1.0, 2.0]), np.array([3.0, 4.0])
    x.backward(g)
    g[0] = 99
    np.testing.assert_array_equal(x.grad.data, [3.0, 4.0])


def test_a_tensor_used_on_both_sides_gets_both_shares():
    x = leaf([2.0, 3.0])
    (x + x).backward([1.0, 10.0])
    np.testing.assert_array_equal(x.grad.data, [2.0, 20.0])
    y = leaf([2.0, 3.0])
    (y / y).backward([1.0, 1.0])
    np.testing.assert_array_equal(y.grad.data, [0.0, 0.0])


# ---------------------------------------------------------------- cotangents, modes, dtypes


def test_backward_of_many_elements_without_a_cotangent_says_what_to_do():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*backward\(gradient\).*\.sum\(\)"):
        (x * 2.0).backward()
    assert x.grad is None


@pytest.mark.parametrize("gradient", [np.ones(3), np.ones((3, 2)), 1.0, np.ones((1, 2, 3))])
def test_a_cotangent_of_another_shape_is_refused(gradient):
    x = leaf(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"gradient must have shape \(2, 3\), got"):
        (x * 2.0).backward(gradient)
    assert x.grad is None


def test_a_cotangent_may_be_an_array_a_tensor_or_a_list():
    grads = []
    for g in (np.array([1.0, -2.0]), nnk.tensor([1.0, -2.0]), [1, -2]):
        x = leaf([3.0, 4.0])
        (x * x).backward(g)
        grads.append(x.grad.data.tolist())
    assert grads == [[6.0, -16.0]] * 3


def test_one_element_of_any_rank_needs_no_cotangent():
    x = leaf([[3.0]])
    (x * x).backward()
    np.testing.assert_array_equal(x.grad.data, [[6.0]])


def test_no_grad_records_nothing_and_ends_with_its_block():
    x = leaf(2.0)
    with nnk.no_grad():
        y = x * x
        with nnk.no_grad():
            pass
        z = x.sin()
    assert (y.requires_grad, y.node, z.requires_grad, z.node) == (False, None, False, None)
    with pytest.raises(RuntimeError, match=r"requires_grad=True.*no_grad"):
        y.backward()
    with pytest.raises(ZeroDivisionError), nnk.no_grad():
        raise ZeroDivisionError
    assert (x * x).requires_grad


def test_no_grad_stays_in_its_thread():
    seen = []
    with nnk.no_grad():
        thread = threading.Thread(target=lambda: seen.append((leaf(2.0) * 2.0).requires_grad))
        thread.start()
        thread.join()
        assert not (leaf(2.0) * 2.0).requires_grad
    assert seen == [True]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16])
def test_only_float32_and_float64_can_require_gradients(dtype):
    with pytest.raises(TypeError, match=r"requires_grad needs float32 or float64, got"):
        nnk.tensor(np.ones(3, dtype), requires_grad=True)


@pytest.mark.parametrize("data", [np.ones(3, np.int64), [1.0, 2.0], 1.0, np.ones(2, np.float16)])
def test_a_parameter_must_be_a_floating_point_array(data):
    with pytest.raises(TypeError, match=r"Parameter.*float32 or float64"):
        Parameter(data)


def test_a_parameter_can_be_made_of_a_tensor_and_of_awkward_arrays():
    frozen = np.arange(6, dtype=">f8").reshape(2, 3).T
    frozen.flags.writeable = False
    for data in (frozen, nnk.tensor(frozen)):
        p = Parameter(data)
        assert p.requires_grad
        assert p.is_leaf
        assert p.data.flags.carray
        assert p.dtype == np.float64
        np.testing.assert_array_equal(p.data, frozen)


@pytest.mark.parametrize("data", ["ab", None, [1j], {}, [[1.0], [1.0, 2.0]]])
def test_what_is_no_array_of_numbers_is_refused(data):
    with pytest.raises((TypeError, ValueError), match=r"tensor: data must be"):
        nnk.tensor(data)


def test_numbers_become_float32_and_arrays_keep_their_type():
    assert nnk.tensor([1.0, 2]).dtype == np.float32
    assert nnk.tensor([1, 2]).dtype == np.int64
    assert nnk.tensor(np.float64([1])).dtype == np.float64
    assert nnk.tensor([1, 2], dtype=np.float64).dtype == np.float64


def test_a_tensor_holds_a_copy():
    a = np.ones(3)
    t = nnk.tensor(a)
    a[0] = 5
    assert t.data[0] == 1
    assert not np.shares_memory(nnk.tensor(t).data, t.data)


def test_a_big_endian_leaf_learns_like_any_other():
    x = leaf(np.array([1.0, 2.0], ">f8"), ">f8")
    (x * x).sum().backward()
    assert x.grad.data.tolist() == [2.0, 4.0]
    assert x.grad.dtype.isnative


def test_detach_shares_the_array_and_stops_the_gradient():
    x = leaf(3.0)
    y = x * x
    d = y.detach()
    assert np.shares_memory(d.data, y.data)
    assert not d.requires_grad
    assert d.is_leaf
    (d * x).backward()
    assert x.grad.item() == 9  # not 27: d counts as a constant


def test_constants_get_no_gradient_and_results_of_constants_need_none():
    x, c = leaf([1.0, 2.0]), nnk.tensor(np.float64([3.0, 4.0]))
    (x * c).sum().backward()
    assert c.grad is None
    np.testing.assert_array_equal(x.grad.data, c.data)
    assert not (c * 2.0).requires_grad


# ---------------------------------------------------------------- procedural networks


def grown(x, w):
    """As many layers as it takes for the signal to reach 4: the depth depends on x and on w."""
    h, depth = x * 1.0, 0
    while h.item() < 4:
        h = h * w if depth % 2 == 0 else h + w.sin()
        depth += 1
    return h, depth


def test_a_graph_whose_depth_depends_on_its_input_has_the_right_gradient():
    depths = set()
    for start in (0.2, 1.0, 2.5, 3.9, 7.0):
        x, w = leaf(start), leaf(1.7)
        y, depth = grown(x, w)
        depths.add(depth)
        y.backward()
        for t, grad in ((x, x.grad), (w, w.grad)):
            eps, ends = 1e-6, []
            for sign in (1, -1):
                values = [leaf(v.item() + sign * eps * (v is t)) for v in (x, w)]
                ends.append(grown(*values)[0].item())
            slope = 0.0 if grad is None else grad.item()
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-7, abs=1e-9)
    assert len(depths) >= 4


def test_a_network_whose_depth_depends_on_its_input_trains():
    w = leaf(1.2)

    def loss():
        total = nnk.tensor(0.0, np.float64)
        for start, turns in ((0.5, 1), (0.25, 2), (0.125, 3)):
            h = nnk.tensor(start, np.float64)
            for _ in range(turns):
                h = h * w
            total = total + (h - 1.0) ** 2
        return total

    first = loss().item()
    for _ in range(60):
        w.zero_grad()
        loss().backward()
        w.data -= 0.02 * w.grad.data
    assert loss().item() < 1e-3 * first
    assert w.item() == pytest.approx(2.0, abs=0.02)  # 0.5 w = 0.25 w^2 = 0.125 w^3 = 1 there


def test_conditionals_may_compare_tensors_with_numbers():
    x = leaf([1.0, -2.0])
    y = x * 2.0 if x.sum() < 0 else x * 3.0
    assert y.data.tolist() == [2.0, -4.0]
    np.testing.assert_array_equal(x > 0, [True, False])
    np.testing.assert_array_equal(x >= x.detach(), [True, True])
    assert not bool(x.sum() >= 0)
    assert bool(x.sum() <= np.float64(-1))


# ---------------------------------------------------------------- broadcasting, operands, views


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2, 2)), ((4, 1, 2), (3, 1)), ((0, 3), (3,))],
)
def test_stretched_operands_get_the_sum_over_the_stretched_axes(name, left, right):
    f = BINARY[name]
    a, b = np.abs(normal(*left)) + 0.5, np.abs(normal(*right, seed=1)) + 0.5
    g = normal(*np.broadcast_shapes(left, right), seed=2)
    x, y = leaf(a), leaf(b)
    z = f(x, y)
    np.testing.assert_allclose(z.data, f(a, b), rtol=1e-13)
    z.backward(g)
    np.testing.assert_allclose(x.grad.data, numeric(lambda v: f(v, b), a, g), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(y.grad.data, numeric(lambda v: f(a, v), b, g), rtol=1e-6, atol=1e-8)
    assert x.grad.shape == left
    assert y.grad.shape == right


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "other", [2, 2.5, np.float64(2.5), np.float32(2.5), np.int64(2)], ids=lambda v: type(v).__name__
)
def test_numbers_stand_on_either_side_and_keep_the_tensors_type(name, other):
    f = BINARY[name]
    a = np.float32([0.5, 1.5, 2.0])
    for on_left in (False, True):
        x = leaf(a, np.float32)
        y = f(other, x) if on_left else f(x, other)
        assert isinstance(y, nnk.Tensor)
        assert y.dtype == np.float32
        wanted = f(float(other), a.astype(float)) if on_left else f(a.astype(float), float(other))
        np.testing.assert_allclose(y.data, wanted, rtol=1e-6)
        g = np.ones(3)
        y.backward(g)

        def number_and(v, on_left=on_left):
            return f(float(other), v) if on_left else f(v, float(other))

        np.testing.assert_allclose(x.grad.data, numeric(number_and, a.astype(float), g), rtol=1e-5)


@pytest.mark.parametrize("name", BINARY)
def test_arrays_stand_on_either_side(name):
    f = BINARY[name]
    a, b, g = np.abs(normal(2, 3)) + 0.5, np.abs(normal(3, seed=1)) + 0.5, normal(2, 3, seed=2)
    for left, right in ((a, b), (b, a)):
        x = leaf(right)
        y = f(left, x)  # NumPy's operator comes first and must step back
        assert isinstance(y, nnk.Tensor)
        assert y.shape == (2, 3)
        y.backward(g)
        np.testing.assert_allclose(
            x.grad.data, numeric(lambda v, left=left: f(left, v), right, g), rtol=1e-6, atol=1e-8
        )
        x = leaf(left)
        f(x, right).backward(g)
        np.testing.assert_allclose(
            x.grad.data, numeric(lambda v, right=right: f(v, right), left, g), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 2, 3), (3,)),
    ],
)
def test_matmul_follows_numpy_with_vectors_on_either_side(left, right):
    a, b = normal(*left), normal(*right, seed=1)
    g = normal(*np.matmul(a, b).shape, seed=2)
    x, y = leaf(a), leaf(b)
    z = x @ y
    assert z.shape == g.shape
    np.testing.assert_allclose(z.data, a @ b, rtol=1e-12)
    z.backward(g)
    np.testing.assert_allclose(x.grad.data, numeric(lambda v: v @ b, a, g), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(y.grad.data, numeric(lambda v: a @ v, b, g), rtol=1e-6, atol=1e-8)
    w = leaf(b)
    mixed = a @ w
    assert isinstance(mixed, nnk.Tensor)
    mixed.backward(g)
    np.testing.assert_array_equal(w.grad.data, y.grad.data)


def test_matmul_of_sizes_that_do_not_fit_names_both_shapes():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        x @ np.ones((2, 4))
    with pytest.raises((ValueError, TypeError), match="matmul: b must"):
        x @ np.float64(3.0)


VIEWS = {
    "transpose": lambda t: t.transpose(0, 2),
    "rows twice": lambda t: t[1][:, ::-1],
    "strided": lambda t: t[::2, 1:, 1::2],
    "reshape of a transpose": lambda t: t.transpose(1, 2).reshape(-1, 3),
    "slice of a reshape": lambda t: t.reshape(6, 4)[2:5, -2],
    "all of it": lambda t: t.reshape(4, 6).transpose(0, 1)[1:, :3].reshape(-1)[::-2],
    "new axis": lambda t: t[:, None, 1],
}


@pytest.mark.parametrize("name", VIEWS)
def test_gradients_of_views_go_back_to_the_elements_they_came_from(name):
    if name == "transpose":
        chain, plain = VIEWS[name], lambda a: a.swapaxes(0, 2)
    else:
        chain = VIEWS[name]

        def plain(a):
            return chain(AsTensor(a)).a

    a = normal(2, 3, 4)
    x = leaf(a)
    y = chain(x)
    source = plain(np.arange(a.size).reshape(a.shape))  # where each element of the view came from
    np.testing.assert_array_equal(y.data, a.reshape(-1)[source])
    g = normal(*source.shape, seed=1)
    y.backward(g)
    wanted = np.zeros(a.size)
    np.add.at(wanted, source, g)
    np.testing.assert_array_equal(x.grad.data, wanted.reshape(a.shape))


class AsTensor:
    """A NumPy array whose transpose takes two axes."""

    def __init__(self, a):
        self.a = a

    def transpose(self, i, j):
        return AsTensor(self.a.swapaxes(i, j))

    def reshape(self, *shape):
        return AsTensor(self.a.reshape(*shape))

    def __getitem__(self, index):
        return AsTensor(self.a[index])


@needs_torch
def test_overlapping_views_agree_with_torch():
    import torch

    def f(x):
        rows, columns = x[:2], x.transpose(0, 1)[:3]
        return (rows * columns[1:, :4]).sum() + (x.reshape(-1)[3:9] ** 2).sum() + x[-1, 2] * x[0, 0]

    a = normal(4, 4)
    x, t = leaf(a), torch.tensor(a, requires_grad=True)
    y, u = f(x), f(t)
    y.backward()
    u.backward()
    assert y.item() == pytest.approx(u.item(), rel=1e-13)
    np.testing.assert_allclose(x.grad.data, t.grad.numpy(), rtol=1e-12)


# ---------------------------------------------------------------- a tensor as a Python object


def test_one_element_converts_to_a_python_number_whatever_its_rank():
    for data in (2.5, [2.5], [[2.5]]):
        t = leaf(data)
        assert (float(t), int(t), t.item(), bool(t)) == (2.5, 2, 2.5, True)
    with pytest.raises((TypeError, ValueError)):
        float(leaf([1.0, 2.0]))
    with pytest.raises(ValueError, match="ambiguous"):
        bool(leaf([1.0, 2.0]))


def test_iteration_gives_the_rows_and_ends():
    x = leaf([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    first, second, third = x
    assert len(x) == 3
    (first * second + third).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [[3, 4], [1, 2], [1, 1]])


def test_numpy_reads_a_tensor():
    x = leaf([1.0, 2.0])
    np.testing.assert_array_equal(np.asarray(x), [1, 2])
    assert np.asarray(x, np.float32).dtype == np.float32
    assert np.shares_memory(x.numpy(), x.data)
    assert repr(nnk.tensor([1.0])) == "tensor([1.])"
    assert "requires_grad=True" in repr(x)
    assert "float64" in repr(x)


def test_a_foreign_operand_is_a_type_error_that_names_it():
    x = leaf([1.0, 2.0])
    for other in ("a", [1.0, 2.0], 1j, {}):
        with pytest.raises(TypeError, match="add: x2 must be a NumPy array or a Tensor, got"):
            x + other


# ---------------------------------------------------------------- cost


def excess(f, g, number, repeats=21):
    """Median over repeats, in microseconds, of the time of f less that of g measured next to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(number):
            f()
        middle = time.perf_counter()
        for _ in range(number):
            g()
        times.append((2 * middle - start - time.perf_counter()) / number * 1e6)
    return statistics.median(times)


def test_the_tape_costs_microseconds_per_op(capsys):
    op, a, b, dy = OPS["mul"], np.ones(4), np.ones(4), np.ones(4)
    x, y = leaf(a), nnk.tensor(b)
    forward = excess(lambda: op(x, y), lambda: op(a, b), number=200)

    length, outputs, chain = 200, op.tuned.forward(a, b), x
    for _ in range(length):
        chain = chain * y

    def kernels_alone():
        for _ in range(length):
            op.tuned.backward(dy, outputs, (a, b), (True, False))

    walk = excess(lambda: chain.backward(dy, retain_graph=True), kernels_alone, number=1) / length
    with capsys.disabled():
        print(
            f"\n  tape per op beyond the kernel's wrapper: forward {forward:.1f} us, backward {walk:.1f} us"
        )
    assert forward < 15
    assert walk < 15
