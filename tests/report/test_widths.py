"""The page on a narrow screen: what is wide moves in a box of its own, and the page does not."""

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from pipeline.core.graph import Graph
from pipeline.report.html import write_report
from tests.processes import GUARD_SECONDS
from tests.report.test_page import make_run

NARROW = 390
VOID = {"meta", "link", "br", "img", "hr", "input"}
BOXES = {"plot", "table"}


class Outline(HTMLParser):
    """Every table and figure with the classes of what it stands in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, set[str]]] = []
        self.found: list[tuple[str, set[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag in ("table", "svg", "pre"):
            self.found.append((tag, set().union(*(classes for _, classes in self.open))))
        if tag not in VOID:
            self.open.append((tag, set((dict(attrs).get("class") or "").split())))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow")
    run = make_run(folder / "run", Graph(2, 4, 4), missing=("pronoun/eap/1",))
    return write_report(run, folder / "report.html").read_text()


def test_every_table_and_figure_stands_in_a_box_that_scrolls_by_itself(page):
    found = Outline(page).found
    assert {tag for tag, _ in found} == {"table", "svg"}
    assert all(classes & BOXES for _, classes in found)
    sheet = files("pipeline.report").joinpath("page.css").read_text()
    scrolling = re.search(r"([^}]*)\{ overflow-x: auto;", sheet).group(1)
    assert {f".{box}" for box in BOXES} == set(re.findall(r"\.\w+", scrolling))


def test_what_stands_in_no_box_breaks_anywhere_and_has_no_width_of_its_own():
    sheet = files("pipeline.report").joinpath("page.css").read_text()
    rules = dict(re.findall(r"^([^{}@/]+?) \{([^}]*)\}", sheet, re.MULTILINE | re.DOTALL))
    for text in ("h1", "h2", "h3", "p, li", "code, .mono", "dd", ".muted"):
        assert "overflow-wrap: anywhere" in rules[text], text
    for selector, body in rules.items():
        if "svg" not in selector and "td" not in selector:
            assert not re.search(r"(?<!max-)width: \d{3,}px", body), selector


@pytest.mark.slow
def test_a_browser_finds_nothing_wider_than_a_narrow_screen(page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium, which is not installed")
    inside = re.sub(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page
    )  # so that a script may measure
    frame = f'<iframe width="{NARROW}" height="800" style="border:0" srcdoc="{escape(inside)}"></iframe>'
    script = (
        "document.querySelector('iframe').onload = event => { const root = event.target.contentDocument."
        "documentElement; document.title = `widths ${root.clientWidth} ${root.scrollWidth}`; }"
    )
    holder = tmp_path / "holder.html"
    holder.write_text(f"<!doctype html><title>-</title>{frame}<script>{script}</script>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [chromium, *options, f"--user-data-dir={tmp_path / 'profile'}", holder.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=GUARD_SECONDS,
    )
    shown, needed = map(int, re.search(r"<title>widths (\d+) (\d+)</title>", done.stdout).groups())
    assert NARROW - 20 <= shown <= NARROW  # a scroll bar may take its part
    assert needed <= shown
