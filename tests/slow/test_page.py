"""The web page of `finlab serve --page` in a real browser: headless Chromium."""

import shutil
import time
import urllib.parse

import pytest

from tests import talker
from tests.conftest import FINLAB
from tests.test_serving import Server

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture
def page():
    """A page of a browser, which keeps account of what it asks for and what goes wrong."""
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: the page cannot be opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": 1100, "height": 800})
        made.asked = []
        made.faults = []
        made.on("request", lambda request: made.asked.append(request.url))
        made.on("pageerror", lambda error: made.faults.append(str(error)))
        yield made
        browser.close()


def test_a_colleague_talks_on_the_page(page, chat_model, tmp_path):
    server = Server([*FINLAB, "serve", str(chat_model), "--page"], tmp_path / "log")
    try:
        page.goto(f"{server.url}/page")
        box = page.get_by_role("textbox").first
        box.wait_for()
        for question, answer in (
            (talker.WHERE[0]["content"], talker.IN_TOWN),
            ("哪一年成立？", talker.IN_YEAR),
        ):
            box.fill(question)
            box.press("Enter")
            page.get_by_text(answer, exact=True).wait_for(timeout=20_000)
        assert "不构成投资建议" in page.content()
        # A prompt without room: one sentence on the page, and the server stays up.
        box.fill("长" * 2000)
        box.press("Enter")
        page.get_by_text("and the model reads 1,024").first.wait_for(timeout=20_000)
        assert server.choice(model="merged", messages=talker.WHERE)["message"]["content"]
        hosts = {urllib.parse.urlsplit(url).hostname for url in page.asked}
        assert hosts - {None} == {"127.0.0.1"}, "the page asks nobody else"
        assert not page.faults
    finally:
        server.stop()


def test_the_page_is_there_within_seconds(page, chat_model, tmp_path):
    server = Server([*FINLAB, "serve", str(chat_model), "--page"], tmp_path / "log")
    try:
        began = time.monotonic()
        page.goto(f"{server.url}/page")
        page.get_by_role("textbox").first.wait_for()
        assert time.monotonic() - began < 10
    finally:
        server.stop()
