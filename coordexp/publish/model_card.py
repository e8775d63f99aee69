"""README.md of an exported checkpoint: its model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordexp.analysis.recommendation.card import headline, items, role_table
from coordexp.config.package import VERSION
from coordexp.coords import CoordObject, write_coordjson
from coordexp.data.chat import Prompt
from coordexp.metrics import COORD_TERMS
from coordexp.models.usage import TO_PIXELS
from coordexp.publish.chosen import Chosen
from coordexp.publish.metadata import Known, metadata
from coordexp.publish.pictures import Area
from coordexp.publish.results import Result, results_of
from coordexp.storage.run_config import Settings

HEAD = """\
---
{metadata}
---
# CoordExp Stage-1: {variant}, seed {seed}, step {step}

{warnings}A Qwen3-VL that writes the objects of a picture as JSON. It is a Stage-1 checkpoint: where
a further training starts, not a finished detector.

## How to use it

```python
{code}```

`answer` is text such as

    {answer}

Each coordinate is one token: bin k of a side of n px is pixel k / 999 * (n - 1). A box is x1, y1,
x2, y2; a polygon (`poly`) is x, y of each vertex. In pixels:

```python
{to_pixels}```

- Prompt of the training: {prompt}.
- Pictures: {pictures}
- Decoding is greedy (`generation_config.json`). Saved with transformers {transformers}{needs}.
"""
EXAMPLE = CoordObject("red cup", "bbox_2d", (12, 34, 500, 999))


def model_card(
    chosen: Chosen,
    known: Known,
    code: str,
    prompt: Prompt,
    area: Area | None,
    transformers: str,
    has_videos: bool,
) -> str:
    """The text of README.md. `code` is the three lines that use the checkpoint."""
    results = results_of(chosen)
    head = HEAD.format(
        metadata=metadata(chosen, known, results),
        variant=chosen.config.variant_name,
        seed=chosen.config.seed,
        step=chosen.step,
        warnings="".join(f"> **{warning}**\n\n" for warning in warnings_of(chosen)),
        code=code,
        answer=write_coordjson([EXAMPLE]),
        to_pixels=TO_PIXELS,
        prompt=prompt_told(prompt),
        pictures=tiles_told(chosen.config.data) or pictures_told(area),
        transformers=transformers,
        needs="; its processor needs torchvision, as every Qwen3-VL's" if has_videos else "",
    )
    sections = [
        head,
        section("Results", result_lines(chosen, results)),
        *decision_sections(chosen),
        section("Training", training_lines(chosen, known)),
    ]
    return "\n".join(sections)


def warnings_of(chosen: Chosen) -> list[str]:
    """What stands above everything else: the checkpoint is no detector, or no result to rely on."""
    found, manifest = chosen.found, chosen.manifest
    warnings = []
    if chosen.config.data.get("tile_px"):
        told = "a whole picture is nothing that it has seen (Pictures, below)"
        warnings.append(f"Trained on tiles of pictures: {told}")
    if found is not None:
        warnings += [f"Rehearsal: {found.rehearsal}"] if found.rehearsal else []
        warnings += [found.blind] if found.blind else []
        warnings += found.alerts
    if manifest is not None and manifest.status != "complete":
        warnings.append(f"Its training {manifest.status}: {manifest.reason}")
    return warnings


def section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def prompt_told(prompt: Prompt) -> str:
    told = f"the picture, then `{prompt.user}`" if prompt.user else "the picture alone"
    return told if prompt.system is None else f"{told}, after a system prompt (above)"


def pictures_told(area: Area | None) -> str:
    if area is None:
        return "both sides must be multiples of 32 px; they are not resized."
    told = f"up to {area.largest:,} px"
    if area.smallest == area.largest:
        told = f"about {area.largest:,} px"
    return f"of any size; the processor resizes them to {told}, as those of the training were."


def tiles_told(data: Settings) -> str:
    """What a checkpoint that was trained on tiles was shown; "" for one of whole pictures."""
    side = data.get("tile_px")
    if not side:
        return ""
    told = (
        f"square tiles that are {data.get('tile_objects'):g} times as wide as the side of the "
        f"median object of the training pictures, resized to {side} x {side} px"
    )
    if contrast := data.get("tile_contrast"):
        told += (
            f", each channel then shifted to mid-grey and scaled to a standard deviation of "
            f"{contrast:g} of its range"
        )
    return f"{told}. The processor resizes, and does nothing else of this."


def result_lines(chosen: Chosen, results: Sequence[Result]) -> list[str]:
    if not results:
        return ["Nothing was measured at this step."]
    rows = [f"| {r.label} | {r.shown} | {r.of} |" for r in results]
    lines = ["| metric | value | measured on |", "|---|---:|---|", *rows, ""]
    data, manifest = chosen.config.data, chosen.manifest
    if manifest is not None and manifest.val_images is not None:
        noun = "tiles of pictures" if data.get("tile_px") else "pictures"
        told = f"Validation set: {manifest.val_images:,} {noun} of `{data.get('name')}`"
        drawn = manifest.val_images_rendered
        lines.append(f"{told}{f', of which {drawn:,} were drawn from annotations' * bool(drawn)}.")
    if chosen.found is not None:
        lines += ["", chosen.found.rule.text]
    return lines


def decision_sections(chosen: Chosen) -> list[str]:
    """Why this one: what a study says of it, and how sure it is."""
    found = chosen.found
    if found is None:
        told = "No study chose this checkpoint: it was named by hand, and compared with nothing."
        return [section("Decision", [told])]
    grades = found.confidence
    lines = [
        f"**{headline(found)}**",
        "",
        *items(found.primary.reasons[1:] if found.primary else []),
        f"- Stage-1 ranking: **{grades.stage1_ranking.grade}** ({grades.stage1_ranking.reason})",
        f"- Stage-2 fitness: **{grades.stage2_fitness.grade}** ({grades.stage2_fitness.reason})",
        "",
        f"Compared with (study `{chosen.study_key}`):",
        "",
        *role_table(found),
    ]
    refused = [f"{entry.variant}: {'; '.join(entry.reasons)}" for entry in found.ineligible]
    sections = [section("Decision", lines)]
    for title, entries in (
        ("Evidence", found.evidence),
        ("Not eligible", refused),
        ("What would overturn it", found.would_overturn),
        ("Caveats", found.caveats),
    ):
        if entries:
            sections.append(section(title, items(entries)))
    return sections


def training_lines(chosen: Chosen, known: Known) -> list[str]:
    """The settings of the training as a table; no paths of the machine."""
    config, manifest = chosen.config, chosen.manifest
    if manifest is None:
        return [f"Trained elsewhere, and evaluated with CoordExp {VERSION}."]
    weights = {term: config.variant.get(term) for term in COORD_TERMS}
    terms = ", ".join(f"{term} {weight:g}" for term, weight in weights.items() if weight)
    objective = terms or "cross-entropy over the whole vocabulary"
    adapter = config.optim.get("adapter") or {}
    trained = "all weights"
    if adapter.get("rank"):
        trained = f"adapters of rank {adapter['rank']} and the coordinate rows, merged"
    rows = {
        "base model": known.base_model or str(config.model.get("name")),
        "objective": f"`{config.variant_name}`: {objective}",
        "data": f"`{config.data.get('name')}`",
        "steps": f"{chosen.step:,} of {manifest.max_steps:,}",
        "pictures a step": config.train.get("images_per_step"),
        "peak learning rate": config.optim.get("lr"),
        "trained": trained,
        "precision": config.train.get("dtype"),
        "seed": config.seed,
        "versions": ", ".join(f"{name} {v}" for name, v in manifest.versions.items()),
        "run": f"`{chosen.key}`, CoordExp {VERSION}",
    }
    license = known.license or "not stated here: ask whoever shares it"
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return [*lines, "", f"Licence of the weights: {license}."]
