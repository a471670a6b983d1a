"""Autoencoders: a network learns to give back its input, through a code of few numbers.

Both return logits: F.sigmoid makes pixels in [0, 1] of them, and the loss of images x is
``F.binary_cross_entropy_with_logits(model(x), x)``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnkernels.nn import init
from nnkernels.nn.layers import Conv2d, ConvTranspose2d, Flatten, Linear, ReLU
from nnkernels.nn.layers.common import positive
from nnkernels.nn.models.mlp import MLP
from nnkernels.nn.module import Module, Sequential


class Autoencoder(Module):
    """x (N, ...), with sizes[0] numbers in each example, to logits of x's shape, through sizes[-1] numbers.

    The encoder's layers have these ``sizes``, the decoder's the same backwards; 2,837,314 parameters for the
    default ones, those of Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks,
    Science 313, 2006. ReLU stands in place of their sigmoids, and all layers are trained at once.
    """

    def __init__(
        self, sizes: Sequence[int] = (784, 1000, 500, 250, 30), activation: str = "relu", *,
        rng: init.Rng = None,
    ) -> None:  # fmt: skip
        super().__init__()
        rng = np.random.default_rng(rng)
        self.encoder = MLP(sizes, activation, rng=rng)
        self.decoder = MLP(sizes[::-1], activation, rng=rng)

    def encode(self, x: Any) -> Any:
        """Return the codes (N, sizes[-1])."""
        return self.encoder(x)

    def decode(self, code: Any) -> Any:
        """Return the logits (N, sizes[0]) of codes."""
        return self.decoder(code)

    def forward(self, x: Any) -> Any:
        """Return the logits, in x's shape."""
        return self.decode(self.encode(x)).reshape(x.shape)


class ConvAutoencoder(Module):
    """Images (N, channels, size, size) to logits of the same shape, through ``code_size`` numbers.

    Two convolutions with stride 2 make the maps four times smaller, two transposed ones bring them back;
    65,025 parameters for 28 x 28 pixels, one channel and a code of 16. Strides stand in place of the pooling
    of Masci et al., Stacked Convolutional Auto-Encoders for Hierarchical Feature Extraction, ICANN 2011.
    Raises ValueError unless ``size`` is a multiple of 4.
    """

    def __init__(
        self, code_size: int = 16, channels: int = 1, size: int = 28, *, rng: init.Rng = None
    ) -> None:
        super().__init__()
        positive("ConvAutoencoder", "code_size", code_size)
        positive("ConvAutoencoder", "channels", channels)
        if positive("ConvAutoencoder", "size", size) % 4:
            raise ValueError(f"ConvAutoencoder: size must be a multiple of 4, got {size}")
        rng = np.random.default_rng(rng)
        self.maps = (32, size // 4, size // 4)
        self.encoder = Sequential(
            Conv2d(channels, 16, 3, stride=2, padding=1, rng=rng),  # (N, 16, size / 2, size / 2)
            ReLU(),
            Conv2d(16, 32, 3, stride=2, padding=1, rng=rng),  # (N, 32, size / 4, size / 4)
            ReLU(),
            Flatten(),
            Linear(int(np.prod(self.maps)), code_size, rng=rng),
        )
        self.expand = Linear(code_size, int(np.prod(self.maps)), activation="relu", rng=rng)
        self.decoder = Sequential(
            ConvTranspose2d(32, 16, 4, stride=2, padding=1, rng=rng),  # (N, 16, size / 2, size / 2)
            ReLU(),
            ConvTranspose2d(16, channels, 4, stride=2, padding=1, rng=rng),  # (N, channels, size, size)
        )

    def encode(self, x: Any) -> Any:
        """Return the codes (N, code_size)."""
        return self.encoder(x)

    def decode(self, code: Any) -> Any:
        """Return the logits (N, channels, size, size) of codes."""
        return self.decoder(self.expand(code).reshape(-1, *self.maps))

    def forward(self, x: Any) -> Any:
        """Return the logits, in x's shape."""
        return self.decode(self.encode(x))
