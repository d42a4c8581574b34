"""Pages in Chromium: what they show, and that they have no error and request nothing."""

import shutil
from pathlib import Path

import pytest

DESKTOP = {"viewport": {"width": 1440, "height": 900}}


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as started:
        paths = [shutil.which(name) for name in names] + [started.chromium.executable_path]
        path = next((p for p in paths if p and Path(p).exists()), None)
        if path is None:
            pytest.skip("no Chromium is installed")
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens files; in the end, no page has had an error or requested anything else."""
    contexts, complaints, visited, requests = [], [], set(), set()

    def visit(path, **options):
        context = browser.new_context(**{**DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.add(request.url))
        visited.add(path.as_uri())
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} <= visited
