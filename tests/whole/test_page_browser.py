"""Pages in a real Chromium, opened from disk with the network off."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from pages import network

from onnxscope import report

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no Chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of the trained network against another, one of a thousand layers, and one of three channels."""
    folder = tmp_path_factory.mktemp("pages")
    samples = FIXTURES / "digits.npz"
    report(FIXTURES / "digits.onnx", samples, against=FIXTURES / "digits_qdq.onnx").save(folder / "digits.html")
    names = [f"stage{n // 100}.block{n // 10 % 10}.conv{n % 10}" for n in range(1000)]
    inputs = np.random.default_rng(0).normal(size=(1, 3, 6, 6)).astype(np.float32)
    onnx.save(network(names), folder / "deep.onnx")
    report(folder / "deep.onnx", inputs, rank="std").save(folder / "deep.html")
    report(network(["first"], channels=3), inputs).save(folder / "few.html")
    return folder


@pytest.fixture
def visit(browser, pages):
    """Open a page; afterwards nothing may have been logged, and nothing but the page itself asked for."""
    faults, asked, contexts = [], [], []

    def opened(name, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((pages / name).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert len([url for url in asked if url.startswith("file")]) == len(contexts)


def shown(page):
    return page.locator("#table tbody tr:visible").count()


def test_search_filter_and_modules_narrow_table_and_cards_alike(visit):
    page = visit("deep.html")
    assert shown(page) == 1000
    page.fill("#search", "stage3 conv7")
    assert shown(page) == 10
    assert page.locator("section.card:not([hidden])").count() == 10
    assert page.locator("#status").inner_text() == "10 of 1000 layers"
    page.fill("#search", "nothing of the kind")
    assert page.locator("#none").is_visible()
    page.fill("#search", "")
    page.locator('nav a[data-scope="stage4"]').click()
    assert shown(page) == 100
    page.locator('nav a[data-scope=""]').click()
    assert shown(page) == 1000


def test_filter_by_operator(visit):
    page = visit("digits.html")
    operators = page.locator("#table tbody tr td:nth-of-type(1)").all_inner_texts()
    assert len(set(operators)) > 1
    page.select_option("#operator", "Conv")
    assert shown(page) == operators.count("Conv")


def test_headings_sort_up_and_down_and_say_so(visit):
    page = visit("digits.html")
    head = page.get_by_role("columnheader", name="parameters")
    place = head.evaluate("cell => cell.cellIndex")
    numbers = f"rows => rows.map(row => Number(row.cells[{place}].innerText.replaceAll(',', '')))"
    rows = page.locator("#table tbody tr")
    head.get_by_role("button").click()
    ascending = rows.evaluate_all(numbers)
    assert head.get_attribute("aria-sort") == "ascending"
    assert ascending == sorted(ascending)
    head.get_by_role("button").click()
    assert rows.evaluate_all(numbers) == ascending[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    page.get_by_role("columnheader", name="layer").get_by_role("button").click()
    assert [
        int(link[2:]) for link in rows.evaluate_all("rows => rows.map(row => row.querySelector('a').hash)")
    ] == list(range(1, len(ascending) + 1))


def test_a_layer_opens_from_the_table_and_its_sheet_unfolds(visit):
    page = visit("digits.html")
    link = page.locator("#table tbody a").nth(2)
    link.click()
    card = page.locator(link.get_attribute("href"))
    assert card.get_by_role("heading", level=3).inner_text() == link.inner_text()
    box = card.bounding_box()
    assert -5 <= box["y"] < page.viewport_size["height"]
    sheet = page.locator("details.sheet").first
    assert not sheet.locator("img").is_visible()
    sheet.locator("summary").click()
    assert sheet.locator("img").is_visible()
    assert sheet.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 10


def test_the_keyboard_alone_is_enough(visit):
    page = visit("digits.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("/")
    page.keyboard.type("conv")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    assert page.input_value("#search") == ""
    page.keyboard.press("Shift+Tab")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == "l2"
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.id") == "l1"
    for _ in range(40):  # every heading of the table can be reached and pressed
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.closest('thead') !== null"):
            break
    page.keyboard.press("Enter")
    assert page.locator("#table [aria-sort]").count() == 1


def test_light_and_dark_follow_the_reader_and_the_button(visit):
    background = "getComputedStyle(document.body).backgroundColor"
    dark = visit("digits.html", color_scheme="dark")
    assert dark.evaluate(background) == "rgb(21, 24, 29)"
    light = visit("digits.html", color_scheme="light")
    assert light.evaluate(background) == "rgb(255, 255, 255)"
    light.get_by_role("button", name="Dark").click()
    assert light.evaluate(background) == "rgb(21, 24, 29)"
    light.get_by_role("button", name="Light").click()
    assert light.evaluate(background) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing_serious(visit, scheme, width):
    page = visit("digits.html", color_scheme=scheme, viewport={"width": width, "height": 900})
    found = axe.Axe().run(page)
    grave = [each["id"] for each in found.response["violations"] if each["impact"] in ("serious", "critical")]
    assert grave == []


def test_nothing_overflows_a_phone(visit):
    for name in ("digits.html", "deep.html"):
        page = visit(name, viewport={"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_thousand_layers_decode_only_what_is_seen(visit):
    page = visit("deep.html")
    assert page.locator("section.card").count() == 1000
    page.wait_for_timeout(200)
    decoded = page.locator("section.card .maps img").evaluate_all(
        "images => images.filter(image => image.complete && image.naturalWidth).length"
    )
    assert decoded < 50


def test_without_script_everything_is_there(visit):
    page = visit("digits.html", java_script_enabled=False)
    assert page.locator("#table tbody tr").count() == page.locator("section.card").count() > 4
    assert not page.locator("#search").is_visible()
    assert page.locator("#table thead th").first.inner_text() == "layer"


def test_print_shows_every_card(visit):
    page = visit("digits.html")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("section.card img").first.is_visible()


def test_a_link_to_a_layer_that_is_filtered_away_brings_it_back(visit):
    page = visit("deep.html")
    page.fill("#search", "nothing of the kind")
    link = page.locator(".attention a").first
    link.click()
    card = page.locator(link.get_attribute("href"))
    assert card.is_visible()
    assert -5 <= card.bounding_box()["y"] < page.viewport_size["height"]
    assert page.input_value("#search") == ""
    assert shown(page) == 1000


def test_the_strips_of_few_channels_stand_beside_their_words(visit):
    page = visit("few.html")
    bands = page.locator(".bands").first
    image, last = bands.locator("img").bounding_box(), bands.locator("li").last.bounding_box()
    assert image["y"] + image["height"] == pytest.approx(last["y"] + last["height"], abs=1)
    assert image["width"] > 100
