"""plot.layer_times: which bars there are, how long they are, that labels do not collide, what is refused."""

import itertools
from types import SimpleNamespace

import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from nnkernels import plot

FULL = {"forward": to_rgb("#0072B2"), "backward": to_rgb("#D55E00")}


def passed(seconds, least):
    return SimpleNamespace(seconds=seconds, least_seconds=least)


def row(name, forward=None, backward=None, kind="Conv2d"):
    return SimpleNamespace(name=name, kind=kind, forward=forward, backward=backward)


def table(*rows):
    return SimpleNamespace(rows=rows)


def resnet(blocks, parts="layer{}.{}.conv{}", each=6):
    """Many layers, each 1 ms forward and 2 ms backward, a quarter and three quarters of them allowed."""
    names = [parts.format(i + 1, j, k) for i in range(4) for j in range(blocks) for k in range(each)]
    layers = [row(name, passed(1e-3, 0.25e-3), passed(2e-3, 1.5e-3)) for name in ("conv1", *names, "fc")]
    return table(*layers, row("(functions)", passed(4e-3, 0.0), passed(6e-3, 0.0)))


LENET = table(
    row("conv1", passed(24.4e-6, 1.2e-6), passed(22.4e-6, 1.3e-6)),
    row("pool1", passed(19.7e-6, 26e-6), passed(6.3e-6, 0.9e-6)),
    row("2", passed(5e-6, 4e-6), None, kind="ReLU"),
    row("3", None, None, kind="ReLU"),
    row("(functions)", passed(18.9e-6, 0.0), passed(40.6e-6, 0.0)),
)
FIGURES = {
    "few layers": lambda: plot.layer_times(LENET, title="LeNet-5"),
    "one layer": lambda: plot.layer_times(table(row("", passed(2.5, 1.25)))),
    "grouped": lambda: plot.layer_times(resnet(5)),
    "all": lambda: plot.layer_times(resnet(2), most=60),
    "long names": lambda: plot.layer_times(resnet(1, "inception{}.branch{}.0.convolution{}", each=2)),
}


def lengths(figure, name):
    """Return each bar's length and that of its full part, top to bottom; and the unit."""
    axes = figure.axes[0]
    full = [p.get_width() for p in axes.patches if p.get_facecolor()[:3] == FULL[name]]
    mixed = tuple(pytest.approx(0.65 + 0.35 * c) for c in FULL[name])
    whole = [p.get_width() for p in axes.patches if p.get_facecolor()[:3] == mixed]
    return list(zip(whole, full, strict=True))


def names_in(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def words_in(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_bar_is_as_long_as_the_time_and_full_as_far_as_the_roofline_allows():
    figure = plot.layer_times(LENET)
    assert names_in(figure) == ["conv1", "pool1", "2 ReLU", "(functions)"]
    assert figure.axes[0].get_xlabel().startswith("time in µs")
    wanted = [(24.4, 1.2), (19.7, 19.7), (5, 4), (18.9, 0)]
    assert lengths(figure, "forward") == [pytest.approx(pair) for pair in wanted]
    assert lengths(figure, "backward") == [pytest.approx(p) for p in [(22.4, 1.3), (6.3, 0.9), (40.6, 0)]]
    assert words_in(figure)[:5] == ["24.4 µs, 5%", "22.4 µs, 6%", "19.7 µs, 132%", "6.3 µs, 14%", "5 µs, 80%"]
    assert words_in(figure)[-2:] == ["18.9 µs", "40.6 µs"]


def test_bars_stand_beside_their_names_forward_above_backward():
    axes = plot.layer_times(LENET).axes[0]
    top, bottom = axes.get_ylim()[::-1]
    assert top < 0 < 3 < bottom
    middles = [text.xy[1] for text in axes.texts]
    assert middles == [-0.2, 0.2, 0.8, 1.2, 1.8, 2.8, 3.2]
    patches = [p.get_y() + p.get_height() / 2 for p in axes.patches]
    assert patches == pytest.approx([y for y in middles for _ in range(2)])


@pytest.mark.parametrize(
    ("blocks", "most", "names", "times"),
    [
        (5, 25, ["conv1", "layer1.0", "layer1.1"], [(1, 0.25), (6, 1.5), (6, 1.5)]),
        (8, 25, ["conv1", "layer1", "layer2"], [(1, 0.25), (48, 12), (48, 12)]),
        (5, 2, ["conv1", "layer1", "layer2"], [(1, 0.25), (30, 7.5), (30, 7.5)]),  # no further
        (5, 123, ["conv1", "layer1.0.conv0", "layer1.0.conv1"], 3 * [(1, 0.25)]),
    ],
)
def test_many_layers_share_bars_by_the_first_parts_of_their_names(blocks, most, names, times):
    figure = plot.layer_times(resnet(blocks), most=most)
    assert names_in(figure)[:3] == names
    assert names_in(figure)[-2:] == ["fc", "(functions)"]
    assert lengths(figure, "forward")[:3] == [pytest.approx(pair) for pair in times]
    assert lengths(figure, "backward")[0] == pytest.approx((2, 1.5))
    shares = {word.rpartition(", ")[2] for word in words_in(figure)[:-2]}
    assert shares == {"25%", "75%"}


@pytest.mark.parametrize("name", ["few layers", "grouped", "all"])
def test_labels_stay_beside_the_bars_inside_the_axes(name, tmp_path):
    figure = FIGURES[name]()
    plot.save(figure, tmp_path / "figure.png", dpi=100)
    (axes,) = figure.axes
    assert axes.texts
    assert all(text.get_window_extent().x1 <= axes.bbox.x1 for text in axes.texts)


def test_figures_grow_with_the_rows():
    few, many = (plot.layer_times(resnet(2), most=n).get_size_inches() for n in (25, 60))
    assert few[0] == many[0] == 7.4
    assert many[1] > few[1] + 10


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_collides(name, monkeypatch, tmp_path):
    boxes, draw = {}, Text.draw

    def draw_and_note(text, renderer):
        if text.get_visible() and text.get_text().strip():
            boxes[id(text)] = text.get_text(), text.get_window_extent(renderer)
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", draw_and_note)
    figure = FIGURES[name]()
    plot.save(figure, tmp_path / "figure.png", dpi=100)
    width, height = 100 * figure.get_size_inches()
    assert len(boxes) > 5
    for words, box in boxes.values():
        assert 0 < box.x0 < box.x1 < width, words
        assert 0 < box.y0 < box.y1 < height, words
    # A text's box holds room for descenders, which most words lack.
    shrunk = [(words, box.expanded(0.95, 0.7)) for words, box in boxes.values()]
    assert [(a, b) for (a, x), (b, y) in itertools.combinations(shrunk, 2) if x.overlaps(y)] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"rows": []},), "summary must have rows, as nn.summary returns them; got dict"),
        ((table(),), r"summary has 0 rows without times, wanted nn.summary\(..., measure=True\)"),
        ((table(row("a"), row("b")),), "summary has 2 rows without times"),
        ((table(row("a", passed(0.0, 0.0))),), "summary has 1 rows without times"),
        (
            (table(row("a", passed(1.0, 1.0)), row("b", None, passed(float("nan"), 0))),),
            r"rows\[1\].backward has",
        ),
        ((table(row("a", passed(1.0, -1.0))),), r"rows\[0\].forward has times \(1.0, -1.0\), wanted finite"),
        ((LENET, "", 0), "most must be an int of at least 1, got 0"),
        ((LENET, "", 2.5), "most must be an int of at least 1, got 2.5"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        plot.layer_times(*arguments)
