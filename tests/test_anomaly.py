"""detect_anomaly names the op, the elements and the line that first made a NaN or an infinity."""

import inspect
import re
import threading

import numpy as np
import pytest

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import OPS, nn, optim
from nnkernels.autograd import anomaly, dual
from nnkernels.ops import checks
from nnkernels.ops.op import Op

HERE = __file__


def line_of(function, text):
    """Return "file:line" of the line of ``function`` that holds ``text``."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [i for i, line in enumerate(lines) if text in line]
    return f"{HERE}:{first + found}"


def report(f, *args, **options):
    """Return what detect_anomaly says of f(*args)."""
    with pytest.raises(FloatingPointError) as caught, nnk.detect_anomaly(**options):
        f(*args)
    return str(caught.value)


# --- forward ---


class Net(nn.Module):
    """A network whose k-th step, after a layer of the library, is the one given."""

    def __init__(self, planted):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3, rng=0), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3, rng=0)
        )
        self.planted = planted

    def forward(self, x):
        h = self.layers(x).abs()
        h = self.planted(h)
        return h.sum() + 1.0


def zero_by_zero(h):
    zero = h - h.detach()
    return h * (zero / zero)


def log_of_negative(h):
    return h + (-1.0 - h).log()


def overflow(h):
    return h * (1000.0 + h).exp()


PLANTED = [
    (zero_by_zero, "zero / zero", "div", "a NaN"),
    (log_of_negative, ".log()", "log", "a NaN"),
    (overflow, ".exp()", "exp", "an infinity"),
]


@pytest.mark.parametrize("body", ["loops", "vectorized", "tuned"])
@pytest.mark.parametrize(("planted", "text", "op", "kind"), PLANTED, ids=[case[2] for case in PLANTED])
def test_names_op_body_elements_and_line(planted, text, op, kind, body):
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5)).astype(np.float32)
    with np.errstate(all="ignore"), nnk.use_backend(body):
        found = report(Net(planted), x)
        with nnk.detect_anomaly(infinities=kind == "a NaN"):
            Net(lambda h: h)(x)  # the rest of the network makes none
    first, *others = found.splitlines()
    assert first == (
        f"detect_anomaly: {op} ({body} body) made {kind}: 6 of 6 elements of its result, shape (2, 3), "
        "first at [0, 0]; all that it was given is finite"
    )
    source = inspect.getsource(planted).splitlines()
    assert others == [
        f"  called at {line_of(planted, text)}, in {planted.__name__}",
        "    " + next(line.strip() for line in source if text in line),
    ]


def test_first_element_and_their_number():
    x = np.ones((2, 3), np.float32)
    x[0, 2] = x[1, 1] = -1
    assert "2 of 6 elements of its result, shape (2, 3), first at [0, 2]" in report(nnk.tensor(x).log)
    assert "1 of 1 element of its result; all" in report(nnk.tensor(-1.0).log)


def test_what_came_with_the_data_and_through_which_layers():
    x = np.ones((2, 1, 5, 5), np.float32)
    x[1, 0, 2, 2] = np.nan
    found = report(Net(lambda h: h), x)
    assert re.match(
        r"detect_anomaly: conv2d \(tuned body\) passed on a NaN: 18 of 36 elements of its result, "
        r"shape \(2, 2, 3, 3\), first at \[1, 0, 0, 0\]; argument 0 \(x\) came with NaN: 1 of 50 elements, "
        r"first at \[1, 0, 2, 2\] \(no op in the block made it: look at the data",
        found,
    )
    where = line_of(Net, "self.layers(x)")
    assert f"called at {where}, in Net.forward > Sequential.forward > Conv2d.forward\n" in found


def test_weights_may_be_what_it_came_with():
    layer = nn.Linear(2, 3, rng=0)
    layer.weight.data[1, 0] = np.nan
    assert "argument 1 (w) came with NaN: 1 of 6 elements, first at [1, 0]" in report(
        layer, np.ones((4, 2), "f")
    )


def test_ops_on_arrays():
    found = report(OPS["log"], np.array([1.0, -1.0]))
    assert found.startswith("detect_anomaly: log (tuned body) made a NaN: 1 of 2 elements")
    assert F.relu(np.float32([-1, 2])).tolist() == [0, 2]


def test_an_optimised_network_and_evaluation_are_looked_at():
    x = np.ones((2, 1, 5, 5), np.float32)
    fast = nnk.optimize_for_inference(nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.ReLU()))
    fast(x)
    x[0, 0, 0, 0] = np.nan
    assert "conv2d (tuned body) passed on a NaN" in report(fast, x)
    with nnk.no_grad():
        assert "tanh (tuned body) passed on a NaN" in report(nnk.tensor(x).tanh)


def test_steps_of_optimizers_say_which_argument_they_spoil():
    p = nn.Parameter(np.full(3, 3e38, np.float32))
    optimizer = optim.SGD([p], lr=1e38)
    p.grad = nnk.tensor([0.0, 3e38, 0.0])
    found = report(optimizer.step)
    assert "sgd_step (tuned body) made an infinity: 1 of " in found
    assert re.search(
        r"of argument 0 \(param\), which it changes, shape \(\d+,\), first at \[1\]; all that", found
    )
    p.grad = nnk.tensor([np.nan, 0.0, 0.0])
    found = report(optimizer.step)
    assert re.search(r"sgd_step .* passed on a NaN: .*argument 1 \(grad\) came with NaN", found)


# --- infinities that are meant ---


def test_infinities_that_were_given_are_let_through():
    scores = nnk.tensor(np.zeros((2, 3)), requires_grad=True)
    mask = np.array([0.0, -np.inf, 0.0])
    with nnk.detect_anomaly():
        p = F.softmax(scores + mask, 1)
        p[:, 0].sum().backward()
        assert F.pad(scores, (1, 0), value=-np.inf).data[0, 0] == -np.inf
    assert p.data[0].tolist() == [0.5, 0, 0.5]
    assert np.isfinite(scores.grad.data).all()


def test_nan_made_from_infinities_is_not():
    found = report(lambda: nnk.tensor([0.0, 1.0]) * np.inf)
    assert "mul (tuned body) made a NaN: 1 of 2 elements" in found
    assert "argument 1 (x2) came with infinity: 1 of 1 element" in found


def test_infinities_can_be_left_alone():
    x = nnk.tensor([0.0, 1.0], requires_grad=True)
    with nnk.detect_anomaly(infinities=False):
        x.log().sum().backward()
    assert x.grad.data[0] == np.inf
    assert "log (tuned body) made a NaN" in report((x - 1).log, infinities=False)
    with pytest.raises(TypeError, match="infinities must be a bool, got int"), nnk.detect_anomaly(1):
        pass


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", OPS)
def test_no_false_alarm(name, create_graph):
    """All samples are finite, and so is what comes of them, but what attention keeps of hidden rows."""
    op, rng = OPS[name], np.random.default_rng(0)
    for sample in op.samples(rng, np.float32):
        arrays = checks.copies(sample.arrays)
        with nnk.detect_anomaly():
            if op.inplace:
                op(*arrays, **sample.attributes)
                continue
            needs = checks.differentiable(op, sample)
            given = [nnk.Tensor(a, True) if need else a for a, need in zip(arrays, needs)]
            y = op(*given, **sample.attributes)
            if isinstance(y, nnk.Tensor) and y.requires_grad:
                y.backward(np.ones(y.shape, y.dtype), create_graph=create_graph)


# --- backward ---


def roots(x):
    y = x.sqrt()
    return y.sum()


def test_backward_names_the_forward_line_too():
    x = nnk.tensor([4.0, 0.0, 0.0], requires_grad=True)

    def pass_back():
        y = roots(x)
        y.backward()

    first, *others = report(pass_back).splitlines()
    assert first == (
        "detect_anomaly: the backward pass of sqrt (tuned body) made an infinity: 2 of 3 elements of the "
        "gradient of argument 0 (x), shape (3,), first at [1]; all that it was given is finite"
    )
    inside = "test_backward_names_the_forward_line_too.<locals>.pass_back"
    assert others == [
        f"  forward called at {line_of(roots, '.sqrt()')}, in roots",
        "    y = x.sqrt()",
        f"  backward called at {line_of(pass_back, '.backward()')}, in {inside}",
        "    y.backward()",
    ]
    assert x.grad is None


def test_backward_of_a_call_before_the_block():
    y = roots(nnk.tensor([0.0], requires_grad=True))
    found = report(y.backward)
    assert "the backward pass of sqrt (tuned body) made an infinity" in found
    assert "forward called before the block, or on another thread: its line is not known" in found


def test_gradients_that_are_recorded():
    x = nnk.tensor([4.0, 0.0], requires_grad=True)
    found = report(lambda: roots(x).backward(create_graph=True))
    assert "made an infinity: 1 of 2 elements of its result, shape (2,), first at [1]" in found
    ending = [
        "  to compute the gradients of sqrt (tuned body)",
        f"  forward called at {line_of(roots, 'sqrt')}",
    ]
    assert "\n".join(ending) in found


def test_a_gradient_that_was_given():
    x = nnk.tensor([1.0, 2.0], requires_grad=True)
    found = report(lambda: (x * 2.0).backward([1.0, np.nan]))
    assert "the backward pass of mul (tuned body) passed on a NaN" in found
    assert "the gradient that arrived came with NaN: 1 of 2 elements, first at [1]" in found


def test_sums_of_gradients():
    """Each term is finite, their sum overflows: of a value on the way, and of a leaf."""
    x = nnk.tensor([1.0, 0.0], requires_grad=True)
    big = np.float32([1, 3e38])
    y = x * 1.0
    message = (
        "adding up the gradients of a value that is used several times made an infinity: 1 of 2 elements"
    )
    with np.errstate(over="ignore"):
        for value in (y, x):
            found = report((value * big + value * big).sum().backward)
            assert f"{message} of the sum, shape (2,), first at [1]; all that it was given is finite" in found


@pytest.mark.parametrize("create_graph", [False, True])
def test_tangents(create_graph):
    def push():
        nnk.jvp(roots, nnk.tensor([4.0, 0.0]), np.ones(2, np.float32), create_graph=create_graph)

    found = report(push)
    what = "its result" if create_graph else "the tangent of its result"
    assert f"made an infinity: 1 of 2 elements of {what}, shape (2,), first at [1]; all that it was" in found
    if create_graph:
        assert found.endswith("\n  to compute the tangent of sqrt")
    else:
        assert found.startswith("detect_anomaly: the forward derivative of sqrt made")
    assert line_of(roots, ".sqrt()") in found


def test_a_part_that_is_computed_twice():
    x = nnk.tensor([4.0, 0.0], requires_grad=True)
    found = report(lambda: nnk.checkpoint(lambda t: t.sqrt(), x).sum().backward())
    assert "the backward pass of sqrt (tuned body) made an infinity" in found
    assert f"forward called at {HERE}" in found


# --- the block ---


def trained(watched):
    """Return weights and gradients after two steps of a network with most kinds of layers."""
    rng = np.random.default_rng(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=rng), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3, rng=rng), nn.Linear(36, 8, rng=rng), nn.LayerNorm(8), nn.Linear(8, 3, rng=rng),
    )  # fmt: skip
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    x, y = rng.standard_normal((8, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 8)
    for _ in range(2):
        optimizer.zero_grad()
        if watched:
            with nnk.detect_anomaly():
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
        else:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return [a.tobytes() for p in model.parameters() for a in (p.data, p.grad.data)]


def test_a_clean_step_is_bitwise_the_same():
    assert trained(watched=True) == trained(watched=False)


def seams():
    tape = vars(anomaly.TENSOR)
    return Op.body_for, tape["KERNELS"], tape["OPS"], dual.push_arrays, dual.push_in_ops


PLAIN = seams()


def test_nothing_is_in_the_way_outside():
    """Off means off: what ops pass through is the plain functions, before, after, and after errors."""
    assert {function.__module__ for function in PLAIN[::3]} == {"nnkernels.ops.op", "nnkernels.autograd.dual"}
    assert PLAIN[1].pull_back.__module__ == "nnkernels.autograd.tape"
    assert seams() == PLAIN
    with nnk.detect_anomaly():
        assert all(there is not plain for there, plain in zip(seams(), PLAIN))
        with nnk.detect_anomaly():
            pass
        assert seams() != PLAIN
    assert seams() == PLAIN
    report(nnk.tensor(-1.0).log)
    with pytest.raises(KeyError), nnk.detect_anomaly():
        raise KeyError
    assert seams() == PLAIN
    assert np.isnan(nnk.tensor(-1.0).log().item())
    assert type(nnk.tensor([1.0], requires_grad=True).exp().node.body).__name__ == "Body"


def test_the_innermost_block_decides():
    zero = nnk.tensor(0.0)
    with nnk.detect_anomaly():
        with nnk.detect_anomaly(infinities=False):
            assert zero.log().item() == -np.inf
        with pytest.raises(FloatingPointError, match="log"):
            zero.log()
        with pytest.raises(FloatingPointError, match="log"):  # the block goes on after an error
            zero.log()


def test_an_error_leaves_the_graph_as_it_was():
    x = nnk.tensor([1.0, -1.0], requires_grad=True)
    y = x * 2.0
    report(y.log)
    y.sum().backward()
    assert x.grad.data.tolist() == [2, 2]


def test_each_thread_has_blocks_of_its_own():
    entered, done, found = threading.Event(), threading.Event(), []

    def watched():
        with nnk.detect_anomaly():
            entered.set()
            assert done.wait(60)
            try:
                nnk.tensor(-1.0).log()
            except FloatingPointError as error:
                found.append(str(error))

    thread = threading.Thread(target=watched)
    thread.start()
    assert entered.wait(60)
    assert seams() != PLAIN
    x = nnk.tensor([0.0], requires_grad=True)
    assert np.isnan(nnk.tensor(-1.0).log().item())  # beside the block of another thread
    (x * 2.0).backward([np.nan])
    assert np.isnan(x.grad.item())
    x.grad = None
    x.sqrt().backward()
    assert x.grad.item() == np.inf
    x.grad = None
    x.sqrt().backward(create_graph=True)
    assert x.grad.item() == np.inf
    for create_graph in (False, True):
        _, tangent = nnk.jvp(nnk.Tensor.sqrt, x, np.ones(1, np.float32), create_graph=create_graph)
        assert tangent.item() == np.inf
    done.set()
    thread.join()
    assert [text[:43] for text in found] == ["detect_anomaly: log (tuned body) made a NaN"]
    assert seams() == PLAIN


def test_many_threads_enter_and_leave():
    wrong = []

    def watched(k):
        name = ("log", "sqrt")[k % 2]
        for _ in range(100):
            try:
                with nnk.detect_anomaly():
                    getattr(nnk.tensor([-1.0]), name)()
            except FloatingPointError as error:
                wrong.extend([] if f": {name} (tuned body) made a NaN" in str(error) else [str(error)])
            else:
                wrong.append(f"{name} was let through")

    threads = [threading.Thread(target=watched, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seams() == PLAIN


@pytest.mark.sim
def test_gpu_arrays_are_copied_and_looked_at():
    with nnk.simulate_gpu():
        x = nnk.tensor([4.0, 0.0], requires_grad=True).cuda()
        assert (
            "log (cuda body) made an infinity: 1 of 2 elements of its result, shape (2,), first at [1]"
            in report(x.log)
        )
        assert "the backward pass of sqrt (cuda body) made an infinity" in report(lambda: roots(x).backward())
        with nnk.detect_anomaly():
            assert x.exp().cpu().data[1] == 1
