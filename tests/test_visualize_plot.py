"""Pictures over images: heat maps in their own scales, receptive fields with a frame around them."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nnkernels import plot

RNG = np.random.default_rng(0)
MAP = np.ones((1, 4, 4))


def test_heat_maps_have_a_row_per_image_and_a_panel_per_map():
    images, first, second = RNG.random((2, 1, 6, 5)), RNG.normal(size=(2, 6, 5)), RNG.random((2, 6, 5))
    figure = plot.heat_maps(images, {"first": first, "second": 1000 * second}, "Where", ["one", "two"])
    panels = np.reshape(figure.axes[:6], (2, 3))
    assert [panel.get_title() for panel in panels[0]] == ["image", "first", "second"]
    assert [panel.get_ylabel() for panel in panels[:, 0]] == ["one", "two"]
    assert figure.get_suptitle() == "Where"
    for row, n in zip(panels, range(2)):
        np.testing.assert_allclose(
            row[0].get_images()[0].get_array(), 1 - images[n, 0, ..., None].repeat(3, 2)
        )
        for panel, values in zip(row[1:], (first[n], second[n])):
            under, over = panel.get_images()
            np.testing.assert_allclose(
                under.get_array(), 1 - 0.4 * images[n, 0, ..., None].repeat(3, 2), atol=1e-12
            )
            strength = np.clip(values / np.percentile(np.abs(values), 99), -1, 1)
            np.testing.assert_allclose(over.get_array(), strength, atol=1e-12)
            assert over.get_clim() == (-1, 1)
            assert over.get_cmap().name == "RdBu_r"  # red above 0
            assert (np.argsort(over.get_alpha().ravel()) == np.argsort(np.abs(strength).ravel())).all()


def test_the_scale_of_a_map_is_that_of_its_pixels_other_than_0():
    values = np.zeros((1, 50, 50))
    values[0, :2, :2] = [[1, 2], [-3, 4]]
    over = plot.heat_maps(np.zeros((1, 1, 50, 50)), {"few": values}).axes[1].get_images()[1]
    assert over.get_array()[0, 0] == pytest.approx(1 / np.percentile([1, 2, 3, 4], 99))
    over = plot.heat_maps(np.zeros((1, 1, 4, 4)), {"none": np.zeros((1, 4, 4))}).axes[1].get_images()[1]
    assert not over.get_array().any()


def test_colours_are_kept_in_the_image_and_grey_under_a_map():
    image = RNG.normal(size=(1, 3, 6, 5))  # not in [0, 1]: brought there
    shown, under = (
        panel.get_images()[0].get_array()
        for panel in plot.heat_maps(image, {"m": np.ones((1, 6, 5))}).axes[:2]
    )
    scaled = (image[0] - image.min()) / np.ptp(image)
    np.testing.assert_allclose(shown, scaled.transpose(1, 2, 0))
    np.testing.assert_allclose(
        under[..., 0], 1 - 0.4 * (1 - np.einsum("chw,c", scaled, [0.299, 0.587, 0.114]))
    )
    np.testing.assert_array_equal(under[..., 0], under[..., 2])


def test_a_field_is_framed_and_what_lies_outside_is_faded():
    image, mask = RNG.random((3, 10, 12)), np.zeros((10, 12), bool)
    mask[2:6, 3:10] = True
    mask[3, 4] = False  # a hole, as dilation leaves
    panel, empty = plot.receptive_field(image, {"conv2": mask, "none": mask & False}).axes
    assert panel.get_title() == "conv2\n4 × 7 pixels"
    picture = image.transpose(1, 2, 0)
    found = panel.get_images()[0].get_array()
    np.testing.assert_allclose(found[mask], picture[mask])
    np.testing.assert_allclose(found[~mask], 1 - 0.4 * (1 - picture[~mask]))
    (frame,) = panel.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((2.5, 1.5), 7, 4)
    assert frame.get_edgecolor()[:3] == to_rgb(plot.COLOURS[1])
    assert empty.get_title() == "none\n0 × 0 pixels"
    assert not empty.patches


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plot.heat_maps(MAP, {"m": MAP}), r"images has shape \(1, 4, 4\)"),
        (lambda: plot.heat_maps(np.ones((1, 2, 4, 4)), {"m": MAP}), "2 channels, wanted 1 or 3"),
        (lambda: plot.heat_maps(np.ones((1, 1, 4, 4)), {"m": np.ones((1, 4, 5))}), r"maps\['m'\] has shape"),
        (lambda: plot.heat_maps(np.ones((1, 1, 4, 4)), {}), "maps is empty"),
        (lambda: plot.receptive_field(MAP, {"f": np.ones((4, 5))}), r"fields\['f'\] has shape"),
        (lambda: plot.heat_maps(MAP[None], {"m": MAP}, rows=["a", "b"]), "rows has 2 names, wanted 1"),
        (lambda: plot.receptive_field(MAP, {}), "fields is empty"),
        (lambda: plot.receptive_field(np.ones((4, 4)), {"f": np.ones((4, 4))}), "image has shape"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
