"""Write the lock files: what pyproject.toml needs, directly or in turn, with hashes of all files.

Run by `make lock`, in an environment that holds uv and packaging. Arguments are passed to uv:
without any, versions that still fit are kept; `--upgrade` takes the newest ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

PACKAGES = ROOT / "requirements.lock"
TORCH = ROOT / "requirements-torch.lock"
TORCH_CPU = ROOT / "requirements-torch-cpu.lock"
BUILD = ROOT / "requirements-build.lock"
TRITON = ROOT / ".ci" / "triton.lock"

HEADERS = {
    PACKAGES: "Every package but torch: those of pyproject.toml and what they need in turn.",
    TORCH: "torch of the public index, and the CUDA libraries that it needs on Linux.",
    TORCH_CPU: "torch's CPU build, for machines on which pip finds it.",
    BUILD: "What builds the packages that come as source, and this one.",
    TRITON: "Triton alone, whose interpreter runs the GPU kernel on a CPU.",
}

# Machines that the locks serve: a package that none of them needs is left out.
MACHINES = [
    {"sys_platform": system, "platform_machine": machine, "platform_system": name}
    for system, name, machine in (
        ("linux", "Linux", "x86_64"),
        ("linux", "Linux", "aarch64"),
        ("darwin", "Darwin", "arm64"),
    )
]

Blocks = dict[str, list[str]]  # name of a package -> its lines: the pin, then one hash a line


def blocks_of(text: str) -> Blocks:
    """The blocks of a lock file, without comments."""
    blocks: Blocks = {}
    for line in text.splitlines():
        if not line.startswith((" ", "#")):
            name = line.split("==")[0]
            blocks[name] = []
        if not line.startswith("#"):
            blocks[name].append(line.removesuffix("\\").rstrip())
    return blocks


def old_blocks(*files: Path) -> Blocks:
    blocks: Blocks = {}
    for file in files:
        if file.is_file():
            blocks |= blocks_of(file.read_text())
    return blocks


def text_of(blocks: Blocks) -> str:
    return "".join(" \\\n".join(lines) + "\n" for lines in blocks.values())


def write(file: Path, blocks: Blocks) -> None:
    head = f"# {HEADERS[file]} Written by `make lock`: see docs/dependencies.md.\n"
    file.write_text(head + text_of(blocks))


def is_needed(pin: str) -> bool:
    marker = Requirement(pin).marker
    return marker is None or any(marker.evaluate(machine) for machine in MACHINES)


def resolve(requirements: list[str], known: Blocks) -> Blocks:
    """What uv finds for the requirements on every machine; versions of `known` are preferred."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, lock = Path(folder, "wanted.in"), Path(folder, "found.txt")
        wanted.write_text("\n".join(requirements))
        lock.write_text(text_of(known))
        options = ["--universal", "--python-version", "3.11", "--generate-hashes"]
        silence = ["--quiet", "--no-header", "--no-annotate"]
        command = ["uv", "pip", "compile", *options, *silence, *sys.argv[1:], "-o", lock, wanted]
        subprocess.run(command, check=True)
        found = blocks_of(lock.read_text())
    return {name: lines for name, lines in found.items() if is_needed(lines[0])}


def cpu_build(pin: str, old: Blocks) -> list[str]:
    """torch's CPU build, whose wheels lie outside the public index.

    Its hashes are those known so far, and that of the wheel that pip finds here.

    Raises:
        SystemExit: there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, pin], check=True)
        (wheel,) = Path(folder).iterdir()
        with wheel.open("rb") as file:
            here = hashlib.file_digest(file, "sha256").hexdigest()
    pin = f"{pin}+cpu"
    lines = old.get("torch", [])
    known = lines[1:] if lines[:1] == [pin] else []
    if f"-{pin.split('==')[1]}-" in wheel.name:
        known = sorted({*known, f"    --hash=sha256:{here}"})
    if not known:
        sys.exit(f"lock: no hash of {pin} is known, and pip finds another build here: {wheel.name}")
    return [pin, *known]


def main() -> None:
    os.chdir(ROOT)
    project = PROJECT["project"]
    old = old_blocks(PACKAGES, TORCH)
    found = resolve(project["dependencies"] + project["optional-dependencies"]["dev"], old)
    of_torch = {name for name in found if re.match("torch$|triton$|cuda-|nvidia-", name)}
    torch = {name: lines for name, lines in found.items() if name in of_torch}
    write(PACKAGES, {name: lines for name, lines in found.items() if name not in of_torch})
    write(TORCH, torch)
    write(TORCH_CPU, {"torch": cpu_build(torch["torch"][0], old_blocks(TORCH_CPU))})
    write(TRITON, {"triton": torch["triton"]})

    # An editable install takes `editables` besides the backend; setuptools builds packages that
    # name no backend.
    backends = [*PROJECT["build-system"]["requires"], "editables", found["setuptools"][0]]
    write(BUILD, resolve(backends, old_blocks(BUILD) | found))


if __name__ == "__main__":
    main()
