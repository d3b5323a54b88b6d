"""imgeval.pages.picture: segments are drawn where they are."""

from __future__ import annotations

import numpy as np

from imgeval.metrics.segments import Segment
from imgeval.pages import palette, picture
from imgeval.pages.explain import Legend
from tests.client.pages._explained import HEIGHT, WIDTH, explanation, rgb


def tinted(pixels: np.ndarray, original: np.ndarray) -> np.ndarray:
    return (pixels != original).any(axis=-1)


def test_only_the_pixels_of_a_segment_change() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[5:15, 2:18] = True
    image = np.full((100, 100, 3), 128, np.uint8)
    drawn = np.asarray(picture.draw_segments(image, [Segment(mask, (40, 50, 20, 20), int(mask.sum()))], 100))
    where = np.zeros((100, 100), np.bool_)
    where[50:70, 40:60] = mask
    rows, columns = np.mgrid[0:100, 0:100]
    near_badge = (rows - 60) ** 2 + (columns - 50) ** 2 < 25**2  # the number may stick out
    assert (tinted(drawn, image) == where)[~near_badge].all()
    assert tuple(drawn[55, 42]) == palette.colour(1), "the outline"


def test_the_smaller_segment_lies_on_top() -> None:
    image = np.full((200, 200, 3), 255, np.uint8)
    whole = Segment(np.ones((200, 200), np.bool_), (0, 0, 200, 200), 40_000)
    part = Segment(np.ones((60, 60), np.bool_), (100, 100, 60, 60), 3_600)
    for segments in ([whole, part], [part, whole]):
        drawn = np.asarray(picture.draw_segments(image, segments, 200)).astype(float)
        number = segments.index(part) + 1
        expected = (1 - picture.TINT) * 255 + picture.TINT * np.array(palette.colour(number))
        assert np.abs(drawn[155, 155] - expected).max() <= 0.5
        assert tuple(drawn[100, 130]) == palette.colour(number)


def test_a_large_image_is_reduced_and_its_segments_with_it() -> None:
    image = np.full((1000, 2000, 3), 255, np.uint8)
    mask = np.ones((500, 1000), np.bool_)
    drawn = np.asarray(picture.draw_segments(image, [Segment(mask, (1000, 500, 1000, 500), mask.size)], 200))
    assert drawn.shape == (100, 200, 3)
    changed = (drawn != 255).any(axis=-1)
    assert changed[50:, 100:].all() and not changed[:35].any() and not changed[:, :85].any()


def test_the_number_stands_inside_a_ring() -> None:
    ring = np.zeros((200, 200), np.bool_)
    ring[10:190, 10:190] = True
    ring[40:160, 40:160] = False
    x, y = picture._inner_point(ring)
    assert ring[int(y), int(x)]
    assert picture._inner_point(np.zeros((5, 5), np.bool_)) == (0.0, 0.0)


def test_segments_of_an_explanation_are_drawn() -> None:
    drawn = picture.draw_segments(rgb(), explanation().segments, 1000)
    assert drawn.size == (WIDTH, HEIGHT), "never enlarged"
    assert picture.data_uri(drawn).startswith("data:image/webp;base64,")


class Pen:
    """Notes what is written, line by line."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def text(self, at: tuple[float, float], text: str, **_: object) -> None:
        self.said.append(text)


def test_a_word_longer_than_a_line_is_cut_where_it_stands() -> None:
    pen, legend = Pen(), Legend(0)
    legend.paragraph("before " + "x" * 3000 + " after")
    for step in legend._steps:
        step(pen)
    assert pen.said[0] == "before"
    assert pen.said[-1].endswith("after")
    assert sum(line.count("x") for line in pen.said) == 3000
    assert len(legend.fitted("y" * 3000, 100)) < 20
