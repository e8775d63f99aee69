"""Write docs/licences.md: the licence of each package of the lock, as its own metadata states it.

`python .ci/licences.py` in the project's environment, after `make lock`. A package whose metadata
name no licence needs an entry in READ_BY_HAND, from its licence file.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCKS = (ROOT / "requirements-torch-cpu.lock", ROOT / "requirements.lock")

# Permissive: an Apache-2.0 program may use and pass on such packages if it keeps their notices.
PERMISSIVE = {
    *("Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "ISC", "Zlib"),
    *("0BSD", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "Public-Domain"),
    *("PSF-2.0", "CNRI-Python"),
}
# Weak copyleft, file by file: docs/licences.md says why it is fine.
WEAK_COPYLEFT = {"MPL-2.0"}
PERMITTED = PERMISSIVE | WEAK_COPYLEFT

# The spellings of metadata older than SPDX expressions, of the field License or of a classifier.
SPELLINGS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "BSD 2-Clause License": "BSD-2-Clause",
    "2-clause BSD License": "BSD-2-Clause",
    "FreeBSD": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT license": "MIT",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

# Metadata that name no licence, or not the one that applies: read in the licence file that is
# installed with the package.
READ_BY_HAND = {
    "conda-inject": "MIT",
    "docutils": "Public-Domain AND BSD-2-Clause",  # without its Emacs mode, which is GPL
    "faster-coco-eval": "Apache-2.0",
    "huey": "MIT",
    "packaging": "Apache-2.0 OR BSD-2-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "skops": "MIT",
    "snakemake-interface-common": "MIT",
    "snakemake-interface-logger-plugins": "MIT",
    "snakemake-interface-report-plugins": "MIT",
    "snakemake-interface-scheduler-plugins": "MIT",
    "snakemake-interface-storage-plugins": "MIT",
}


def locked_names() -> list[str]:
    """The packages of the locks, by name as the locks spell it."""
    text = "".join(lock.read_text() for lock in LOCKS)
    return sorted(re.findall(r"^([a-z0-9._-]+)==", text, re.M))


def is_known(expression: str) -> bool:
    """Every licence of an SPDX expression is permitted."""
    return set(re.split(r" AND | OR ", re.sub("[()]", "", expression))) <= PERMITTED


def licence_of(name: str) -> str:
    """The licence of an installed package, as an SPDX expression.

    Raises:
        SystemExit: its metadata name none that is known, or one that is not permitted.
    """
    fields: PackageMetadata = metadata(name)
    classifiers = fields.get_all("Classifier") or []
    stated = [line.split(" :: ")[-1] for line in classifiers if line.startswith("License ::")]
    candidates = [
        READ_BY_HAND.get(name, ""),
        fields.get("License-Expression", ""),
        fields.get("License", ""),
        " AND ".join(SPELLINGS.get(line, line) for line in stated),
    ]
    for candidate in candidates:
        expression = SPELLINGS.get(candidate, candidate)
        if expression and is_known(expression):
            return expression
    raise SystemExit(f"{name}: no permitted licence in its metadata: {candidates[1:]}")


def table(names: list[str]) -> str:
    lines = [f"| `{name}` | {licence_of(name)} |" for name in names]
    return "\n".join(["| package | licence |", "|---|---|", *lines])


def main() -> None:
    before, _, _ = PAGE.read_text().partition("| package | licence |")
    PAGE.write_text(before + table(locked_names()) + "\n")


if __name__ == "__main__":
    main()
