"""nnkernels.plot: the style, decision boundaries, loss surfaces, histograms of gradients, and films."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from nnkernels import plot

RNG = np.random.default_rng(0)
X = np.array([[-2.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [2.0, 3.0]])
Y = np.array([0, 0, 1, 1])
FEW = 20  # resolution


def sigmoid_of_x1(points):
    return 1 / (1 + np.exp(-4 * points[:, 0]))


def three_sectors(points):
    directions = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    return points @ directions.T  # scores of any size


def bowl(x, y):
    return (x - 1) ** 2 + 3 * (y + 0.5) ** 2


# --- style ---


@pytest.mark.parametrize(
    ("options", "shape", "inches"),
    [
        ({}, (), (5.2, 3.1)),
        ({"rows": 1, "columns": 2}, (2,), (7.2, 3.1)),
        ({"rows": 2, "columns": 3}, (2, 3), (7.4, 6.2)),
        ({"rows": 2, "title": "Two"}, (2,), (5.2, 6.5)),
        ({"rows": 2, "columns": 2, "size": (4, 3), "title": "Four"}, (2, 2), (4, 3)),
        ({"squeeze": False, "size": (3, 2)}, (1, 1), (3, 2)),
    ],
)
def test_subplots_have_the_shape_and_size_asked_for(options, shape, inches):
    figure, axes = plot.subplots(**options)
    assert np.shape(axes) == shape
    assert figure.axes == np.ravel(axes).tolist()
    assert tuple(figure.get_size_inches()) == pytest.approx(inches)
    assert figure.get_suptitle() == options.get("title", "")
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert plot.style.figure_of(np.ravel(axes)[0]) is figure


def test_subplots_wrap_a_long_title_and_grow_by_its_lines():
    figure, _ = plot.subplots(size=(3, 2), title="a title of many words " * 4)
    lines = figure.get_suptitle().split("\n")
    assert len(lines) > 2
    assert max(map(len, lines)) <= 27
    assert figure.get_size_inches()[1] == pytest.approx(2 + 0.2 * (len(lines) - 1))


def test_context_sets_the_style_and_restores_what_was():
    with matplotlib.rc_context({"font.size": 17.0, "axes.grid": False, "image.cmap": "magma"}):
        before = dict(matplotlib.rcParams)
        with plot.style.context():
            for name, value in plot.style.settings().items():
                assert matplotlib.rcParams[name] == value, name
            axes = plot.subplots()[1]
            assert axes.get_xgridlines()[0].get_visible()
        assert dict(matplotlib.rcParams) == before
        with pytest.raises(KeyError), plot.style.context():
            raise KeyError
        assert dict(matplotlib.rcParams) == before


def test_use_keeps_the_style_for_what_is_drawn_later():
    with matplotlib.rc_context():
        plot.style.use()
        assert matplotlib.rcParams["font.size"] == plot.style.SETTINGS["font.size"]
        axes = plot.subplots()[1]
        drawn = [axes.plot([0, k])[0].get_color() for k in range(len(plot.COLOURS))]
        assert drawn == list(plot.COLOURS)


def test_pictures_are_in_the_style_whatever_is_set_and_leave_it_set():
    with matplotlib.rc_context({"axes.labelsize": 30.0, "legend.frameon": True}):
        figures = [
            plot.decision_boundary(sigmoid_of_x1, X, Y, resolution=FEW),
            plot.loss_surface(bowl, (-1, 1), (-1, 1), resolution=FEW),
            plot.gradient_histograms({"first": RNG.normal(size=50)}),
        ]
        for figure in figures:
            (axes,) = figure.axes
            assert axes.xaxis.label.get_size() == plot.style.SETTINGS["axes.labelsize"]
        assert not figures[2].axes[0].get_legend().get_frame_on()
        assert matplotlib.rcParams["axes.labelsize"] == 30.0


@pytest.mark.parametrize("name", ["boundary", "surface", "histograms"])
def test_nothing_is_cut_off_at_the_rim(name, tmp_path):
    paths = {"sgd": [[0.0, 0.0], [0.5, 0.5]]}
    figure = {
        "boundary": lambda: plot.decision_boundary(lambda at: at[:, 0] > 0, 1e4 * X, Y, title="Wide"),
        "surface": lambda: plot.loss_surface(bowl, (-1e-3, 1e-3), (-1, 1), paths=paths, title="A bowl"),
        "histograms": lambda: plot.gradient_histograms({"first": RNG.normal(size=50)}, title="Sizes"),
    }[name]()
    plot.save(figure, tmp_path / "figure.png", dpi=80)
    with Image.open(tmp_path / "figure.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1::-1] == tuple((80 * figure.get_size_inches()).astype(int))
    assert (pixels[[0, -1]] == 255).all()
    assert (pixels[:, [0, -1]] == 255).all()
    assert pixels.min() < 80


# --- decision_boundary ---


def test_boundary_lies_where_the_probability_is_one_half():
    axes = plot.decision_boundary(sigmoid_of_x1, X, Y, title="Halves").axes[0]
    (contour,) = [c for c in axes.collections if hasattr(c, "levels")]
    assert list(contour.levels) == [0.5]
    vertices = np.concatenate([path.vertices for path in contour.get_paths()])
    np.testing.assert_allclose(vertices[:, 0], 0, atol=1e-6)
    assert np.ptp(vertices[:, 1]) == pytest.approx(3 + 1 + 2 * 0.08 * 4)
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("Halves", "$x_1$", "$x_2$")


@pytest.mark.parametrize("column", [False, True])
def test_boundary_colours_each_side_by_its_class_paler_where_uncertain(column):
    def predict(points):
        p = sigmoid_of_x1(points)
        return p[:, None] if column else p

    axes = plot.decision_boundary(predict, X, Y, resolution=FEW).axes[0]
    (image,) = axes.get_images()
    cells = np.asarray(image.get_array())
    assert cells.shape == (FEW, FEW, 3)
    low, high = to_rgb(plot.COLOURS[0]), to_rgb(plot.COLOURS[1])
    share = 0.10 + 0.28 * (1 - 2 * sigmoid_of_x1(np.array([[image.get_extent()[0], 0.0]]))[0])
    np.testing.assert_allclose(cells[0, 0], share * np.array(low) + 1 - share, rtol=1e-6)
    np.testing.assert_allclose(cells[-1, -1], share * np.array(high) + 1 - share, rtol=1e-3)
    saturation = np.ptp(cells[0], axis=-1)  # across x1
    assert (np.diff(saturation[: FEW // 2]) < 0).all()
    assert (np.diff(saturation[FEW // 2 :]) > 0).all()


def test_probabilities_may_be_rounded_past_0_and_1():
    def ramp(points):
        return np.clip(0.5 + 0.5 * points[:, 0], 0, 1)

    figures = [
        plot.decision_boundary(predict, X, Y, resolution=FEW)
        for predict in (ramp, lambda at: ramp(at) * (1 + 1e-6) - 5e-7)
    ]
    one, other = (figure.axes[0].get_images()[0].get_array() for figure in figures)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_boundary_of_scores_shows_the_winners_and_all_points():
    x = RNG.normal(size=(60, 2)) * 3
    y = three_sectors(x).argmax(axis=1)
    axes = plot.decision_boundary(three_sectors, x, y, resolution=FEW).axes[0]
    image = axes.get_images()[0]
    cells = np.asarray(image.get_array()).reshape(-1, 3)
    left, right, bottom, top = image.get_extent()
    assert image.origin == "lower"  # row 0 is the lowest
    assert (axes.get_xlim(), axes.get_ylim()) == ((left, right), (bottom, top))
    margin = 0.08 * np.ptp(x, axis=0)
    np.testing.assert_allclose([left, bottom], x.min(axis=0) - margin, atol=1e-8)
    np.testing.assert_allclose([right, top], x.max(axis=0) + margin, atol=1e-8)
    grid = np.meshgrid(np.linspace(left, right, FEW), np.linspace(bottom, top, FEW))
    winners = three_sectors(np.stack(grid, axis=-1).reshape(-1, 2)).argmax(axis=1)
    colours = np.array([to_rgb(colour) for colour in plot.COLOURS])
    np.testing.assert_allclose(cells, 0.38 * colours[winners] + 0.62)  # scores: one shade
    for k, points in enumerate(axes.collections):
        np.testing.assert_array_equal(points.get_offsets(), x[y == k])
        np.testing.assert_allclose(points.get_facecolor()[0][:3], colours[k])
        assert points.get_label() == f"class {k}"
    shapes = {points.get_paths()[0].vertices.tobytes() for points in axes.collections}
    assert len(shapes) == 3  # markers, for those who do not see the colours


def test_boundary_of_probabilities_is_pale_where_two_classes_are_even():
    def softmax(points):
        e = np.exp(three_sectors(points))
        return e / e.sum(axis=1, keepdims=True)

    axes = plot.decision_boundary(softmax, X * 3, Y, resolution=FEW).axes[0]
    cells = np.asarray(axes.get_images()[0].get_array())
    saturation = np.ptp(cells, axis=-1)
    assert saturation.min() < 0.5 * saturation.max()


def test_boundary_without_a_crossing_draws_none():
    axes = plot.decision_boundary(lambda at: np.full(len(at), 0.2), X, Y, resolution=FEW).axes[0]
    assert len(axes.collections) == 2  # the points of both classes
    one_spot = plot.decision_boundary(sigmoid_of_x1, [[1.0, 1.0]], [1], resolution=FEW).axes[0]
    low, high = one_spot.get_xlim()
    assert low < 1 < high


def test_surfaces_draw_into_given_axes_even_of_a_subfigure():
    figure, (left, right) = plot.subplots(1, 2)
    assert plot.decision_boundary(sigmoid_of_x1, X, Y, axes=left, resolution=FEW) is figure
    assert plot.loss_surface(bowl, (0, 1), (0, 2), axes=right, resolution=FEW) is figure
    assert (len(left.get_images()), right.get_ylim()) == (1, (0, 2))
    whole = Figure()
    inner = whole.subfigures(1, 2)[1].subplots()
    assert plot.gradient_histograms({"a": [1.0, 2.0]}, axes=inner) is whole
    assert plot.style.figure_of(inner) is whole


# --- loss_surface ---


def test_loss_surface_draws_levels_that_crowd_at_the_bottom():
    seen = []

    def loss(x, y):
        seen.append((x, y))
        return bowl(x, y)

    axes = plot.loss_surface(loss, (-2, 2), (-1, 3), names=("a", "b"), title="A bowl", resolution=41).axes[0]
    ((x, y),) = seen
    assert x.shape == y.shape == (41, 41)
    assert (x[0, 0], x[0, -1], y[0, 0], y[-1, 0]) == (-2, 2, -1, 3)
    filled, lines = axes.collections
    heights = bowl(x, y)
    for contour in (filled, lines):
        assert contour.levels[0] == pytest.approx(heights.min())
        assert contour.levels[-1] == heights.max()
        assert (np.diff(contour.levels, 2) > 0).all()
    assert filled.get_cmap().name == "Blues_r"
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("a", "b", "A bowl")
    assert (axes.get_xlim(), axes.get_ylim()) == ((-2, 2), (-1, 3))
    assert axes.get_legend() is None


def test_loss_surface_draws_each_path_under_its_name():
    paths = {"short steps": RNG.normal(size=(7, 2)), "momentum": [[0, 0], [1, 1], [5, 5]]}
    axes = plot.loss_surface(bowl, (-2, 2), (-2, 2), paths=paths, resolution=FEW).axes[0]
    for line, (name, steps), colour in zip(axes.get_lines(), paths.items(), plot.COLOURS[1:], strict=False):
        np.testing.assert_array_equal(line.get_xydata(), steps)
        assert (line.get_label(), line.get_color()) == (name, colour)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(paths)
    assert axes.get_xlim() == (-2, 2)  # a path that leaves does not widen the picture


def test_many_paths_take_turns_with_colours_and_markers():
    paths = {str(k): np.full((2, 2), k / 10) for k in range(8)}
    lines = plot.loss_surface(bowl, (-1, 1), (-1, 1), paths=paths, resolution=FEW).axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines}) > 5
    assert plot.COLOURS[0] not in [line.get_color() for line in lines]  # the surface is blue


def test_the_highest_plateau_is_filled(tmp_path):
    low, high = 0.54, 10.35
    assert low + (high - low) < high  # rounded
    figure = plot.loss_surface(lambda x, y: np.where(x < 0, low, high), (-1, 1), (-1, 1), resolution=FEW)
    assert fill_right_of_the_middle(figure, tmp_path) == pytest.approx(blues(1.0), abs=0.02)


@pytest.mark.parametrize("level", [0.0, 3.0, -1e6])
def test_a_flat_loss_is_drawn_too(level, tmp_path):
    figure = plot.loss_surface(lambda x, y: np.full(x.shape, level), (0, 1), (0, 1), resolution=FEW)
    assert fill_right_of_the_middle(figure, tmp_path) == pytest.approx(blues(0.0), abs=0.02)


def blues(share):
    """The colour of a loss at that share of the way from the lowest level to the highest."""
    levels = np.linspace(0, 1, 16) ** 2.5
    k = 0 if share == 0 else 14
    return 0.65 * np.array(matplotlib.colormaps["Blues_r"]((levels[k] + levels[k + 1]) / 2)[:3]) + 0.35


def fill_right_of_the_middle(figure, folder):
    """The colour of the figure at three quarters of its axes' width."""
    plot.save(figure, folder / "surface.png", dpi=50)
    box = figure.axes[0].get_position()
    with Image.open(folder / "surface.png") as picture:
        at = box.x0 + 0.75 * box.width, 1 - box.y0 - 0.45 * box.height
        pixel = picture.convert("RGB").getpixel(tuple(int(a * n) for a, n in zip(at, picture.size)))
    return np.array(pixel) / 255


# --- gradient_histograms ---


def test_histograms_are_densities_over_the_log_of_the_size():
    gradients = {
        "first": 1e-4 * RNG.normal(size=(40, 30)),
        "second": np.float32([1e-2] * 500 + [-1e-1] * 500),
        "third": np.where(np.arange(900) % 3 == 0, 0.0, RNG.normal(size=900)),
    }
    axes = plot.gradient_histograms(gradients, bins=50, title="Sizes").axes[0]
    assert [line.get_label() for line in axes.get_lines()] == list(gradients)
    for line in axes.get_lines():
        middles, density = line.get_xdata(), line.get_ydata()
        assert len(middles) == 50
        assert density.min() >= 0
        assert density.sum() * (middles[1] - middles[0]) == pytest.approx(1)
    first, second, _ = axes.get_lines()
    mean = np.average(first.get_xdata(), weights=first.get_ydata())
    assert mean == pytest.approx(np.log10(np.abs(gradients["first"])).mean(), abs=0.05)
    peaks = np.sort(second.get_xdata()[np.argsort(second.get_ydata())[-2:]])
    width = np.diff(second.get_xdata())[0]
    np.testing.assert_allclose(peaks, [-2, -1], atol=width)
    assert (axes.get_ylabel(), axes.get_title()) == ("density", "Sizes")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(gradients)


def test_zeros_change_no_curve_and_layers_of_zeros_have_none():
    values = RNG.normal(size=200)
    bare = plot.gradient_histograms({"a": values}).axes[0].get_lines()
    padded = plot.gradient_histograms({"off": np.zeros(9), "a": np.append(values, np.zeros(800))})
    (line,) = padded.axes[0].get_lines()
    assert line.get_label() == "a"
    np.testing.assert_array_equal(line.get_xydata(), bare[0].get_xydata())


def test_a_few_tiny_gradients_do_not_stretch_the_axis():
    values = np.append(RNG.uniform(0.1, 1, 999), 1e-30)
    (line,) = plot.gradient_histograms({"a": values}).axes[0].get_lines()
    assert line.get_xdata().min() > -2
    (alone,) = plot.gradient_histograms({"a": [0.01]}).axes[0].get_lines()
    assert alone.get_xdata()[[0, -1]] == pytest.approx([-2.1, -1.9], abs=0.01)


def test_later_layers_are_lighter():
    lines = plot.gradient_histograms({str(k): [1.0 + k] for k in range(6)}).axes[0].get_lines()
    lightness = [np.dot(line.get_color()[:3], [0.3, 0.6, 0.1]) for line in lines]
    assert (np.diff(lightness) > 0).all()


# --- films ---


def bar(frames):
    """A film of a black square that moves one cell to the right per frame."""
    figure, axes = plot.subplots(size=(2, 1))
    axes.set_axis_off()
    image = axes.imshow(np.ones((1, frames)), cmap="gray", vmin=0, vmax=1, aspect="auto")

    def update(k):
        cells = np.ones((1, frames))
        cells[0, k] = 0
        image.set_data(cells)

    return figure, update


def blackness(picture):
    """The mean column of the dark pixels, as a share of the width."""
    dark = np.asarray(picture.convert("L")) < 100
    return np.average(np.arange(dark.shape[1]), weights=dark.sum(axis=0)) / dark.shape[1]


@pytest.mark.parametrize("fps", [1, 4, 30, 50])
def test_a_film_has_every_frame_in_order_at_its_pace(fps, tmp_path):
    figure, update = bar(6)
    calls = []

    def noted(k):
        calls.append(k)
        update(k)

    plot.save(plot.animate(figure, noted, 6, fps), tmp_path / "film.gif", dpi=60)
    assert calls == [*range(6)]
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (6, (120, 60), 0)
        places = []
        for k in range(6):
            film.seek(k)
            places.append(blackness(film))
            assert film.info["duration"] == pytest.approx(1000 / fps, abs=5)
    np.testing.assert_allclose(np.diff(places), np.diff(places)[0], atol=0.02)
    assert places[0] < 0.2
    assert places[-1] > 0.8
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]


def test_a_frame_that_stands_still_is_shown_as_long_as_two(tmp_path):
    figure, update = bar(3)
    plot.save(plot.animate(figure, lambda k: update(min(k, 1)), 3, fps=5), tmp_path / "film.gif", dpi=50)
    with Image.open(tmp_path / "film.gif") as film:
        times = [(film.seek(k), film.info["duration"])[1] for k in range(film.n_frames)]
    assert sum(times) == 600


def test_a_film_keeps_the_layout_of_its_first_frame(tmp_path):
    figure, axes = plot.subplots(size=(3, 2))
    places = []

    def update(k):
        places.append(axes.get_position().bounds)
        axes.set_ylabel("\n".join("tall" * (k + 1)))

    plot.save(plot.animate(figure, update, 4), tmp_path / "film.gif", dpi=50)
    assert places[1] != places[0]  # the layout found a place,
    assert places[1] == places[2] == places[3] == axes.get_position().bounds  # and it stayed


def test_saving_a_film_leaves_the_figure_as_it_was(tmp_path):
    figure, update = bar(2)
    before = figure.canvas, figure.dpi, figure.get_layout_engine(), tuple(figure.get_size_inches())
    plot.save(plot.animate(figure, update, 2), tmp_path / "film.gif", dpi=33)
    assert (figure.canvas, figure.dpi, figure.get_layout_engine(), tuple(figure.get_size_inches())) == before
    plot.save(figure, tmp_path / "still.png", dpi=50)
    with Image.open(tmp_path / "still.png") as still:
        assert still.size == (100, 50)


def test_a_plain_figure_can_move_too(tmp_path):
    figure = Figure(figsize=(1, 1))
    (line,) = figure.subplots().plot([0, 1], [0, 0])
    film = plot.animate(figure, lambda k: line.set_ydata([0, k]), 3)
    plot.save(film, tmp_path / "FILM.GIF", dpi=40)
    assert figure.get_layout_engine() is None
    with Image.open(tmp_path / "FILM.GIF") as saved:
        assert saved.n_frames >= 2


@pytest.mark.parametrize("breaks_at", [0, 2])
def test_an_exception_in_update_leaves_the_old_file_and_no_other(breaks_at, tmp_path):
    figure, update = bar(4)
    before = figure.canvas, figure.dpi, figure.get_layout_engine()

    def breaks(k):
        if k == breaks_at:
            raise KeyError("no such step")
        update(k)

    (tmp_path / "film.gif").write_bytes(b"old")
    with pytest.raises(KeyError, match="no such step"):
        plot.save(plot.animate(figure, breaks, 4), tmp_path / "film.gif", dpi=50)
    assert [path.name for path in tmp_path.iterdir()] == ["film.gif"]
    assert (tmp_path / "film.gif").read_bytes() == b"old"
    assert (figure.canvas, figure.dpi, figure.get_layout_engine()) == before


def test_a_disk_that_fills_up_leaves_no_half_of_a_film(tmp_path, monkeypatch):
    def breaks_halfway(picture, path, **options):
        path.write_bytes(b"GIF89a")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", breaks_halfway)
    with pytest.raises(OSError, match="disk full"):
        plot.save(plot.animate(*bar(2), 2), tmp_path / "film.gif", dpi=50)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("moves", "name", "dpi", "word"),
    [
        (True, "film.png", 50, "ends in .gif"),
        (True, "film", 50, "ends in .gif"),
        (False, "still.gif", 50, "ends in .png"),
        (True, "film.gif", 0, "dpi is 0"),
        (True, "film.gif", float("nan"), "dpi is nan"),
    ],
)
def test_save_refuses_endings_that_do_not_fit(moves, name, dpi, word, tmp_path):
    figure, update = bar(2)
    picture = plot.animate(figure, update, 2) if moves else figure
    with pytest.raises(ValueError, match=word):
        plot.save(picture, tmp_path / name, dpi=dpi)
    assert list(tmp_path.iterdir()) == []


# --- what is refused ---


def boundary(predict=sigmoid_of_x1, x=X, y=Y, **options):
    return lambda: plot.decision_boundary(predict, x, y, **{"resolution": FEW} | options)


def surface(loss=bowl, x_range=(-1, 1), y_range=(-1, 1), **options):
    return lambda: plot.loss_surface(loss, x_range, y_range, **{"resolution": FEW} | options)


REFUSED = {
    "points in space": (boundary(x=np.ones((4, 3))), ["x has shape (4, 3)", "(N, 2)"]),
    "no points": (boundary(x=np.ones((0, 2))), ["x has shape (0, 2)", "no axis of length 0"]),
    "a label too few": (boundary(y=Y[1:]), ["x has shape (4, 2)", "y (3,)"]),
    "labels in a column": (boundary(y=Y[:, None]), ["y has shape (4, 1)", "(N,)"]),
    "a label between": (boundary(y=Y + 0.5), ["y holds 0.5", "whole numbers"]),
    "a negative label": (boundary(y=Y - 1), ["labels from -1 to 0", "2 classes"]),
    "a label too high": (boundary(three_sectors, y=Y + 2), ["labels from 2 to 3", "3 classes"]),
    "NaN points": (boundary(x=X * np.nan), ["x has 8 of 8 elements NaN"]),
    "NaN predictions": (
        boundary(lambda at: np.full(len(at), np.nan)),
        ["predict(points) has 400 of 400 elements NaN"],
    ),
    "logits": (boundary(lambda at: 5 * at[:, 0]), ["predict(points) has values from -11", "from 0 to 1"]),
    "predictions too few": (
        boundary(lambda at: at[1:, 0] * 0),
        ["predict(points) has shape (399,)", "(400,)"],
    ),
    "flat predictions": (
        boundary(lambda at: np.zeros(2 * len(at))),
        ["predict(points) has shape (800,)", "(400, K)"],
    ),
    "one number": (boundary(lambda at: 0.5), ["predict(points) has shape ()", "(400,)"]),
    "a class too many": (boundary(lambda at: np.zeros((len(at), 8))), ["8 classes", "at most 7"]),
    "no resolution": (boundary(resolution=1), ["resolution is 1", "at least 2"]),
    "half a resolution": (surface(resolution=20.5), ["resolution is 20.5", "an int"]),
    "a range reversed": (surface(x_range=(1, -1)), ["x_range is (1, -1)", "a higher one"]),
    "a range of nothing": (surface(y_range=(2, 2)), ["y_range is (2, 2)"]),
    "a range of three": (surface(y_range=(0, 1, 2)), ["y_range is (0, 1, 2)"]),
    "half a range": (surface(x_range=(0,)), ["x_range is (0,)"]),
    "an endless range": (surface(x_range=(0, np.inf)), ["x_range has 1 of 2 elements NaN or infinite"]),
    "an infinite loss": (
        surface(lambda x, y: np.where(x > 0.99, np.inf, x)),
        ["loss(x, y) has 20 of 400 elements NaN or infinite"],
    ),
    "a loss of a number": (surface(lambda x, y: 1.0), ["loss(x, y) has shape ()", "(20, 20)"]),
    "a loss of a corner": (surface(lambda x, y: x[:3, :3]), ["loss(x, y) has shape (3, 3)", "(20, 20)"]),
    "a path in space": (
        surface(paths={"sgd": np.ones((5, 3))}),
        ["paths['sgd'] has shape (5, 3)", "(steps, 2)"],
    ),
    "a path of numbers": (surface(paths={"sgd": [1.0, 2.0]}), ["paths['sgd'] has shape (2,)"]),
    "a path that diverged": (
        surface(paths={"sgd": [[0.0, 1.0], [np.nan, np.inf]]}),
        ["paths['sgd'] has 2 of 4 elements NaN or infinite"],
    ),
    "no gradients": (lambda: plot.gradient_histograms({}), ["gradients is empty", "per layer"]),
    "an empty gradient": (lambda: plot.gradient_histograms({"a": []}), ["gradients['a'] has shape (0,)"]),
    "only zeros": (lambda: plot.gradient_histograms({"a": [0.0], "b": [0, 0]}), ["gradients are all 0"]),
    "a NaN gradient": (
        lambda: plot.gradient_histograms({"a": [1.0], "b": [1.0, np.nan]}),
        ["gradients['b'] has 1 of 2 elements NaN"],
    ),
    "words": (lambda: plot.gradient_histograms({"a": ["x"]}), ["gradients['a'] is not an array of numbers"]),
    "no frames": (lambda: plot.animate(*bar(2), 0), ["frames is 0", "at least 1"]),
    "half a frame": (lambda: plot.animate(*bar(2), 2.5), ["frames is 2.5", "an int"]),
    "no pace": (lambda: plot.animate(*bar(2), 2, 0), ["fps is 0", "from 1 to 50"]),
    "too fast": (lambda: plot.animate(*bar(2), 2, fps=51), ["fps is 51", "from 1 to 50"]),
    "half a pace": (lambda: plot.animate(*bar(2), 2, fps=0.5), ["fps is 0.5", "an int"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_words(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=r"\w") as caught:
        call()
    for word in words:
        assert word in str(caught.value)
