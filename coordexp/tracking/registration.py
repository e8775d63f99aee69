"""MLflow's model registry: the checkpoints that studies recommend, and how one asks them.

The model has no signature: its input is a chat with a picture, which MLflow's schemas cannot say.
An example of that chat is an artifact of the checkpoint's run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from coordexp.analysis.recommendation.findings import Role
from coordexp.coords import write_coordjson
from coordexp.data.chat import PROMPT
from coordexp.data.records import iter_records
from coordexp.errors import UserError
from coordexp.storage.digest_store import require_sha256
from coordexp.storage.manifest import read_manifest
from coordexp.storage.runs import RunDirectory
from coordexp.tracking.experiment import EXPERIMENT
from coordexp.tracking.metric_series import run_key

MODEL = EXPERIMENT  # name of the registered model
ALIASES = {"primary": "stage2-primary", "secondary": "stage2-secondary"}  # by role
EXAMPLE = "input_example"  # directory of the example among the artifacts of a run
DESCRIPTION = f"""\
Stage-1 checkpoints that a study recommended for Stage-2. The aliases `{ALIASES["primary"]}` and
`{ALIASES["secondary"]}` stand at those of the study that was imported last.

A version is a Hugging Face directory:
`AutoModelForImageTextToText.from_pretrained(DIRECTORY)`. It has no signature, because its input is
a chat with a picture; its source run holds one in `{EXAMPLE}/chat.json`, with the true objects."""


def point_alias(
    client: MlflowClient, role: str, entry: Role | None, study: str, run_ids: dict[str, str]
) -> int | None:
    """Point a role's alias at the checkpoint that holds the role; returns the model's version.

    The checkpoint is registered first, unless it is registered already.
    """
    describe_model(client)
    if entry is None or entry.checkpoint is None:
        client.delete_registered_model_alias(MODEL, ALIASES[role])
        return None
    checkpoint = Path(entry.checkpoint)
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: recommended as {role}, but there is no such directory")
    advice = "restore it, or train the run and decide the study again"
    require_sha256(checkpoint, str(entry.sha256), "recommendation.json", advice)
    run = RunDirectory(checkpoint.parents[1])
    run_id = run_ids.get(run_key(run))
    known = client.search_model_versions(f"name = '{MODEL}' and tags.sha256 = '{entry.sha256}'")
    if known:
        version = known[0].version
    else:
        tags = {
            "variant": entry.variant,
            "seed": str(entry.seed),
            "step": str(entry.step),
            "sha256": str(entry.sha256),
        }
        uri = checkpoint.resolve().as_uri()
        text = f"**{entry.variant}**, seed {entry.seed}, step {entry.step}: `{checkpoint}`"
        made = client.create_model_version(MODEL, uri, run_id, tags, description=text)
        version = made.version
    client.set_model_version_tag(MODEL, version, "study", study)
    client.set_registered_model_alias(MODEL, ALIASES[role], version)
    if run_id:
        log_example(client, run_id, run)
    return int(version)


def describe_model(client: MlflowClient) -> None:
    """Make the registered model, or bring its description up to date."""
    known = client.search_registered_models(f"name = '{MODEL}'")
    if not known:
        client.create_registered_model(MODEL, description=DESCRIPTION)
    elif known[0].description != DESCRIPTION:
        client.update_registered_model(MODEL, DESCRIPTION)


def log_example(client: MlflowClient, run_id: str, run: RunDirectory) -> None:
    """Store the chat about the first validation picture, and the picture, with the MLflow run.

    A run whose records are gone gets none.
    """
    manifest = read_manifest(run)
    if manifest is None or manifest.data is None:
        return
    records = Path(manifest.data) / "val.jsonl"
    if not records.exists():
        return
    record = next(iter_records(records, with_pictures=False))
    picture = records.parent / record.image
    answer = write_coordjson(record.coord_objects())
    client.log_dict(run_id, chat(picture.name, answer), f"{EXAMPLE}/chat.json")
    if picture.exists():
        client.log_artifact(run_id, str(picture), EXAMPLE)


def chat(picture: str, answer: str) -> dict[str, Any]:
    """A conversation as `apply_chat_template` takes it, of this project's prompt."""
    asked = [{"type": "image", "image": picture}, {"type": "text", "text": PROMPT}]
    return {
        "messages": [{"role": "user", "content": asked}],
        "ground_truth": {"role": "assistant", "content": answer},
    }
