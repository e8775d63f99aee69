"""The Stage-2 probe in the report: rankings, its metrics, the curves of the fine-tune."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from report_readers import SVG, Drawing, figures, page, tables_of
from reports import change, study_files

from coordexp.coords import CoordObject, write_coordjson
from coordexp.data.records import Record, read_records
from coordexp.metrics import PROBE_METRICS
from coordexp.report.shots import OUTCOMES, judged, outline
from coordexp.report.style import looks

VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")
F1 = {"softce_w1_gate": 0.4, "pure_ce": 0.6, "mixed": 0.4}
LOSS = {"softce_w1_gate": 0.3, "pure_ce": 0.2, "mixed": 0.2}


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def probed_study() -> Path:
    """A study in which the probe confirms pure_ce, the primary."""
    study = study_files(VARIANTS)
    change(study, "probe", fill_probe)
    return change(study, "recommendation", confirm)


def fill_probe(probe: dict[str, Any]) -> None:
    probe["step"] = 720
    probe["settings"] = {"images": 256, "steps": 3, "temperature": 1.0, "adapter_rank": 0}
    for variant in VARIANTS:
        probe["candidates"].append(candidate(variant))
        probe["means"][variant] = {"f1_50_after": F1[variant], "geo_loss_after": LOSS[variant]}
        probe["means"][variant] |= {"count_ratio": 0.9, "parse_rate": 0.99}
    for first, second in (("softce_w1_gate", "pure_ce"), ("pure_ce", "mixed")):
        for metric, values in (("f1_50_after", F1), ("geo_loss_after", LOSS)):
            probe["differences"].append(difference(first, second, metric, values))


def candidate(variant: str) -> dict[str, Any]:
    curve = []
    for step in (1, 2, 3):
        loss = LOSS[variant] + 0.1 / step
        terms = {"geo_loss": loss, "l1": loss / 3, "giou_loss": loss / 2, "text_ce": 0.1}
        curve.append({"step": step, "loss": loss, "grad_norm": 1.0, **terms})
    return {
        "variant": variant,
        "seed": 0,
        "status": "complete",
        "reason": None,
        "directory": f"results/runs/{variant}/s0-0123abcd/stage2/step-000720-0123abcd",
        "records": "results/data/scenes-0123abcd/val.jsonl",
        "images": 256,
        "figures": {},
        "dropped": {},
        "wall_s": {},
        "curve": curve,
    }


def difference(first: str, second: str, metric: str, values: dict[str, float]) -> dict[str, Any]:
    """Second minus first, with an interval of 0.05 to each side."""
    gap = values[second] - values[first]
    return {
        "first": first,
        "second": second,
        "metric": metric,
        "margin": None,
        "difference": gap,
        "interval": {
            "difference": gap,
            "low": gap - 0.05,
            "high": gap + 0.05,
            "se": 0.025,
            "df": None,
            "share_above_0": 0.9,
            "p_value": None,
            "method": "paired bootstrap over images",
            "seed_var": None,
            "image_var": 0.001,
            "interaction_var": None,
            "n_images": 256,
        },
        "window": None,
    }


def confirm(recommendation: dict[str, Any]) -> None:
    recommendation["probe"] = {
        "outcome": "confirmed",
        "sentence": "the probe confirms pure_ce",
        "smoothness": None,
        "stage1_ranking": ["pure_ce", "mixed", "softce_w1_gate"],
        "probe_ranking": ["pure_ce", "softce_w1_gate", "mixed"],
        "signal": "f1_50_after",
        "confounds": [],
        "changed_roles": False,
    }


def test_rankings_of_stage1_and_probe_stand_side_by_side() -> None:
    table = page(probed_study()).tables["rankings"]
    assert table.headings == ["ranking", "1", "2", "3"]
    assert table.row("Stage-1") == ["pure_ce", "mixed", "softce_w1_gate"]
    assert table.row("probe, by F1@.5, end") == ["pure_ce", "softce_w1_gate", "mixed"]


def test_rankings_of_unequal_length_leave_places_empty() -> None:
    def lose_one(recommendation: dict[str, Any]) -> None:
        recommendation["probe"]["stage1_ranking"] = ["pure_ce", "mixed"]

    table = page(change(probed_study(), "recommendation", lose_one)).tables["rankings"]
    assert table.headings == ["ranking", "1", "2", "3"]
    assert table.row("Stage-1") == ["pure_ce", "mixed", "–"]
    assert table.row("probe, by F1@.5, end") == ["pure_ce", "softce_w1_gate", "mixed"]


def test_metric_table_has_values_with_the_best_bold() -> None:
    table = page(probed_study()).tables["probe-metrics"]
    for variant in VARIANTS:
        f1 = table.cell("F1@.5, end ↑", variant)
        assert f1.text == f"{F1[variant]:.3f}"
        assert ("best" in f1.classes) == (variant == "pure_ce")
        loss = table.cell("geometric loss, end ↓", variant)
        assert ("best" in loss.classes) == (variant != "softce_w1_gate"), "two are equal"
        assert "best" not in table.cell("count ratio", variant).classes, "no side is better"


def test_metric_table_has_leads_of_the_stage1_primary() -> None:
    table = page(probed_study()).tables["probe-metrics"]
    over_mixed = table.text("F1@.5, end ↑", "over mixed")
    assert over_mixed == "+0.200 [+0.150, +0.250]"
    over_softce = table.text("F1@.5, end ↑", "over softce_w1_gate")
    assert over_softce == "+0.200 [+0.150, +0.250]"
    loss = table.text("geometric loss, end ↓", "over softce_w1_gate")
    assert loss == "+0.100 [+0.050, +0.150]", "the lower loss leads"
    assert table.text("count ratio", "over mixed") == "–"


def test_metric_table_without_intervals_has_no_leads() -> None:
    study = change(probed_study(), "probe", lambda probe: probe.update(differences=[]))
    table = page(study).tables["probe-metrics"]
    assert table.headings == ["metric", *VARIANTS]
    assert table.caption == "Metrics of the probe of each candidate"


def test_metrics_that_no_candidate_has_are_left_out() -> None:
    table = page(probed_study()).tables["probe-metrics"]
    shown = [row[0].text.rstrip(" ↑↓") for row in table.rows]
    names = ("parse_rate", "count_ratio", "geo_loss_after", "f1_50_after")
    assert shown == [PROBE_METRICS[name].label for name in names]


def test_study_without_a_probe_has_no_probe_tables() -> None:
    found = page(study_files())
    assert not tables_of(found.section("rollouts"))
    assert "No candidate was probed" in found.section("rollouts").text


def test_fine_tune_has_a_panel_for_each_loss() -> None:
    drawing = figures(probed_study())["probe"]
    for term, factor in (("geo_loss", 1), ("l1", 1 / 3), ("giou_loss", 1 / 2)):
        panel = drawing.panel(term)
        read = panel.y_axis()
        for variant in VARIANTS:
            (point,) = panel.marks("point", of=f"{variant} s0", step=3)
            loss = (LOSS[variant] + 0.1 / 3) * factor
            assert read(point.centre[1]) == pytest.approx(loss, rel=0.01)
    assert drawing.panel("text_ce").marks("curve")


def test_candidate_without_a_fine_tune_has_no_curve() -> None:
    def drop(probe: dict[str, Any]) -> None:
        probe["candidates"][0]["curve"] = []

    panel = figures(change(probed_study(), "probe", drop))["probe"].panel("geo_loss")
    curves = {mark.data("of") for mark in panel.marks("curve")}
    assert curves == {"pure_ce s0", "mixed s0"}


# --- the gallery ---

CIRCLE = ("circle", "bbox_2d", (8.0, 8.0, 24.0, 24.0))
SQUARE = ("square", "bbox_2d", (30.0, 30.0, 56.0, 60.0))


def galleried_study(record_file: Callable[..., Path], n_images: int = 8) -> Path:
    """Both variants write the truth for even images; for odd ones pure_ce writes nothing.

    Image 1 is the one that mixed, too, gets wrong.
    """
    study = study_files(("pure_ce", "mixed"))
    records_file = record_file(Path("results/data/some"), [[CIRCLE, SQUARE]] * n_images)
    records = read_records(records_file)

    def fill(probe: dict[str, Any]) -> None:
        probe["settings"] = {"images": n_images, "steps": 3, "temperature": 1.0, "adapter_rank": 0}
        for variant in ("pure_ce", "mixed"):
            entry = candidate(variant) | {"records": str(records_file)}
            probe["candidates"].append(entry)
            write_rollouts(Path(entry["directory"]), variant, records)

    return change(study, "probe", fill)


def write_rollouts(directory: Path, variant: str, records: Sequence[Record]) -> None:
    lines = []
    for i, record in enumerate(records):
        wrong = i == 1 or (variant == "pure_ce" and i % 2 == 1)
        text = "" if wrong else write_coordjson(record.coord_objects())
        row = {"image_id": i, "image": record.image, "text": text, "finished": True, "n_tokens": 0}
        lines.append(json.dumps(row | {"token_ends": [], "token_logprobs": []}) + "\n")
    shard = directory / "before/rollouts-0.jsonl"
    shard.parent.mkdir(parents=True)
    shard.write_text("".join(lines))


def shot(drawing: Drawing, image: int, of: str) -> Drawing:
    """One cell of the gallery."""
    return drawing.panel("shot", image=str(image), of=of)


def test_gallery_shows_the_worst_and_the_best_images(record_file) -> None:
    cells = figures(galleried_study(record_file))["gallery"].panels(panel="shot", of="truth")
    shown = [int(cell.root.get("data-image", "")) for cell in cells]
    assert shown[:3] == [1, 3, 5]
    assert sorted(shown[3:]) == [2, 4, 6], "of equal images the last ones"


def test_gallery_tells_found_false_and_missed_objects(record_file) -> None:
    drawing = figures(galleried_study(record_file))["gallery"]
    assert len(shot(drawing, 1, "truth").marks("truth")) == 2
    nothing = shot(drawing, 1, "pure_ce")
    assert len(nothing.marks("missed")) == 2
    assert not nothing.marks("hit") + nothing.marks("false")
    assert [m.words for m in nothing.marks("words")] == ["pure_ce: F1 0.00, nothing that parses"]
    right = shot(drawing, 3, "mixed")
    assert len(right.marks("hit")) == 2
    assert not right.marks("missed") + right.marks("false")
    assert [m.words for m in right.marks("words")] == ["mixed: F1 1.00"]
    names = {mark.words for mark in right.marks("name")}
    assert names == {"circle", "square"}, "names stand in the picture"


def test_outcomes_differ_by_colour_and_by_line() -> None:
    assert len({outcome.colour for outcome in OUTCOMES}) == 3
    assert len({outcome.dashes for outcome in OUTCOMES}) == 3
    own = {look.colour for look in looks(map(str, range(7))).values()}
    assert not own & {outcome.colour for outcome in OUTCOMES}, "they are none of the variants'"


def test_object_counts_as_found_under_its_name_only() -> None:
    near, far = (100, 100, 300, 300), (600, 600, 800, 800)
    truth = [CoordObject("cat", "bbox_2d", near), CoordObject("dog", "bbox_2d", far)]
    written = [CoordObject("cat ", "bbox_2d", near), CoordObject("cat", "bbox_2d", far)]
    found = [(obj.desc, outcome.name) for obj, outcome in judged(written, truth)]
    assert found == [("dog", "missed"), ("cat ", "hit"), ("cat", "false")]
    assert [outcome.name for _, outcome in judged([], truth)] == ["missed", "missed"]
    assert [outcome.name for _, outcome in judged(written, [])] == ["false", "false"]


def test_polygon_is_drawn_with_all_its_corners() -> None:
    bins = (500, 0, 999, 500, 500, 999)
    points = [(150.0, 0.0), (300.0, 150.0), (150.0, 300.0)]
    assert outline(CoordObject("kite", "poly", bins), points) == points
    corners = outline(CoordObject("box", "bbox_2d", (0, 0, 999, 999)), [(0, 0), (30, 20)])
    assert corners == [(0, 0), (30, 0), (30, 20), (0, 20)]


def test_gallery_scales_boxes_to_the_shown_image(record_file) -> None:
    panel = shot(figures(galleried_study(record_file))["gallery"], 3, "truth")
    image = next(node for node in panel.nodes if node.tag == SVG + "image")
    scale = float(image.get("width", "")) / 64
    corner = panel.marks("truth")[0].corners[0]
    assert corner == pytest.approx((8 * scale, 8 * scale), abs=0.1 * scale)


def test_each_picture_is_on_the_page_once_and_can_be_enlarged(record_file) -> None:
    found = page(galleried_study(record_file))
    assert found.html.count("data:image/jpeg") == 6
    cells = [node for node in found.nodes if "shot" in node.classes]
    assert len(cells) == 18
    for cell in cells:
        enlarge, close = cell.all("a")
        assert enlarge.attributes["href"] == f"#{cell.attributes['id']}"
        assert str(enlarge.attributes["aria-label"]).startswith("Enlarge. Picture ")
        assert close.attributes["href"] == "#figure-gallery"


def test_gallery_without_records_is_not_drawn(record_file) -> None:
    study = galleried_study(record_file)
    Path("results/data/some/some.jsonl").unlink()
    assert "gallery" not in figures(study)


def test_gallery_with_a_missing_image_is_refused(record_file, refused) -> None:
    study = galleried_study(record_file)
    Path("results/data/some/1.png").unlink()
    with refused("1.png"):
        figures(study)
