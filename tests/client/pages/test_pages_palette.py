"""imgeval.pages.palette: colours on which text can be read."""

from __future__ import annotations

from imgeval.pages import palette

READABLE = 4.5  # WCAG 2.2 AA for text


def test_contrast_is_that_of_the_standard() -> None:
    assert palette.contrast(palette.BLACK, palette.WHITE) == 21
    assert palette.contrast(palette.WHITE, palette.WHITE) == 1
    assert round(palette.contrast((119, 119, 119), palette.WHITE), 2) == 4.48  # #777, the well-known near miss


def test_text_is_readable_on_every_colour() -> None:
    for number, background in enumerate(palette.SEGMENTS, 1):
        assert palette.contrast(palette.ink(background), background) >= READABLE
        assert palette.colour(number) == palette.colour(number + len(palette.SEGMENTS)) == background
    for level in range(palette.SHADES + 1):
        assert palette.contrast(palette.BLACK, palette.shade(level)) >= READABLE
    assert palette.contrast(palette.WHITE, palette.WARNING) >= READABLE


def test_relevance_becomes_a_shade() -> None:
    assert [palette.shade_level(p) for p in (-1.0, 0.0, 0.04, 0.5, 1.0, 2.0)] == [0, 0, 0, 5, 10, 10]
    assert palette.shade(0) == palette.WHITE and palette.shade(palette.SHADES) == palette.SKY
    assert ".shade-10{background:#56b4e9;color:#000000" in palette.stylesheet()
