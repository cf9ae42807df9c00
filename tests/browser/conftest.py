"""A real browser: chromium, found on the path or named by CHROMIUM, driven by playwright."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(
    scope="module"
)  # no longer: while playwright runs, no other test of this thread can start an event loop
def chromium():
    """The browser, started once a file."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install playwright"
    )
    names = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    named = os.environ.get("CHROMIUM") or next(filter(None, names), None)
    with playwright.sync_playwright() as started:
        if named is None and not os.path.exists(started.chromium.executable_path):
            pytest.skip(
                "no chromium: install one, name it by CHROMIUM, or run: playwright install chromium"
            )
        browser = started.chromium.launch(executable_path=named, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium):
    """A new window, which must show no error in its console."""
    context = chromium.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda message: faults.append(message.text) if message.type == "error" else None
    )
    page.faults = faults
    yield page
    context.close()
    assert faults == []
