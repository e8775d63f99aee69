"""The page in a browser: nothing is asked for, nothing complained of, nothing cut, at a desk and on a telephone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import reports
from PIL import Image
from report_readers import Page

from coordexp.report.html import write_report


def browse(
    path: Path, directory: Path, width: int = 1100
) -> tuple[list[str], list[str], Image.Image, str]:
    """Open a page in a headless browser: its console lines, the requests it made, a screenshot, and its DOM."""
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if chromium is None:
        pytest.skip("no chromium on this machine: the page was not opened in a browser")
    directory.mkdir()
    quiet = (
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-extensions",
    )
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        *(f"--{flag}" for flag in quiet), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={directory}/profile",
        f"--log-net-log={directory}/net.json", f"--screenshot={directory}/page.png", f"--window-size={width},2400", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    log = json.loads((directory / "net.json").read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [
        event["params"]
        for event in log["events"]
        if event["type"] == start and "url" in event.get("params", {})
    ]
    # The browser's own errands (updates, accounts) have no origin; what a page asks for has one.
    asked = [
        job["url"]
        for job in jobs
        if job.get("initiator") != "not an origin" and not job["url"].startswith(("file:", "data:"))
    ]
    return console, asked, Image.open(directory / "page.png").convert("RGB"), done.stdout


MEASURE = """
<img src="http://127.0.0.1:9/asked.png"><script>
console.error("complained");
const high = [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().height);
const cut = [...document.querySelectorAll("figure svg text")].filter(words => {
  const box = words.getBBox(), sheet = words.ownerSVGElement.viewBox.baseVal;
  return box.x < -1 || box.x + box.width > sheet.width + 1 || box.y + box.height > sheet.height + 1;
}).map(words => words.textContent);
const scrolls = [...document.querySelectorAll("figure .scroll")].filter(box => box.scrollWidth > box.clientWidth + 1).length;
const measured = {high, cut, scrolls, wide: document.documentElement.scrollWidth - window.innerWidth};
document.body.dataset.measured = JSON.stringify(measured);
</script></body>"""


def test_a_browser_shows_it_and_has_nothing_to_complain_of(in_tmp: Path) -> None:
    report = write_report(reports.study_files())
    console, asked, picture, _ = browse(in_tmp / report, in_tmp / "own")
    assert console == []
    assert asked == []
    colours = picture.getcolors(picture.width * picture.height)
    assert len(colours) > 50, "the page is next to empty"
    assert (0, 114, 178) in {colour for _, colour in colours}, (
        "no figure shows the first variant's colour"
    )


@pytest.mark.parametrize("width", [1100, 500])
def test_a_page_of_many_variants_fits_its_window_and_no_label_is_cut(
    in_tmp: Path, width: int
) -> None:
    """A copy that does complain, ask and measure: the checks above can fail, and every figure has its place."""
    study = reports.study_files(tuple(reports.LEVELS), seeds=2)
    html = write_report(study).read_text()
    probed = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", MEASURE)
    (in_tmp / "probed.html").write_text(probed)
    console, asked, _, dom = browse(in_tmp / "probed.html", in_tmp / "probed", width)
    assert any("complained" in line for line in console)
    assert asked == ["http://127.0.0.1:9/asked.png"]
    (measured,) = [a["data-measured"] for tag, a in Page(dom).tags if tag == "body"]
    sizes = json.loads(str(measured))
    assert len(sizes["high"]) == 7
    assert min(sizes["high"]) > 150
    assert sizes["wide"] <= 0, "the page scrolls sideways"
    assert sizes["cut"] == []
    assert (sizes["scrolls"] > 0) == (width < 760), (
        "figures are shown whole where there is room, and stay legible where not"
    )
