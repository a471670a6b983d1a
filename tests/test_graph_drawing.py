"""autograd.graph: what the nodes of a drawing say, that nothing collides, and what is refused."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import nnkernels as nnk
from nnkernels.autograd.graph import COLOURS, graph
from nnkernels.nn import Linear, Parameter, ReLU, Sequential, Tanh
from nnkernels.nn import functional as F


def leaf(value, dtype=np.float64):
    return nnk.tensor(np.asarray(value, dtype), requires_grad=True)


def lecture():
    x1, x2 = leaf(2), leaf(3)
    return x1, x2, x1.sin() + x1 * x2


def network():
    """Two layers with a loss, and the names of all that goes in."""
    rng = np.random.default_rng(0)
    model = Sequential(Linear(2, 3, rng=rng), Tanh(), Linear(3, 2, rng=rng))
    x, labels = nnk.tensor(rng.normal(size=(4, 2)).astype(np.float32)), np.array([0, 1, 0, 1])
    loss = F.cross_entropy(model(x), labels)
    return model, loss, {"x": x, "labels": labels, "loss": loss, **dict(model.named_parameters())}


def random_graph(seed, calls):
    """Operations on tensors picked at random, so that edges pass many layers."""
    rng = np.random.default_rng(seed)
    made = [leaf(v) for v in rng.uniform(0.1, 1, 4)]
    for _ in range(calls):
        a, b = made[rng.integers(len(made))], made[rng.integers(max(len(made) - 3, 0), len(made))]
        made.append(rng.choice([lambda a, b: a + b, lambda a, b: a * b, lambda a, b: (a - b).sin()])(a, b))
    return made[-1]


def boxes(figure):
    return [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]


def arrows(figure):
    return [p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch)]


def says(figure):
    """Return the lines of each node by its title."""
    found = {}
    for box in boxes(figure):
        lines = [t.get_text() for t in figure.axes[0].texts if t.get_gid() == box.get_gid()]
        found[lines[0]] = lines[1:]
    return found


def colours(figure):
    return {box.get_label(): to_hex(box.get_facecolor()).upper() for box in boxes(figure)}


def extent(box):
    x, y = box.get_x(), box.get_y()
    return x, y, x + box.get_width(), y + box.get_height()


# ---------------------------------------------------------------- what it shows


def test_the_lectures_example_shows_every_value_and_gradient():
    figure = graph(lecture()[2])
    assert says(figure) == {
        "w1 = x1": ["2", "dz/dw1 = 2.583853"],
        "w2 = x2": ["3", "dz/dw2 = 2"],
        "w3 = sin(w1)": ["0.909297", "dz/dw3 = 1"],
        "w4 = w1·w2": ["6", "dz/dw4 = 1"],
        "w5 = w3 + w4 = z": ["6.909297", "dz/dw5 = 1"],
    }


def test_the_lectures_own_order_numbers_the_product_first():
    x1, x2 = leaf(2), leaf(3)
    assert list(says(graph(x1 * x2 + x1.sin())))[2:] == ["w3 = w1·w2", "w4 = sin(w1)", "w5 = w3 + w4 = z"]


def test_inputs_are_white_and_operations_blue():
    shown = colours(graph(lecture()[2]))
    assert shown["w1 = x1"] == shown["w2 = x2"] == "#FFFFFF"
    assert {shown[title] for title in ("w3 = sin(w1)", "w4 = w1·w2", "w5 = w3 + w4 = z")} == {
        COLOURS["operation"]
    }


def test_parameters_and_tensors_declared_as_such_are_red():
    w, b, x = Parameter(np.float32([[2.0]])), leaf([1.0], np.float32), leaf([[3.0]], np.float32)
    shown = colours(graph((x * w + b).sum(), {"x": x, "w": w, "b": b}, parameters=[b]))
    assert shown["w1 = x"] == "#FFFFFF"
    red = {title for title, colour in shown.items() if colour == COLOURS["parameter"]}
    assert {title.split(" = ")[1] for title in red} == {"w", "b"}


def test_a_frozen_parameter_stays_red_without_a_gradient():
    w, x = Parameter(np.float32([2.0])), leaf([3.0], np.float32)
    w.requires_grad = False
    figure = graph((x * w).sum(), {"x": x, "w": w})
    assert colours(figure)["w2 = w"] == COLOURS["parameter"]
    assert says(figure)["w2 = w"] == ["shape (1,): [2]", "no gradient"]


def test_edges_go_from_what_is_used_to_what_uses_it():
    text = graph(lecture()[2], format="dot")
    assert sorted(re.findall(r"n(\d) -> n(\d)", text)) == [
        ("1", "3"), ("1", "4"), ("2", "4"), ("3", "5"), ("4", "5"),
    ]  # fmt: skip
    figure = graph(lecture()[2])
    assert len(arrows(figure)) == 5
    left = {box.get_label(): box.get_x() for box in boxes(figure)}
    assert left["w1 = x1"] < left["w4 = w1·w2"] < left["w5 = w3 + w4 = z"]


def test_an_arrow_starts_at_the_right_side_of_one_box_and_ends_at_the_left_side_of_another():
    figure = graph(lecture()[2])
    sides = [extent(box) for box in boxes(figure)]
    for arrow in arrows(figure):
        points = np.concatenate(arrow.get_path().to_polygons(closed_only=False))
        left, right = points[:, 0].min(), points[:, 0].max()
        assert any(abs(left - x1) < 0.03 for _, _, x1, _ in sides)
        assert any(abs(right - x0) < 0.03 for x0, _, _, _ in sides)


def test_a_tensor_used_twice_is_one_node_with_two_edges():
    x = leaf(3)
    y = x * x
    figure = graph(y * y)
    assert list(says(figure)) == ["w1 = x1", "w2 = w1·w1", "w3 = w2·w2 = z"]
    assert len(arrows(figure)) == 4
    assert says(figure)["w1 = x1"][1] == "dz/dw1 = 108"


def test_arrays_show_their_shape_and_values_or_norm():
    x, w = leaf(np.ones((5, 3))), leaf([[1.0], [2.0], [-2.0]])
    shown = says(graph((x @ w).mean(), {"x": x, "w": w}))
    assert shown["w1 = x"] == ["shape (5, 3), norm 3.873", "dz/dw1: norm 1.341641"]
    assert shown["w2 = w"] == ["shape (3, 1): [[1], [2], [-2]]", "dz/dw2 = [[1], [1], [1]]"]


def test_plain_numbers_are_constants_without_a_gradient():
    x = leaf(3)
    figure = graph(x * 2.0 - 1.0)
    assert [t.get_text() for t in figure.axes[0].texts].count("constant") == 2
    assert "w2 = w1·2" in says(figure)
    assert says(figure)["constant"][1] == "no gradient"
    assert colours(figure)["constant"] == "#FFFFFF"


def test_names_go_to_inputs_to_steps_and_to_the_result():
    x = leaf(2)
    h = x.exp()
    loss = h * h
    assert list(says(graph(loss, {"time": x, "h": h, "loss": loss}))) == [
        "w1 = time",
        "w2 = exp(w1) = h",
        "w3 = w2·w2 = loss",
    ]
    assert says(graph(loss, {"loss": loss}))["w1 = x1"][1].startswith("dloss/dw1 = ")


def test_steps_are_v_where_the_caller_has_a_w1_and_the_result_y_where_it_has_a_z():
    a, b = leaf(2), leaf(3)
    assert list(says(graph(a * b, {"w1": a, "z": b}))) == ["v1 = w1", "v2 = z", "v3 = v1·v2 = y"]


def test_a_network_with_a_loss_has_red_parameters_and_a_gradient_on_each():
    model, loss, names = network()
    figure = graph(loss, names)
    red = [title for title, colour in colours(figure).items() if colour == COLOURS["parameter"]]
    assert [title.split(" = ")[1] for title in red] == [name for name, _ in model.named_parameters()]
    shown = says(figure)
    loss.backward()
    for title in red:
        gradient = dict(model.named_parameters())[title.split(" = ")[1]].grad.data
        if gradient.size > 4:
            assert float(shown[title][1].split("norm ")[1]) == pytest.approx(
                np.linalg.norm(gradient), abs=1e-6
            )
        else:
            said = np.fromstring(re.sub(r".*\[|\]", "", shown[title][1]), sep=",")
            assert said == pytest.approx(gradient.ravel(), abs=1e-3)
    assert any("cross_entropy" in title and title.endswith("= loss") for title in shown)
    assert shown["w1 = x"][1] == shown["w2 = labels"][1] == "no gradient"
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == [
        "input", "parameter", "operation",
    ]  # fmt: skip


def test_a_relu_within_a_layer_is_shown():
    model = Sequential(Linear(2, 3), ReLU(), Linear(3, 1))
    shown = says(graph(model(nnk.tensor(np.ones((1, 2), np.float32)))))
    assert any("relu(linear(" in title for title in shown)


def test_gradients_of_all_steps_equal_differences():
    a, b = leaf(0.7), leaf(-1.3)
    z = (a * b).exp() + (a - b).tanh() / (b * b)
    shown = says(graph(z))

    def value(a, b):
        return np.exp(a * b) + np.tanh(a - b) / (b * b)

    step = 1e-6
    da = (value(0.7 + step, -1.3) - value(0.7 - step, -1.3)) / (2 * step)
    db = (value(0.7, -1.3 + step) - value(0.7, -1.3 - step)) / (2 * step)
    assert float(shown["w1 = x1"][1].split("= ")[1]) == pytest.approx(da, abs=2e-6)
    assert float(shown["w2 = x2"][1].split("= ")[1]) == pytest.approx(db, abs=2e-6)


# ---------------------------------------------------------------- how it looks


GRAPHS = {
    "lecture": lambda: lecture()[2],
    "network": lambda: network()[1],
    "chain": lambda: sum((leaf(i).sin() for i in range(12)), leaf(0.0)),
    "square": lambda: (lambda x: x * x)(leaf(2)),
    **{f"random{i}": lambda i=i: random_graph(i, 14) for i in range(6)},
}


@pytest.fixture(params=GRAPHS)
def figure(request):
    return graph(GRAPHS[request.param]())


def test_no_two_boxes_touch(figure):
    for one, other in itertools.combinations(map(extent, boxes(figure)), 2):
        assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]


def test_each_line_stands_within_its_box_and_each_box_within_the_figure(figure):
    axes = figure.axes[0]
    to_inches = figure.dpi_scale_trans.inverted()
    frames = {box.get_gid(): extent(box) for box in boxes(figure)}
    for text in axes.texts:
        inside = text.get_window_extent().transformed(to_inches)
        x0, y0, x1, y1 = frames[text.get_gid()]
        assert x0 < inside.x0 < inside.x1 < x1
        assert y0 < inside.y0 < inside.y1 < y1
        assert text.get_fontsize() >= 8
    width, height = figure.get_size_inches()
    legend = axes.get_legend().get_window_extent().transformed(to_inches)
    for x0, y0, x1, y1 in frames.values():
        assert 0 < x0 < x1 < width
        assert legend.y1 < y0 < y1 < height


def test_the_lines_of_a_box_do_not_overlap(figure):
    for _, lines in itertools.groupby(figure.axes[0].texts, key=lambda t: t.get_gid()):
        found = [line.get_window_extent() for line in lines]
        assert all(above.y0 >= below.y1 - 1 for above, below in itertools.pairwise(found))


def test_no_edge_crosses_a_box(figure):
    frames = [extent(box) for box in boxes(figure)]
    for arrow in arrows(figure):
        path = arrow.get_path()
        for points in path.to_polygons(closed_only=False):
            for x0, y0, x1, y1 in frames:
                x, y = points.T
                within = (x0 + 0.03 < x) & (x < x1 - 0.03) & (y0 + 0.03 < y) & (y < y1 - 0.03)
                assert not within.any()


def test_inputs_change_places_where_that_saves_crossings():
    a, b, c, d = (leaf(i) for i in range(1, 5))

    def from_the_top(z):
        figure = graph(z, {"x1": a, "x2": b, "x3": c, "x4": d})
        placed = sorted(boxes(figure), key=lambda box: -box.get_y())
        return [box.get_label()[-2:] for box in placed if "x" in box.get_label()]

    assert from_the_top((a * b) - (c * d)) == ["x1", "x2", "x3", "x4"]
    first, second, third, fourth = from_the_top((a * d) - (b * c))
    assert {first, second} in ({"x1", "x4"}, {"x2", "x3"})
    assert {third, fourth} in ({"x1", "x4"}, {"x2", "x3"})


def test_deep_graphs_run_down_the_page():
    x = leaf(0.5)
    y = x
    for _ in range(9):
        y = y.sin()
    figure = graph(y)
    width, height = figure.get_size_inches()
    assert height > 2 * width
    assert "rankdir=TB" in graph(y, format="dot")


def test_the_figure_can_be_saved(tmp_path):
    nnk.plot.save(graph(lecture()[2]), tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size < 80_000


# ---------------------------------------------------------------- as text for Graphviz


@pytest.mark.parametrize("name", GRAPHS)
def test_dot_declares_both_ends_of_each_edge_once(name):
    text = graph(GRAPHS[name](), format="dot")
    first, *lines, last = text.split("\n")
    assert (first, last) == ("digraph {", "}")
    node = re.compile(r'  (n\d+) \[label="((?:[^"\\]|\\.)*)", fillcolor="(#[0-9A-F]{6})"\];')
    edge = re.compile(r"  (n\d+) -> (n\d+);")
    declared, ends = [], []
    for line in lines[2:]:
        found = node.fullmatch(line)
        if found:
            assert len(found[2].split("\\n")) == 3
            assert found[3] in COLOURS.values()
            declared.append(found[1])
        else:
            ends += edge.fullmatch(line).groups()
    assert len(declared) == len(set(declared))
    assert set(ends) == set(declared)


def test_dot_and_figure_say_the_same():
    z = network()[1]
    labels = re.findall(r'label="([^"]*)"', graph(z, format="dot"))
    assert [label.split("\\n") for label in labels] == [[k, *v] for k, v in says(graph(z)).items()]


def test_dot_quotes_names():
    x = leaf(2)
    assert r'label="w1 = a\"b\\c\n2' in graph(x * x, {'a"b\\c': x}, format="dot")


def test_importing_and_writing_dot_does_without_matplotlib():
    code = (
        "import sys, nnkernels as nnk; from nnkernels.autograd.graph import graph;"
        "x = nnk.tensor(2.0, requires_grad=True); graph(x * x, format='dot');"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- what it leaves alone, what it refuses


@pytest.mark.parametrize("form", ["figure", "dot"])
def test_the_graph_is_kept_and_grad_untouched(form):
    x1, x2, z = lecture()
    x2.grad = nnk.tensor(7.0)
    before = x1.data.copy(), z.data.copy()
    graph(z, format=form)
    assert x1.grad is None
    assert x2.grad.item() == 7
    assert z.grad is None
    assert (x1.data, z.data) == before
    graph(z, format=form)
    z.backward()
    assert x1.grad.item() == pytest.approx(2.583853, abs=1e-6)


def test_gradient_gives_the_cotangent_of_an_array():
    x = leaf([1.0, 2.0])
    shown = says(graph(x * x, gradient=[1.0, 10.0]))
    assert shown["w1 = x1"][1] == "dz/dw1 = [2, 40]"


def raises(error, words, *args, **options):
    with pytest.raises(error, match=words):
        graph(*args, **options)


def test_what_is_no_tensor_is_refused():
    raises(TypeError, "graph: z must be a Tensor, got float", 2.0)
    raises(TypeError, "z must be a Tensor, got ndarray", np.ones(2))


def test_what_recorded_nothing_is_refused():
    raises(ValueError, "graph: z recorded nothing.*requires_grad=True", nnk.tensor(2.0))
    raises(ValueError, "recorded nothing", leaf(2))
    with nnk.no_grad():
        z = leaf(2) * leaf(3)
    raises(ValueError, "recorded nothing", z)


def test_too_many_nodes_are_refused_as_a_figure_but_not_as_text():
    x = leaf(0.5)
    y = x
    for _ in range(60):
        y = y.sin()
    raises(ValueError, r"graph: z has a graph of 61 nodes, more than 60 .*format='dot'", y)
    assert graph(y, format="dot").count("->") == 60


def test_a_freed_graph_is_refused():
    x1, _, z = lecture()
    z.backward()
    raises(RuntimeError, r"freed by an earlier backward\(\) \(at op add\).*retain_graph=True", z)
    raises(RuntimeError, "the graph was freed", x1 * z)


def test_arrays_changed_since_are_refused():
    x1, _, z = lecture()
    with nnk.no_grad():
        x1 += 1.0
    raises(RuntimeError, "changed in place", z)


def test_bad_arguments_are_named():
    x1, x2, z = lecture()
    raises(ValueError, r"names\['x3'\] is not in the graph of z", z, {"x3": leaf(2)})
    raises(ValueError, r"parameters\[1\] is not an input of the graph of z", z, parameters=[x1, leaf(2)])
    raises(ValueError, r"parameters\[0\] is not an input of the graph of z", z, parameters=[z])
    raises(TypeError, "parameters must be a list of tensors, got one Tensor", z, parameters=x2)
    raises(TypeError, "names must be a dict from names to tensors, got list", z, [x1])
    raises(ValueError, "format must be figure or dot, got 'svg'", z, format="svg")
    raises(ValueError, r"z has shape \(2,\) and so no single gradient; give gradient=", leaf([1, 2]) * 2.0)
    raises(ValueError, r"gradient must have the shape of z, \(\), got \(2,\)", z, gradient=[1.0, 2.0])
