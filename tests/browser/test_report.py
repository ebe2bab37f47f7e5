"""The report as readers meet it: in a real browser, from the keyboard, on paper."""

import pytest

from layerticket.report.page import write_report
from made_study import make_study

WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    study = make_study(seeds=3, failed=1, title="Layers <b>against</b> filters")
    return write_report(study, out, figures=False)[0].as_uri()


@pytest.fixture
def opened(browser, address):
    """Open the page; at the end nothing was complained about and nothing was fetched."""
    complaints, requests, pages = [], [], []

    def open_page(**how):
        page = browser.new_page(**{"viewport": WIDE} | how)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []
    assert set(requests) == {address}


def see_all(page):
    """Scroll through, so that every chart is drawn."""
    for plot in page.query_selector_all(".plot"):
        plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
    )


def colour_of(page, what):
    return page.evaluate(f"getComputedStyle(document.querySelector({what!r})).backgroundColor")


def test_every_chart_is_drawn(opened):
    page = opened()
    see_all(page)
    counts = page.evaluate(
        "[...document.querySelectorAll('.plot')].map((plot) => [plot.dataset.figure,"
        " plot.querySelectorAll('path.point, path.js-line, .hm image').length])"
    )
    assert len(counts) == 8
    drawn = dict(counts)
    assert drawn["comparisons"] == 7  # one point for each method
    assert drawn["accuracy-resnet32-projection"] == 8  # and dense
    assert drawn["blocks-resnet32-projection-remove-5"] == 2  # the shades and what lies below
    assert all(number > 0 for number in drawn.values())


def test_no_button_sends_a_chart_anywhere(opened):
    page = opened()
    see_all(page)
    titles = page.evaluate(
        "[...document.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title || b.ariaLabel)"
    )
    assert titles
    assert not [title for title in titles if "cloud" in title.lower() or "share" in title.lower()]
    assert page.query_selector(".plotlyjsicon, .modebar-btn--logo") is None


def test_the_first_screen_holds_the_three_answers(opened):
    page = opened()
    for name in ("Did it win?", "What did it save?", "Can I trust it?"):
        box = page.get_by_role("heading", name=name).first.bounding_box()
        assert box["y"] < 400
    assert page.locator(".verdict").bounding_box()["y"] < 300
    assert page.locator(".cards:not([hidden]) .big").inner_text()
    assert page.locator("h1").inner_text() == "Layers <b>against</b> filters"


def test_dark_follows_the_system_and_the_button(opened):
    page = opened(color_scheme="dark")
    dark = colour_of(page, "body")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    see_all(page)
    assert page.evaluate(
        "getComputedStyle(document.querySelector('#comparisons .ytick text')).fill"
    ) == page.evaluate("getComputedStyle(document.querySelector('h1')).color")
    page.get_by_role("button", name="Switch to light").click()
    assert colour_of(page, "body") != dark
    assert page.evaluate(
        "getComputedStyle(document.querySelector('#comparisons .ytick text')).fill"
    ) == page.evaluate("getComputedStyle(document.querySelector('h1')).color")


def test_the_keyboard_reaches_everything(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdict")
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    summary = page.locator("#accuracy summary").first
    summary.focus()
    assert not page.locator("#accuracy table").first.is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#accuracy table").first.is_visible()


def test_another_ticket_can_be_chosen(opened):
    page = opened()
    shown = page.locator(".cards:not([hidden])")
    before = shown.inner_text()
    page.locator("#ticket").focus()
    page.keyboard.press("ArrowDown")
    assert shown.count() == 1
    assert shown.inner_text() != before


def test_a_phone_scrolls_one_way_only(opened):
    page = opened(viewport=PHONE)
    see_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_sheet_of_paper_is_wide_enough(opened):
    page = opened(viewport={"width": 750, "height": 1050})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 750


def test_it_prints_light_and_with_every_chart(opened):
    page = opened(color_scheme="dark")
    page.evaluate(
        "addEventListener('beforeprint', () => { window.printed = ["
        "document.documentElement.dataset.theme, document.querySelectorAll('.plot').length,"
        "[...document.querySelectorAll('.plot')].filter((p) => p.querySelector('.main-svg')).length"
        "]; })"
    )
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    assert page.evaluate("window.printed") == ["light", 8, 8]
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
