"""What the Snakemake workflow catalogue and a citation read."""

from __future__ import annotations

from pathlib import Path

import yaml

import coordexp

ROOT = Path(__file__).resolve().parents[1]


def test_citation_names_the_version_and_license_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == coordexp.__version__
    assert citation["license"] == "Apache-2.0"


def test_catalogue_finds_workflow_and_configuration_text():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True
    assert usage["software-stack-deployment"]["conda"] is True
    assert (ROOT / "workflow/Snakefile").is_file()
    assert (ROOT / "config/README.md").is_file()


def test_configuration_text_names_every_experiment():
    text = (ROOT / "config/README.md").read_text()
    for file in (ROOT / "conf/experiment").glob("*.yaml"):
        assert f"`{file.stem}`" in text
