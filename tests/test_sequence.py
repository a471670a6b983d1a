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
