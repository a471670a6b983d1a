"""A generative adversarial network: a generator learns to make what a discriminator takes for real.

Goodfellow et al., Generative Adversarial Nets, NIPS 2014; the generator follows the gradient of -log D(G(z)),
as the end of section 3 advises. The two networks are shaped like those of Radford, Metz and Chintala,
Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks, ICLR 2016, for
small images.
"""

from typing import Any

import numpy as np

from nnkernels.autograd import no_grad
from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import full, move, side
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import BatchNorm2d, Conv2d, ConvTranspose2d, LeakyReLU, ReLU, Tanh
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Sequential


class Generator(Sequential):
    """z (N, latent) to images (N, channels, size, size) of pixels in [-1, 1]."""

    def __init__(self, latent: int, width: int, channels: int, size: int, *, rng: init.Rng = None) -> None:
        rng = np.random.default_rng(rng)
        super().__init__(
            ConvTranspose2d(latent, 2 * width, size // 4, bias=False, rng=rng),
            BatchNorm2d(2 * width),  # (N, 2 width, size / 4, size / 4)
            ReLU(),
            ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False, rng=rng),
            BatchNorm2d(width),  # (N, width, size / 2, size / 2)
            ReLU(),
            ConvTranspose2d(width, channels, 4, stride=2, padding=1, rng=rng),
            Tanh(),  # (N, channels, size, size)
        )

    def forward(self, z: Any) -> Any:
        """Return the images."""
        return super().forward(z.reshape(*z.shape, 1, 1))


class Discriminator(Sequential):
    """Images (N, channels, size, size) to logits (N) that they are real."""

    def __init__(self, width: int, channels: int, size: int, *, rng: init.Rng = None) -> None:
        rng = np.random.default_rng(rng)
        super().__init__(
            Conv2d(channels, width, 4, stride=2, padding=1, rng=rng),  # (N, width, size / 2, size / 2)
            LeakyReLU(0.2),
            Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False, rng=rng),
            BatchNorm2d(2 * width),  # (N, 2 width, size / 4, size / 4)
            LeakyReLU(0.2),
            Conv2d(2 * width, 1, size // 4, rng=rng),  # (N, 1, 1, 1)
        )
        self.shape = (channels, size, size)

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        if x.ndim != 4 or x.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"Discriminator: x must be images (N, {wanted}), got shape {x.shape}")
        return super().forward(x).reshape(-1)


class GAN(Module):
    """A ``generator`` of images (N, channels, size, size) and its ``discriminator``, each with its own loss.

    ``width`` is the number of channels of the largest maps. For the default sizes the generator has 759,681
    parameters, the discriminator 138,689. An optimizer belongs to each of them::

        loss = gan.discriminator_loss(x)        loss = gan.generator_loss(len(x))
        of_discriminator.zero_grad()            of_generator.zero_grad()
        loss.backward()                         loss.backward()
        of_discriminator.step()                 of_generator.step()

    z is drawn from N(0, I) by the model's own random numbers, those of ``rng`` after the initial weights were
    drawn, unless a call is given others. Raises ValueError unless ``size`` is a multiple of 4.
    """

    def __init__(
        self, latent: int = 100, width: int = 64, channels: int = 1, size: int = 28, *, rng: init.Rng = None
    ) -> None:
        super().__init__()
        for name, value in (("latent", latent), ("width", width), ("channels", channels)):
            positive("GAN", name, value)
        if positive("GAN", "size", size) % 4:
            raise ValueError(f"GAN: size must be a multiple of 4, got {size}")
        self.latent, self.rng = latent, np.random.default_rng(rng)
        self.generator = Generator(latent, width, channels, size, rng=self.rng)
        self.discriminator = Discriminator(width, channels, size, rng=self.rng)

    def draw(self, count: int, rng: init.Rng = None) -> Any:
        """Return z (count, latent)."""
        positive("GAN", "count", count)
        rng = self.rng if rng is None else np.random.default_rng(rng)
        weight = array_of(next(self.parameters()))
        return move(rng.standard_normal((count, self.latent)).astype(weight.dtype), side(weight))

    def forward(self, z: Any) -> Any:
        """Return the images that the generator makes of z (N, latent)."""
        return self.generator(z)

    def discriminator_loss(self, x: Any, rng: init.Rng = None) -> Any:
        """Return -log D(x) - log(1 - D(G(z))), the mean over real images x and as many made ones."""
        with no_grad():  # the generator does not learn from this
            made = self.generator(self.draw(len(x), rng))
        return log_loss(self.discriminator(x), 1) + log_loss(self.discriminator(made), 0)

    def generator_loss(self, count: int, rng: init.Rng = None) -> Any:
        """Return -log D(G(z)), the mean over ``count`` draws."""
        return log_loss(self.discriminator(self.generator(self.draw(count, rng))), 1)


def log_loss(logits: Any, label: int) -> Any:
    """Return the mean of -log p(label)."""
    target = full(logits.shape, label, logits.dtype, array_of(logits))
    return F.binary_cross_entropy_with_logits(logits, target)
