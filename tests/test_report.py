"""The report: everything on one page, nothing from outside it, whatever parts of a study are missing."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import chdir
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from studies import eval_row, write_run, write_study

from coordexp.cli import main
from coordexp.files import read_json, write_json
from coordexp.report.commands import run_commands, study_command
from coordexp.report.html import duration, lead_value, moment, number, write_report
from coordexp.report.leads import Lead, leads
from coordexp.runs import RunDirectory
from coordexp.study import plan_study, preregister

ROWS = {
    "softce_w1_gate": eval_row(24.1, 55.5, 0.171, 0.086, 40.0, 5.0),
    "pure_ce": eval_row(23.6, 55.1, 0.218, 0.167, 39.0, 3.0),
    "mixed": eval_row(24.3, 56.5, 0.200, 0.104, 41.0, 4.0),
}
FIGURES = {"effects", "curves", "leads", "ratios", "slices", "losses"}
QUESTIONS = [
    "evidence",
    "snapshots",
    "curves",
    "audit",
    "temperature",
    "plateau",
    "slices",
    "losses",
    "caveats",
    "rule",
    "runs",
    "again",
]
EVIL = """<img src=x onerror=alert(1)>"'&amp;$y_1^2$"""


class Page(HTMLParser):
    """What a test asks of a page: its tags with their attributes, its text, its headings' ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.words = html, [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def decided(runs: list[RunDirectory], **study: Any) -> Path:
    path = write_study(runs, **study)
    for verb in ("audit", "compare", "recommend"):
        main([verb, str(path)])
    return path


def reported(study: Path) -> Page:
    return Page(write_report(study).read_text())


def figures_of(study: Path) -> set[str]:
    return {path.stem for path in study.glob("figures/*.svg")}


def change(path: Path, edit: Callable[[Any], None]) -> None:
    content = read_json(path)
    edit(content)
    write_json(path, content)


def renamed(run: RunDirectory, variant: str) -> RunDirectory:
    """The same run under another variant's name."""
    new = RunDirectory(Path("results/runs") / variant / run.path.name)
    shutil.copytree(run.path, new.path)
    change(new.manifest, lambda m: m.update(variant=variant))
    return new


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study with every part there, and its report; absolute, so that tests may stand anywhere."""
    root = tmp_path_factory.mktemp("whole")
    with chdir(root):
        study = decided([write_run(variant, row, tables=True) for variant, row in ROWS.items()])
        write_json(study / "mlflow.json", {"ui_link": "http://127.0.0.1:5000/#/experiments/1"})
        write_report(study)
    return root / study


@pytest.fixture(scope="module")
def page(whole: Path) -> Page:
    return Page((whole / "report.html").read_text())


def test_figures_lie_beside_the_page_and_in_it(whole: Path, page: Page) -> None:
    assert figures_of(whole) == FIGURES
    for path in whole.glob("figures/*.svg"):
        words = " ".join(text for text in ElementTree.parse(path).getroot().itertext())
        assert "pure_ce" in words, f"{path.name} does not name the variants"
    assert [tag for tag, _ in page.tags].count("svg") == len(FIGURES)


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    loading = {"src", "srcset", "href", "xlink:href", "data", "poster", "action"}
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
        for name in loading & set(attributes):
            value = attributes[name] or ""
            assert value.startswith(("#", "data:")) or tag == "a", f"<{tag} {name}={value}>"
    targets = re.findall(r"url\(\s*[\"']?([^\"')]*)", page.html)
    assert all(target.startswith("#") for target in targets)
    assert "@import" not in page.html
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_so_that_no_figure_borrows_anothers_markers(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) > 100
    assert len(ids) == len(set(ids))


def test_sections_come_in_the_order_a_doubter_would_ask(page: Page) -> None:
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "h2"] == QUESTIONS
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and str(attributes["href"]).startswith("#")]
    assert links == [f"#{name}" for name in QUESTIONS]


def test_the_card_stands_on_top_and_says_what_the_recommendation_says(whole: Path, page: Page) -> None:
    found = read_json(whole / "recommendation.json")
    card = page.text[: page.text.index("1. How large is the lead")]
    assert "Start Stage-2 from pure_ce (seed 0, step 360)" in card
    for line in (*found["would_overturn"], *found["caveats"], *(grade["reason"] for grade in found["confidence"].values())):
        assert line in card
    for role in ("primary", "secondary"):
        assert found[role]["checkpoint"] in card
        assert found[role]["sha256"][:12] in card
    assert "http://127.0.0.1:5000/#/experiments/1" in card


def test_every_number_of_the_snapshot_is_there_and_the_best_is_bold(page: Page) -> None:
    section = page.html[page.html.index('id="snapshots"') : page.html.index('id="curves"')]
    assert re.findall(r'<td class="n best">([\d.]+)', section) == ["23.60", "55.10", "39.00", "0.2180", "0.1670"]
    for value in ("24.10", "55.50", "0.1710", "0.0860", "24.30", "56.50", "0.2000", "0.1040"):
        assert f'<td class="n">{value}' in section


def test_a_lead_is_positive_where_the_first_is_better() -> None:
    interval = {"low": 0.1, "high": 0.9, "win_probability": 1.0}
    worse_error = {
        "first": "a",
        "second": "b",
        "metric": "expected_bin_mae",
        "difference": 0.5,
        "margin": 0.2,
        "interval": interval,
    }
    worse_accuracy = worse_error | {"metric": "coord_token_acc", "difference": -0.5, "interval": None}
    (mae, accuracy) = leads([worse_error, worse_accuracy], "a")
    assert (mae.first, mae.value, mae.low, mae.high) == ("a", 0.5, 0.1, 0.9)
    assert (accuracy.first, accuracy.value, accuracy.low) == ("a", 0.5, None)
    (mae, accuracy) = leads([worse_error, worse_accuracy], "b")
    assert (mae.first, mae.second, mae.value, mae.low, mae.high) == ("b", "a", -0.5, -0.9, -0.1)
    assert accuracy.value == -0.5
    assert [lead.first for lead in leads([worse_error, worse_accuracy], None)] == ["a", "a"]
    assert leads([worse_error], "c") == []


@pytest.mark.parametrize(
    ("value", "low", "high", "margin", "verdict"),
    [
        (0.8, 0.6, 1.0, 0.5, "ahead, beyond the margin"),
        (0.8, 0.4, 1.2, 0.5, "ahead"),
        (0.3, 0.1, 0.4, 0.5, "ahead, within the margin"),
        (-0.8, -1.0, -0.6, 0.5, "behind, beyond the margin"),
        (0.8, -0.1, 1.7, 0.5, "unresolved"),
        (0.8, -0.6, 2.0, 0.5, "unresolved"),
        (0.1, -0.2, 0.4, 0.5, "unresolved, within the margin"),
        (0.8, None, None, 0.5, "ahead, beyond the margin"),
        (-0.3, None, None, 0.5, "behind, within the margin"),
        (0.8, 0.6, 1.0, None, "ahead"),
        (0.0, None, None, 0.5, "equal"),
    ],
)
def test_what_is_said_of_a_lead(value, low, high, margin, verdict) -> None:
    assert Lead("a", "b", "expected_bin_mae", value, low, high, margin).verdict == verdict


def test_numbers_read_as_a_person_would_write_them() -> None:
    assert [number(None), number(float("nan")), number(13756), number(1.2e-7, ".1e")] == ["–", "–", "13,756", "1.2e−07"]
    assert [number(-3, "+.1f"), number(-0.04, "+.1f"), number(0.04, "+.1f")] == ["−3.0", "0.0", "0.0"]
    assert [lead_value(0.5, "bins"), lead_value(-0.001, "bins"), lead_value(-0.00016, "")] == ["+0.50", "0.00", "−0.0002"]
    assert [duration(None), duration(13.4), duration(190), duration(9000)] == ["–", "13 s", "3 min", "2.5 h"]
    assert [moment(None), moment("2026-11-23T19:22:14+00:00")] == ["–", "2026-11-23 19:22 UTC"]


def tied() -> Path:
    return decided([write_run("pure_ce", ROWS["pure_ce"], tables=True), write_run("mixed", ROWS["pure_ce"], tables=True)])


def logs_only() -> Path:
    """No token tables, of images whose size is not known, too short for a plateau."""
    study = decided([write_run(variant, row) for variant, row in ROWS.items()])
    change(study / "comparison.json", lambda c: c.update(floor=None, plateau=dict.fromkeys(c["plateau"])))
    return study


def diverged_at_once() -> Path:
    """Before the first row: the log is empty, as is the pre-flight."""
    runs = [write_run(v, row) for v, row in ROWS.items() if v != "mixed"]
    dead = write_run("mixed", ROWS["mixed"], status="diverged", reason="diverged at step 1", preflight={})
    dead.log.write_text("")
    return decided([*runs, dead])


def all_diverged() -> Path:
    return decided([write_run(v, row, status="diverged", reason="diverged at step 3") for v, row in ROWS.items()])


def no_manifest() -> Path:
    """As `runs.json` says of logs that were handed over: no more than where they lie."""
    study = logs_only()
    change(study / "runs.json", lambda r: r.update(runs=[{k: e[k] for k in ("directory", "variant", "seed")} for e in r["runs"]]))
    for manifest in Path("results/runs").glob("*/*/run.json"):
        manifest.unlink()
    (study / "preregistration.json").unlink()
    return study


def later_step() -> Path:
    """One run stopped two evaluations before the others."""
    runs = [write_run(v, row) for v, row in ROWS.items()]
    lines = runs[2].log.read_text().splitlines(keepends=True)
    runs[2].log.write_text("".join(lines[:-4]))
    return decided(runs)


def one_variant() -> Path:
    return decided([write_run("pure_ce", ROWS["pure_ce"], tables=True)])


def five_variants_three_seeds() -> Path:
    runs = [write_run(v, row, seed=seed) for v, row in ROWS.items() for seed in range(3)]
    return decided([*runs, *(renamed(run, f"{run.path.parent.name}_again") for run in (*runs[:3], *runs[6:]))], seeds=3)


def scaling_fault() -> Path:
    return decided([write_run(v, row, ratio=1 / 8 if v == "mixed" else 1.0) for v, row in ROWS.items()])


@pytest.mark.parametrize(
    ("build", "missing", "says"),
    [
        (tied, {"leads"}, ["No primary at step 360", "mixed, pure_ce are tied", "equal"]),
        (logs_only, {"slices"}, ["there are no intervals", "Without token tables", "cannot be said", "image size is not known"]),
        (no_manifest, {"slices"}, ["log only", "There is no preregistration", "handed over as logs"]),
        (diverged_at_once, {"slices"}, ["Start Stage-2 from pure_ce", "Not eligible", "diverged at step 1", "✗ missing"]),
        (all_diverged, FIGURES - {"ratios", "losses"}, ["No recommendation", "there are no curves", "nothing to compare"]),
        (later_step, {"slices"}, ["At the decision step, 280", "At step 320, which not every run has: it decides nothing"]),
        (one_variant, {"leads"}, ["1 variant ·", "nothing to rank it against"]),
        (five_variants_three_seeds, {"slices"}, ["3 seeds a variant", "5 variants", "mixed_again s2", "thin: seeds"]),
        (scaling_fault, {"slices"}, ["✗ ≈ 1/GAS", "mixed not eligible", "median train/eval ratio 0.125, and GAS is 8"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_study_with_parts_missing_has_a_report_that_says_so(build, missing, says) -> None:
    study = build()
    page = reported(study)
    assert figures_of(study) == FIGURES - missing
    for words in says:
        assert words in page.text, f"{words!r} is not said"
    assert not re.search(r"None|Undefined|nan\b|inf\b", page.text.replace("(loss nan)", ""))


def test_hostile_names_and_reasons_stay_text() -> None:
    evil = renamed(write_run("mixed", ROWS["pure_ce"], tables=True), EVIL)
    dead = write_run("mixed", ROWS["mixed"], status="diverged", reason="<script>alert('reason')</script>", seed=1)
    study = decided([evil, write_run("softce_w1_gate", ROWS["softce_w1_gate"], tables=True), dead])
    page = reported(study)
    assert {tag for tag, _ in page.tags} & {"img", "script"} == set()
    assert f"Start Stage-2 from {EVIL}" in page.text
    assert "<script>alert('reason')</script>" in page.text
    for name in ("curves", "effects", "ratios", "losses", "slices"):
        assert any(EVIL in text for text in ElementTree.parse(study / "figures" / f"{name}.svg").getroot().itertext()), name


def test_the_same_files_give_the_same_bytes_and_torch_is_not_needed(whole: Path) -> None:
    files = [whole / "report.html", *sorted(whole.glob("figures/*.svg"))]
    before = [path.read_bytes() for path in files]
    program = (
        "import sys; from pathlib import Path; from coordexp.report.html import write_report; write_report(Path(sys.argv[1]));"
        "assert not {'torch', 'transformers', 'mlflow'} & set(sys.modules), 'heavy imports'"
    )
    root = whole.parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program, str(whole.relative_to(root))], cwd=root, env=environment, check=True)
    assert [path.read_bytes() for path in files] == before
    assert b"<metadata>" not in b"".join(before), "a date or a version of matplotlib"


def test_a_figure_that_is_no_longer_drawn_is_removed() -> None:
    study = decided([write_run(v, ROWS[v], tables=True) for v in ("softce_w1_gate", "pure_ce")])
    write_report(study)
    assert figures_of(study) == FIGURES
    change(study / "comparison.json", lambda c: c.update(slices={}))
    write_report(study)
    assert figures_of(study) == FIGURES - {"slices"}


@pytest.mark.parametrize(
    "settings",
    [
        {"experiment": "smoke"},
        {"experiment": "smoke", "seeds": 2, "pure_ce": "optim.lr=5e-4 train.max_steps=20"},
        {"experiment": "smoke", "mixed": ["optim.lr=5e-4"]},
    ],
)
def test_the_command_on_the_page_gives_the_same_study(settings: dict[str, Any]) -> None:
    study = plan_study(settings)
    written = read_json(preregister(study))
    command = shlex.split(study_command(written))
    assert command[:4] == ["snakemake", "--cores", "all", "stage1_ablation"]
    again = {key: yaml.safe_load(value) for key, value in (part.split("=", 1) for part in command[5:])}
    assert plan_study(again).hash8 == study.hash8
    assert [shlex.split(line)[1:] for line in run_commands(written)] == [run["overrides"] for run in written["runs"]]


def test_an_override_with_a_blank_is_written_as_a_list() -> None:
    overrides = ["variant=mixed", "seed=0", "data.classes=[a, b]", "optim.lr=5e-4"]
    command = shlex.split(study_command({"seeds": 1, "runs": [{"variant": "mixed", "overrides": overrides}]}))
    assert yaml.safe_load(command[-1].removeprefix("mixed=")) == overrides[2:]


def browse(page: Path, directory: Path) -> tuple[list[str], list[str], Image.Image, str]:
    """Open a page in a headless browser: its console lines, the requests it made, a screenshot, and its DOM."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine: the page was not opened in a browser")
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync", "disable-extensions")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        *(f"--{flag}" for flag in quiet), "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={directory}/profile",
        f"--log-net-log={directory}/net.json", f"--screenshot={directory}/page.png", "--window-size=1100,2400", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    log = json.loads((directory / "net.json").read_text())
    start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    jobs = [event["params"] for event in log["events"] if event["type"] == start and "url" in event.get("params", {})]
    # The browser's own errands (updates, accounts) have no origin; what a page asks for has one.
    asked = [
        job["url"] for job in jobs if job.get("initiator") != "not an origin" and not job["url"].startswith(("file:", "data:"))
    ]
    return console, asked, Image.open(directory / "page.png").convert("RGB"), done.stdout


MEASURE = """
<img src="http://127.0.0.1:9/asked.png"><script>
console.error("complained");
const high = [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().height);
document.body.dataset.measured = JSON.stringify({high, wide: document.documentElement.scrollWidth - window.innerWidth});
</script></body>"""


def test_a_browser_shows_it_and_has_nothing_to_complain_of(whole: Path, tmp_path: Path) -> None:
    for name in ("own", "probed"):
        (tmp_path / name).mkdir()
    console, asked, picture, _ = browse(whole / "report.html", tmp_path / "own")
    assert console == []
    assert asked == []
    colours = picture.getcolors(picture.width * picture.height)
    assert len(colours) > 50, "the page is next to empty"
    assert (0, 114, 178) in {colour for _, colour in colours}, "no figure shows the first variant's colour"

    # A copy that does complain, ask and measure: the checks above can fail, and every figure has its place.
    html = (whole / "report.html").read_text()
    probed = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", MEASURE)
    (tmp_path / "probed.html").write_text(probed)
    console, asked, _, dom = browse(tmp_path / "probed.html", tmp_path / "probed")
    assert any("complained" in line for line in console)
    assert asked == ["http://127.0.0.1:9/asked.png"]
    (measured,) = [a["data-measured"] for tag, a in Page(dom).tags if tag == "body"]
    sizes = json.loads(str(measured))
    assert len(sizes["high"]) == len(FIGURES)
    assert min(sizes["high"]) > 150
    assert sizes["wide"] <= 0, "the page scrolls sideways"
