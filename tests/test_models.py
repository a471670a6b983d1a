"""The image networks: parameter counts of their papers, and the same numbers as twins in PyTorch."""

from importlib.util import find_spec

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import models

PARAMETERS = {  # torchvision's counts, for 1000 classes; the small ones' for 10 classes and 3 channels
    "AlexNet": 61_100_840, "VGG11": 132_863_336, "VGG16": 138_357_544, "GoogLeNet": 6_624_904,
    "ResNet18": 11_689_512, "ResNet34": 21_797_672, "ResNet50": 25_557_032, "ResNet101": 44_549_160,
    "ResNet152": 60_192_808, "ResNet20": 269_722, "ResNet32": 464_154, "ResNet56": 853_018,
}  # fmt: skip
SMALL = ("ResNet20", "ResNet32", "ResNet56")
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="twins need PyTorch: pip install torch==2.13.0"
)


def count(model):
    return sum(p.size for p in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    assert count(getattr(models, name)(rng=0)) == PARAMETERS[name]


def test_parameter_counts_of_variants():
    assert count(models.GoogLeNet(aux_logits=True, rng=0)) == 13_004_888
    assert count(models.ResNet20(skip=False, rng=0)) == PARAMETERS["ResNet20"]
    assert count(models.ResNet56(in_channels=1, rng=0)) == PARAMETERS["ResNet56"] - 2 * 16 * 9
    assert count(models.CifarResNet(8, rng=0)) == 75_290  # n = 1


# ---------------------------------------------------------------- twins


def in_float64(model):
    """Make parameters and floating-point buffers float64."""
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    for module in model.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer.dtype.kind == "f":
                setattr(module, name, buffer.astype(np.float64))


def twins(name, dtype, **options):
    """Return our network and PyTorch's, with the same weights and without dropout."""
    import torch
    from oracles import torch_models

    ours = getattr(models, name)(rng=0, **options)
    classes = 10 if name in SMALL else 1000
    if not options:
        theirs = torch_models.MODELS[name](classes)
    elif "aux_logits" in options:
        theirs = torch_models.GoogLeNet(classes, aux=True)
    else:
        theirs = torch_models.cifar_resnet(int(name.removeprefix("ResNet")), skip=False)(classes)
    theirs.load_state_dict({key: torch.from_numpy(a) for key, a in ours.state_dict().items()})
    if dtype == np.float64:
        in_float64(ours)
        theirs.double()
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, (nn.Dropout, torch.nn.Dropout)):
            module.p = 0.0
    return ours, theirs


def check_twins(ours, theirs, x, allowed):
    """Compare outputs, all parameters' gradients and buffers, in training and in evaluation."""
    import torch

    rng = np.random.default_rng(1)
    for training in (True, False):
        for model in (ours, theirs):
            model.train(training)
            model.zero_grad()
        y, wanted = ours(x), theirs(torch.from_numpy(x))
        pairs = list(zip(y, wanted)) if isinstance(y, tuple) else [(y, wanted)]
        dys = [rng.standard_normal(t.shape).astype(x.dtype) for _, t in pairs]
        sum((a * dy).sum() for (a, _), dy in zip(pairs, dys)).backward()
        sum((t * torch.from_numpy(dy)).sum() for (_, t), dy in zip(pairs, dys)).backward()
        found = {f"output {i}": (a.data, t.detach().numpy()) for i, (a, t) in enumerate(pairs)}
        gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
        for n, p in ours.named_parameters():
            assert (p.grad is None) == (n not in gradients), n  # auxiliary heads have none in evaluation
            if p.grad is not None:
                found[n] = p.grad.data, gradients[n].numpy()
        found |= {n: (b, theirs.state_dict()[n].numpy()) for n, b in ours.named_buffers()}
        for n, (a, b) in found.items():
            error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
            assert error <= allowed, f"{n}, training {training}: relative error {error:.1e}"


# In float32 a sum near 0 may come out on either side of relu's kink, and a gradient is then another one: deep
# networks with equal weights differ. In float64 no sum does.
@needs_torch
@pytest.mark.parametrize("name", [n for n in PARAMETERS if n != "GoogLeNet"])
def test_twins(name):
    small = name in SMALL or "VGG" in name
    x = np.random.default_rng(0).standard_normal((2, 3, 32 if small else 64, 32 if small else 64))
    check_twins(*twins(name, np.float64), x, 1e-9)


@needs_torch
@pytest.mark.parametrize("name", ["ResNet20", "ResNet56"])
def test_plain_twins(name):
    x = np.random.default_rng(0).standard_normal((2, 3, 17, 20))
    check_twins(*twins(name, np.float64, skip=False), x, 1e-9)


@needs_torch
@pytest.mark.parametrize("options", [{}, {"aux_logits": True}])
def test_googlenet_twins(options):
    x = np.random.default_rng(0).standard_normal((2, 3, 96, 64))
    check_twins(*twins("GoogLeNet", np.float64, **options), x, 1e-9)


@needs_torch
@pytest.mark.parametrize("name", PARAMETERS)
def test_outputs_in_float32(name):
    import torch

    ours, theirs = twins(name, np.float32)
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    ours.eval()
    theirs.eval()
    with nnk.no_grad(), torch.no_grad():
        y, wanted = ours(x).data, theirs(torch.from_numpy(x)).numpy()
    assert np.abs(y - wanted).max() <= 1e-4 * np.abs(wanted).max()


# ---------------------------------------------------------------- what they take and return


def test_googlenet_heads_are_computed_in_training_only():
    model = models.GoogLeNet(7, aux_logits=True, rng=0)
    x = np.zeros((2, 3, 64, 64), np.float32)
    y = model(x)
    assert type(y).__name__ == "GoogLeNetOutputs"
    assert [y.logits.shape, y.aux_logits2.shape, y.aux_logits1.shape] == [(2, 7)] * 3
    assert model.eval()(x).shape == (2, 7)


@pytest.mark.parametrize(
    ("depth", "message"), [(21, r"6 n \+ 2"), (2, r"6 n \+ 2"), (0, "at least 1"), (20.0, "must be an int")]
)
def test_depths_that_there_are_not(depth, message):
    with pytest.raises((ValueError, TypeError), match=message):
        models.CifarResNet(depth)


def test_the_same_seed_gives_the_same_network():
    a, b, c = (models.ResNet20(rng=seed).state_dict() for seed in (0, 0, 1))
    assert all(np.array_equal(a[key], b[key]) for key in a)
    assert not np.array_equal(a["conv1.weight"], c["conv1.weight"])
