"""An explanation as a page, and as one picture."""

from __future__ import annotations

import bisect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from imgeval.contract import METRIC_NAMES
from imgeval.metrics.relevance import LOGIT_SCALE, NEUTRAL_PROBABILITY
from imgeval.metrics.segments import crop
from imgeval.pages import palette, picture, render

if TYPE_CHECKING:
    from imgeval.explanation import Explanation

PICTURE_PX = 1024  # the long side of the image in a page
SEGMENT_PX = 64  # of a segment in the table
WIDTH_PX = 1000  # of the picture with its legend
MARGIN_PX, LINE_PX, TEXT_PX, CELL_PX = 20, 26, 17, 76
MIN_CELL_PX = 62  # a number and a badge beside it fit
LABEL_PX = 190  # of the first column
MAX_LINE = 500  # characters; no font is so narrow that more fit on a line
GREY, TRACK = (90, 90, 90), (235, 235, 235)


def write_page(explanation: Explanation, path: Path) -> None:
    """Write the page. Raises OSError."""
    result, rgb = explanation.result, explanation.rgb
    segments = [
        {
            "number": number,
            "style": f"c{(number - 1) % len(palette.SEGMENTS) + 1}",
            "picture": picture.data_uri(small := picture.reduced(crop(rgb, segment), SEGMENT_PX)),
            "width": small.width,
            "height": small.height,
            "area": _area(explanation, number),
        }
        for number, segment in enumerate(explanation.segments, 1)
    ]
    total = math.fsum(explanation.contributions.values())
    page = render.render_page(
        "explain.html",
        warnings=[result.weights_warning] if result.weights_warning else [],
        result=result,
        overlay=picture.data_uri(picture.draw_segments(rgb, explanation.segments, PICTURE_PX)),
        original=picture.data_uri(picture.reduced(rgb, PICTURE_PX)),
        bars=_bars(explanation),
        total=total,
        clamped=not 0 <= total <= 1,
        segments=segments,
        keywords=explanation.keywords,
        unmatched=explanation.unmatched,
        neutral=NEUTRAL_PROBABILITY,
        logit_scale=LOGIT_SCALE,
    )
    render.write_page(path, page)


def write_picture(explanation: Explanation, path: Path) -> None:
    """Write a PNG: the segments over the image, and below it the same tables. Raises OSError."""
    inner = WIDTH_PX - 2 * MARGIN_PX
    image = picture.draw_segments(explanation.rgb, explanation.segments, inner)
    legend = Legend(image.height + 2 * MARGIN_PX)
    _write_legend(legend, explanation)
    sheet = Image.new("RGB", (WIDTH_PX, legend.y + MARGIN_PX), palette.WHITE)
    sheet.paste(image, ((WIDTH_PX - image.width) // 2, MARGIN_PX))
    legend.draw_on(sheet)
    sheet.save(path, "PNG", optimize=True)


def _bars(explanation: Explanation) -> list[dict[str, Any]]:
    """A bar for each metric that is there; each starts where the one before it ends, so the last ends at the sum."""
    bars, end = [], 0.0
    for name, metric in explanation.result.metrics.items():
        part = explanation.contributions.get(name)
        start = end
        end += part or 0.0
        left, right = sorted(min(max(edge, 0.0), 1.0) * 100 for edge in (start, end))
        bars.append(
            {
                "name": name,
                "number": METRIC_NAMES.index(name) + 1,
                "raw": metric.raw,
                "normalized": metric.normalized,
                "weight": metric.weight,
                "contribution": part,
                "x": round(left, 3),
                "width": round(right - left, 3),
                "model": metric.model,
            }
        )
    return bars


def _area(explanation: Explanation, number: int) -> str:
    height, width = explanation.rgb.shape[:2]
    return f"{explanation.segments[number - 1].area / (height * width):.0%}"


class Legend:
    """Lines of text and cells, collected from the top down and drawn when their height is known."""

    def __init__(self, y: int) -> None:
        self.y = y
        self._steps: list[Any] = []
        self._ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def text(self, text: str, x: float = MARGIN_PX, fill: palette.Rgb = palette.BLACK, anchor: str = "ls") -> None:
        """Text on the current line."""
        y = self.y + LINE_PX * 0.7
        self._steps.append(lambda pen: pen.text((x, y), text, fill=fill, font=picture.font(TEXT_PX), anchor=anchor))

    def box(self, x: float, width: float, fill: palette.Rgb) -> None:
        """A filled cell on the current line, where it is a pixel wide at least."""
        if width < 1:
            return
        area = (x, self.y, x + width - 1, self.y + LINE_PX - 3)
        self._steps.append(lambda pen: pen.rectangle(area, fill=fill))

    def badge(self, x: float, number: int) -> None:
        y = self.y + LINE_PX / 2 - 2
        self._steps.append(lambda pen: picture.badge(pen, x, y, 11, number))

    def down(self, lines: float = 1) -> None:
        self.y += round(LINE_PX * lines)

    def paragraph(self, text: str, fill: palette.Rgb = palette.BLACK) -> None:
        """Text over as many lines as it takes; a word that is longer than a line is cut."""
        line = ""
        for word in " ".join(text.split()).split(" "):
            while self._width(word[:MAX_LINE]) > self._room:
                if line:
                    self.text(line, fill=fill)
                    self.down()
                    line = ""
                lengths = range(1, min(len(word), MAX_LINE))
                fits = bisect.bisect_right(lengths, self._room, key=lambda n: math.ceil(self._width(word[:n])))
                keep = max(1, fits)
                self.text(word[:keep], fill=fill)
                self.down()
                word = word[keep:]
            longer = f"{line} {word}".strip()
            if self._width(longer) > self._room:
                self.text(line, fill=fill)
                self.down()
                longer = word
            line = longer
        self.text(line, fill=fill)
        self.down()

    def fitted(self, text: str, width: float) -> str:
        """`text`, cut so that it fits."""
        text = text[:MAX_LINE]
        if self._width(text) <= width:
            return text
        return next(cut for n in range(len(text), -1, -1) if self._width(cut := f"{text[:n]}...") <= width or n == 0)

    def draw_on(self, sheet: Image.Image) -> None:
        pen = ImageDraw.Draw(sheet)
        for step in self._steps:
            step(pen)

    @property
    def _room(self) -> int:
        return WIDTH_PX - 2 * MARGIN_PX

    def _width(self, text: str) -> float:
        return self._ruler.textlength(text, font=picture.font(TEXT_PX))


def _write_legend(legend: Legend, explanation: Explanation) -> None:
    result = explanation.result
    if result.weights_warning:
        legend.paragraph(result.weights_warning, palette.WARNING)
    legend.paragraph(result.prompt)
    legend.paragraph(f"{result.image}, preset {result.preset}, profile {result.profile}", GREY)
    legend.down(0.4)
    label = "value (no score)" if result.weights_warning else "score"
    incomplete = "" if result.complete else "  (incomplete)"
    total = math.fsum(explanation.contributions.values())
    how = "the sum of the contributions" if 0 <= total <= 1 else f"the sum of the contributions, {total:.4f}, clamped"
    legend.text(
        f"{label} {render.number(result.score)}{incomplete}" + (f"  =  {how}" if result.score is not None else "")
    )
    legend.down(1.1)
    bar_x, bar_px = MARGIN_PX + LABEL_PX + 2 * CELL_PX + 20, 500
    for bar in _bars(explanation):
        legend.text(bar["name"])
        legend.text(render.number(bar["raw"]), MARGIN_PX + LABEL_PX + CELL_PX, anchor="rs")
        if bar["weight"]:
            legend.text(render.number(bar["contribution"]), MARGIN_PX + LABEL_PX + 2 * CELL_PX, GREY, anchor="rs")
            legend.box(bar_x, bar_px, TRACK)
            left, width = bar_px * bar["x"] / 100, bar_px * bar["width"] / 100
            legend.box(bar_x + left, width, palette.colour(bar["number"]))
        else:
            legend.text("not weighed", bar_x, GREY)
        legend.down()
    for name, reason in result.missing.items():
        legend.paragraph(f"{name} is missing: {reason}", GREY)
    if explanation.keywords and explanation.segments:
        _write_relevance(legend, explanation)


def _write_relevance(legend: Legend, explanation: Explanation) -> None:
    """Keywords down and segments across, as many to a block as fit."""
    room, count = WIDTH_PX - 2 * MARGIN_PX - LABEL_PX, len(explanation.segments)
    cell_px = max(MIN_CELL_PX, min(CELL_PX, room // count))
    per_block = room // cell_px
    for first in range(0, count, per_block):
        numbers = range(first + 1, min(first + per_block, count) + 1)
        legend.down(0.5)
        legend.text("relevance", fill=GREY)
        columns = [MARGIN_PX + LABEL_PX + cell_px * place for place in range(len(numbers))]
        for number, x in zip(numbers, columns, strict=True):
            legend.badge(x + 14, number)
            legend.text(_area(explanation, number), x + cell_px - 8, GREY, anchor="rs")
        legend.down()
        for keyword in explanation.keywords:
            legend.text(legend.fitted(keyword.word, LABEL_PX - 10))
            for number, x in zip(numbers, columns, strict=True):
                p = keyword.relevance[number - 1]
                legend.box(x, cell_px - 3, palette.shade(palette.shade_level(p)))
                legend.text(f"{p:.2f}", x + cell_px - 10, anchor="rs")
            legend.down()
    legend.down(0.4)
    rule = f"(relevance never above {NEUTRAL_PROBABILITY})"
    legend.paragraph(f"Keywords that no segment matches {rule}: {', '.join(explanation.unmatched) or 'none'}")
