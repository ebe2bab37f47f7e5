"""The report as readers meet it: in a real browser, from the keyboard, on paper."""

import json

import pytest

from layerticket.report.page import write_report
from made_study import make_study

WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    study = make_study(seeds=3, failed=1, title="Layers <b>against</b> filters")
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    return write_report(folder, figures=False).page.as_uri()


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
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator("svg").wait_for()


def dots(page, figure):
    """How many points a chart shows."""
    return page.locator(f"#{figure} .mark-symbol.role-mark path").count()


def wait_for_dots(page, figure, how_many):
    """Wait until the number of points that a chart shows meets a condition in n."""
    found = f"document.querySelectorAll('#{figure} .mark-symbol.role-mark path').length"
    page.wait_for_function(f"((n) => {how_many})({found})")


def colour_of(page, what):
    return page.evaluate(f"getComputedStyle(document.querySelector({what!r})).backgroundColor")


def test_every_chart_is_drawn(opened):
    page = opened()
    see_all(page)
    assert page.locator(".plot svg").count() == 9
    assert dots(page, "comparisons") == 7  # one for each method
    assert dots(page, "accuracy-resnet32-projection") == 8  # and dense
    cells = page.locator("#blocks-resnet32-projection-remove-5 .mark-rect.role-mark path")
    assert cells.count() > 13 * 21  # every block of every ticket, and the shades


def test_text_is_never_run_as_code(browser, address):
    page = browser.new_page()
    page.goto(address)
    for number, made in enumerate(("eval('1')", "Function('return 1')()")):
        # In a task of its own: while the driver's call runs, the browser lets eval pass.
        code = f"try {{ made[{number}] = {made} }} catch (error) {{ made[{number}] = error.name }}"
        page.add_script_tag(content=f"window.made ??= []; setTimeout(() => {{ {code} }}, 0)")
        page.wait_for_function(f"window.made[{number}] !== undefined")
    assert page.evaluate("window.made") == ["EvalError", "EvalError"]
    page.close()


def test_a_pointer_at_a_point_is_told_its_row(opened):
    page = opened()
    see_all(page)
    point = page.locator("#comparisons .mark-symbol.role-mark path").first
    point.scroll_into_view_if_needed()
    point.hover()  # waits until it stands still
    tip = page.locator("#tip")
    tip.wait_for(state="visible", timeout=5000)
    assert tip.inner_text().startswith("method: grasp\n")
    page.locator("h3", has_text="Difference to the dense network").hover()
    tip.wait_for(state="hidden")


@pytest.mark.parametrize("section", ["accuracy", "cost", "robustness", "curves"])
def test_a_click_on_the_legend_hides_a_method_and_another_shows_it(opened, section):
    page = opened()
    see_all(page)
    figure = page.locator(f"#{section} figure").first.get_attribute("id")
    before = dots(page, figure)
    name = page.locator(f"#{figure} .role-legend-label text", has_text="snip").first
    name.click()
    wait_for_dots(page, figure, f"0 < n && n < {before}")
    name.click()
    wait_for_dots(page, figure, f"n === {before}")


def test_a_hidden_method_is_hidden_in_every_chart(opened):
    page = opened()
    see_all(page)
    rows = page.locator("#comparisons .role-axis-label text", has_text="snip")
    cells = page.locator("#similarity .role-axis-label text", has_text="snip")
    before = dots(page, "comparisons")
    assert rows.count() == 2  # snip, weights snip
    page.locator(".methods button", has_text="snip").first.click()
    wait_for_dots(page, "comparisons", f"n === {before - 1}")
    page.wait_for_function(
        "[...document.querySelectorAll('#accuracy .role-legend-label text')].some((text) =>"
        " text.textContent === 'snip' && text.getAttribute('opacity') === '0.3')"
    )
    assert (rows.count(), cells.count()) == (1, 1)
    page.locator(".methods button", has_text="snip").first.click()
    wait_for_dots(page, "comparisons", f"n === {before}")


def test_the_last_method_cannot_be_hidden(opened):
    page = opened()
    see_all(page)
    before = dots(page, "accuracy-resnet32-projection")
    for button in page.locator(".methods button").all():
        button.click()
    wait_for_dots(page, "accuracy-resnet32-projection", f"n === {before}")
    assert page.locator(".methods button[aria-pressed=false]").count() == 0


def column(page, table, at):
    return page.locator(
        f'[data-table="{table}"] tbody tr:visible td:nth-child({at})'
    ).all_inner_texts()


def test_tables_are_sorted_by_figures_not_by_letters(opened):
    page = opened()
    heads = page.locator('[data-table="runs"] th').all_inner_texts()
    at = heads.index("test accuracy") + 1
    head = page.locator(f'[data-table="runs"] th:nth-child({at})')
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    shown = column(page, "runs", at)
    known = [float(text.split()[0]) for text in shown if "not" not in text]
    assert known == sorted(known)
    assert "not measured" in shown[-1]
    head.locator("button").click()
    shown = column(page, "runs", at)
    known = [float(text.split()[0]) for text in shown if "not" not in text]
    assert known == sorted(known, reverse=True)
    assert "not measured" in shown[-1]


def test_tables_are_filtered(opened):
    page = opened()
    count = len(column(page, "runs", 1))
    page.locator('[data-table="runs"] input').fill("random remove")
    left = column(page, "runs", 2)
    assert set(left) == {"random blocks"}
    assert f"{len(left)} of {count} rows" in page.locator('[data-table="runs"] .tools').inner_text()
    page.locator('[data-table="runs"] input').fill("")
    assert len(column(page, "runs", 1)) == count


def test_a_table_is_downloaded_as_csv(opened, tmp_path):
    page = opened()
    page.locator("#comparisons svg").wait_for()
    with page.expect_download() as download:
        page.locator('[data-table="runs"] .tools a').click()
    assert download.value.suggested_filename == "runs.csv"
    download.value.save_as(tmp_path / "runs.csv")
    lines = (tmp_path / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("network,budget,method,draw,seed,status,test accuracy")
    assert len(lines) == 1 + len(column(page, "runs", 1))


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
        "getComputedStyle(document.querySelector('#comparisons .role-axis-label text')).fill"
    ) == page.evaluate("getComputedStyle(document.querySelector('h1')).color")
    page.get_by_role("button", name="Switch to light").click()
    assert colour_of(page, "body") != dark
    assert page.evaluate(
        "getComputedStyle(document.querySelector('#comparisons .role-axis-label text')).fill"
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
    for link in page.locator("nav a").all():
        box = link.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]
    for name in (
        "comparisons",
        "accuracy-resnet32-projection",
        "cost-resnet32-projection-remove-5",
    ):
        box = page.locator(f"#{name} svg").bounding_box()
        assert box["width"] <= PHONE["width"]


@pytest.mark.parametrize("viewport", [WIDE, PHONE])
def test_names_of_rows_are_whole(browser, tmp_path, viewport):
    study = make_study(
        seeds=2, models=("resnet32-projection", "resnet56-projection"), removals=(5, 7)
    )
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    page = browser.new_page(viewport=viewport)
    page.goto(write_report(tmp_path, figures=False).page.as_uri())
    see_all(page)
    names = page.locator("#comparisons .role-axis-label text")
    lines = "(text) => [...text.querySelectorAll('tspan')].map((one) => one.textContent).join(' ')"
    shown = [name.evaluate(lines) or name.text_content() for name in names.all()]
    assert "random blocks, remove 5, resnet32-projection" in [
        name.replace("- ", "-") for name in shown
    ]
    assert not [name for name in shown if "\u2026" in name]
    boxes = [name.bounding_box() for name in names.all()]
    assert min(box["x"] for box in boxes) >= 0
    rows = [box for name, box in zip(shown, boxes, strict=True) if name[0].isalpha()]  # no ticks
    assert len(rows) == 28
    dots = page.locator("#comparisons .mark-symbol.role-mark path").all()
    middles = [box["y"] + box["height"] / 2 for box in rows]
    heights = {round(dot["y"] + dot["height"] / 2) for dot in (d.bounding_box() for d in dots)}
    assert all(min(abs(middle - height) for height in heights) < 5 for middle in middles)
    ends = [box["y"] + box["height"] for box in rows]
    assert all(end <= box["y"] for end, box in zip(ends, rows[1:], strict=False))  # none overlap
    page.close()


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
        "[...document.querySelectorAll('.plot')].filter((p) => p.querySelector('svg')).length"
        "]; })"
    )
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    assert page.evaluate("window.printed") == ["light", 9, 9]
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
