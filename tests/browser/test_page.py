"""The report's page in Chromium, at the widths of a desk and of a phone, light and dark."""

import re

import pytest
from tests.study import synthetic

from .conftest import KEEPS, TASK

pytestmark = pytest.mark.browser

CONTRAST = """
() => {
  const parsed = text => { const p = text.match(/[\\d.]+/g).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = c => {
    const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const c = parsed(getComputedStyle(one).backgroundColor);
      if (c[3] > 0) layers.push(c);
      if (c[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const ink = getComputedStyle(document.body).color;
  const found = [];
  let looked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !element.getClientRects().length || element.closest("script, style, noscript, .skip")) continue;
    const style = getComputedStyle(element), svg = element instanceof SVGElement;
    // On coloured cells the text is black or white, by the cell.
    if (svg && style.fill !== ink) continue;
    const colour = parsed(svg ? style.fill : style.color);
    colour[3] *= Number(style.opacity) * (svg ? Number(style.fillOpacity) : 1);
    const back = ground(svg ? element.closest("svg").parentElement : element);
    const a = light(over(colour, back)), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    looked++;
    if (ratio < 4.5) found.push([text.slice(0, 40), ratio.toFixed(2)]);
  }
  return { looked, found };
}
"""


def status(page):
    return page.locator("#said").inner_text()


def dropped(page):
    """The ids under the veil, read from its path."""
    path = page.locator("#stage .veil").get_attribute("d")
    ids = set()
    for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1", path):
        ids |= {int(row) * synthetic.SIDE + int(column) + place for place in range(int(width))}
    return ids


def row_of(made, model, method, keep, sample):
    for cell, rows in made.content.values():
        if (cell.model, cell.method, cell.keep) == (model, method, keep):
            return next(row for row in rows if row.sample == sample)
    raise AssertionError((model, method, keep, sample))


def test_nothing_is_wider_than_the_page(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_figure_is_seen(page):
    drawn = page.locator("figure svg")
    assert drawn.count() == 20
    for number in range(drawn.count()):
        box = drawn.nth(number).bounding_box()
        assert box["width"] > 250
        assert box["height"] > 80
        assert drawn.nth(number).locator("path, image, text").count() > 5


def test_all_text_can_be_read(page):
    for summary in page.locator("summary").all():
        summary.click()
    result = page.evaluate(CONTRAST)
    assert result["looked"] > 1000
    assert result["found"] == []


def test_the_scheme_of_the_reader_is_followed_until_another_is_chosen(page):
    def plot_settings():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
    assert plot_settings() == (dark if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else light)
    button = page.get_by_role("button", name="Theme")
    for name, colour in (("light", light), ("dark", dark)):
        button.click()
        assert button.inner_text() == f"Theme: {name}"
        assert plot_settings() == colour
    page.reload()
    assert plot_settings() == dark


def test_the_slider_shows_what_was_kept_and_answered(page, made):
    slider = page.locator("#budget")
    slider.focus()
    page.keyboard.press("Home")
    assert status(page).startswith("144 of 144 tokens")
    assert dropped(page) == set()
    before = set()
    for step, keep in enumerate(KEEPS, start=1):
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == f"keep {keep}"
        row = row_of(made, "small-a", "script", keep, "p00-0")
        kept = set(row.kept[-1])
        assert dropped(page) == set(range(synthetic.TOKENS)) - kept
        # Chains are nested, so what is gone stays gone.
        assert before < dropped(page)
        before = dropped(page)
        assert page.locator("#stage").get_attribute("data-kept") == str(len(kept))
        said = status(page)
        assert f"{len(kept)} of 144 tokens" in said
        assert f"\u201c{row.answer}\u201d" in said
        assert ("right" if row.correct else "wrong") in said
        line = page.locator("#steps tr").nth(step)
        assert "now" in line.get_attribute("class")
        assert line.inner_text().split("\t")[:3] == [f"keep {keep}", str(len(kept)), row.answer]
    page.keyboard.press("ArrowRight")
    assert status(page).startswith("0 of 144 tokens")
    assert len(dropped(page)) == 144


def test_any_model_recipe_and_question_can_be_picked(page, made):
    page.locator("#pick-view").select_option(label="small-b on shapes")
    page.locator("#pick-method").select_option(label="control: uniform")
    page.locator("#after").click()
    sample = page.locator("#asked").inner_text().split(" \u00b7 ")[-1]
    number = page.locator("#pick-sample").evaluate("one => one.selectedIndex")
    assert number == 1
    row = row_of(made, "small-b", "uniform", "1/3", sample)
    assert dropped(page) == set(range(synthetic.TOKENS)) - set(row.kept[-1])
    asked = next(one for one in TASK.samples() if one.id == sample)
    assert page.locator("#question").inner_text() == asked.question
    page.locator("#before").click()
    page.locator("#before").click()
    assert page.locator("#pick-sample").evaluate("one => one.selectedIndex") == 23
    assert page.locator("#stage img").evaluate("one => one.complete && one.naturalWidth") == 96
    assert page.locator("#stage .need").count() == 2


def test_the_gallery_has_every_method_and_picks_it_by_the_keyboard(page, made):
    buttons = page.locator("#gallery button")
    methods = page.locator("#pick-method option").count()
    assert buttons.count() == methods
    button = buttons.filter(has_text="fastv").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator("#pick-method").evaluate("one => one.selectedOptions[0].text") == "fastv"
    row = row_of(made, "small-a", "fastv", "1/3", "p00-0")
    assert dropped(page) == set(range(synthetic.TOKENS)) - set(row.kept[-1])
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


ONCE = pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
"""For what depends neither on the width nor on the scheme."""


def test_it_starts_with_what_won_then_a_figure_then_findings(page):
    parts = ("#headline", "figure svg", "#findings")
    tops = [page.locator(part).first.bounding_box()["y"] for part in parts]
    assert tops == sorted(tops)
    assert "script has the most right answers at" in page.locator("#headline").inner_text()


def test_the_whole_navigation_is_seen(page):
    for link in page.locator("nav a").all():
        box = link.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.viewport_size["width"]


@ONCE
def test_a_table_is_copied_as_its_file(page, page_file):
    # A page from a disk has no clipboard in every browser, so what is copied is caught.
    page.evaluate("""() => {
      window.caught = [];
      Object.defineProperty(navigator, "clipboard", {
        value: { writeText: function (text) { window.caught.push(text); return Promise.resolve(); } },
        configurable: true
      });
    }""")
    table = page.locator("#table-accuracy-small-a-on-shapes")
    for kind, end in (("LaTeX", "tex"), ("Markdown", "md"), ("CSV", "csv")):
        button = table.get_by_role("button", name=f"Copy {kind}")
        button.click()
        file = page_file.parent / "tables" / f"accuracy-small-a-on-shapes.{end}"
        assert page.evaluate("window.caught.pop()") == file.read_text(encoding="utf-8")
        table.get_by_role("button", name="Copied").first.wait_for()
    figure = page.locator("figure").first
    figure.get_by_role("button", name="Copy SVG").click()
    assert page.evaluate("window.caught.pop()").startswith("<svg")


@ONCE
def test_without_a_clipboard_the_selection_is_copied(page):
    page.evaluate("""() => {
      Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
      document.execCommand = function () { window.caught = document.activeElement.value; return true; };
    }""")
    page.locator("#table-accuracy-small-a-on-shapes").get_by_role("button", name="Copy CSV").click()
    assert page.evaluate("window.caught").startswith("group,row,role,")
    assert page.locator("textarea").count() == 0


@ONCE
def test_tables_and_figures_have_links(page):
    for kind in ("table", "figure"):
        links = page.locator(f'a.anchor[href^="#{kind}-"]')
        assert links.count() > 8
        for link in links.all():
            assert page.locator(link.get_attribute("href")).count() == 1


@ONCE
def test_intervals_and_columns_are_switched(page):
    table = page.locator("#table-accuracy-small-a-on-shapes")
    assert table.locator("td small").first.is_visible()
    page.locator("#intervals").uncheck()
    assert not table.locator("td small").first.is_visible()
    page.locator("#intervals").check()
    heads = table.locator("thead th")
    name = heads.nth(1).inner_text()
    assert heads.nth(1).is_visible()
    table.locator(".tools summary").click()
    table.get_by_label(name, exact=True).uncheck()
    assert not heads.nth(1).is_visible()
    hidden = table.locator("tbody tr:not(.group)").evaluate_all(
        "all => all.map(one => [...one.cells].map(c => c.hidden))"
    )
    assert all(row[2] and sum(row) == 1 for row in hidden)


@ONCE
def test_curves_are_switched(page):
    figure = page.locator("figure").first
    buttons = figure.locator(".switches button")
    names = [one.inner_text() for one in buttons.all()]
    assert {"script", "gsp", "qcsp", "fastv", "random", "uniform"} <= set(names)
    number = names.index("gsp")
    parts = figure.locator(f'svg g[id*="-curve-{number}-"]')
    assert parts.count() >= 1
    buttons.nth(number).click()
    assert buttons.nth(number).get_attribute("aria-pressed") == "false"
    assert all(not part.is_visible() for part in parts.all())
    others = figure.locator(f'svg g[id*="-curve-"]:not([id*="-curve-{number}-"])')
    assert all(part.evaluate("one => one.style.display") != "none" for part in others.all())
    buttons.nth(number).click()
    assert all(part.is_visible() for part in parts.all())


def test_long_lists_are_folded(page):
    shown = page.locator("#findings .answers ul > li")
    for details in page.locator("#findings .answers details").all():
        assert not details.evaluate("one => one.open")
    for lists in page.locator("#findings .answers > li > ul").all():
        assert lists.locator("li").count() <= 5
    assert shown.count() > 0


def test_ticks_do_not_collide(page):
    colliding = page.evaluate("""() => {
      const found = [];
      for (const axis of document.querySelectorAll('figure svg g[id*="matplotlib.axis"]')) {
        const boxes = [...axis.querySelectorAll('g[id*="tick_"] text')].map(one => one.getBoundingClientRect());
        for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
          const a = boxes[i], b = boxes[j];
          if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom && a.width && b.width)
            found.push(axis.closest("figure").id);
        }
      }
      return [...new Set(found)];
    }""")
    # Names of methods along an overlap are turned, so their boxes cover each other though they do not.
    assert [name for name in colliding if not name.startswith("figure-overlap")] == []


def test_the_first_tab_leads_past_the_head(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the findings"
    box = page.locator(".skip").bounding_box()
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#findings"


def test_links_of_the_head_lead_somewhere(page):
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


def test_without_scripts_all_but_the_viewer_is_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("figure svg").count() == 20
    assert page.get_by_text("Does any method beat the best control?").is_visible()
    assert page.get_by_text("The viewer needs JavaScript").is_visible()
    assert not page.locator("#viewer-parts").is_visible()
    context.close()
