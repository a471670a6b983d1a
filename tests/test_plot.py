"""nnkernels.plot: what the figures hold, that nothing is cut off or collides, and what is refused."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from nnkernels import plot

RNG = np.random.default_rng(0)
IMAGE = RNG.random((28, 28))
BODIES = list(plot.BODY_COLOURS)


def history(epochs=12):
    falling = list(np.exp(-np.arange(epochs) / 4))
    rising = [1 - 0.5 * x for x in falling]
    return {
        "train_loss": falling,
        "val_loss": [x + 0.1 for x in falling],
        "train_accuracy": rising,
        "val_accuracy": [x - 0.05 for x in rising],
    }


def rows(ops=1, bodies=BODIES):
    speedups = dict(zip(BODIES, (0.004, 1.0, 3.0, 25.0, 1234.5), strict=True))
    return [
        {
            "op": f"op_{i}",
            "body": b,
            "seconds": 2e-3 / speedups[b],
            "gflops": speedups[b],
            "speedup": speedups[b],
        }
        for i in range(ops)
        for b in bodies
    ]


def rate_search(count=60):
    rates = np.logspace(-6, 1, count)
    smoothed = 2.3 - 1.5 / (1 + (0.01 / rates) ** 1.5) + rates**2
    return rates, smoothed + 0.1 * np.sin(9 * np.arange(count)), smoothed, 0.0063


def mistakes(count=12):
    return [(IMAGE, k % 10, (k + 1) % 10, 1 - k / 50) for k in range(count)]


FIGURES = {
    "curves": lambda: plot.learning_curves(history() | {"best_epoch": 9}),
    "curves, one epoch": lambda: plot.learning_curves(history(1) | {"best_epoch": 1}),
    "curves, loss only": lambda: plot.learning_curves({"train_loss": [3.0, 2.0, 1.5]}),
    "six filters": lambda: plot.filters(RNG.normal(size=(6, 1, 5, 5)), title="First layer"),
    "one filter, long title": lambda: plot.filters(np.ones((1, 1, 3, 3)), title="A title of many words " * 3),
    "rgb filters": lambda: plot.filters(RNG.normal(size=(10, 3, 7, 7))),
    "rates": lambda: plot.rate_search(*rate_search()),
    "rates, nothing suggested": lambda: plot.rate_search([1e-3, 1e-2], [1.0, 2.0], [1.0, 1.5]),
    "filter table": lambda: plot.filters(RNG.normal(size=(16, 6, 5, 5))),
    "wide filter table": lambda: plot.filters(RNG.normal(size=(2, 40, 1, 3))),
    "one map": lambda: plot.feature_maps(IMAGE, RNG.random((1, 24, 24))),
    "sixteen maps": lambda: plot.feature_maps(IMAGE, RNG.normal(size=(16, 10, 10))),
    "heat maps": lambda: plot.heat_maps(
        np.ones((3, 3, 20, 20)), {f"method {k}": np.ones((3, 20, 20)) * k for k in range(4)}, "Title"
    ),
    "one heat map": lambda: plot.heat_maps(np.ones((1, 1, 8, 20)), {"alone": np.ones((1, 8, 20))}),
    "fields": lambda: plot.receptive_field(
        np.zeros((3, 20, 30)), {f"conv{k}": np.eye(20, 30) > 0 for k in range(6)}, "What units see"
    ),
    "confusion": lambda: plot.confusion_matrix(np.eye(10) * 96 + 1, [*"0123456789"], mistakes()),
    "confusion of two": lambda: plot.confusion_matrix(
        [[50, 2], [3, 45]], ["no", "yes"], [(IMAGE, 0, 1, 0.7)]
    ),
    "confusion alone": lambda: plot.confusion_matrix(np.eye(20) * 5, [str(k) for k in range(20)]),
    "bars of one op": lambda: plot.compare_bars(rows(), title="conv2d: x (64, 6, 14, 14), w (16, 6, 5, 5)"),
    "bars of 35 ops": lambda: plot.compare_bars(rows(35)),
    "bars of close times": lambda: plot.compare_bars(
        [
            {"op": "view", "body": "loops", "seconds": 3e-8, "gflops": None, "speedup": 1},
            {"op": "view", "body": "tuned", "seconds": 2e-8, "gflops": None, "speedup": 1.5},
        ]
    ),
}


@pytest.fixture
def drawn_texts(monkeypatch):
    """Filled with (words, bounding box in pixels) of every text that a figure draws."""
    boxes = {}
    draw = Text.draw

    def draw_and_note(text, renderer):
        if text.get_visible() and text.get_text():
            # Drawn more than once, the first times to find the layout: the last box counts.
            boxes[id(text)] = text.get_text(), text.get_window_extent(renderer)
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", draw_and_note)
    return boxes


@pytest.mark.parametrize("name", FIGURES)
def test_png_has_the_right_size_and_no_text_is_cut_off_or_collides(name, tmp_path, drawn_texts):
    figure = FIGURES[name]()
    plot.save(figure, tmp_path / "figure.png", dpi=100)
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]  # no partial file is left
    pixels = imread(tmp_path / "figure.png")
    width, height = 100 * figure.get_size_inches()
    assert pixels.shape == (pytest.approx(height, abs=1), pytest.approx(width, abs=1), 4)
    assert (pixels[[0, -1]] == 1).all()  # a white margin
    assert (pixels[:, [0, -1]] == 1).all()
    assert len(drawn_texts) >= 4
    for words, box in drawn_texts.values():
        assert box.x0 > 0, words
        assert box.y0 > 0, words
        assert box.x1 < width, words
        assert box.y1 < height, words
    # A text's box holds room for descenders, which most words lack.
    boxes = [(words, box.expanded(0.95, 0.8)) for words, box in drawn_texts.values()]
    pairs = itertools.combinations(boxes, 2)
    assert [(one, other) for (one, a), (other, b) in pairs if a.overlaps(b)] == []


def test_learning_curves_draw_each_series_over_epochs_from_1():
    past = history()
    loss, accuracy = plot.learning_curves(past | {"best_epoch": 9}).axes
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", kind)
        train, val, best = axes.get_lines()
        assert list(train.get_xdata()) == list(range(1, 13))
        assert list(train.get_ydata()) == past[f"train_{kind}"]
        assert list(val.get_ydata()) == past[f"val_{kind}"]
        assert list(best.get_xdata()) == [9, 9]
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == ["training", "validation", "best epoch (9)"]


def test_learning_curves_leave_out_what_is_absent_and_keep_gaps():
    (axes,) = plot.learning_curves({"train_loss": [2.0, 1.0], "val_loss": [], "lr": [1, 1]}).axes
    assert [line.get_label() for line in axes.get_lines()] == ["training"]
    (axes,) = plot.learning_curves({"val_accuracy": [None, 0.5, float("nan")]}).axes
    np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [np.nan, 0.5, np.nan])
    assert axes.yaxis.get_major_formatter()(0.985) == "98.5 %"


@pytest.mark.parametrize(("shape", "images"), [((6, 1, 5, 5), 6), ((5, 3, 7, 7), 5), ((4, 2, 3, 3), 8)])
def test_filters_share_one_symmetric_scale(shape, images):
    w = RNG.normal(size=shape)
    limit = np.abs(w).max()
    axes = plot.filters(w, title="Filters of conv1").axes[0]
    drawn = axes.get_images()
    assert len(drawn) == images
    assert axes.figure.get_suptitle() == "Filters of conv1"
    if shape[1] == 3:
        np.testing.assert_allclose(drawn[4].get_array(), 0.5 + 0.5 * w[4].transpose(1, 2, 0) / limit)
        assert f"{limit:.2g}" in axes.figure.get_supxlabel()
    else:
        assert {image.get_clim() for image in drawn} == {(-limit, limit)}
        np.testing.assert_array_equal(drawn[-1].get_array(), w[-1, -1])
        (bar,) = axes.child_axes
        assert bar.get_ylabel() == "weight"
        assert bar.get_ylim() == (-limit, limit)


def test_filter_table_has_a_row_per_filter_and_a_column_per_channel():
    axes = plot.filters(RNG.normal(size=(3, 2, 5, 5))).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("filter", "input channel")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0", "1", "2"]
    extents = [image.get_extent() for image in axes.get_images()]
    assert extents[1][0] > extents[0][1]  # channel 1 stands right of channel 0,
    assert extents[2][3] > extents[0][2]  # filter 1 (y grows downwards) below filter 0
    assert extents[2][0] == extents[0][0]


def test_all_zero_filters_and_maps_are_drawn():
    assert plot.filters(np.zeros((2, 1, 3, 3))).axes[0].get_images()[0].get_clim() == (-1, 1)
    assert plot.feature_maps(IMAGE, np.zeros((2, 4, 4))).axes[1].get_images()[0].get_clim() == (0, 1)


def test_activation_maps_show_the_image_and_numbered_channels():
    maps = RNG.random((6, 24, 20))
    left, right = plot.feature_maps(IMAGE, maps).axes
    np.testing.assert_array_equal(left.get_images()[0].get_array(), IMAGE)
    assert [text.get_text() for text in right.texts] == [*"012345"]
    for image, expected in zip(right.get_images(), maps, strict=True):
        np.testing.assert_array_equal(image.get_array(), expected)
        assert image.get_clim() == (0, maps.max())
    assert right.get_title() == "6 channels, 24 \u00d7 20"
    signed = plot.feature_maps(IMAGE, maps - 2).axes[1].get_images()[0]
    assert signed.get_clim() == (-np.abs(maps - 2).max(), np.abs(maps - 2).max())


def test_confusion_writes_counts_legibly_and_shows_the_mistakes():
    counts = RNG.integers(0, 5, size=(10, 10)) + 90 * np.eye(10, dtype=int)
    figure = plot.confusion_matrix(counts, [*"abcdefghij"], mistakes(5))
    matrix, panel = figure.axes
    assert [int(text.get_text()) for text in matrix.texts] == counts.ravel().tolist()
    cells = matrix.get_images()[0].get_array()
    for text, cell in zip(matrix.texts, cells.reshape(100, 3), strict=True):
        assert contrast(to_rgb(text.get_color()), cell) > 3, text.get_text()
    assert [text.get_text() for text in matrix.get_yticklabels()] == [*"abcdefghij"]
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == ("predicted class", "true class")
    assert figure.get_suptitle().startswith(f"{np.trace(counts)} of {counts.sum()} right")
    assert [text.get_text() for text in panel.texts][:2] == ["a → b, 100 %", "b → c, 98 %"]
    assert len(panel.get_images()) == 5


@pytest.mark.parametrize("none", [None, []])
def test_confusion_without_mistakes_is_the_matrix_alone(none):
    assert len(plot.confusion_matrix(np.eye(3), ["cat", "dog", "horse"], none).axes) == 1


def contrast(one, other):
    """The WCAG contrast ratio of two sRGB colours."""
    linear = [
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in map(np.asarray, (one, other))
    ]
    dark, light = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (light + 0.05) / (dark + 0.05)


def test_bars_start_at_1_in_order_with_a_colour_per_body():
    given = rows(2, ["tuned", "loops", "python"])  # drawn in the order of BODY_COLOURS
    axes = plot.compare_bars(given).axes[0]
    bars = axes.patches
    assert len(bars) == 6
    expected = ["python", "loops", "tuned"] * 2
    assert [bar.get_facecolor()[:3] for bar in bars] == [to_rgb(plot.BODY_COLOURS[body]) for body in expected]
    assert [round(bar.get_x() + bar.get_width(), 9) for bar in bars] == [0.004, 1, 25] * 2
    assert {bar.get_x() for bar in bars} == {1}
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["op_0", "op_1"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["python", "loops", "tuned"]
    assert axes.get_xlabel() == "speed-up over loops (log scale)"
    written = [text.get_text() for text in axes.texts]
    for word in ("0.004\u00d7", "1\u00d7", "25\u00d7", "500 ms", "2 ms", "80 \u00b5s", "time", "GFLOP/s"):
        assert word in written


def test_bars_without_a_common_baseline_or_rates_claim_none():
    given = [row | {"gflops": None} for row in rows(1, ["vectorized", "tuned"])]
    axes = plot.compare_bars(given).axes[0]
    assert axes.get_xlabel() == "speed-up (log scale)"
    assert "GFLOP/s" not in [text.get_text() for text in axes.texts]


def test_bars_grow_the_figure_with_the_rows():
    one, two, many = (plot.compare_bars(rows(ops)).get_size_inches() for ops in (1, 2, 35))
    assert one[0] == two[0] == many[0]
    assert many[1] - one[1] == pytest.approx(34 * (two[1] - one[1]))
    assert (two[1] - one[1]) / len(BODIES) > 1.2 * 8 / 72  # a bar leaves room for its 8 point label


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1234.5, "1,234 s"),
        (0.99999, "1 s"),
        (0.0123, "12.3 ms"),
        (9.999e-4, "1 ms"),
        (4.56e-7, "456 ns"),
        (2e-11, "0.02 ns"),
    ],
)
def test_times_take_the_fitting_unit(seconds, text):
    given = [{"op": "a", "body": "loops", "seconds": seconds, "gflops": None, "speedup": 1}]
    assert text in [label.get_text() for label in plot.compare_bars(given).axes[0].texts]


ROW = {"op": "a", "body": "loops", "seconds": 1.0, "gflops": None, "speedup": 1.0}
REFUSED = [
    (plot.learning_curves, ({},), ["history has no values", "val_loss"]),
    (
        plot.learning_curves,
        ({"train_loss": [1, 2], "val_loss": [1]},),
        ["lengths", "'train_loss': 2", "'val_loss': 1"],
    ),
    (
        plot.learning_curves,
        ({"train_loss": [[1.0, 2.0]]},),
        ["history['train_loss']", "(1, 2)", "one number per epoch"],
    ),
    (
        plot.learning_curves,
        ({"val_accuracy": [50, 96.5]},),
        ["history['val_accuracy']", "50 to 96.5", "0 to 1"],
    ),
    (plot.learning_curves, ({"train_loss": [1.0], "best_epoch": 0},), ["best_epoch", "is 0", "1 to 1"]),
    (plot.learning_curves, ({"train_loss": [1.0], "best_epoch": 1.0},), ["best_epoch", "is 1.0", "an int"]),
    (plot.filters, (np.ones((6, 5, 5)),), ["weights has shape (6, 5, 5)", "(K, C, R, S)"]),
    (plot.filters, (np.ones((0, 1, 5, 5)),), ["weights has shape (0, 1, 5, 5)", "no axis of length 0"]),
    (plot.filters, (np.full((1, 1, 1, 2), np.nan),), ["weights has 2 of 2 elements NaN", "finite"]),
    (plot.filters, ([["a"]],), ["weights is not an array of numbers"]),
    (plot.feature_maps, (IMAGE[None], np.ones((1, 2, 2))), ["image has shape (1, 28, 28)", "(H, W)"]),
    (plot.feature_maps, (IMAGE, IMAGE), ["maps has shape (28, 28)", "(K, P, Q)"]),
    (plot.confusion_matrix, (np.ones((2, 3)), ["a", "b"]), ["matrix has shape (2, 3)", "(n, n)"]),
    (plot.confusion_matrix, ([[1, -1], [0, 1]], ["a", "b"]), ["matrix", "from -1 to 1", "whole counts >= 0"]),
    (plot.confusion_matrix, ([[0.5]], ["a"]), ["matrix", "0.5", "whole counts"]),
    (plot.confusion_matrix, ([[0]], ["a"]), ["matrix", "not all 0"]),
    (plot.confusion_matrix, (np.eye(3), ["a", "b"]), ["class_names has 2 names, wanted 3"]),
    (plot.confusion_matrix, (np.eye(2), "ab", [(IMAGE, 0, 1)]), ["mistakes[0] has 3 parts"]),
    (
        plot.confusion_matrix,
        (np.eye(2), "ab", [(IMAGE[0], 0, 1, 0.5)]),
        ["mistakes[0] image has shape (28,)", "(H, W)"],
    ),
    (plot.confusion_matrix, (np.eye(2), "ab", [(IMAGE, 0, 2, 0.5)]), ["mistakes[0] has class 2", "0 to 1"]),
    (
        plot.confusion_matrix,
        (np.eye(2), "ab", [(IMAGE, 0, 1, 98)]),
        ["mistakes[0] has probability 98", "0 to 1"],
    ),
    (
        plot.confusion_matrix,
        (np.eye(2), "ab", [(IMAGE, 0, 1, 0.5), (IMAGE[1:], 0, 1, 0.5)]),
        ["mistakes[1] image has shape (27, 28)", "(28, 28)"],
    ),
    (plot.compare_bars, ([],), ["rows is empty"]),
    (plot.compare_bars, ([{"op": "a", "body": "loops"}],), ["rows[0] lacks seconds, gflops, speedup"]),
    (plot.compare_bars, ([ROW, ROW | {"body": "fast"}],), ["rows[1] has body 'fast'", "vectorized"]),
    (plot.compare_bars, ([ROW | {"seconds": 0.0}],), ["rows[0] has seconds 0.0", "above 0"]),
    (plot.compare_bars, ([ROW | {"speedup": None}],), ["rows[0] has speedup None"]),
    (plot.compare_bars, ([ROW | {"gflops": float("inf")}],), ["rows[0] has gflops inf", "finite"]),
]


@pytest.mark.parametrize(("function", "arguments", "words"), REFUSED)
def test_bad_input_is_refused_in_words(function, arguments, words):
    with pytest.raises(ValueError, match=r"\w") as caught:
        function(*arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("name", "dpi", "word"), [("a.pdf", 100, ".png"), ("a.png", 0, "dpi is 0")])
def test_save_refuses_other_formats_and_impossible_resolutions(name, dpi, word, tmp_path):
    with pytest.raises(ValueError, match=word):
        plot.save(plot.filters(np.ones((1, 1, 2, 2))), tmp_path / name, dpi=dpi)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    figure = plot.filters(np.ones((1, 1, 2, 2)))
    (tmp_path / "old.png").write_bytes(b"old")

    def breaks_halfway(partial, **options):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", breaks_halfway)
    with pytest.raises(OSError, match="disk full"):
        plot.save(figure, tmp_path / "old.png")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    script = f"""
import sys
import numpy as np
from nnkernels import plot
assert "matplotlib" not in sys.modules
figures = [
    plot.learning_curves({{"train_loss": [1.0, 0.5]}}),
    plot.filters(np.ones((2, 1, 3, 3))),
    plot.feature_maps(np.ones((4, 4)), np.ones((2, 3, 3))),
    plot.confusion_matrix(np.eye(2), ["a", "b"], [(np.ones((4, 4)), 0, 1, 0.5)]),
    plot.compare_bars([{ROW!r}]),
]
for figure in figures:
    plot.save(figure, {str(tmp_path / "figure.png")!r}, dpi=50)
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_learning_curves_take_what_fit_returns_and_name_the_second_curve():
    past = history() | {"best_epoch": [9]}
    loss, _ = plot.learning_curves(past, "held out").axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "training",
        "held out",
        "best epoch (9)",
    ]
