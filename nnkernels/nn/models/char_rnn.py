"""A recurrent network that reads text character by character and predicts the next one.

Sutskever, Martens and Hinton, Generating Text with Recurrent Neural Networks, ICML 2011; Graves, Generating
Sequences with Recurrent Neural Networks, arXiv:1308.0850. A text is made by drawing each character from the
prediction that followed the ones before.
"""

from typing import Any

import numpy as np

from nnkernels.autograd import no_grad
from nnkernels.machine.arrays import move, side
from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import GRU, LSTM, RNN, Embedding, Linear
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module
from nnkernels.ops.validate import choice, number

CELLS: dict[str, Any] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


class CharRNN(Module):
    """Characters (N, T), as indices of ``alphabet``, to logits (N, T, V) of the ones that follow.

    ``alphabet`` is a string of V different characters. A table gives each of them ``hidden_size`` numbers,
    ``num_layers`` layers of the ``cell`` ("rnn", "lstm", "gru") read them, and a full connection makes the
    logits. For 7 characters and the defaults there are 133,895 parameters, 100,871 with "gru" and 34,823 with
    "rnn".

    >>> model = CharRNN("ab\\n", hidden_size=8, rng=0)
    >>> model.encode("abba")
    array([0, 1, 1, 0])
    >>> len(model.sample("a", 5, rng=0))
    5
    """

    def __init__(
        self, alphabet: str, hidden_size: int = 128, cell: str = "lstm", num_layers: int = 1, *,
        rng: init.Rng = None,
    ) -> None:  # fmt: skip
        super().__init__()
        choice("CharRNN", "cell", cell, tuple(CELLS))
        if not isinstance(alphabet, str):
            raise TypeError(f"CharRNN: alphabet must be a string, got {type(alphabet).__name__}")
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ValueError(f"CharRNN: alphabet must hold different characters, got {alphabet!r}")
        positive("CharRNN", "hidden_size", hidden_size)
        rng = np.random.default_rng(rng)
        self.alphabet = alphabet
        self.embedding = Embedding(len(alphabet), hidden_size, rng=rng)
        self.recurrent = CELLS[cell](hidden_size, hidden_size, num_layers, batch_first=True, rng=rng)
        self.head = Linear(hidden_size, len(alphabet), rng=rng)

    def encode(self, text: str) -> Array:
        """Return the indices (T) of a text's characters. ValueError for one that is not in the alphabet."""
        if not isinstance(text, str):
            raise TypeError(f"CharRNN: a text must be a string, got {type(text).__name__}")
        places = {character: i for i, character in enumerate(self.alphabet)}
        if unknown := [character for character in text if character not in places]:
            raise ValueError(f"CharRNN: {unknown[0]!r} is not in the alphabet {self.alphabet!r}")
        return np.array([places[character] for character in text], np.int64)

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """Return the logits (N, T, V) and the recurrent layers' last state, with which reading may go on."""
        h, state = self.recurrent(self.embedding(x), state)
        return self.head(h), state

    def loss(self, x: Any) -> Any:
        """Return the mean -log p, in nats, of the characters x (N, T) after the first, given those before."""
        if x.ndim != 2 or x.shape[1] < 2:
            raise ValueError(f"CharRNN.loss: x must be (N, T) with T of at least 2, got shape {x.shape}")
        logits, _ = self(x[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), x[:, 1:])

    def sample(self, prompt: str, length: int, temperature: float = 1.0, rng: init.Rng = None) -> str:
        """Return ``length`` characters that go on from ``prompt``, drawn from softmax(logits / temperature).

        Temperature 0 takes the most probable character each time.
        """
        number("CharRNN.sample", "temperature", temperature, 0)
        positive("CharRNN.sample", "length", length)
        read, state, made = self.encode(prompt), None, []
        if not prompt:
            raise ValueError("CharRNN.sample: prompt must have at least one character")
        rng = np.random.default_rng(rng)
        device = side(self.head.weight.data)
        with no_grad():
            for _ in range(length):
                logits, state = self(move(read[None], device), state)
                scores = move(logits.data, "cpu")[0, -1]
                # argmax(z / T + g), with g from Gumbel's distribution, is a draw from softmax(z / T).
                read = np.array([(scores + temperature * rng.gumbel(size=scores.shape)).argmax()])
                made.append(self.alphabet[read[0]])
        return "".join(made)
