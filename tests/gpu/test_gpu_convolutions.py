"""conv2d's products of matrices on a GPU, in the simulator: all tiles, several blocks, ragged edges."""

import numpy as np
import pytest

from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import OPS, checks
from nnkernels.ops.conv2d import cuda as methods
from nnkernels.ops.conv2d import cuda_implicit, cuda_weights, sample
from nnkernels.ops.conv2d.cuda_geometry import MOST_TAPS
from nnkernels.ops.matmul.tiles import SMALL

pytestmark = pytest.mark.sim

TILES = {"tall": cuda_implicit.TALL, "middle": cuda_implicit.MIDDLE, "small": SMALL}
OF_DW = {cuda_implicit.TALL: cuda_weights.LARGE, cuda_implicit.MIDDLE: cuda_weights.HALF, SMALL: SMALL}


def agree(op, x, w, dtype=np.float32, **attributes):
    one = sample(np.random.default_rng(0), dtype, x, w, **attributes)
    with simulate_gpu(("reversed",)):
        checks.check_agreement(OPS[op], "cuda", one, np.random.default_rng(1))


def planned(g, tile):
    """Return the plan of two splits, where there are two steps."""
    share = -(-g.depth // tile.depth) // 2
    return cuda_implicit.Plan(tile, 2 if share else 1, share + 1)


@pytest.fixture
def by_product(monkeypatch):
    """Return what makes every pass a product with a given tile, its terms or pixels in several shares."""

    def choose(tile):
        monkeypatch.setattr(methods, "by_product", lambda g: True)
        monkeypatch.setattr(cuda_implicit, "plan", lambda g, itemsize: planned(g, tile))
        monkeypatch.setattr(cuda_weights, "tile_for", lambda *sizes: OF_DW[tile])
        monkeypatch.setattr(cuda_weights, "few_filters", lambda g: False)
        monkeypatch.setattr(cuda_weights, "FEWEST", 16)

    return choose


def passes_agree(passes, one):
    """Compare some of the passes: each of those of the large tiles takes the simulator a second."""
    op, rng = OPS["conv2d"], np.random.default_rng(1)
    with simulate_gpu(("reversed",)):
        outputs = checks.run(op, "loops", one)
        if "y" in passes:
            checks.assert_close(checks.run(op, "cuda", one)[0], outputs[0], op.tolerance, "y")
        needs = ("dx" in passes, "dw" in passes, "db" in passes)
        dy = checks.cotangent(rng, outputs)
        wanted = checks.run_backward(op, "loops", one, dy, outputs, needs)
        got = checks.run_backward(op, "cuda", one, dy, outputs, needs) if any(needs) else wanted
        for name, g, w in zip(("dx", "dw", "db"), got, wanted):
            checks.assert_close(g, w, op.tolerance, name)


@pytest.mark.parametrize(
    ("tile", "passes", "x", "w", "attributes"),
    [
        ("tall", "y", (1, 2, 10, 13), (70, 2, 3, 3), {"padding": 1, "activation": "relu"}),
        ("tall", "dx", (1, 70, 5, 6), (9, 70, 1, 2), {"stride": (1, 2), "padding": (0, 1), "bias": False}),
        ("tall", "dw db", (1, 2, 3, 7), (70, 2, 2, 3), {"padding": 1, "activation": "relu"}),
        ("middle", "y dx", (1, 3, 11, 12), (9, 3, 3, 2), {"padding": (1, 0), "dilation": (1, 2)}),
        ("middle", "y dw", (2, 2, 3, 4), (67, 2, 3, 3), {"padding": 1}),
        ("small", "y dx dw db", (2, 4, 6, 5), (40, 2, 3, 3), {"padding": 1, "stride": 2, "groups": 2}),
        (
            "small",
            "y dx dw",
            (2, 33, 4, 5),
            (5, 33, 2, 3),
            {"padding": 2, "stride": (3, 2), "dilation": (1, 3)},
        ),
    ],
)
def test_products_agree_with_loops(by_product, tile, passes, x, w, attributes):
    by_product(TILES[tile])
    passes_agree(passes, sample(np.random.default_rng(0), np.float32, x, w, **attributes))


def test_long_filters_read_a_source_with_zeros_around():
    L = MOST_TAPS + 3
    agree("conv1d", (2, 2, 17), (3, 2, L), padding=11, stride=2)
    agree("conv_transpose1d", (1, 2, 9), (2, 2, L), padding=5, stride=3, output_padding=2)
    agree("conv3d", (1, 1, 3, 2, 40), (2, 1, 2, 1, L), dtype=np.float64, padding=(1, 0, 2))


def test_no_pixel_and_no_channel():
    agree("conv2d", (2, 3, 0, 4), (2, 3, 3, 3), padding=3)
    agree("conv2d", (2, 1, 1, 1), (9, 1, 2, 2), padding=4, stride=5)
