"""A report of a made-up study, and a real browser to styles at it."""

import os
import shutil

import pytest
from tests.study import synthetic

from tokensieve.plugins.registry import default_registry
from tokensieve.study.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TASK = synthetic.Shapes(pictures=24)
KEEPS = ("1/3", "1/9", "1/36")


@pytest.fixture(scope="session")
def made():
    return synthetic.study(TASK, keeps=KEEPS, methods=("script", "gsp", "qcsp", "fastv"))


@pytest.fixture(scope="session")
def page_file(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tasks = {TASK.hash(): TASK}
    return write_report(
        made, folder, default_registry(), title="A made-up study", studies=["name: x"], tasks=tasks
    ).page


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"there is no browser: none of {', '.join(NAMES)} is installed; install one, or set CHROMIUM to one"
        )
    with sync_playwright() as playwright:
        # In a container there is no user to sandbox it for, and little shared memory.
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(
    params=[(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")],
    ids=lambda one: f"{one[0]}-{one[1]}",
)
def page(request, browser, page_file):
    """The page at a width and in a scheme; what it said to the console, and asked for, is looked at in the end."""
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce", has_touch=width < 500
    )
    opened = context.new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda one: asked.append(one.url))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}
