"""A headless Chromium whose pages may not ask the network for anything, and must not complain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.pages._checks import Open

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for a module; not for longer, because its event loop must not be there for other tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        pytest.skip(f"needs a browser: none of {', '.join(CHROMIUM)} is installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens files; fails at the end where a page wrote to its console, raised, or asked for anything else."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(file: Path, width: int = 1200, height: int = 900, dark: bool = False, printed: bool = False) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        url = file.as_uri()

        def only_the_file(route: Any) -> None:
            if route.request.url == url:
                route.continue_()
            else:
                complaints.append(f"request for {route.request.url[:200]}")
                route.abort()

        context.route(lambda address: not address.startswith("data:"), only_the_file)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: complaints.append(f"console {message.type}: {message.text}"))
        if printed:
            page.emulate_media(media="print")
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
