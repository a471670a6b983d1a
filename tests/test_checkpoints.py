"""Checkpoints: what survives in a file, what is done about damage, and whether training goes on the same.

Processes that are killed, interrupted and left without room are in tests/faults.
"""

import errno
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nnkernels import Tensor, io, nn, optim, train
from nnkernels.checkpoints import Checkpoints
from nnkernels.io.tree import DEEPEST, _checksum
from nnkernels.nn import functional as F
from nnkernels.optim import lr_scheduler

# ---------------------------------------------------------------- trees


def same(a, b):
    """Whether two trees are equal bit by bit, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def states_of_generators():
    bits = (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)
    return {kind.__name__: np.random.Generator(kind(3)).bit_generator.state for kind in bits}


TREE = {
    "plain": [None, True, False, 0, -7, 2**200, "text ü \ud800", ""],
    "floats": (0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan),
    3: {"nested": ((), [], {}, [[1], (2, [3])]), -1: "negative", "3": "not the number"},
    "arrays": [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.float32), np.array(2.5), np.array([True])],
    "scalars": [np.float32(0.1), np.float64(0.1), np.int64(-3), np.bool_(True)],
    "generators": states_of_generators(),
}


def test_a_tree_survives_with_types_and_bits(tmp_path):
    io.save_tree(tmp_path / "state", TREE)
    loaded = io.load_tree(tmp_path / "state")
    assert same(loaded, TREE)
    assert all(a.flags.writeable and a.flags.c_contiguous for a in loaded["arrays"])
    io.save_tree(tmp_path / "again", loaded)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "state").read_bytes()
    with np.load(tmp_path / "state") as file:  # never pickled: numpy reads it without being told to allow it
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("value", [None, 1, [], {}, "x", np.zeros(3)])
def test_the_smallest_trees_survive(tmp_path, value):
    io.save_tree(tmp_path / "state", value)
    assert same(io.load_tree(tmp_path / "state"), value)


def loop():
    items = []
    items.append(items)
    return items


def nested(depth, kind=lambda inner: [inner]):
    value = 0
    for _ in range(depth):
        value = kind(value)
    return value


@pytest.mark.parametrize(
    ("tree", "error", "words"),
    [
        ({"a": [0, {1}]}, TypeError, r"tree\['a'\]\[1\] is set"),
        ({"a": {(1, 2): 0}}, TypeError, r"tree\['a'\] has the key \(1, 2\) of tuple"),
        ({True: 0}, TypeError, "the key True of bool"),
        ({"f": lambda: 0}, TypeError, r"tree\['f'\] is function"),
        ({"o": np.array([{}])}, TypeError, "dtype object"),
        (loop(), ValueError, "nested more than 100 deep"),
        (nested(DEEPEST + 1), ValueError, "nested more than 100 deep"),
    ],
)
def test_what_a_tree_cannot_hold_is_named_and_nothing_is_written(tmp_path, tree, error, words):
    with pytest.raises(error, match=words):
        io.save_tree(tmp_path / "state", tree)
    assert list(tmp_path.iterdir()) == []


def test_the_deepest_tree_survives(tmp_path):
    for kind in (lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner,)):
        tree = nested(DEEPEST, kind)
        io.save_tree(tmp_path / "state", tree)
        assert same(io.load_tree(tmp_path / "state"), tree)


HOSTILE = {
    "text that is no JSON": (b"{", {}),
    "bytes that are no text": (b"\xff\xfe", {}),
    "an array that is missing": (b'{"array": "0"}', {}),
    "a scalar that is missing": (b'[{"scalar": "7"}]', {}),
    "an array in two places": (b'[{"array": "0"}, {"array": "0"}]', {"0": np.zeros(1)}),
    "an array in no place": (b"[]", {"0": np.zeros(1)}),
    "itself as an array": (b'{"array": "tree"}', {}),
    "no name": (b'{"array": ["0"]}', {"0": np.zeros(1)}),
    "another kind": (b'{"object": "os.system"}', {}),
    "two kinds": (b'{"tuple": [], "dict": []}', {}),
    "an empty object": (b"{}", {}),
    "a dict of threes": (b'{"dict": [[1, 2, 3]]}', {}),
    "a list as a key": (b'{"dict": [[[], 1]]}', {}),
    "a number with a point as a key": (b'{"dict": [[1.5, 1]]}', {}),
    "a number as a tuple": (b'{"tuple": 3}', {}),
    "lists in lists": (b"[" * 100_000 + b"]" * 100_000, {}),
    "lists in lists, cut short": (b"[" * 100_000, {}),
    "lists a little too deep": (b"[" * 102 + b"]" * 102, {}),
    "a number of a million digits": (b"1" * 1_000_000, {}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stranger_who_gets_the_checksum_right_gets_one_error(tmp_path, name):
    text, arrays = HOSTILE[name]
    members = {**arrays, "tree": np.frombuffer(text, np.uint8)}
    io.save_npz(tmp_path / "state.npz", {**members, "checksum": _checksum(members)})
    with pytest.raises(ValueError, match=r"state\.npz: \d+ bytes, damaged or foreign: ") as caught:
        io.load_tree(tmp_path / "state.npz")
    assert len(str(caught.value)) < 600


def test_a_file_of_weights_is_no_tree(tmp_path):
    io.save_npz(tmp_path / "weights.npz", {"w": np.zeros(3)})
    with pytest.raises(ValueError, match="not written by save_tree"):
        io.load_tree(tmp_path / "weights.npz")
    with pytest.raises(FileNotFoundError):
        io.load_tree(tmp_path / "missing.npz")


def test_the_checksum_covers_names_types_shapes_and_numbers(tmp_path):
    members = {"0": np.arange(6, dtype=np.int32), "tree": np.frombuffer(b'{"array": "0"}', np.uint8)}
    checksum = _checksum(members)
    others = [
        np.arange(6, dtype=np.uint32),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.zeros(6, np.int32),
    ]
    for other in others:
        io.save_npz(tmp_path / "state", {**members, "0": other, "checksum": checksum})
        with pytest.raises(ValueError, match="checksum does not fit"):
            io.load_tree(tmp_path / "state")
    io.save_npz(tmp_path / "state", {**members, "checksum": checksum})
    assert io.load_tree(tmp_path / "state").tolist() == list(range(6))


# ---------------------------------------------------------------- files


def state_at(step):
    return {"step": step, "weights": np.full((20, 5), step, np.float32)}


def fill(directory, steps, keep=9):
    kept = Checkpoints(directory, keep)
    return kept, [kept.save(state_at(step), step) for step in steps]


def test_the_newest_few_are_kept_by_number_not_by_time(tmp_path):
    kept, _ = fill(tmp_path / "made" / "here", [5, 40, 200], keep=2)
    assert [p.name for p in kept.paths()] == ["checkpoint-0000000040.npz", "checkpoint-0000000200.npz"]
    state, path = kept.newest()
    assert same(state, state_at(200))
    assert path.name == "checkpoint-0000000200.npz"
    kept.save(state_at(12_345_678_901), 12_345_678_901)  # one digit more than the names' width
    assert kept.newest()[0]["step"] == 12_345_678_901
    assert len(kept.paths()) == 2


def test_other_files_are_left_alone_and_leftovers_of_killed_saves_go(tmp_path):
    mine = tmp_path / ".checkpoint-0000000004.npz.0123abc.tmp"
    others = [tmp_path / name for name in ("notes.txt", "checkpoint-1.npz", ".weights.npz.77.tmp")]
    for path in (mine, *others):
        path.write_text("x")
    kept, _ = fill(tmp_path, range(5), keep=1)
    assert sorted(tmp_path.iterdir()) == sorted([*others, *kept.paths()])
    assert len(kept.paths()) == 1


def test_an_empty_or_missing_directory_has_none(tmp_path):
    assert Checkpoints(tmp_path).newest() is None
    assert Checkpoints(tmp_path / "missing").newest() is None
    assert not (tmp_path / "missing").exists()


def test_damaged_ones_are_named_skipped_and_replaced(tmp_path, caplog):
    kept, paths = fill(tmp_path, [1, 2, 3], keep=3)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    paths[1].write_bytes(b"")
    with caplog.at_level(logging.WARNING, "nnkernels"):
        state, path = kept.newest()
    assert (state["step"], path) == (1, paths[0])
    assert [paths[2].name in m or paths[1].name in m for m in caplog.messages] == [True, True]
    # With keep=1, the number in a name must not make the damaged one the one that is kept.
    Checkpoints(tmp_path, keep=1).save(state_at(2), 2)
    assert kept.newest()[0]["step"] == 2
    assert kept.paths() == [paths[1]]


def test_where_all_are_damaged_nothing_begins_again(tmp_path):
    kept, paths = fill(tmp_path, [1, 2])
    for path in paths:
        path.write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=r"none .*checkpoint-0000000001\.npz, checkpoint-0000000002\.npz"):
        kept.newest()
    assert kept.paths() == paths


def test_a_file_that_does_not_read_back_is_no_checkpoint(tmp_path, monkeypatch):
    kept, paths = fill(tmp_path, [1, 2], keep=1)
    real = io.save_tree

    def save_badly(path, tree):
        real(path, tree)
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)

    monkeypatch.setattr(io, "save_tree", save_badly)
    with pytest.raises(OSError, match=r"does not read back.*checkpoint-0000000002\.npz is there"):
        kept.save(state_at(3), 3)
    assert list(tmp_path.iterdir()) == [paths[1]]
    assert kept.newest()[0]["step"] == 2


def test_truncated_and_flipped_files_are_noticed_or_hold_the_same(tmp_path):
    rng, count = random.Random(0), {"refused": 0, "same": 0}
    tree = {**TREE, "weights": np.random.default_rng(0).standard_normal((30, 40))}
    io.save_tree(tmp_path / "state", tree)
    whole, path = (tmp_path / "state").read_bytes(), tmp_path / "checkpoint-0000000001.npz"
    damaged = [whole[: rng.randrange(len(whole))] for _ in range(200)]
    for _ in range(600):
        raw = bytearray(whole)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(raw))
    for raw in damaged:
        path.write_bytes(raw)
        try:
            loaded = io.load_tree(path)
        except ValueError as error:
            assert path.name in str(error)  # noqa: PT017  # which of the two it is differs
            count["refused"] += 1
        else:
            assert same(loaded, tree)
            count["same"] += 1
    print(count)
    assert count["refused"] > 600
    assert count["same"] < 150  # flags and dates of members


# ---------------------------------------------------------------- training goes on


def blobs(n=50, dtype=np.float32):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    return (rng.standard_normal((n, 4)) + y[:, None]).astype(dtype), y


def network(dtype=np.float32, hidden=8):
    """Dropout twice, with one generator shared with the shuffling and one of its own; running statistics."""
    shared = np.random.default_rng(5)
    model = nn.Sequential(
        nn.Linear(4, hidden, rng=0, dtype=dtype), nn.BatchNorm1d(hidden, dtype=dtype), nn.ReLU(),
        nn.Dropout(0.3, rng=shared), nn.Linear(hidden, hidden, rng=1, dtype=dtype), nn.Tanh(),
        nn.Dropout(0.2, rng=7), nn.Linear(hidden, 3, rng=2, dtype=dtype),
    )  # fmt: skip
    return model, shared


class Crash(Exception):
    pass


def two_phases(optimizer):
    warm = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=2)
    return lr_scheduler.SequentialLR(optimizer, [warm, lr_scheduler.StepLR(optimizer, 1, 0.7)], [2])


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "groups": lambda p: optim.AdamW([{"params": p[:2], "lr": 0.02}, {"params": p[2:]}], weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5),
    "nadam": lambda p: optim.NAdam(p, lr=0.01),
}
SCHEDULES = {
    "none": lambda o: None,
    "sequential": two_phases,
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.05, total_steps=6),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4),
}


def run(optimizer="adam", schedule="none", crash_at=None, dtype=np.float32, **options):
    """One training with fresh objects; it may crash in a batch. Return all it leaves."""
    model, shared = network(dtype)
    made = OPTIMIZERS[optimizer](list(model.parameters()))
    plan, calls = SCHEDULES[schedule](made), []

    def loss(outputs, targets):
        calls.append(isinstance(outputs, Tensor))  # not in validation
        if calls[-1] and sum(calls) == crash_at:
            raise Crash
        return F.cross_entropy(outputs, targets)

    options = {"epochs": 4, "batch_size": 16, "validation": blobs(20, dtype)} | options
    history = train.fit(
        model, blobs(dtype=dtype), optimizer=made, schedule=plan, loss=loss, rng=shared, **options
    )
    history.pop("seconds")
    plan = None if plan is None else {k: v for k, v in plan.state_dict().items() if not callable(v)}
    return {
        "model": model.state_dict(), "optimizer": made.state_dict(), "schedule": plan, "history": history,
        "generators": [shared.bit_generator.state, model[6].rng.bit_generator.state],
        "modes": [m.training for m in model.modules()],
    }  # fmt: skip


def run_with_crashes(directory, crashes, **options):
    """The same training, which crashes after so many batches each time and is resumed."""
    for crash_at in crashes:
        with pytest.raises(Crash):
            run(checkpoint=directory, resume=True, crash_at=crash_at, **options)
    return run(checkpoint=directory, resume=True, **options)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_training_is_bitwise_the_same(tmp_path, optimizer, schedule):
    kinds = {"optimizer": optimizer, "schedule": schedule}
    expected = run(**kinds)
    assert same(run(**kinds), expected)  # it is the same without checkpoints, to begin with
    assert same(run_with_crashes(tmp_path, [3, 5, 4, 2], every=1, **kinds), expected)


@pytest.mark.parametrize(
    ("options", "crashes"),
    [
        ({"every": 1}, [1] + [2] * 14),  # every batch once; 1: before anything
        ({"every": 2}, [3, 6, 3, 4]),
        ({"every": None}, [6, 7, 8]),  # epochs only
        ({"every": 100}, [5, 6]),
        ({"every": 1, "accumulate": 2}, [3, 2, 4, 5]),
        ({"every": 1, "accumulate": 3}, [4, 3, 5]),
        ({"every": 3, "accumulate": 2}, [6, 7]),
        ({"every": 1, "patience": 2, "epochs": 12}, [9, 7, 6]),
        ({"every": 1, "batch_size": 50}, [2, 2]),
        ({"every": 1, "dtype": np.float64}, [3, 6]),
        ({"every": 1, "validation": None}, [3, 6]),
        ({"every": 1, "keep": 1}, [3, 6]),
    ],
)
def test_wherever_it_stops(tmp_path, options, crashes):
    plain = {k: v for k, v in options.items() if k not in ("every", "keep")}
    expected = run(**plain)
    assert same(run_with_crashes(tmp_path, crashes, **options), expected)
    assert len(Checkpoints(tmp_path).paths()) <= options.get("keep", 3)


def test_patience_that_ran_out_stays_so_and_the_best_weights_return(tmp_path):
    options = {"patience": 1, "epochs": 50, "optimizer": "sgd", "checkpoint": tmp_path}
    first = run(**options)
    assert len(first["history"]["val_loss"]) < 50
    again = run(**options, resume=True)
    assert same(again["history"], first["history"])
    assert same(again["model"], first["model"])


def test_the_best_epoch_of_before_stays_the_one_to_beat(tmp_path):
    told = [5.0, 4.0, 4.5, 4.2, 4.1, 9.0]

    def train_on(checkpoint, crash_in=None):
        model = nn.Linear(1, 1, bias=False, dtype=np.float64)
        model.weight.data[...] = 0

        def loss(outputs, targets):
            epoch = round(model.weight.data.item()) + isinstance(outputs, Tensor)
            if not isinstance(outputs, Tensor):
                return np.float64(told[epoch - 1])
            if epoch == crash_in:
                raise Crash
            return outputs.sum() / -4.0  # each epoch adds 1 to the weight

        ones = np.ones((4, 1))
        optimizer = optim.SGD(model.parameters(), lr=1.0)
        history = train.fit(
            model, (ones, ones), (ones, ones), optimizer=optimizer, loss=loss, epochs=6, patience=3,
            checkpoint=checkpoint, resume=checkpoint is not None,
        )  # fmt: skip
        return model.weight.data.item(), history["val_loss"], history["best_epoch"]

    expected = train_on(None)
    assert expected == (2.0, told[:5], [2])
    with pytest.raises(Crash):
        train_on(tmp_path, crash_in=4)
    assert train_on(tmp_path) == expected
    assert train_on(tmp_path) == expected


def test_a_finished_run_returns_its_history_and_may_be_made_longer(tmp_path):
    short = run(epochs=2, checkpoint=tmp_path)
    assert same(run(epochs=2, checkpoint=tmp_path, resume=True), short)
    assert same(run(epochs=5, checkpoint=tmp_path, resume=True), run(epochs=5))


def test_a_damaged_newest_checkpoint_costs_batches_not_the_result(tmp_path, caplog):
    with pytest.raises(Crash):
        run(checkpoint=tmp_path, every=1, crash_at=7)
    newest = Checkpoints(tmp_path).paths()[-1]
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    result = run(checkpoint=tmp_path, every=1, resume=True)
    assert newest.name in caplog.text
    assert same(result, run())


def test_saves_come_when_they_are_due(tmp_path, monkeypatch):
    steps, real = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda c, state, n: (steps.append(n), real(c, state, n))[1])

    def saves(**options):
        steps.clear()
        run(checkpoint=tmp_path / str(len(list(tmp_path.iterdir()))), epochs=2, **options)
        return list(steps)

    assert saves() == [0, 4, 8]
    assert saves(every=1) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert saves(every=3) == [0, 3, 4, 7, 8]
    assert saves(every=1, accumulate=2) == [0, 2, 4, 6, 8]
    assert saves(every=3, accumulate=2) == [0, 4, 8]
    assert saves(every=1, accumulate=3) == [0, 3, 4, 7, 8]


# ---------------------------------------------------------------- what is refused


def call(model, directory, **changes):
    options = {
        "optimizer": optim.Adam(model.parameters(), lr=0.01), "epochs": 3, "batch_size": 16, "resume": True,
        "train": blobs(), "checkpoint": directory, "validation": blobs(20),
    }  # fmt: skip
    for name in ("optimizer", "schedule"):
        if name in changes:
            changes[name] = changes[name](changes.get("optimizer") or options["optimizer"], model)
    options |= changes
    return train.fit(model, options.pop("train"), rng=0, **options)


X, Y = blobs()
CHANGED = np.where(np.arange(50) == 7, (Y + 1) % 3, Y)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 17}, "batch_size: 16 there, 17 here"),
        ({"accumulate": 2}, "accumulate: 1 there, 2 here"),
        ({"patience": 2}, "early stopping: no there, yes here"),
        ({"validation": None}, "validation data 0: .*, none here"),
        ({"train": (X[:49], Y[:49])}, r"training data 0: float32 \(50, 4\).*float32 \(49, 4\)"),
        ({"train": (X, CHANGED)}, r"training data 1: int64 \(50,\) with CRC"),
        ({"train": (X.astype(np.float64), Y)}, r"training data 0: float32.*float64 \(50, 4\)"),
        ({"optimizer": lambda o, m: optim.SGD(m.parameters(), lr=0.01)}, "optimizer: Adam.* there, SGD"),
        ({"optimizer": lambda o, m: optim.Adam(m.parameters(), lr=0.1)}, "options: lr=0.01, .*, lr=0.1,"),
        ({"optimizer": lambda o, m: optim.Adam(m[0].parameters(), lr=0.01)}, "8 parameters there, Adam of 2"),
        ({"schedule": lambda o, m: lr_scheduler.StepLR(o, 1)}, "schedule: none there, StepLR here"),
        ({"schedule": lambda o, m: two_phases(o)}, r"none there, SequentialLR\(LinearLR, StepLR\) here"),
    ],
)
def test_another_training_is_refused_and_nothing_changed(tmp_path, changes, words):
    call(network()[0], tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = network()[0]
    before = model.state_dict(), model[3].rng.bit_generator.state
    with pytest.raises(ValueError, match=words) as caught:
        call(model, tmp_path, **changes)
    assert "checkpoint-0000000012.npz is of another training" in str(caught.value)
    assert same((model.state_dict(), model[3].rng.bit_generator.state), before)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


class Other(nn.Sequential):
    pass


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: network(hidden=9)[0], r"model\.0\.weight: float32 \(8, 4\) there, float32 \(9, 4\) here"),
        (lambda: network(np.float64)[0], r"model\.0\.weight: float32 \(8, 4\) there, float64 \(8, 4\) here"),
        (lambda: Other(*network()[0].children()), "model: Sequential there, Other here"),
        (
            lambda: nn.Sequential(*list(network()[0].children())[:5]),
            r"model\.7\.weight: float32 \(3, 8\) there, none here",
        ),
        (
            lambda: nn.Sequential(*network()[0].children(), nn.Dropout()),
            r"generator model\.8\.rng: none there, PCG64",
        ),
    ],
)
def test_another_model_is_refused(tmp_path, model, words):
    call(network()[0], tmp_path)
    with pytest.raises(ValueError, match=f"is of another training: .*{words}"):
        call(model(), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 2}, r"every \(2\) needs checkpoint"),
        ({"resume": True}, "resume needs checkpoint"),
        ({"checkpoint": True, "every": 0}, "every must be an int of at least 1, got 0"),
        ({"checkpoint": True, "every": 1.5}, r"every must be an int of at least 1, got 1\.5"),
        ({"checkpoint": True, "keep": 0}, "keep must be an int of at least 1, got 0"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, options, words):
    if "checkpoint" in options:
        options = options | {"checkpoint": tmp_path / "made"}
    with pytest.raises(ValueError, match=words):
        run(**options)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_before_are_not_replaced_without_being_told_to(tmp_path):
    run(checkpoint=tmp_path, epochs=1)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"holds checkpoints.*resume=True, --resume.*another directory"):
        run(checkpoint=tmp_path, epochs=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_foreign_tree_is_no_checkpoint_of_fit(tmp_path):
    Checkpoints(tmp_path).save({"epoch": 3}, 7)
    with pytest.raises(
        ValueError, match=r"checkpoint-0000000007\.npz is no checkpoint of this version's fit"
    ):
        run(checkpoint=tmp_path, resume=True)


def test_what_cannot_be_saved_fails_before_the_work(tmp_path):
    model, _ = network()
    optimizer = optim.Adam(model.parameters())
    optimizer.param_groups[0]["note"] = object()
    with pytest.raises(TypeError, match=r"\['note'\] is object"):
        train.fit(model, blobs(), optimizer=optimizer, checkpoint=tmp_path, loss=None)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- Ctrl-C


def interrupted_run(directory, at, times=1, **options):
    """A training that gets SIGINT while a batch is computed, perhaps more than once."""
    model, shared = network()
    calls = []

    def loss(outputs, targets):
        calls.append(isinstance(outputs, Tensor))  # not in validation
        if calls[-1] and sum(calls) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(outputs, targets)

    options = {"epochs": 4, "batch_size": 16, "validation": blobs(20)} | options
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    train.fit(model, blobs(), optimizer=optimizer, loss=loss, rng=shared, checkpoint=directory, **options)


@pytest.mark.parametrize(
    ("at", "options", "step"),
    [(1, {}, 1), (2, {"every": 5}, 2), (4, {}, 4), (6, {"accumulate": 4}, 8), (16, {}, 16)],
)
def test_ctrl_c_finishes_the_step_saves_and_says_where(tmp_path, at, options, step):
    with pytest.raises(train.Interrupted) as caught:
        interrupted_run(tmp_path, at, **options)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.path == tmp_path / f"checkpoint-{step:010d}.npz"
    assert caught.value.path.exists()
    assert f"checkpoint={str(tmp_path)!r}, resume=True" in str(caught.value)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    options.pop("every", None)
    assert same(run(checkpoint=tmp_path, resume=True, **options), run(**options))


def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted_run(tmp_path, 3, times=2)
    assert not isinstance(caught.value, train.Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-0000000000.npz"]


def test_without_checkpoints_ctrl_c_is_what_it_was():
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted_run(None, 3)
    assert not isinstance(caught.value, train.Interrupted)


def test_handlers_of_others_and_other_threads_are_left_alone(tmp_path):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        interrupted_run(tmp_path / "a", 3, epochs=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [1]
    done = []
    thread = threading.Thread(target=lambda: done.append(run(checkpoint=tmp_path / "b", epochs=1)))
    thread.start()
    thread.join()
    assert same(done[0], run(epochs=1))


# ---------------------------------------------------------------- processes and disks

FAULTS = Path(__file__).parent / "faults"


def run_script(name, *arguments, before=()):
    """Run a script of tests/faults, and return what it prints as JSON."""
    command = [*before, sys.executable, "-W", "error", str(FAULTS / name), *map(str, arguments)]
    # One thread: processes are forked, and the network is too small to be worth more.
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no checkpoint was found damaged
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed")
def test_no_kill_costs_the_result(tmp_path):
    seen = run_script("kills.py", tmp_path, 40, 0)
    print(seen)
    hits = seen["hits"]
    assert sum(hits.values()) == 40
    assert sum(hits[mark] for mark in ("forward", "loss", "backward and step")) >= 5
    assert hits["half written"] + hits["before the rename"] >= 3
    assert seen["leftovers"] >= 3  # files half written, or not renamed: never read, and gone in the end
    assert hits["after the rename"] + hits["reading back"] + hits["deleting"] >= 3
    assert seen["finished"] >= 1


def assert_went_on(seen, newest):
    assert f"{newest} is there to resume from" in seen["message"]
    assert seen["newest"] == seen["left"][-1] == newest
    assert all(name.endswith(".npz") for name in seen["left"])  # nothing half written
    assert seen["same"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of resources")
def test_a_file_that_may_not_grow_costs_nothing_of_before(tmp_path):
    seen = run_script("no_room.py", tmp_path / "made", "limit")
    assert f"cannot save step 29 in {tmp_path / 'made'}: File too large; " in seen["message"]
    assert seen["errno"] == errno.EFBIG
    assert len(seen["left"]) == 3
    assert_went_on(seen, "checkpoint-0000000028.npz")


def test_a_full_disk_costs_nothing_of_before(tmp_path):
    mount = f"mount -t tmpfs -o size=400k tmpfs '{tmp_path}'"
    room = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*room, mount], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here without root's rights")
    seen = run_script("no_room.py", tmp_path, "disk", before=[*room, f'{mount} && exec "$@"', "sh"])
    assert "No space left on device" in seen["message"]
    assert seen["errno"] == errno.ENOSPC
    assert len(seen["left"]) > 3
    assert_went_on(seen, seen["left"][-1])
