"""The colours of pages and pictures, in one place.

Okabe and Ito, "Color Universal Design" (2008): told apart with every common kind of colour blindness. Nothing is said
by a colour alone: segments have numbers, series have names and other shapes.
"""

from __future__ import annotations

Rgb = tuple[int, int, int]

BLACK: Rgb = (0, 0, 0)
WHITE: Rgb = (255, 255, 255)
BLUE: Rgb = (0, 114, 178)
SKY: Rgb = (86, 180, 233)
VERMILLION: Rgb = (213, 94, 0)
SEGMENTS: tuple[Rgb, ...] = (
    (230, 159, 0),  # orange
    SKY,
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    BLUE,
    VERMILLION,
    (204, 121, 167),  # reddish purple
)
METRICS = SEGMENTS  # of the bar of contributions, in the contract's order
WARNING: Rgb = (176, 0, 32)
SHADES = 10  # of relevance, from white (0) to SKY: black text is readable on each


def colour(number: int, colours: tuple[Rgb, ...] = SEGMENTS) -> Rgb:
    """The colour of the thing with this number, from 1; they come round again."""
    return colours[(number - 1) % len(colours)]


def ink(background: Rgb) -> Rgb:
    """Black or white, whichever is easier to read on `background`."""
    return max((BLACK, WHITE), key=lambda text: contrast(text, background))


def shade(level: int) -> Rgb:
    """The background of relevance `level` of SHADES."""
    red, green, blue = (round(255 + (end - 255) * level / SHADES) for end in SKY)
    return red, green, blue


def shade_level(relevance: float) -> int:
    """The shade of a relevance, 0..1."""
    return round(min(max(relevance, 0.0), 1.0) * SHADES)


def contrast(one: Rgb, other: Rgb) -> float:
    """Contrast ratio of two colours, 1..21; WCAG 2.2, "contrast ratio" and "relative luminance"."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def css(rgb: Rgb) -> str:
    """A colour as CSS writes it: #rrggbb."""
    return "#" + "".join(f"{sample:02x}" for sample in rgb)


def stylesheet() -> str:
    """The classes `c1`, `c2`, ... (colour and ink of a number) and `shade-0` ... (relevance)."""
    numbers = [f".c{number}{{{_rule(colour(number))}}}" for number in range(1, len(SEGMENTS) + 1)]
    shades = [f".shade-{level}{{{_rule(shade(level))}}}" for level in range(SHADES + 1)]
    return "\n".join([f":root{{--a:{css(BLUE)};--b:{css(VERMILLION)}}}", *numbers, *shades, ""])


def _rule(background: Rgb) -> str:
    return f"background:{css(background)};color:{css(ink(background))};fill:{css(background)}"


def _luminance(rgb: Rgb) -> float:
    linear = [sample / 12.92 if sample <= 0.04045 else ((sample + 0.055) / 1.055) ** 2.4 for sample in _unit(rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _unit(rgb: Rgb) -> tuple[float, ...]:
    return tuple(sample / 255 for sample in rgb)
