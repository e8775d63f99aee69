"""The page in a browser: no request, no complaint, nothing cut, in a wide and a narrow window."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import reports
from PIL import Image
from report_readers import Page

from coordexp.report.html import write_report
from coordexp.report.style import looks

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=4000",
)


@dataclass(frozen=True)
class Visit:
    """What happened when a page was opened."""

    console: list[str]  # lines that it wrote to the console
    requests: list[str]  # addresses that it asked for
    screenshot: Image.Image
    dom: str


def visit(path: Path, directory: Path, width: int = 1100) -> Visit:
    """Open a page in a headless browser; `directory` is for the browser's files."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no chromium on this machine: the page was not opened in a browser")
    directory.mkdir()
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={directory}/profile",
        f"--log-net-log={directory}/net.json",
        f"--screenshot={directory}/page.png",
        f"--window-size={width},2400",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Visit(
        console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        requests=requests_of(json.loads((directory / "net.json").read_text())),
        screenshot=Image.open(directory / "page.png").convert("RGB"),
        dom=done.stdout,
    )


def requests_of(log: dict) -> list[str]:
    """The addresses that a page asked for, from the browser's log of the network."""
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    addresses = []
    for event in log["events"]:
        job = event.get("params", {})
        # What the browser asks for by itself (updates, accounts) has no origin.
        if event["type"] == start and job.get("initiator") != "not an origin" and "url" in job:
            addresses.append(job["url"])
    return [url for url in addresses if not url.startswith(("file:", "data:"))]


MEASURE = """
<img src="http://127.0.0.1:9/asked.png"><script>
console.error("complained");
document.querySelectorAll("details").forEach(fold => { fold.open = true; });
const heights = [...document.querySelectorAll("figure svg")]
  .map(svg => svg.getBoundingClientRect().height);
const cut = [...document.querySelectorAll("figure svg text")].filter(words => {
  const box = words.getBBox(), sheet = words.ownerSVGElement.viewBox.baseVal;
  return box.x < -1 || box.x + box.width > sheet.width + 1
    || box.y + box.height > sheet.height + 1;
}).map(words => words.textContent);
const scrolling = [...document.querySelectorAll("figure .scroll")]
  .filter(box => box.scrollWidth > box.clientWidth + 1).length;
const overflow = document.documentElement.scrollWidth - window.innerWidth;
const measured = JSON.stringify({heights, cut, scrolling, overflow});
document.body.dataset.measured = measured;
parent.postMessage(measured, "*");
</script></body>"""

# A window of the browser is at least 500 px wide, a frame in it as narrow as one likes.
FRAME = """<body><iframe src="measured.html" width="{width}" height="800"></iframe><script>
window.addEventListener("message", event => { document.body.dataset.measured = event.data; });
</script></body>"""

SAVE = """<script>
HTMLAnchorElement.prototype.click = function () { document.body.dataset.saved = this.href; };
document.querySelector("[data-png=effects]").click();
</script></body>"""


def test_browser_shows_the_page_without_request_or_complaint(in_tmp: Path) -> None:
    report = write_report(reports.study_files())
    opened = visit(in_tmp / report, in_tmp / "browser")
    assert opened.console == []
    assert opened.requests == []
    picture = opened.screenshot
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height) or []}
    assert len(colours) > 50, "the page is next to empty"
    (look,) = looks(["first"]).values()
    first_colour = tuple(bytes.fromhex(look.colour.removeprefix("#")))
    assert first_colour in colours, "no figure shows the first variant"


@pytest.mark.parametrize("width", [1100, 400])
def test_page_of_many_variants_fits_its_window(in_tmp: Path, width: int) -> None:
    """A script in the page measures it.

    It also complains and makes a request, which shows that the test above would notice.
    """
    study = reports.study_files(tuple(reports.LEVELS), seeds=2)
    html = write_report(study).read_text()
    measured_html = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", MEASURE)
    (in_tmp / "measured.html").write_text(measured_html)
    (in_tmp / "frame.html").write_text(FRAME.replace("{width}", str(width)))
    opened = visit(in_tmp / "frame.html", in_tmp / "browser", width=1300)
    assert any("complained" in line for line in opened.console)
    assert opened.requests == ["http://127.0.0.1:9/asked.png"]
    measured = json.loads(str(Page(opened.dom).body.attributes["data-measured"]))
    assert len(measured["heights"]) == 8
    assert min(measured["heights"]) > 150
    assert measured["overflow"] <= 0, "the page scrolls sideways"
    assert measured["cut"] == []
    # Figures are shown whole where there is room; in a narrow window they scroll to stay legible.
    assert (measured["scrolling"] > 0) == (width < 760)


def test_figure_is_saved_as_a_png_by_the_page_alone(in_tmp: Path) -> None:
    html = write_report(reports.study_files()).read_text()
    html = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", html)
    (in_tmp / "save.html").write_text(html.replace("</body>", SAVE))
    opened = visit(in_tmp / "save.html", in_tmp / "browser")
    assert opened.requests == []
    saved = str(Page(opened.dom).body.attributes["data-saved"])
    kind, _, content = saved.partition(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    assert picture.width == 2 * 960, "twice the size of the figure"
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height) or []}
    for variant_look in looks(["first", "second", "third"]).values():
        assert tuple(bytes.fromhex(variant_look.colour.removeprefix("#"))) in colours
    assert (255, 255, 255) in colours, "on paper, whatever the page's colours are"
