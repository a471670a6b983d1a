"""MLP, autoencoders, VAE, GAN, CharRNN, GCN: sizes, gradients, PyTorch's numbers, formulas, bad arguments."""

import math
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.nn.models.vae import gaussian_kl
from nnkernels.nn.utils import functional_call

models = nn.models
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is the oracle here")

# A triangle, a tail of two nodes, and a node apart.
EDGES = np.array([[0, 1, 2, 2, 3], [1, 2, 0, 3, 4]])
NODES = 6

SMALL = {
    "MLP": lambda rng=0: models.MLP((12, 5, 3), "tanh", rng=rng),
    "Autoencoder": lambda rng=0: models.Autoencoder((12, 6, 2), "tanh", rng=rng),
    "ConvAutoencoder": lambda rng=0: models.ConvAutoencoder(3, channels=2, size=4, rng=rng),
    "VAE": lambda rng=0: models.VAE(12, 5, 2, rng=rng),
    "GAN": lambda rng=0: models.GAN(3, 2, channels=1, size=8, rng=rng),
    "CharRNN rnn": lambda rng=0: models.CharRNN("abc\n", 4, "rnn", rng=rng),
    "CharRNN lstm": lambda rng=0: models.CharRNN("abc\n", 4, "lstm", 2, rng=rng),
    "CharRNN gru": lambda rng=0: models.CharRNN("abc\n", 4, "gru", rng=rng),
    "GCN": lambda rng=0: models.GCN(4, 2, 3, dropout=0.0, rng=rng),
}


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def pixels(*shape, dtype=np.float32):
    return np.random.default_rng(1).random(shape).astype(dtype)


def texts(N, T, V=4):
    return np.random.default_rng(2).integers(0, V, (N, T))


def in_float64(model):
    """Convert the parameters and running statistics; return the model."""
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer.dtype.kind == "f":
                setattr(module, name, buffer.astype(np.float64))
    return model


def inputs_of(name, dtype=np.float32):
    """Return what the small model is called with."""
    return {
        "MLP": (normal(3, 12, dtype=dtype),),
        "Autoencoder": (pixels(3, 1, 3, 4, dtype=dtype),),
        "ConvAutoencoder": (pixels(2, 2, 4, 4, dtype=dtype),),
        "VAE": (pixels(3, 1, 3, 4, dtype=dtype),),
        "GAN": (normal(3, 3, dtype=dtype),),
        "GCN": (normal(NODES, 4, dtype=dtype), F.normalized_adjacency(EDGES, NODES, dtype)),
    }.get(name, (texts(2, 5),))


SHAPES = {
    "MLP": (3, 3),
    "Autoencoder": (3, 1, 3, 4),
    "ConvAutoencoder": (2, 2, 4, 4),
    "VAE": (3, 1, 3, 4),
    "GAN": (3, 1, 8, 8),
    "GCN": (NODES, 2),
}

LOSSES = {
    "MLP": lambda model, x: F.cross_entropy(model(x), np.array([2, 0, 1])),
    "Autoencoder": lambda model, x: F.binary_cross_entropy_with_logits(model(x), x),
    "ConvAutoencoder": lambda model, x: F.binary_cross_entropy_with_logits(model(x), x),
    "VAE": lambda model, x: model.loss(x, rng=7),
    "GAN": lambda model, z: model.generator_loss(len(z), rng=7),
    "GCN": lambda model, x, adjacency: F.cross_entropy(model(x, adjacency)[1:4], np.array([1, 0, 1])),
}


def loss_of(name, model, inputs):
    loss = LOSSES.get(name, lambda model, x: model.loss(x))
    return loss(model, *inputs)


def first(y):
    return y[0] if isinstance(y, tuple) else y


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: models.MLP((784, 300, 10)), 238_510),
        (models.Autoencoder, 2_837_314),
        (models.ConvAutoencoder, 65_025),
        (models.VAE, 815_824),
        (lambda: models.GAN().generator, 759_681),
        (lambda: models.GAN().discriminator, 138_689),
        (lambda: models.CharRNN("IVXLCDM"), 133_895),
        (lambda: models.CharRNN("IVXLCDM", cell="gru"), 100_871),
        (lambda: models.CharRNN("IVXLCDM", cell="rnn"), 34_823),
        (lambda: models.GCN(1433, 7), 23_063),
    ],
)
def test_parameters_are_as_many_as_the_docstring_says(make, count):
    model = make()
    assert sum(p.size for p in model.parameters()) == count
    documented = models.GAN if isinstance(model, models.Generator | models.Discriminator) else type(model)
    assert f"{count:,}" in documented.__doc__


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_outputs_have_their_shape_and_dtype_in_both_modes(name, training, dtype):
    model = SMALL[name]().train(training)
    model = in_float64(model) if dtype == np.float64 else model
    y = first(model(*inputs_of(name, dtype)))
    assert y.shape == SHAPES.get(name, (2, 5, 4))
    assert y.dtype == dtype
    assert np.isfinite(y.data).all()


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_gives_the_same_weights_and_the_state_dict_moves_them(name):
    a, b, c = (SMALL[name](seed) for seed in (3, 3, 4))
    inputs = inputs_of(name)
    before = first(a.eval()(*inputs)).data
    np.testing.assert_array_equal(first(b.eval()(*inputs)).data, before)
    assert not np.array_equal(first(c.eval()(*inputs)).data, before)
    c.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(first(c(*inputs)).data, before)


class LossOf(nn.Module):
    """A model whose value is its loss, for functional_call."""

    def __init__(self, name, model):
        super().__init__()
        self.name, self.model = name, model

    def forward(self, *inputs):
        return loss_of(self.name, self.model, inputs)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_by_all_parameters_are_those_of_differences(name):
    loss = LossOf(name, in_float64(SMALL[name]()))
    inputs = inputs_of(name, np.float64)
    parameters = {key: p.data for key, p in loss.named_parameters()}
    if name == "GAN":  # the generator's loss moves with both networks
        assert {key.split(".")[1] for key in parameters} == {"generator", "discriminator"}
    assert nnk.gradcheck(lambda p: functional_call(loss, p, inputs), parameters, elements=12)


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_lower_the_loss(name):
    model = SMALL[name]()
    inputs = inputs_of(name)
    parameters = model.generator.parameters() if name == "GAN" else model.parameters()
    optimizer = nnk.optim.Adam(parameters, lr=0.02)
    losses = []
    for _ in range(30):
        loss = loss_of(name, model, inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: models.MLP((3,)), ValueError, r"MLP: sizes must name at least 2 layers.*\(3,\)"),
        (lambda: models.MLP(3), TypeError, "MLP: sizes must be a tuple of ints, got int"),
        (lambda: models.MLP((3, 0)), ValueError, r"MLP: sizes\[1\] must be at least 1, got 0"),
        (lambda: models.MLP((3, 2.0)), TypeError, r"MLP: sizes\[1\] must be an int, got float 2.0"),
        (lambda: models.MLP((3, 2), "swish"), ValueError, "activation must be one of relu, tanh, sigmoid"),
        (lambda: models.MLP((3, 2))(normal(5, 4)), ValueError, r"3 features.*\(5, 4\)"),
        (lambda: models.Autoencoder((4,)), ValueError, "sizes must name at least 2"),
        (lambda: models.ConvAutoencoder(size=10), ValueError, "size must be a multiple of 4, got 10"),
        (lambda: models.ConvAutoencoder(0), ValueError, "code_size must be at least 1, got 0"),
        (lambda: models.ConvAutoencoder(size=8)(pixels(1, 1, 12, 12)), ValueError, r"features.*\(1, 288\)"),
        (lambda: models.VAE(latent=0), ValueError, "VAE: latent must be at least 1, got 0"),
        (lambda: models.VAE(hidden="9"), TypeError, "VAE: hidden must be an int, got str"),
        (lambda: models.GAN(size=30), ValueError, "GAN: size must be a multiple of 4, got 30"),
        (lambda: models.GAN(width=0), ValueError, "GAN: width must be at least 1"),
        (lambda: models.GAN(2, 2, size=8).generator_loss(0), ValueError, "GAN: count must be at least 1"),
        (
            lambda: models.GAN(2, 2, size=8).discriminator_loss(pixels(2, 1, 12, 12)),
            ValueError,
            r"images \(N, 1, 8, 8\), got shape \(2, 1, 12, 12\)",
        ),
        (lambda: models.CharRNN("aba"), ValueError, "alphabet must hold different characters, got 'aba'"),
        (lambda: models.CharRNN(""), ValueError, "alphabet must hold different characters, got ''"),
        (lambda: models.CharRNN(["a"]), TypeError, "alphabet must be a string, got list"),
        (lambda: models.CharRNN("ab", cell="LSTM"), ValueError, "cell must be one of rnn, lstm, gru"),
        (lambda: models.CharRNN("ab").encode("abc"), ValueError, "'c' is not in the alphabet 'ab'"),
        (lambda: models.CharRNN("ab").sample(3, 1), TypeError, "a text must be a string, got int"),
        (lambda: models.CharRNN("ab").sample("", 1), ValueError, "prompt must have at least one character"),
        (lambda: models.CharRNN("ab").sample("a", 0), ValueError, "length must be at least 1"),
        (lambda: models.CharRNN("ab").sample("a", 1, -1.0), ValueError, "temperature must be at least 0"),
        (lambda: models.CharRNN("ab").loss(texts(3, 1)), ValueError, r"T of at least 2, got shape \(3, 1\)"),
        (lambda: models.CharRNN("ab").loss(texts(3, 4) + 1), ValueError, "indices must be from 0 to 1"),
        (lambda: models.GCN(3, 0), ValueError, "GCN: num_classes must be at least 1"),
        (lambda: models.GCN(3, 2, dropout=2.0), ValueError, "2.0"),
    ],
)
def test_wrong_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- PyTorch's numbers


def twin(name):
    """Return a PyTorch network with the keys of the small model of this name."""
    import torch

    tnn = torch.nn

    def mlp(*sizes):
        layers = [part for i, o in pairwise(sizes) for part in (tnn.Linear(i, o), tnn.Tanh())]
        return tnn.Sequential(*layers[:-1])

    class Twin(tnn.Module):
        def __init__(self, forward, **parts):
            super().__init__()
            for key, part in parts.items():
                self.add_module(key, part)
            self.call = forward

        def forward(self, x):
            return self.call(self, x)

    if name == "MLP":
        return mlp(12, 5, 3)
    if name == "Autoencoder":
        parts = {"encoder": mlp(12, 6, 2), "decoder": mlp(2, 6, 12)}
        return Twin(lambda m, x: m.decoder(m.encoder(x.flatten(1))).reshape(x.shape), **parts)
    if name == "ConvAutoencoder":
        relu = tnn.ReLU()
        encoder = tnn.Sequential(
            tnn.Conv2d(2, 16, 3, 2, 1), relu, tnn.Conv2d(16, 32, 3, 2, 1), relu,
            tnn.Flatten(), tnn.Linear(32, 3),
        )  # fmt: skip
        decoder = tnn.Sequential(
            tnn.ConvTranspose2d(32, 16, 4, 2, 1), relu, tnn.ConvTranspose2d(16, 2, 4, 2, 1)
        )
        return Twin(
            lambda m, x: m.decoder(m.expand(m.encoder(x)).relu().reshape(-1, 32, 1, 1)),
            encoder=encoder,
            expand=tnn.Linear(3, 32),
            decoder=decoder,
        )
    cell = name.split()[1]
    layers = {"rnn": tnn.RNN, "lstm": tnn.LSTM, "gru": tnn.GRU}
    recurrent = layers[cell](4, 4, 2 if cell == "lstm" else 1, batch_first=True)
    parts = {"embedding": tnn.Embedding(4, 4), "recurrent": recurrent, "head": tnn.Linear(4, 4)}
    return Twin(lambda m, x: m.head(m.recurrent(m.embedding(x))[0]), **parts)


TWINS = ["MLP", "Autoencoder", "ConvAutoencoder", "CharRNN rnn", "CharRNN lstm", "CharRNN gru"]


@needs_torch
@pytest.mark.parametrize("name", TWINS)
def test_outputs_and_gradients_equal_torchs(name):
    import torch

    ours, theirs = SMALL[name](), twin(name)
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    (x,) = inputs_of(name)
    y, wanted = first(ours(x)), theirs(torch.from_numpy(x))
    np.testing.assert_allclose(y.data, wanted.detach().numpy(), rtol=1e-4, atol=1e-6)
    dy = normal(*y.shape, seed=5)
    y.backward(dy)
    wanted.backward(torch.from_numpy(dy))
    gradients = {key: p.grad.numpy() for key, p in theirs.named_parameters()}
    for key, p in ours.named_parameters():
        scale = np.abs(gradients[key]).max()
        np.testing.assert_allclose(p.grad.data, gradients[key], atol=1e-4 * scale, rtol=0, err_msg=key)


# ---------------------------------------------------------------- what each promises


@pytest.mark.parametrize(
    ("activation", "variance"), [("relu", 2 / 300), ("tanh", 2 / 500), ("sigmoid", 2 / 500)]
)
def test_an_mlp_starts_with_weights_that_go_with_its_activation(activation, variance):
    w, b = models.MLP((300, 200), activation, rng=0).parameters()
    assert w.data.var() == pytest.approx(variance, rel=0.03)
    assert not b.data.any()


@pytest.mark.parametrize("name", ["Autoencoder", "ConvAutoencoder"])
def test_an_autoencoder_sees_its_input_through_the_code_alone(name):
    model = SMALL[name]()
    (x,) = inputs_of(name)
    code = model.encode(x)
    assert code.shape == (len(x), 2 if name == "Autoencoder" else 3)
    np.testing.assert_array_equal(model.decode(code).data.reshape(x.shape), model(x).data)


class TestVAE:
    def test_the_loss_is_the_formula(self):
        model = in_float64(models.VAE(12, 5, 2, rng=0))
        x = pixels(4, 12, dtype=np.float64)
        mean, log_variance = (t.data for t in model.encode(x))
        noise = np.random.default_rng(3).standard_normal((4, 2))
        logits = model.decode(mean + np.exp(0.5 * log_variance) * noise).data
        p = 1 / (1 + np.exp(-logits))
        log_likelihood = (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
        # KL of normal distributions, coordinate by coordinate: ln(s2/s1) + (s1² + (m1 - m2)²) / (2 s2²) - 1/2
        kl = (-0.5 * log_variance + (np.exp(log_variance) + mean**2) / 2 - 0.5).sum(axis=1)
        assert model.loss(x, rng=3).item() == pytest.approx(np.mean(kl - log_likelihood), rel=1e-12)

    def test_the_closed_form_of_kl_is_the_mean_over_draws(self):
        mean, log_variance = np.array([[1.0, -0.5]]), np.array([[0.4, -1.2]])
        spread = np.exp(0.5 * log_variance)
        z = mean + spread * np.random.default_rng(0).standard_normal((400_000, 2))
        log_q = -0.5 * ((z - mean) / spread) ** 2 - np.log(spread)
        log_p = -0.5 * z**2
        estimate = (log_q - log_p).sum(axis=1).mean()
        kl = gaussian_kl(nnk.tensor(mean), nnk.tensor(log_variance)).item()
        assert kl == pytest.approx(estimate, rel=0.01)

    def test_draws_have_the_mean_and_variance_that_was_encoded(self):
        mean = nnk.tensor(np.tile([2.0, -1.0], (100_000, 1)))
        log_variance = nnk.tensor(np.tile(np.log([4.0, 0.25]), (100_000, 1)))
        z = models.VAE(4, 3, 2, rng=0).draw(mean, log_variance, rng=1).data
        np.testing.assert_allclose(z.mean(axis=0), [2, -1], atol=0.03)
        np.testing.assert_allclose(z.var(axis=0), [4, 0.25], rtol=0.03)

    def test_noise_moves_on_in_training_and_evaluation_has_none(self):
        a, b = models.VAE(12, 5, 2, rng=0), models.VAE(12, 5, 2, rng=0)
        x = pixels(3, 12)
        once, again = a(x).data, a(x).data
        assert not np.array_equal(once, again)
        np.testing.assert_array_equal(once, b(x).data)  # the same seed, the same noise
        np.testing.assert_array_equal(a(x, rng=5).data, b(x, rng=5).data)
        np.testing.assert_array_equal(a.eval()(x).data, a(x).data)
        np.testing.assert_array_equal(a(x).data, a.decode(a.encode(x)[0]).data)


class TestGAN:
    def test_losses_are_the_papers(self):
        gan = in_float64(models.GAN(3, 2, size=8, rng=0))
        x = 2 * pixels(5, 1, 8, 8, dtype=np.float64) - 1
        z = np.random.default_rng(4).standard_normal((5, 3))
        D = [1 / (1 + np.exp(-gan.discriminator(images).data)) for images in (x, gan(z).data)]
        wanted = -np.log(D[0]).mean() - np.log(1 - D[1]).mean()
        assert gan.discriminator_loss(x, rng=4).item() == pytest.approx(wanted, rel=1e-12)
        assert gan.generator_loss(5, rng=4).item() == pytest.approx(-np.log(D[1]).mean(), rel=1e-12)

    def test_the_discriminators_loss_does_not_teach_the_generator(self):
        gan = models.GAN(3, 2, size=8, rng=0)
        gan.discriminator_loss(pixels(4, 1, 8, 8)).backward()
        assert all(p.grad is None for p in gan.generator.parameters())
        assert all(np.any(p.grad.data) for p in gan.discriminator.parameters())
        gan.generator_loss(4).backward()
        assert all(p.grad is not None for p in gan.generator.parameters())

    @pytest.mark.parametrize("size", [4, 8, 28])
    def test_images_of_every_size_go_in_and_come_out(self, size):
        gan = models.GAN(3, 2, channels=2, size=size, rng=0)
        images = gan(gan.draw(4))
        assert images.shape == (4, 2, size, size)
        assert np.abs(images.data).max() <= 1
        assert gan.discriminator(images).shape == (4,)

    def test_draws_are_the_seeds(self):
        a, b = models.GAN(3, 2, size=4, rng=0), models.GAN(3, 2, size=4, rng=0)
        once = a.draw(2)
        assert once.dtype == np.float32
        np.testing.assert_array_equal(once, b.draw(2))
        assert not np.array_equal(once, a.draw(2))
        np.testing.assert_array_equal(a.draw(2, rng=9), b.draw(2, rng=9))


class TestCharRNN:
    @pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
    def test_reading_in_two_parts_with_the_state_is_reading_at_once(self, cell):
        model = models.CharRNN("abcd", 6, cell, 2, rng=0)
        x = texts(3, 7)
        whole, _ = model(x)
        start, state = model(x[:, :4])
        rest, _ = model(x[:, 4:], state)
        np.testing.assert_allclose(np.hstack([start.data, rest.data]), whole.data, rtol=1e-5, atol=1e-6)

    def test_the_loss_is_that_of_the_next_characters(self):
        model = in_float64(models.CharRNN("abcd", 5, rng=0))
        x = texts(3, 6)
        logits = model(x)[0].data
        p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        picked = [p[n, t, x[n, t + 1]] for n in range(3) for t in range(5)]
        assert model.loss(x).item() == pytest.approx(-np.log(picked).mean(), rel=1e-12)

    def test_characters_are_drawn_by_their_probability_at_each_temperature(self):
        model = models.CharRNN("abc", 4, "gru", rng=0)
        model.recurrent.weight_hh_l0.data[...] = 0  # what follows depends on the last character alone
        model.recurrent.bias_ih_l0.data[4:8] = -50  # the update gate: nothing is kept
        text = "a" + model.sample("a", 6000, temperature=0.5, rng=1)
        z = model(model.encode("abc")[:, None])[0].data[:, 0] / 0.5
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        for i, before in enumerate("abc"):
            after = [b for a, b in pairwise(text) if a == before]
            assert len(after) > 500
            shares = [after.count(c) / len(after) for c in "abc"]
            # six standard deviations of a share
            np.testing.assert_allclose(shares, p[i], atol=6 * math.sqrt(0.25 / len(after)))

    def test_a_sample_goes_on_from_the_whole_prompt(self):
        model = models.CharRNN("ab", 8, rng=0)
        greedy = model.sample("abba", 9, temperature=0)
        assert model.sample("abba" + greedy[:4], 5, temperature=0) == greedy[4:]
        assert model.sample("abba", 9, rng=3) == model.sample("abba", 9, rng=3)
        assert set(model.sample("a", 60, rng=4)) == {"a", "b"}

    def test_it_learns_what_a_single_character_cannot_tell(self):
        # after b comes a or c, depending on what came before: the state has to remember it
        model = models.CharRNN("abc", 16, "gru", rng=0)
        x = model.encode("abcb" * 8).reshape(2, 16)
        optimizer = nnk.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            loss = model.loss(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.05  # without memory at least half of ln 2
        assert model.sample("ab", 8, temperature=0) == "cbabcbab"
        assert model.sample("abcb", 8, temperature=0) == "abcbabcb"


class TestGCN:
    def test_it_is_the_papers_formula(self):
        model = in_float64(models.GCN(4, 2, 3, rng=0)).eval()
        x, adjacency = inputs_of("GCN", np.float64)
        dense = np.eye(NODES)
        dense[EDGES[0], EDGES[1]] = dense[EDGES[1], EDGES[0]] = 1
        scale = 1 / np.sqrt(dense.sum(axis=1))
        A = scale[:, None] * dense * scale
        W0, b0, W1, b1 = (p.data for p in model.parameters())
        wanted = A @ np.maximum(A @ x @ W0.T + b0, 0) @ W1.T + b1
        np.testing.assert_allclose(model(x, adjacency).data, wanted, rtol=1e-12, atol=1e-12)

    def test_dropout_acts_in_training_alone_and_by_the_seed(self):
        a, b = models.GCN(4, 2, 8, rng=0), models.GCN(4, 2, 8, rng=0)
        inputs = inputs_of("GCN")
        once, again = a(*inputs).data, a(*inputs).data
        assert not np.array_equal(once, again)
        np.testing.assert_array_equal(once, b(*inputs).data)
        np.testing.assert_array_equal(a.eval()(*inputs).data, a(*inputs).data)

    def test_dropout_stands_before_both_layers(self):
        model, shapes = models.GCN(4, 2, 8, rng=0), []
        model.dropout.register_forward_hook(lambda m, x, y: shapes.append(x[0].shape))
        model(*inputs_of("GCN"))
        assert shapes == [(NODES, 4), (NODES, 8)]

    def test_two_layers_carry_news_over_two_edges(self):
        model = in_float64(models.GCN(4, 2, 8, rng=0)).eval()
        x, adjacency = inputs_of("GCN", np.float64)
        before = model(x, adjacency).data
        x[4] += 1  # the end of the tail 2 - 3 - 4
        moved = np.abs(model(x, adjacency).data - before).max(axis=1) > 0
        assert moved.tolist() == [False, False, True, True, True, False]
