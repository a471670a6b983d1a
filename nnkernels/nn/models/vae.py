"""The variational autoencoder: a code is a distribution, and codes drawn from N(0, I) make new examples.

Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014. The encoder gives the mean and the variance of
a normal distribution q(z|x). A draw from it is written mean + exp(log_variance / 2) noise, which can be
differentiated by both. The loss is the negative evidence lower bound, -E log p(x|z) + KL(q(z|x) || N(0, I)).
"""

from typing import Any

import numpy as np

from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import move, side
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import Linear
from nnkernels.nn.layers.common import positive
from nnkernels.nn.models.mlp import MLP
from nnkernels.nn.module import Module


class VAE(Module):
    """x (N, ...), with ``inputs`` numbers in [0, 1] in each example, to logits of x's shape.

    One hidden layer of ``hidden`` tanh units on each side, as in the paper's appendix C, ``latent`` numbers
    between them; 815,824 parameters for the default sizes. Noise comes from the model's own random numbers,
    those of ``rng`` after the initial weights were drawn, unless a call is given others.
    """

    def __init__(
        self, inputs: int = 784, hidden: int = 500, latent: int = 20, *, rng: init.Rng = None
    ) -> None:
        super().__init__()
        for name, value in (("inputs", inputs), ("hidden", hidden), ("latent", latent)):
            positive("VAE", name, value)
        self.rng = np.random.default_rng(rng)
        self.hidden = Linear(inputs, hidden, rng=self.rng)
        self.mean = Linear(hidden, latent, rng=self.rng)
        self.log_variance = Linear(hidden, latent, rng=self.rng)
        self.decoder = MLP((latent, hidden, inputs), "tanh", rng=self.rng)

    def encode(self, x: Any) -> tuple[Any, Any]:
        """Return the means and the logarithms of the variances of q(z|x), both (N, latent)."""
        h = F.tanh(self.hidden(F.flatten(x, 1)))
        return self.mean(h), self.log_variance(h)

    def draw(self, mean: Any, log_variance: Any, rng: init.Rng = None) -> Any:
        """Return z (N, latent), one draw from each q(z|x)."""
        rng = self.rng if rng is None else np.random.default_rng(rng)
        noise = rng.standard_normal(mean.shape).astype(mean.dtype)
        return mean + (0.5 * log_variance).exp() * move(noise, side(array_of(mean)))

    def decode(self, z: Any) -> Any:
        """Return the logits (N, inputs) of p(x|z)."""
        return self.decoder(z)

    def forward(self, x: Any, rng: init.Rng = None) -> Any:
        """Return the logits, in x's shape: in training of a draw z, in evaluation of the mean."""
        mean, log_variance = self.encode(x)
        z = self.draw(mean, log_variance, rng) if self.training else mean
        return self.decode(z).reshape(x.shape)

    def loss(self, x: Any, rng: init.Rng = None) -> Any:
        """Return the negative evidence lower bound in nats, the mean over the batch, by one draw each."""
        mean, log_variance = self.encode(x)
        logits = self.decode(self.draw(mean, log_variance, rng)).reshape(x.shape)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        return reconstruction + gaussian_kl(mean, log_variance).mean()


def gaussian_kl(mean: Any, log_variance: Any) -> Any:
    """Return KL(N(mean, exp(log_variance)) || N(0, I)) of each row, in nats: appendix B of the paper.

    >>> from nnkernels import tensor
    >>> zeros = tensor([[0.0, 0.0, 0.0]])
    >>> gaussian_kl(zeros + 2, zeros).data  # half the squared distance of the means
    array([6.], dtype=float32)
    """
    return -0.5 * (1 + log_variance - mean * mean - log_variance.exp()).sum(dim=1)
