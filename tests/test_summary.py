"""nn.summary(..., measure=True): times by layer, work of backward, peak memory; the model is left alone."""

import tracemalloc

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.autograd.tape import Node
from nnkernels.machine import memory
from nnkernels.nn import functional as F
from nnkernels.nn import measure, roofline
from nnkernels.nn.module import Module, Parameter
from nnkernels.nn.roofline import Limits, Work

MIB = 2**20
LIMITS = Limits(2, gflops=1e-9, gbytes=2e-9)  # a FLOP and two bytes a second


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(measure, "limits", lambda threads, dtype: LIMITS)


class Clock:
    """Seconds that pass where the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A clock on which backward of mul takes 100 s, of exp 1000 s and of every other op none."""
    clock, pull_back = Clock(), Node.pull_back

    def slowly(node, dy, needs):
        clock.now += {"mul": 100, "exp": 1000}.get(node.op.name, 0)
        return pull_back(node, dy, needs)

    monkeypatch.setattr(measure, "perf_counter", clock)
    monkeypatch.setattr(Node, "pull_back", slowly)
    return clock


class Scale(Module):
    """x times a weight for each element, in so many seconds."""

    def __init__(self, clock, seconds, size=3):
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.weight = Parameter(np.ones(size, np.float32))

    def forward(self, x):
        self.clock.now += self.seconds
        return x * self.weight


class Net(Module):
    """Two layers, the first of them twice, and between them a function of 7 seconds."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.a, self.b = Scale(clock, 2), Scale(clock, 5)

    def forward(self, x):
        x = self.b(self.a(x))
        self.clock.now += 7
        return self.a(x.exp())


def rows_of(table):
    """Return the rows by name and call: "a", "a again"."""
    found = {}
    for row in table.rows:
        found[row.name if row.name not in found else f"{row.name} again"] = row
    return found


# ---------------------------------------------------------------- times


def test_each_call_of_a_layer_has_its_own_time_and_the_rest_adds_up_to_the_whole(clock):
    table = nn.summary(Net(clock), (4, 3), measure=True)
    rows = rows_of(table)
    assert list(rows) == ["a", "b", "a again", "(functions)"]
    assert [row.forward.seconds for row in rows.values()] == [2, 5, 2, 7]
    assert [row.backward.seconds for row in rows.values()] == [100, 100, 100, 1000]
    assert (table.total.forward.seconds, table.total.backward.seconds) == (16, 1300)
    assert (table.whole.inference_seconds, table.whole.training_seconds) == (16, 1316)


def test_times_are_medians_of_several_runs(clock):
    class Uneven(Scale):
        times = iter([0] * 4 + [3, 50, 1, 4, 2] + [0] * 99)  # counted, compiled, traced, warm; then timed

        def forward(self, x):
            self.seconds = next(self.times)
            return super().forward(x)

    table = nn.summary(Uneven(clock, 0), (4, 3), measure=True)
    assert table.rows[0].forward.seconds == 3
    assert table.whole.inference_seconds == 3


def test_rates_and_shares_follow_from_work_time_and_ceilings(clock):
    row = nn.summary(Scale(clock, 8), (4, 3), measure=True).rows[0]
    # 12 products; x and y of 12 numbers, the weight's 3, 4 bytes each, at two bytes a second
    assert (row.forward.flops, row.forward.bytes) == (row.flops, row.bytes) == (12, 4 * 27)
    assert row.forward.least_seconds == 54
    assert row.forward.share == 54 / 8
    assert row.forward.gflops == 12 / 8 / 1e9


def test_least_time_is_that_of_the_nearer_ceiling():
    limits = Limits(1, gflops=2, gbytes=4)
    assert limits.least_seconds(Work(10**9, 10**9)) == 0.5
    assert limits.least_seconds(Work(10**9, 6 * 10**9)) == 1.5
    assert limits.least_seconds(Work(0, 4 * 10**9)) == 1


def test_the_total_takes_as_long_at_least_as_all_layers_one_after_the_other(clock):
    table = nn.summary(Net(clock), (4, 3), measure=True)
    for name in ("forward", "backward"):
        passes = [getattr(row, name) for row in table.rows]
        total = getattr(table.total, name)
        assert total.least_seconds == sum(p.least_seconds for p in passes) > 0
        assert (total.flops, total.bytes) == (sum(p.flops for p in passes), sum(p.bytes for p in passes))


def test_ceilings_are_the_best_that_were_seen(monkeypatch):
    seen = iter([(10, 3), (8, 4), (9, 1)])
    monkeypatch.setattr(roofline, "_best", {})
    monkeypatch.setattr(
        roofline.ceilings, "fma_peak", lambda threads, dtype: pair.__setitem__(0, next(seen)) or pair[0][0]
    )
    monkeypatch.setattr(roofline.ceilings, "memory_bandwidth", lambda threads: pair[0][1])
    pair = [None]
    assert [roofline.limits(2, "float32") for _ in range(3)] == [
        Limits(2, 10, 3),
        Limits(2, 10, 4),
        Limits(2, 10, 4),
    ]


def test_real_times_are_of_a_plausible_size(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(roofline.ceilings, "SECONDS", 0.02)
    table = nn.summary(nn.models.LeNet5(rng=0), (2, 1, 28, 28), measure=True)
    for row in (*table.rows, table.total):
        for p in (row.forward, row.backward):
            assert 0 < p.seconds < 0.1
    assert 0 < table.total.forward.share < 100
    assert table.whole.limits.gflops > 0.5
    assert table.whole.training_seconds > table.whole.inference_seconds


# ---------------------------------------------------------------- which layers there are


def test_a_relu_that_the_layer_before_applies_has_no_time_of_its_own():
    net = nn.Sequential(nn.Linear(4, 5, rng=0), nn.ReLU(), nn.Tanh(), nn.ReLU())
    linear, fused, tanh, relu, rest = nn.summary(net, (2, 4), measure=True).rows
    assert (fused.kind, fused.flops, fused.forward, fused.backward) == ("ReLU", 10, None, None)
    for row in (linear, tanh, relu, rest):
        assert row.forward is not None
        assert row.backward is not None


def test_layers_of_the_training_pass_alone_have_rows_too():
    class WithHead(Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4, rng=0), nn.Linear(4, 2, rng=0)

        def forward(self, x):
            y = self.body(x)
            return (y, self.head(y)) if self.training else y

    table = nn.summary(WithHead(), (3, 4), measure=True)
    rows = rows_of(table)
    assert list(rows) == ["body", "head", "(functions)"]
    head = rows["head"]
    assert (head.kind, head.output_shape, head.parameters, head.flops) == ("Linear", (3, 2), 10, 0)
    assert head.forward is None
    assert head.backward.flops == 2 * (2 * 3 * 2 * 4 + 6)
    assert table.total.parameters == 30
    assert table.total.flops == nn.summary(WithHead(), (3, 4)).total.flops


def test_a_layer_without_a_gradient_has_no_backward_time():
    net = nn.Sequential(nn.Tanh(), nn.Linear(4, 2, rng=0))
    tanh, linear, _ = nn.summary(net, (3, 4), measure=True).rows
    assert tanh.forward is not None
    assert tanh.backward is None  # as in training: nobody wants the input's gradient
    assert linear.backward.flops == linear.flops  # dw alone
    (tanh, _) = nn.summary(nn.Tanh(), (3, 4), measure=True).rows
    assert tanh.backward is not None  # unless there is nothing else


def test_a_network_that_passes_no_gradient_on_has_no_backward_pass():
    class Cut(Module):
        def forward(self, x):
            return x.detach()

    table = nn.summary(Cut(), (3, 4), measure=True)
    assert table.rows[0].backward is table.total.backward is None
    assert table.whole.training_seconds > 0
    assert "training" in str(table)


def test_a_module_under_two_names_is_one_layer(clock):
    net = Net(clock)
    net.b = net.a
    for table in (nn.summary(net, (4, 3)), nn.summary(net, (4, 3), measure=True)):
        assert [row.name for row in table.rows] == ["a", "a", "a", "(functions)"]
    assert [row.forward.seconds for row in table.rows] == [2, 2, 2, 7]


def test_what_a_checkpoint_runs_again_is_no_further_call(clock):
    class Recomputed(Net):
        def forward(self, x):
            return self.b(nnk.checkpoint(self.a, x))

    rows = nn.summary(Recomputed(clock), (4, 3), measure=True).rows
    assert [row.name for row in rows] == ["a", "b", "(functions)"]
    assert rows[0].backward is None
    assert rows[1].backward.seconds == 100
    assert rows[2].backward.seconds == 2  # a's forward, run again


def test_rows_are_those_without_measuring_with_the_same_counts():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, rng=0), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    plain, measured = nn.summary(net, (2, 1, 6, 6)), nn.summary(net, (2, 1, 6, 6), measure=True)
    counts = [(r.name, r.kind, r.output_shape, r.parameters, r.flops, r.bytes) for r in measured.rows]
    assert counts[:-1] == [
        (r.name, r.kind, r.output_shape, r.parameters, r.flops, r.bytes) for r in plain.rows
    ]
    assert counts[-1] == ("(functions)", "", (), 0, 0, 0)
    assert plain.whole is None
    assert all(r.forward is None and r.backward is None for r in plain.rows)


def test_float64_and_no_grad_around_are_no_obstacle():
    with nnk.no_grad():
        table = nn.summary(nn.Linear(4, 5, dtype=np.float64, rng=0), (2, 4), measure=True)
    assert table.rows[0].backward.seconds > 0
    assert table.rows[0].bytes == 8 * (8 + 20 + 5 + 10)


# ---------------------------------------------------------------- the work of backward


def backward_of(module, shape, **options):
    """Return the work of backward of one layer behind another, so that dx is wanted."""
    first = Scale(Clock(), 0, shape[1:])
    row = nn.summary(nn.Sequential(first, module), shape, measure=True).rows[1]
    return row.backward.flops, row.backward.bytes


def test_backward_counts_dx_and_dw_and_the_arrays_it_reads_and_writes():
    x, w, b, y = 2 * 3 * 8 * 8, 4 * 3 * 9, 4, 2 * 4 * 6 * 6
    flops = y * (2 * 27 + 1)
    conv = nn.Conv2d(3, 4, 3, rng=0)
    assert backward_of(conv, (2, 3, 8, 8)) == (2 * flops, 4 * (y + 2 * (x + w + b)))
    conv.weight.requires_grad = conv.bias.requires_grad = False
    assert backward_of(conv, (2, 3, 8, 8)) == (flops, 4 * (y + x + x + w + b))


def test_backward_of_elementwise_ops_poolings_and_views():
    assert backward_of(nn.Sigmoid(), (2, 10))[1] == 4 * 3 * 20  # reads dy and x, writes dx
    # max pooling reads where the maxima were, average pooling nothing but dy
    argmax = 4 * 2 * 3 * 4 * 4
    assert backward_of(nn.MaxPool2d(2), (2, 3, 8, 8))[1] == 4 * (384 + 96) + argmax
    assert backward_of(nn.AvgPool2d(2), (2, 3, 8, 8))[1] == 4 * (384 + 96)
    assert backward_of(nn.Flatten(), (2, 3, 8, 8)) == (0, 0)


def test_passing_a_gradient_on_is_no_work():
    class Skip(Module):
        def forward(self, x):
            return x + x

    assert backward_of(Skip(), (2, 10)) == (0, 0)


# ---------------------------------------------------------------- memory


def near(pieces):
    """So many mebibytes, and what Python's objects take."""
    return pytest.approx(pieces * MIB, abs=0.05 * MIB)


def test_peak_memory_is_that_of_the_arrays_alive():
    net = nn.Sequential(nn.PReLU(), *(nn.Tanh() for _ in range(4)))
    whole = nn.summary(net, (1, MIB // 4), measure=True).whole
    # The input; and a layer's input and output, the first of which is gone when the next is computed.
    assert whole.inference_bytes == near(3)
    # The input, all 5 results; and on the way back dy and dx, the latter in the place of nothing yet.
    assert whole.training_bytes == near(8)


def test_peak_memory_includes_parameters_buffers_and_gradients():
    size = 1024
    net = nn.Sequential(nn.Linear(size, size, bias=False, rng=0), nn.Linear(size, size, bias=False, rng=0))
    net[0].register_buffer("mask", np.zeros((size, size), np.float32))
    whole = nn.summary(net, (1, size), measure=True).whole
    assert whole.inference_bytes == near(3 * 4)
    assert whole.training_bytes == near(3 * 4 + 2 * 4)


def test_workspaces_count_while_they_are_in_use():
    x = np.empty(MIB, np.uint8)

    def work():
        for _ in range(3):
            memory.empty((MIB,), np.uint8)
            memory.empty((2 * MIB,), np.uint8)
        return x

    assert measure.peak_bytes(work) == near(3 - 1)


def test_measuring_memory_leaves_the_pool_and_a_running_trace_as_they_are():
    held = memory.MAX_HELD_BYTES
    measure.peak_bytes(lambda: None)
    assert not tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        with pytest.raises(ZeroDivisionError):
            measure.peak_bytes(lambda: 1 / 0)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    assert memory.MAX_HELD_BYTES == held > 0


# ---------------------------------------------------------------- the model afterwards


class Stateful(Module):
    """Everything that a pass could change."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, rng=0), nn.BatchNorm2d(3)
        self.drop, self.out = nn.Dropout(0.5, rng=1), nn.Linear(48, 2, rng=0)
        self.register_buffer("calls", np.array([0.0]))
        self.fails = False

    def forward(self, x):
        self.calls = self.calls + 1  # another array
        if self.fails and self.training:
            raise RuntimeError("in training")
        return self.out(F.flatten(self.drop(F.relu(self.norm(self.conv(x)))), 1))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    net = Stateful()
    net(np.random.default_rng(0).standard_normal((4, 1, 6, 6)).astype(np.float32)).sum().backward()
    net.norm.eval()
    net.out.forward = forward = net.out.forward  # an instance's own
    net.fails = fails
    state, gradients = net.state_dict(), {name: p.grad for name, p in net.named_parameters()}
    buffer, drawn = net.calls, net.drop.rng.bit_generator.state
    values = {name: grad.data.copy() for name, grad in gradients.items()}
    if fails:
        with pytest.raises(RuntimeError, match="in training"):
            nn.summary(net, (2, 1, 6, 6), measure=True)
    else:
        nn.summary(net, (2, 1, 6, 6), measure=True)
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert net.calls is buffer
    assert all(np.array_equal(state[name], array) for name, array in net.state_dict().items())
    assert net.drop.rng.bit_generator.state == drawn
    for name, p in net.named_parameters():
        assert p.grad is gradients[name]
        assert np.array_equal(p.grad.data, values[name])
    assert vars(net.out)["forward"] is forward
    assert not any("forward" in vars(m) for m in net.modules() if m is not net.out)
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.sim
def test_a_network_on_a_gpu_is_refused_in_words():
    with nnk.simulate_gpu():
        net = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.BatchNorm2d(2)).cuda()
        with pytest.raises(ValueError, match="conv2d: all arrays must be on one device"):
            nn.summary(net, (1, 1, 4, 4), measure=True)


# ---------------------------------------------------------------- the table


def test_the_table_has_units_in_its_heads_and_numbers_below_them(clock):
    lines = str(nn.summary(Net(clock), (4, 3), measure=True)).splitlines()
    assert lines[0].split() == ["forward", "backward"]
    assert lines[1].split() == (
        ["layer", "kind", "output", "shape", "parameters", "MFLOP", "MB"] + 2 * ["ms", "GFLOP/s", "%", "roof"]
    )
    # x, y, w: 27 numbers of 4 bytes, each in half a second; dy, dx, dw, x, w: 42
    assert lines[4].split()[-6:] == ["5,000.00", "0.0", "1080", "100,000.00", "0.0", "84"]
    columns = [
        lines[1].index(head) + len(head) for head in ("parameters", "MFLOP", "MB", "ms", "GFLOP/s", "roof")
    ]
    assert all(
        line[end - 1].isdigit() and line[end : end + 1] in (" ", "") for line in lines[3:6] for end in columns
    )
    assert lines[-3].startswith("inference: 16,000.00 ms, at most ")
    assert lines[-2].startswith("training:  1,316,000.00 ms forward and backward, at most ")
    assert lines[-1].startswith("roof:      0 GFLOP/s and 0 GB/s, measured on 2 threads")


def test_short_passes_are_in_microseconds(clock):
    lines = str(nn.summary(Scale(clock, 4e-5), (4, 3), measure=True)).splitlines()
    assert lines[1].split()[7] == "µs"
    assert lines[3].split()[6] == "40.0"
    assert lines[-3].startswith("inference: 40.0 µs")


def test_long_names_do_not_make_the_table_wider_than_150_columns():
    class Deep(Module):
        def __init__(self, depth):
            super().__init__()
            self.a_block_with_a_name_of_some_length = (
                nn.Linear(4, 4, rng=0) if depth == 0 else Deep(depth - 1)
            )

        def forward(self, x):
            return self.a_block_with_a_name_of_some_length(x).tanh().sigmoid().exp().sin().cos().relu()

    lines = str(nn.summary(Deep(4), (1, 4), measure=True)).splitlines()
    assert 140 < max(map(len, lines)) <= 150
    assert "…" in lines[3]
    assert all(len(line) == len(lines[2]) for line in lines[3:4])
