"""What must hold of every page, asked of the browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Open = Callable[..., Any]  # (file, width=..., height=..., dark=..., printed=...) -> playwright's Page

# Every text on the page against the first opaque background behind it: [[ratio, text], ...] of what is too weak.
_CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || node.closest("script, style, option, :disabled")) continue;
    texts += 1;
    const both = [parse(getComputedStyle(node).color), background(node)].map(luminance);
    const [low, high] = both.sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push([ratio, text.data.trim().slice(0, 40)]);
  }
  return { found, texts };
}"""


def assert_readable(page: Any) -> None:
    """Contrast of at least 4.5 for all text (WCAG 2.2 AA)."""
    measured = page.evaluate(_CONTRAST)
    assert measured["texts"] > 10
    assert measured["found"] == []


def assert_fits(page: Any) -> None:
    """No horizontal scrolling of the page."""
    needed, there = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert needed <= there


def assert_harmless(page: Any) -> None:
    """Nothing of what a user wrote has become a part of the page, or was run."""
    assert page.evaluate("window.pwned") is None
    assert page.locator("[onerror], img[src=x], [src^=javascript]").count() == 0
    assert page.evaluate("document.scripts.length") <= 2
