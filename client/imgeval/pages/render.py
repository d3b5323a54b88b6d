"""Templates to text: autoescaped, self-contained, and fenced by a Content-Security-Policy."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from imgeval.pages import palette


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imgeval", "pages/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` escapes <, > and &, so that no text ends the script element that holds it; a NaN would be no JSON.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}
    environment.filters["number"] = number
    environment.globals["palette"] = palette
    return environment


def number(value: float | None, digits: int = 4) -> str:
    """A value for people: four digits after the point, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def render(template: str, **values: Any) -> str:
    """The text of a template of this package."""
    return _environment().get_template(template).render(values)


def render_page(template: str, script: str | None = None, **values: Any) -> str:
    """A whole page: the template with the style, and the script of that file name, inside."""
    style = _static("page.css") + palette.stylesheet()
    code = _static(script) if script else ""
    allowed = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _hash(style),
        "script-src": _hash(code) if code else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{kind} {source}" for kind, source in allowed.items())
    return render(template, style=Markup(style), script=Markup(code), policy=policy, **values)


def write_page(path: Path, page: str) -> None:
    """Write a page as UTF-8. What is no text (half of a surrogate pair) becomes a question mark."""
    path.write_text(page, encoding="utf-8", errors="replace", newline="\n")


def _static(name: str) -> str:
    """A file of this package that goes into pages as it is; ours, and so not escaped."""
    return resources.files("imgeval").joinpath(f"pages/static/{name}").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
