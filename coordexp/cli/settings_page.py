"""What each setting means: `coordexp-train --help`, and docs/configuration.md.

python -m coordexp.cli.settings_page        writes docs/configuration.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from coordexp.cli.markdown import table
from coordexp.config.meanings import Setting, settings
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import Config
from coordexp.storage.files import write_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

USAGE = """\
usage: coordexp-train [GROUP=CHOICE ...] [KEY=VALUE ...]

Trains one run of one variant; the same command continues it. Without arguments it trains the
first variant of the default study. `coordexp-train GROUP=CHOICE --help` lists the settings of a
choice, `coordexp-train --hydra-help` Hydra's flags (--multirun, --cfg job ...).

Groups and their choices (conf/GROUP/CHOICE.yaml):
"""

INTRODUCTION = """\
<!-- Written by `python -m coordexp.cli.settings_page`; change coordexp/config/*schema.py. -->
# Settings

Each setting of a training and of the study it belongs to. An override is `KEY=VALUE`:

```
coordexp-train variant=mixed optim.lr=5e-4
snakemake --cores all stage1_ablation --config all="train.max_steps=900" pure_ce="optim.lr=5e-4"
```

`GROUP=CHOICE` takes another file of a group: `conf/GROUP/CHOICE.yaml`. An experiment sets several
groups at once. `coordexp-train --help` prints this page's tables with the values that your
overrides give. Values below are those of the choice that is named.

{groups}
"""

# Each section of the page: the group, the choice that is shown, and which choices have its keys.
SECTIONS = (
    ("variant", "pure_ce", "the objective"),
    ("model", "tiny_qwen3vl", "a tiny model from a seed"),
    ("model", "qwen3vl", "a published release"),
    ("data", "scenes", "generated pictures"),
    ("data", "coco", "annotations in COCO's format, LVIS among them"),
    ("data", "records", "record files"),
    ("optim", "adamw", "optimizer and adapters"),
    ("train", "stage1", "length and batches"),
    ("runtime", "local", "execution; not part of a run's identity"),
    ("study", "stage1_ablation", "runs and decision rule"),
    ("probe", "default", "the trial of Stage-2"),
)


def groups() -> dict[str, list[str]]:
    """The choices of each group, as conf/ has them."""
    return {
        directory.name: sorted(file.stem for file in directory.glob("*.yaml"))
        for directory in sorted(CONF_DIR.iterdir())
        if directory.is_dir()
    }


def help_text(overrides: Sequence[str]) -> str:
    """What `coordexp-train --help` prints: groups, then every setting with value and meaning.

    Raises:
        UserError: a mistake in the overrides.
    """
    lines = [f"  {name:12s} {', '.join(choices)}" for name, choices in groups().items()]
    lines += ["", "Settings with these overrides:"]
    for setting in settings(overrides):
        lines.append(f"  {setting.key}={setting.value}")
        lines.append(f"      {explained(setting)}")
    return USAGE + "\n".join(lines)


def explained(setting: Setting) -> str:
    """Meaning, then limits in brackets."""
    limits = f"({setting.limits})" if setting.limits else ""
    return " ".join(part for part in (setting.meaning, limits) if part)


def page() -> str:
    """The text of docs/configuration.md."""
    chosen = [(f"`{name}`", ", ".join(choices)) for name, choices in groups().items()]
    parts = [INTRODUCTION.format(groups=table(("group", "choices"), chosen))]
    for group, choice, what in SECTIONS:
        rows = [row(s) for s in settings([f"{group}={choice}"]) if s.key.startswith(f"{group}.")]
        parts.append(f"## {group}={choice}: {what}\n\n{table(HEADER, rows)}\n")
    alone = [row(s) for s in settings() if s.key in {field.name for field in fields(Config)}]
    parts.append(f"## Without a group\n\n{table(HEADER, alone)}\n")
    return "\n".join(parts)


HEADER = ("key", "value", "must be", "meaning")


def row(setting: Setting) -> tuple[str, ...]:
    value = setting.value.replace("|", "\\|")
    return f"`{setting.key}`", f"`{value}`", setting.limits, setting.meaning


def main() -> None:
    write_text(PAGE, page())
    print(PAGE)


if __name__ == "__main__":
    main()
