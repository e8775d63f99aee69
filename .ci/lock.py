"""Write the lock files: each package of pyproject.toml and what it needs in turn, with the hashes of its files.

Run by `make lock`, in an environment that holds uv and packaging. Arguments are passed to uv: without any, versions that
still fit are kept; `--upgrade` takes the newest ones.
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
CUDA = ROOT / "requirements-cuda.lock"
BUILD = ROOT / "requirements-build.lock"
TRITON = ROOT / ".ci" / "triton.lock"

HEADERS = {
    PACKAGES: "Every package of the environment, those of pyproject.toml and what they depend on in turn.",
    CUDA: "What torch needs besides where its wheel is built for CUDA: on Linux, the wheel of the public index.",
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


def hash_of_wheel_here(pin: str) -> str:
    """The hash of the wheel that pip takes on this machine, which need not lie in the public index."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, pin], check=True)
        (wheel,) = Path(folder).iterdir()
        with wheel.open("rb") as file:
            return f"    --hash=sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def add_builds_of_torch(torch: list[str], old: list[str]) -> None:
    """Add the hashes of torch's CPU builds: those that were known of this version, and the one found here."""
    known = old[1:] if old and old[0] == torch[0] else []
    torch[1:] = sorted({*torch[1:], *known, hash_of_wheel_here(torch[0])})


def main() -> None:
    os.chdir(ROOT)
    project = PROJECT["project"]
    old = old_blocks(PACKAGES, CUDA)
    found = resolve(project["dependencies"] + project["optional-dependencies"]["dev"], old)
    add_builds_of_torch(found["torch"], old.get("torch", []))

    cuda = {name: lines for name, lines in found.items() if re.match("cuda-|nvidia-|triton$", name)}
    write(CUDA, cuda)
    write(PACKAGES, {name: lines for name, lines in found.items() if name not in cuda})
    write(TRITON, {"triton": cuda["triton"]})

    # Building an editable install takes `editables` besides the backend; setuptools is the backend of packages without one.
    backends = [*PROJECT["build-system"]["requires"], "editables", found["setuptools"][0]]
    write(BUILD, resolve(backends, old_blocks(BUILD) | found))


if __name__ == "__main__":
    main()
