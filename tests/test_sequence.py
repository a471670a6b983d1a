"""Layers for sequences beside PyTorch's, weights copied from there by their names; float64."""

import numpy as np
import pytest

import nnkernels.nn as nn
from nnkernels import tensor

torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")

f64 = np.float64


def rng():
    return np.random.default_rng(0)


def copied(ours, theirs):
    """Give our module PyTorch's weights, by name."""
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    return ours


def assert_same(got, wanted):
    np.testing.assert_allclose(np.asarray(got), wanted.detach().numpy(), rtol=1e-9, atol=1e-10)


def assert_same_gradients(ours, theirs):
    grads = {name: p.grad for name, p in ours.named_parameters()}
    assert list(grads) == [name for name, _ in theirs.named_parameters()]
    for name, p in theirs.named_parameters():
        assert_same(grads[name].data, p.grad)


# --- embedding ---


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding_equals_torch(padding_idx):
    theirs = torch.nn.Embedding(7, 5, padding_idx=padding_idx, dtype=torch.float64)
    ours = copied(nn.Embedding(7, 5, padding_idx, dtype=f64), theirs)
    index, dy = rng().integers(0, 7, (4, 6)), rng().standard_normal((4, 6, 5))
    y, wanted = ours(index), theirs(torch.tensor(index))
    assert_same(y.data, wanted)
    y.backward(dy)
    wanted.backward(torch.tensor(dy))
    assert_same_gradients(ours, theirs)
    assert repr(ours) == f"Embedding(7, 5{'' if padding_idx is None else f', padding_idx={padding_idx % 7}'})"


def test_embedding_starts_normal_with_a_padding_row_of_zeros():
    w = nn.Embedding(400, 50, 3, rng=0).weight.data
    assert w.dtype == np.float32
    assert not w[3].any()
    assert abs(w.mean()) < 0.02
    assert abs(w.std() - 1) < 0.02
    np.testing.assert_array_equal(w, nn.Embedding(400, 50, 3, rng=0).weight.data)


def test_embedding_names_what_is_wrong():
    layer = nn.Embedding(3, 2)
    with pytest.raises(ValueError, match=r"indices must be from 0 to 2 .* got 3 at position \(1, 0\)"):
        layer(np.array([[0], [3]]))
    with pytest.raises(TypeError, match="indices must be an int64 array"):
        layer(tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"padding_idx must be in \[-3, 3\), got 3"):
        nn.Embedding(3, 2, 3)
    with pytest.raises(ValueError, match="embedding_dim must be at least 1"):
        nn.Embedding(3, 0)


# --- recurrent nets ---

CLASSES = ("RNN", "LSTM", "GRU")
SETTINGS = (
    {}, {"num_layers": 3}, {"bidirectional": True}, {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
)  # fmt: skip


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def compare_recurrent(ours, theirs, x, hx):
    """Compare outputs, last states and all gradients, of weights and inputs; hx is a list or None."""
    given = [tensor(a, requires_grad=True) for a in [x, *(hx or [])]]
    targs = [torch.tensor(a, requires_grad=True) for a in [x, *(hx or [])]]
    states = [None if hx is None else a[1] if len(hx) == 1 else tuple(a[1:]) for a in (given, targs)]
    results, wanted = (ours(given[0], states[0]), theirs(targs[0], states[1]))
    y, *last = (results[0], *as_tuple(results[1]))
    ty, *tlast = (wanted[0], *as_tuple(wanted[1]))
    assert len(last) == len(tlast)
    g = rng()
    total, ttotal = 0, 0
    for a, b in zip([y, *last], [ty, *tlast]):
        assert_same(a.data, b)
        dy = g.standard_normal(a.shape)
        total, ttotal = total + (a * dy).sum(), ttotal + (b * torch.tensor(dy)).sum()
    total.backward()
    ttotal.backward()
    assert_same_gradients(ours, theirs)
    for a, b in zip(given, targs):
        assert_same(a.grad.data, b.grad)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_recurrent_nets_equal_torch(name, setting, initial):
    theirs = getattr(torch.nn, name)(4, 5, **setting, dtype=torch.float64)
    ours = copied(getattr(nn, name)(4, 5, **setting, dtype=f64), theirs)
    g = rng()
    count = setting.get("num_layers", 1) * (2 if setting.get("bidirectional") else 1)
    hx = [g.standard_normal((count, 3, 5)) for _ in range(2 if name == "LSTM" else 1)] if initial else None
    shape = (3, 6, 4) if setting.get("batch_first") else (6, 3, 4)
    compare_recurrent(ours, theirs, g.standard_normal(shape), hx)


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_a_single_sequence_equals_torch(name, initial):
    setting = {"bidirectional": True, "num_layers": 2, "batch_first": True}
    theirs = getattr(torch.nn, name)(4, 5, **setting, dtype=torch.float64)
    ours = copied(getattr(nn, name)(4, 5, **setting, dtype=f64), theirs)
    hx = [rng().standard_normal((4, 5)) for _ in range(2 if name == "LSTM" else 1)] if initial else None
    compare_recurrent(ours, theirs, rng().standard_normal((7, 4)), hx)


def test_rnn_with_relu_equals_torch():
    theirs = torch.nn.RNN(4, 5, 2, "relu", dtype=torch.float64)
    ours = copied(nn.RNN(4, 5, 2, "relu", dtype=f64), theirs)
    compare_recurrent(ours, theirs, rng().standard_normal((6, 3, 4)), None)
    assert repr(ours) == "RNN(4, 5, num_layers=2, nonlinearity='relu')"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_cells_equal_torch(name, batch, initial, bias):
    theirs = getattr(torch.nn, name + "Cell")(4, 5, bias, dtype=torch.float64)
    ours = copied(getattr(nn, name + "Cell")(4, 5, bias, dtype=f64), theirs)
    g = rng()
    x, h = g.standard_normal((*batch, 4)), [g.standard_normal((*batch, 5)) for _ in range(2)]
    hx = None if not initial else tuple(h) if name == "LSTM" else h[0]
    thx = hx if hx is None else tuple(map(torch.tensor, h)) if name == "LSTM" else torch.tensor(hx)
    got, wanted = as_tuple(ours(x, hx)), as_tuple(theirs(torch.tensor(x), thx))
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted):
        assert_same(a.data, b)
    sum((a.sum() for a in got[1:]), got[0].sum()).backward()
    sum(b.sum() for b in wanted).backward()
    assert_same_gradients(ours, theirs)


def test_a_net_of_cells_is_the_net():
    net, cell = nn.LSTM(4, 5, dtype=f64), nn.LSTMCell(4, 5, dtype=f64)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in net.state_dict().items()})
    x, states = rng().standard_normal((6, 3, 4)), None
    y, (h, c) = net(x)
    for t in range(6):
        states = cell(x[t], states)
        np.testing.assert_allclose(states[0].data, y.data[t], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(h.data[0], y.data[-1])
    np.testing.assert_allclose(c.data[0], states[1].data, rtol=1e-12, atol=1e-14)


def test_dropout_acts_between_layers_while_training_alone():
    net, x = nn.GRU(4, 50, 2, dropout=0.5, rng=0), rng().standard_normal((3, 2, 4)).astype(np.float32)
    first, second = (net(x)[0].data for _ in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(nn.GRU(4, 50, 2, dropout=0.5, rng=0)(x)[0].data, first)
    plain = nn.GRU(4, 50, 2)
    plain.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(net.eval()(x)[0].data, plain(x)[0].data)
    nothing = nn.GRU(4, 50, 2, dropout=1.0, rng=0)
    top = nn.GRU(50, 50)
    top.load_state_dict({k.replace("l1", "l0"): w for k, w in nothing.state_dict().items() if "l1" in k})
    np.testing.assert_array_equal(nothing(x)[0].data, top(np.zeros((3, 2, 50), np.float32))[0].data)
    with pytest.warns(UserWarning, match="between layers, and there is only one"):
        nn.GRU(4, 5, dropout=0.5)


def test_recurrent_weights_start_within_their_bounds():
    for name in CLASSES:
        net = getattr(nn, name)(30, 16, 2, bidirectional=True, rng=0)
        for w in net.parameters():
            assert np.abs(w.data).max() <= 0.25
            assert np.abs(w.data).max() > 0.2
            assert w.dtype == np.float32


def test_recurrent_nets_name_what_is_wrong():
    net, x = nn.LSTM(4, 5, dtype=f64), np.ones((6, 3, 4))
    with pytest.raises(ValueError, match=r"LSTM: x must be \(steps, batch, features\).* 4 features, got"):
        net(np.ones((6, 3, 5)))
    with pytest.raises(ValueError, match=r"got shape \(1, 6, 3, 4\)"):
        net(x[None])
    with pytest.raises(TypeError, match=r"hx must be a pair \(h_0, c_0\), got ndarray"):
        net(x, np.ones((1, 3, 5)))
    with pytest.raises(ValueError, match=r"c_0 must have shape \(1, 3, 5\), got \(2, 3, 5\)"):
        net(x, (np.ones((1, 3, 5)), np.ones((2, 3, 5))))
    with pytest.raises(ValueError, match=r"h_0 must have shape \(1, 5\), got \(1, 3, 5\)"):
        nn.GRU(4, 5, dtype=f64)(x[:, 0], np.ones((1, 3, 5)))
    with pytest.raises(TypeError, match="hx must be one array or Tensor h_0, got tuple"):
        nn.GRU(4, 5, dtype=f64)(x, (np.ones((1, 3, 5)),))
    with pytest.raises(ValueError, match="nonlinearity must be one of tanh, relu"):
        nn.RNN(4, 5, nonlinearity="sin")
    with pytest.raises(ValueError, match="dropout must be in"):
        nn.GRU(4, 5, 2, dropout=1.5)
    with pytest.raises(ValueError, match=r"GRUCell: x must be \(batch, features\)"):
        nn.GRUCell(4, 5)(x)
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        nn.LSTM(4, 5, 0)


# --- attention ---


def heads(g, L=6, S=5, E=4, F=3):
    return [g.standard_normal((2, 3, *s)) for s in ((L, E), (S, E), (S, F))]


def masks():
    g = rng()
    hidden = g.random((2, 1, 6, 5)) < 0.6
    hidden[0, 0, 2] = False  # a query that sees no key
    return {"none": None, "bool": hidden, "add": g.standard_normal((6, 5)), "row": g.random((1, 5)) < 0.7}


@pytest.mark.parametrize("kind", ["none", "bool", "add", "row", "causal"])
def test_scaled_dot_product_attention_equals_torch(kind):
    arrays = heads(rng())
    mask = masks().get(kind)
    how = {"is_causal": kind == "causal", "scale": 0.3 if kind == "add" else None}
    ours = [tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y = nn.functional.scaled_dot_product_attention(*ours, mask, **how)
    tmask = None if mask is None else torch.tensor(mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(*theirs, tmask, **how)
    assert_same(y.data, wanted)
    dy = rng().standard_normal(y.shape)
    y.backward(dy)
    wanted.backward(torch.tensor(dy))
    for a, b in zip(ours, theirs):
        assert_same(a.grad.data, b.grad)


def test_a_query_without_keys_gets_zeros():
    y = nn.functional.scaled_dot_product_attention(*heads(rng()), masks()["bool"])
    assert not y[0, :, 2].any()
    assert np.isfinite(y).all()


def test_attention_dropout_drops_and_scales_by_rng():
    q, k, v = heads(rng(), 200, 50, 4, 1)
    v[...] = 1  # y is then the sum of the weights that are kept
    attend = nn.functional.scaled_dot_product_attention
    y = attend(q, k, v, dropout_p=0.25, rng=7)
    np.testing.assert_array_equal(y, attend(q, k, v, dropout_p=0.25, rng=7))
    assert not np.array_equal(y, attend(q, k, v, dropout_p=0.25, rng=8))
    assert abs(y.mean() - 1) < 0.02
    assert y.std() > 0.05
    assert not attend(q, k, v, dropout_p=1.0).any()


def test_attention_names_what_is_wrong():
    q, k, v = heads(rng())
    attend = nn.functional.scaled_dot_product_attention
    with pytest.raises(ValueError, match="attn_mask has no gradient"):
        attend(q, k, v, tensor(np.zeros((6, 5)), requires_grad=True))
    with pytest.raises(ValueError, match="dropout_p must be in"):
        attend(q, k, v, dropout_p=2)
    with pytest.raises(ValueError, match=r"mask must broadcast to the scores' shape \(2, 3, 6, 5\)"):
        attend(q, k, v, np.zeros((5, 6)))
    with pytest.raises(ValueError, match="either a mask or is_causal"):
        attend(q, k, v, np.zeros((6, 5)), is_causal=True)


def two_attentions(**setting):
    theirs = torch.nn.MultiheadAttention(8, 2, **setting, dtype=torch.float64)
    with torch.no_grad():
        for p in theirs.parameters():  # biases start as zeros
            p.copy_(torch.tensor(rng().standard_normal(p.shape)))
    return copied(nn.MultiheadAttention(8, 2, **setting, dtype=f64), theirs), theirs


def call_attention(module, arrays, wrap, how):
    masks = {name: wrap(a, False) if isinstance(a, np.ndarray) else a for name, a in how.items()}
    inputs = [wrap(a, True) for a in arrays]
    return inputs, *module(*inputs, **masks)


def compare_attention(ours, theirs, arrays, **how):
    inputs, y, weights = call_attention(ours, arrays, lambda a, grad: tensor(a, requires_grad=grad), how)
    tinputs, ty, tweights = call_attention(
        theirs, arrays, lambda a, grad: torch.tensor(a, requires_grad=grad), how
    )
    assert_same(y.data, ty)
    dy = rng().standard_normal(y.shape)
    if tweights is None:
        assert weights is None
        y.backward(dy)
        ty.backward(torch.tensor(dy))
    else:
        assert_same(weights.data, tweights)
        dw = rng().standard_normal(weights.shape)
        ((y * dy).sum() + (weights * dw).sum()).backward()
        ((ty * torch.tensor(dy)).sum() + (tweights * torch.tensor(dw)).sum()).backward()
    assert_same_gradients(ours, theirs)
    for a, b in zip(inputs, tinputs):
        assert_same(a.grad.data, b.grad)


CALLS = (
    {}, {"need_weights": False}, {"average_attn_weights": False},
    {"key_padding_mask": "bool"}, {"key_padding_mask": "bool", "need_weights": False},
    {"attn_mask": "bool"}, {"attn_mask": "add", "need_weights": False}, {"attn_mask": "heads"},
    {"attn_mask": "heads", "key_padding_mask": "add", "need_weights": False},
    {"attn_mask": "causal", "is_causal": True, "need_weights": False},
    {"attn_mask": "causal", "is_causal": True, "key_padding_mask": "bool", "need_weights": False},
    {"attn_mask": "causal", "is_causal": True},
)  # fmt: skip


def spelled_out(how, L, S, B):
    """Return the call with its masks in the place of their names; the first key is always seen."""
    g, how = rng(), dict(how)
    for name, shape in (("key_padding_mask", (B, S)), ("attn_mask", (L, S))):
        if how.get(name) == "add":
            how[name] = g.standard_normal(shape)
        elif how.get(name) == "causal":
            how[name] = np.triu(np.ones(shape, bool), 1)
        elif name in how:
            hidden = g.random((2 * B, L, S) if how[name] == "heads" else shape) < 0.4
            hidden[..., 0] = False
            how[name] = hidden
    if "key_padding_mask" in how and how["key_padding_mask"].dtype == float and "attn_mask" in how:
        how["attn_mask"] = np.where(how["attn_mask"], -np.inf, 0.0)  # PyTorch wants both of one type
    return how


@pytest.mark.parametrize("how", CALLS, ids=str)
@pytest.mark.parametrize("setting", [{}, {"batch_first": True, "bias": False}], ids=str)
def test_multihead_attention_equals_torch(setting, how):
    ours, theirs = two_attentions(**setting)
    L, S, B = 4, 5, 3
    shapes = [(n, B, 8) if not setting else (B, n, 8) for n in (L, S, S)]
    arrays = [rng().standard_normal(shape) for shape in shapes]
    compare_attention(ours, theirs, arrays, **spelled_out(how, L, S, B))


@pytest.mark.parametrize("how", [{}, {"average_attn_weights": False}, {"need_weights": False}], ids=str)
def test_attention_of_a_single_sequence_equals_torch(how):
    for setting in ({}, {"batch_first": True}):
        ours, theirs = two_attentions(**setting)
        arrays = [rng().standard_normal((n, 8)) for n in (4, 5, 5)]
        padding = np.array([False, True, False, False, True])
        compare_attention(ours, theirs, arrays, key_padding_mask=padding, **how)


def test_self_attention_equals_torch():
    ours, theirs = two_attentions()
    x = rng().standard_normal((4, 3, 8))
    a, b = tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ours(a, a, a)[0].sum().backward()
    theirs(b, b, b)[0].sum().backward()
    assert_same(a.grad.data, b.grad)


def test_attention_weights_are_dropped_while_training_alone():
    x = rng().standard_normal((4, 3, 8)).astype(np.float32)
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, rng=0)
    weights = layer(x, x, x, average_attn_weights=False)[1].data
    assert 0.3 < (weights == 0).mean() < 0.7
    y, z = (layer(x, x, x, need_weights=False)[0].data for _ in range(2))
    assert not np.array_equal(y, z)
    layer.eval()
    np.testing.assert_allclose(layer(x, x, x)[1].data.sum(axis=-1), 1, rtol=1e-6)
    y, z = (layer(x, x, x, need_weights=need)[0].data for need in (True, False))
    np.testing.assert_allclose(y, z, atol=1e-6)


def test_multihead_attention_starts_as_torch_does():
    layer = nn.MultiheadAttention(64, 4, rng=0)
    bound = (6 / (64 + 192)) ** 0.5  # Glorot's, over the weights of all three maps
    w = layer.in_proj_weight.data
    assert 0.95 * bound < np.abs(w).max() <= bound
    assert not layer.in_proj_bias.data.any()
    assert not layer.out_proj.bias.data.any()
    assert np.abs(layer.out_proj.weight.data).max() <= 1 / 8
    assert repr(layer).startswith("MultiheadAttention(\n  (out_proj): Linear(64, 64, bias=True)")


def test_multihead_attention_names_what_is_wrong():
    layer, x = nn.MultiheadAttention(8, 2, dtype=f64), np.ones((4, 3, 8))
    with pytest.raises(ValueError, match="num_heads must divide embed_dim 8, got 3"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(ValueError, match="dropout must be in"):
        nn.MultiheadAttention(8, 2, dropout=-1)
    with pytest.raises(ValueError, match=r"with 8 features, got key \(4, 3, 7\)"):
        layer(x, x[..., :7], x)
    with pytest.raises(ValueError, match="must have one shape and query's batch"):
        layer(x, x[:, :2], x[:, :2])
    with pytest.raises(ValueError, match=r"key_padding_mask must have shape \(3, 4\), got \(4, 3\)"):
        layer(x, x, x, np.zeros((4, 3), bool))
    with pytest.raises(
        ValueError, match=r"attn_mask must have shape \(4, 4\) or \(6, 4, 4\), got \(3, 4, 4\)"
    ):
        layer(x, x, x, attn_mask=np.zeros((3, 4, 4), bool))
    with pytest.raises(TypeError, match="attn_mask must hold bools or numbers to add, got int64"):
        layer(x, x, x, attn_mask=np.zeros((4, 4), int))
    with pytest.raises(ValueError, match="attn_mask has no gradient"):
        layer(x, x, x, attn_mask=tensor(np.zeros((4, 4)), requires_grad=True))
    with pytest.raises(ValueError, match="is_causal is a hint on attn_mask, which is missing"):
        layer(x, x, x, is_causal=True)


def test_summary_knows_layers_with_several_outputs():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.out = nn.LSTM(4, 5, bidirectional=True), nn.Linear(10, 3)

        def forward(self, x):
            return self.out(self.net(x)[0])

    first, second = nn.summary(Tagger(), (6, 2, 4)).rows
    assert (first.kind, first.output_shape) == ("LSTM", (6, 2, 10))
    assert first.parameters == 2 * 20 * (4 + 5 + 2)
    assert first.flops >= 2 * 6 * 2 * 20 * 2 * (4 + 5)
    assert (second.kind, second.output_shape) == ("Linear", (6, 2, 3))
    last = nn.summary(nn.GRU(4, 5), (6, 2, 4)).total
    assert last.output_shape == (6, 2, 5)
