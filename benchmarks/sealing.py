"""What digests and seals cost: their share of the CPU time of a whole study.

    python benchmarks/sealing.py [--config experiment=smoke]

Runs a study in a copy of the project. Every process of it (also Snakemake) imports a module that
wraps the functions in SEALING and adds up the CPU time of their threads. Prints the share of all
CPU time, and the card.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from workflows import command, copy_project, environment  # noqa: E402

# What computes, compares or remembers a digest, by module.
SEALING = {
    "coordexp.storage.files": ("sha256_file", "sha256_files", "sha256_directory", "sha256_of_tree"),
    "coordexp.storage.digest_store": ("known_sha256s", "known_sha256_directory"),
    "coordexp.storage.typed": ("sealed", "require_seal"),
    "coordexp.study.study_files": ("require_as_written", "require_inputs", "write_study_file"),
}

# Python imports `sitecustomize` by itself. A call inside a call is counted once.
SITECUSTOMIZE = f"""
    import atexit, functools, os, sys, threading, time
    from importlib.abc import MetaPathFinder
    from importlib.util import find_spec

    SEALING = {SEALING!r}
    spent, of_thread = [], threading.local()

    def timed(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            if getattr(of_thread, "inside", False):
                return function(*args, **kwargs)
            of_thread.inside, start = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                of_thread.inside = False
                spent.append(time.thread_time() - start)
        return wrapper

    class Finder(MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name not in SEALING:
                return None
            sys.meta_path.remove(self)
            spec = find_spec(name)
            sys.meta_path.insert(0, self)
            load = spec.loader.exec_module
            def exec_module(module):
                load(module)
                for function in SEALING[name]:
                    setattr(module, function, timed(getattr(module, function)))
            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Finder())

    @atexit.register
    def note():
        if spent:
            with open(os.environ["SEALING_LOG"], "a") as log:
                log.write(f"{{sum(spent)}} {{len(spent)}}\\n")
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sealing-") as directory:
        copy, log = copy_project(Path(directory) / "copy"), Path(directory) / "log"
        hooks = Path(directory) / "hooks"
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(textwrap.dedent(SITECUSTOMIZE))
        env = environment(copy) | {"PYTHONPATH": str(hooks), "SEALING_LOG": str(log)}
        subprocess.run(command("stage1_ablation", *sys.argv[1:]), cwd=copy, env=env, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        total_s = used.ru_utime + used.ru_stime
        entries = [line.split() for line in log.read_text().splitlines()]
        sealing_s = sum(float(seconds) for seconds, _ in entries)
        calls = sum(int(count) for _, count in entries)
        card = next(copy.glob("results/stage1_ablation/*/recommendation.md")).read_text()
    print(card)
    print(
        f"sealing: {sealing_s:.2f} of {total_s:.1f} CPU seconds, {sealing_s / total_s:.2%}, "
        f"{calls} calls in {len(entries)} processes"
    )


if __name__ == "__main__":
    main()
