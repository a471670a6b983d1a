"""Functions and layers on graphs, beside PyTorch and dense matrices."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.nn.functional.graph import Sparse
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import CPU_BODIES, Sample

EDGES = np.array([[0, 1, 2, 3, 3], [1, 2, 0, 2, 4]])  # a triangle with a tail; node 5 stands alone


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def dense(matrix, columns):
    y = np.zeros((len(matrix.indptr) - 1, columns), np.asarray(matrix.values).dtype)
    np.add.at(y, (np.repeat(np.arange(len(y)), np.diff(matrix.indptr)), matrix.indices), matrix.values)
    return y


def test_normalized_adjacency_is_the_papers():
    a = np.eye(6)
    a[EDGES[0], EDGES[1]] = a[EDGES[1], EDGES[0]] = 1
    d = np.diag(a.sum(axis=1) ** -0.5)
    got = F.normalized_adjacency(EDGES, 6, np.float64)
    np.testing.assert_allclose(dense(got, 6), d @ a @ d, rtol=1e-14)
    assert got.values.dtype == np.float64
    assert F.normalized_adjacency(EDGES, 6).values.dtype == np.float32
    both = np.hstack((EDGES, EDGES[::-1], EDGES[:, :2], [[1], [1]]))  # other ways, doubles, a node to itself
    for one, other in zip(F.normalized_adjacency(both, 6), F.normalized_adjacency(EDGES, 6)):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(dense(F.normalized_adjacency(np.zeros((2, 0), int), 3), 3), np.eye(3))


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 3), (3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_graph_conv_equals_dense_matrices(inputs, outputs, bias, torch):
    adjacency = F.normalized_adjacency(EDGES, 6)
    layer = nn.GraphConv(inputs, outputs, bias, rng=0)
    x = nnk.tensor(normal(6, inputs), requires_grad=True)
    if bias:
        layer.bias.data[...] = normal(outputs, seed=3)
    t = {name: torch.tensor(a, requires_grad=True) for name, a in layer.state_dict().items()}
    tx = torch.tensor(x.data, requires_grad=True)
    wanted = torch.tensor(dense(adjacency, 6)) @ tx @ t["weight"].T + (t["bias"] if bias else 0)
    y, dy = layer(x, adjacency), normal(6, outputs, seed=1)
    np.testing.assert_allclose(y.data, wanted.detach().numpy(), atol=1e-5)
    y.backward(dy)
    wanted.backward(torch.tensor(dy))
    np.testing.assert_allclose(x.grad.data, tx.grad.numpy(), atol=1e-5)
    for name, p in layer.named_parameters():
        np.testing.assert_allclose(p.grad.data, t[name].grad.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "max"])
def test_sage_conv_equals_torch(aggregation, torch):
    layer = nn.SAGEConv(4, 3, aggregation, rng=0)
    assert list(layer.state_dict()) == ["lin_l.weight", "lin_l.bias", "lin_r.weight"]
    t = {name: torch.tensor(a, requires_grad=True) for name, a in layer.state_dict().items()}
    x = nnk.tensor(normal(6, 4), requires_grad=True)
    tx = torch.tensor(x.data, requires_grad=True)
    source, target = torch.tensor(EDGES)
    rows = []
    for i in range(6):
        mine = tx[source[target == i]]
        fold = {"mean": lambda a: a.mean(0), "sum": lambda a: a.sum(0), "max": lambda a: a.amax(0)}[
            aggregation
        ]
        rows.append(fold(mine) if len(mine) else torch.zeros(4))
    wanted = torch.stack(rows) @ t["lin_l.weight"].T + t["lin_l.bias"] + tx @ t["lin_r.weight"].T
    y, dy = layer(x, EDGES), normal(6, 3, seed=1)
    np.testing.assert_allclose(y.data, wanted.detach().numpy(), atol=1e-5)
    y.backward(dy)
    wanted.backward(torch.tensor(dy))
    np.testing.assert_allclose(x.grad.data, tx.grad.numpy(), atol=1e-5)
    for name, p in layer.named_parameters():
        np.testing.assert_allclose(p.grad.data, t[name].grad.numpy(), atol=1e-5, err_msg=name)


def test_messages_may_be_of_ones_own():
    class Differences(nn.MessagePassing):
        def message(self, x, source, target):
            return F.index_select(x, 0, source) - F.index_select(x, 0, target)

    x = nnk.tensor(normal(6, 2), requires_grad=True)
    y = Differences("sum")(x, EDGES)
    wanted = np.zeros((6, 2), np.float32)
    for j, i in EDGES.T:
        wanted[i] += x.data[j] - x.data[i]
    np.testing.assert_allclose(y.data, wanted, atol=1e-6)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.data.sum(), 0, atol=1e-5)


def test_sparse_matrices_learn_their_values():
    matrix = F.normalized_adjacency(EDGES, 6, np.float64)
    values = nnk.tensor(matrix.values, requires_grad=True)
    x = normal(6, 3, dtype=np.float64)
    F.spmm(matrix._replace(values=values), x).backward(np.ones((6, 3)))
    np.testing.assert_allclose(values.grad.data, x.sum(axis=1)[matrix.indices], rtol=1e-12)


def test_spmm_takes_over_scipys_matrices():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    a = scipy_sparse.random_array((30, 20), density=0.2, format="csr", rng=np.random.default_rng(0))
    x = normal(20, 5, dtype=np.float64)
    np.testing.assert_allclose(F.spmm(Sparse(a.indptr, a.indices, a.data), x), a @ x, rtol=1e-12)


def test_scatter_undoes_gathering_and_empty_rows_are_zero():
    x, index = normal(5, 3), np.array([4, 0, 2, 2, 0])
    np.testing.assert_array_equal(F.scatter_mean(F.index_select(x, 0, index), index, 5)[index], x[index])
    for scatter in (F.scatter_sum, F.scatter_mean, F.scatter_max):
        np.testing.assert_array_equal(scatter(x - 10, index, 6)[[1, 3, 5]], 0)
    np.testing.assert_allclose(F.scatter_sum(x, index, 5)[2], x[2] + x[3], rtol=1e-6)
    np.testing.assert_array_equal(F.scatter_max(x, index, 5)[0], np.maximum(x[1], x[4]))


@pytest.mark.parametrize("body", CPU_BODIES)
def test_the_first_of_equal_maxima_gets_the_gradient_and_nan_is_above_all(body):
    x = np.array([[1, 2, np.nan], [1, 3, 0], [1, 3, np.nan], [-np.inf, -np.inf, 5]])
    y, argmax = OPS["segment"].body(body).forward(x, np.array([0, 0, 0, 1]), n=3, reduction="max")
    np.testing.assert_array_equal(y, [[1, 3, np.nan], [-np.inf, -np.inf, 5], [0, 0, 0]])
    np.testing.assert_array_equal(argmax, [[0, 1, 0], [3, 3, 3], [-1, -1, -1]])


@pytest.mark.parametrize("reduction", ["sum", "mean", "max"])
def test_long_segments_do_not_depend_on_threads(reduction):
    index = np.random.default_rng(0).integers(0, 300, 40000)
    how = {"n": 300, "reduction": reduction}
    sample = Sample(reduction, (normal(40000, 7), index), how)
    checks.check_threads(OPS["segment"], sample, np.random.default_rng(1))
    checks.check_agreement(OPS["segment"], "tuned", sample, np.random.default_rng(1))


def test_shares_of_rows_may_begin_within_a_block():
    index = np.random.default_rng(0).integers(0, 300, 2500)
    sample = Sample("along the middle axis", (normal(5, 300, 23), index), {"dim": 1})
    checks.check_threads(OPS["index_select"], sample, np.random.default_rng(1))
    checks.check_agreement(OPS["index_select"], "tuned", sample, np.random.default_rng(1))


def test_a_graph_network_learns_two_communities():
    """Two cliques joined by one edge, one labelled node each: the labels spread (Kipf and Welling)."""
    pairs = [(i + c, j + c) for c in (0, 8) for i in range(8) for j in range(i)]
    adjacency = F.normalized_adjacency(np.array([*pairs, (0, 8)]).T, 16)
    first, second = nn.GraphConv(16, 8, rng=0), nn.GraphConv(8, 2, rng=1)
    x, known = np.eye(16, dtype=np.float32), np.array([3, 12])
    parameters = [*first.parameters(), *second.parameters()]
    for _ in range(60):
        logits = second(first(x, adjacency).relu(), adjacency)
        loss = F.cross_entropy(F.index_select(logits, 0, known), np.array([0, 1]))
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.data -= 0.5 * p.grad.data
    np.testing.assert_array_equal(logits.data.argmax(axis=1), np.repeat([0, 1], 8))


def test_errors_of_the_layers():
    x, adjacency = normal(6, 4), F.normalized_adjacency(EDGES, 6)
    for call, error, words in (
        (lambda: nn.GraphConv(0, 3), ValueError, "in_features must be at least 1, got 0"),
        (lambda: nn.SAGEConv(4, 3, "median"), ValueError, "one of sum, mean, max, got 'median'"),
        (
            lambda: nn.SAGEConv(4, 3)(x, EDGES.T),
            ValueError,
            r"shape \(2, E\), sources and targets, got \(5, 2\)",
        ),
        (lambda: nn.SAGEConv(4, 3)(x, EDGES + 2), ValueError, r"nodes in \[0, 6\), got 2 to 6"),
        (lambda: F.normalized_adjacency(EDGES * 1.0, 6), TypeError, "edges must be integers, got float64"),
        (lambda: F.normalized_adjacency(EDGES, 0), ValueError, "n must be at least 1, got 0"),
        (lambda: nn.GraphConv(4, 3)(x[:4], adjacency), ValueError, r"indices must be in \[0, 4\)"),
    ):
        with pytest.raises(error, match=words):
            call()
