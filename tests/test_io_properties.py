"""Any state survives npz and safetensors bit by bit; any name survives or is refused."""

from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkernels import io

pytest.importorskip("safetensors", reason="comes with the extra safetensors")

steady = settings(deadline=None, derandomize=True, max_examples=150)
endings = st.sampled_from([".npz", ".safetensors"])
names = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="\\/:"), min_size=1, max_size=12
)


@st.composite
def arrays(draw):
    """Any bits, in any shape, type, byte order and memory order."""
    dtype = np.dtype(draw(st.sampled_from("?bBhHiIqQefdF")))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = rng.integers(0, 2 if dtype.kind == "b" else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    array = bits.view(dtype).reshape(shape)
    if draw(st.booleans()):
        array = array.astype(dtype.newbyteorder(">"))
    array = array.transpose(draw(st.sampled_from(list(permutations(range(array.ndim))))))
    steps = draw(st.lists(st.sampled_from([1, -1, 2]), min_size=array.ndim, max_size=array.ndim))
    return array[(*(slice(None, None, step) for step in steps), ...)]


def plain(array):
    """Type, shape and bits, whatever the order of memory and of bytes."""
    native = array.astype(array.dtype.newbyteorder("="))
    return native.dtype, native.shape, native.tobytes()


@steady
@given(st.dictionaries(names, arrays(), max_size=5), endings)
def test_states_survive_bit_by_bit(state, ending):
    with TemporaryDirectory() as folder:
        path = Path(folder, f"state{ending}")
        io.save(path, state)
        found = io.load(path)
    assert {name: plain(array) for name, array in found.items()} == {
        name: plain(array) for name, array in state.items()
    }
    assert all(array.flags.carray and array.dtype.isnative for array in found.values())
    assert ending == ".safetensors" or list(found) == list(state)


@steady
@given(st.text(max_size=10), endings)
def test_any_name_survives_or_is_refused(name, ending):
    state = {name: np.float32([1, 2]), "other": np.zeros(1)}
    with TemporaryDirectory() as folder:
        path = Path(folder, f"state{ending}")
        try:
            io.save(path, state)
        except ValueError:
            assert not name.isprintable() or not name or set(name) & {"\\", "/"}
            assert not path.exists()
        else:
            found = io.load(path)
            assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in state.items()}
