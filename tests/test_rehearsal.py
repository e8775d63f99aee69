"""`experiment=lvis_rehearsal`: from somebody's annotations, without a picture, to the card."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from coco_files import LVIS, many
from workflows import copy_project, served, snakemake

pytestmark = pytest.mark.slow
SHORT = (
    *(
        "data.train_images=16",
        "data.val_images=6",
        "train.max_steps=4",
        "train.images_per_step=4",
        "train.micro_batch=2",
    ),
    *(
        "train.eval_steps=2",
        "train.state_steps=2",
        "train.checkpoint_steps=4",
        "train.audit_images=4",
    ),
    *("probe.images=2", "probe.steps=1", "probe.images_per_step=2"),
)


def test_ones_own_annotations_go_to_the_card(tmp_path):
    """The sample of LVIS where it is at hand, else boxes made up."""
    annotations = tmp_path / "annotations.json"
    shutil.copy(LVIS, annotations) if LVIS.exists() else many(annotations, 30)
    overrides = " ".join([f"data.annotations={annotations}", *SHORT])
    with served(copy_project(tmp_path / "workspace")) as workspace:
        done = snakemake(
            workspace,
            "stage1_ablation",
            "--config",
            "experiment=lvis_rehearsal",
            f"all={overrides}",
        )
    study = workspace / "results" / "stage1_ablation" / "latest"
    recommendation = json.loads((study / "recommendation.json").read_text())
    trained = {path.parents[1].name for path in workspace.glob("results/runs/*/*/run.json")}
    assert trained == {"softce_w1_gate", "pure_ce", "mixed"}
    assert (workspace / recommendation["primary"]["checkpoint"] / "model.safetensors").exists()
    card = (study / "recommendation.md").read_text()
    assert re.search(
        r"REHEARSAL: .*; (\d+) of \1 validation pictures are shapes drawn from the annotations",
        card,
    )
    assert card.splitlines()[0] in done.stdout + done.stderr
    (data,) = workspace.glob("results/data/lvis-*")
    assert (data / "samples.png").stat().st_size > 10_000
