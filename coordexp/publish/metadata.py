"""The metadata at the head of a model card, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from yaml import YAMLError

from coordexp.config.checks import is_missing_directory
from coordexp.errors import UserError, first_line
from coordexp.publish.chosen import Chosen
from coordexp.publish.results import Result

TASK = "object-detection"


@dataclass(frozen=True)
class Known:
    """What only the person who exports knows; None or empty where nothing was said."""

    license: str | None = None  # as the hub spells it: apache-2.0
    base_model: str | None = None  # names on the hub
    datasets: tuple[str, ...] = ()


def completed(known: Known, model_path: str | None) -> Known:
    """The same, with what the release says from which the base model was made.

    Args:
        known: what was said comes first.
        model_path: `model.path` of the run; None of a model that was not made from a release.

    Raises:
        UserError: the release's README.md has damaged metadata.
    """
    if model_path is None:
        return known
    directory = Path(model_path)
    if not directory.is_dir():
        named_on_hub = not is_missing_directory(model_path)
        base = known.base_model or (model_path if named_on_hub else None)
        return Known(known.license, base, known.datasets)
    return Known(known.license or released_license(directory), known.base_model, known.datasets)


def released_license(directory: Path) -> str | None:
    """The licence that the README.md of a release names.

    Raises:
        UserError: its metadata cannot be read.
    """
    path = directory / "README.md"
    if not path.is_file():
        return None
    try:
        found = metadata_load(path)
    except (YAMLError, ValueError) as error:
        told = f"{path}: its metadata cannot be read ({first_line(error)})"
        raise UserError(f"{told}: mend it, or say --license") from error
    license = (found or {}).get("license")
    return license if isinstance(license, str) else None


def metadata(chosen: Chosen, known: Known, results: Sequence[Result]) -> str:
    """The YAML between the two lines of dashes."""
    variant = chosen.config.variant_name
    dataset = str(chosen.config.data.get("name", "validation records"))
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=known.license,
        base_model=known.base_model,
        datasets=list(known.datasets) or None,
        tags=["coordexp", TASK, "qwen3_vl"],
        model_name=f"CoordExp Stage-1 {variant}, step {chosen.step}",
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type=dataset,
                dataset_name=f"{dataset}: {result.of}",
                dataset_split="validation",
                metric_type=result.name,
                metric_name=result.label,
                metric_value=float(f"{result.value:.6g}"),
            )
            for result in results
        ],
    )
    return str(card.to_yaml()).strip()
