"""Trace which connections the commands open: does a request leave the machine?

    python benchmarks/connections.py

Runs each command below under strace, in an environment without HF_HUB_OFFLINE, proxies and
MLFLOW_DISABLE_TELEMETRY, and counts the system calls that name an internet address. Writes the
table of docs/reliability.md. The commands:

- the smoke study, from the scenes to MLflow;
- `coordexp compare` on three logs;
- `coordexp evaluate` of a checkpoint whose files name code, kernels and models of a hub;
- `coordexp ui`, whose pages are fetched as a browser would.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reliability.md"
START, END = "<!-- connections.py -->\n", "<!-- end -->\n"
PYTHON = (sys.executable, "-m")
STRACE = ("strace", "--seccomp-bpf", "-f", "-qq", "-s", "0", "-e", "signal=none")
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
DNS_PORT = 53
SERVER_WITHIN_S = 300  # a traced server starts and ends slowly
# What a browser asks for when it opens the page that `coordexp ui` prints.
PAGES = ("/", "/health", "/version", "/api/2.0/mlflow/experiments/get-by-name", "/ajax-api/2.0/x")

_ADDRESS = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\)"
    r'.*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"'
)


@dataclass
class Connections:
    """What a command's system calls named: numbers of calls by address."""

    loopback: int = 0
    dns: int = 0
    others: Counter[str] = field(default_factory=Counter)

    @property
    def leave(self) -> bool:
        """Whether a request left the machine, or would have with a network."""
        return bool(self.dns or self.others)


def count_connections(trace: str) -> Connections:
    """The internet addresses in the output of strace.

    A call that names no address goes to a socket that an earlier `connect` named.
    """
    found = Connections()
    for port, address in _ADDRESS.findall(trace):
        if int(port) == DNS_PORT:
            found.dns += 1
        elif address == "::1" or address.removeprefix("::ffff:").startswith("127."):
            found.loopback += 1
        else:
            found.others[f"{address}:{port}"] += 1
    return found


def environment(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing, in an empty home directory."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"} | {
        "PYTHONPATH": str(ROOT)
    }


def traced(command: Sequence[str], directory: Path) -> Connections:
    """Run a command under strace, in this directory.

    Raises:
        CalledProcessError: the command failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace"
        subprocess.run(
            [*STRACE, "-e", CALLS, "-o", str(trace), *command],
            cwd=directory,
            env=environment(Path(scratch)),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return count_connections(trace.read_text(errors="replace"))


def smoke(directory: Path) -> Connections:
    command = [*PYTHON, "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
    return traced([*command, "stage1_ablation", "--config", "experiment=smoke"], directory)


def compare(directory: Path) -> Connections:
    names = ("pure_ce", "softce", "mixed")
    for gain, name in enumerate(names):
        write_log(directory / f"{name}.jsonl", gain)
    runs = [f"{name}={name}.jsonl" for name in names]
    return traced([*PYTHON, "coordexp.cli", "compare", *runs, "--out", "compared"], directory)


def write_log(path: Path, gain: float) -> None:
    """A log of ten evaluations."""
    with path.open("w") as log:
        for step in range(40, 440, 40):
            done = {"global_step/max_steps": f"{step}/400"}
            mae = 100 - step / 5 - gain
            evaluated = {"coord_diag/expected_bin_mae": mae, "coord_token_acc": step / 1e5}
            evaluated |= {"coord_diag/p_gt_mean": step / 1e5, "coord_diag/w1_to_delta": mae + 9}
            row = {f"eval_{key}": value for key, value in evaluated.items()} | {"eval_loss": 2.0}
            log.write(json.dumps(done | {"loss": 2.0}) + "\n" + json.dumps(done | row) + "\n")


def evaluate(directory: Path) -> Connections:
    """With a template of the user: the checkpoint's own includes a file, and is refused."""
    from coordexp.models.processor import CHAT_TEMPLATE

    write_hostile_checkpoint(directory / "hostile")
    write_records(directory / "records")
    (directory / "plain.jinja").write_text(CHAT_TEMPLATE)
    command = [*PYTHON, "coordexp.cli", "evaluate", "hostile", "--data", "records/val.jsonl"]
    command += ["--template", "plain.jinja", "--name", "hostile"]
    return traced([*command, "probe.steps=1", "probe.images=2"], directory)


def write_records(directory: Path) -> None:
    """Six generated scenes for evaluation, and for a probe."""
    from coordexp.config.compose import compose
    from coordexp.data.prepare import prepare_data

    sizes = ("data.image_size=64", "data.train_images=6", "data.val_images=6")
    with tempfile.TemporaryDirectory() as made, chdir(made):
        records = prepare_data(compose(sizes)).parent
        shutil.copytree(Path(made) / records, directory)


def write_hostile_checkpoint(directory: Path) -> None:
    """A tiny checkpoint whose files name what a loader might fetch from a hub, or run."""
    from coordexp.config.compose import compose
    from coordexp.models.base import build_tiny

    sizes = ("text_layers=1", "text_hidden_size=32", "text_heads=2", "text_intermediate_size=48")
    sizes += ("vision_layers=2", "vision_hidden_size=16", "vision_heads=2", "vocabulary_size=300")
    model, processor = build_tiny(compose([f"model.{size}" for size in sizes]).model)
    model.save_pretrained(directory)
    processor.tokenizer.save_pretrained(directory)
    hub = "hostile/model"
    code = {"AutoConfig": f"{hub}--code.Config", "AutoTokenizer": [f"{hub}--code.Tokenizer", None]}
    code |= {"AutoModel": "code.Model", "AutoProcessor": f"{hub}--code.Processor"}
    change(
        directory / "config.json",
        auto_map=code,
        _name_or_path=hub,
        base_model_name_or_path=hub,
        _attn_implementation="hostile/kernel",
        attn_implementation="hostile/kernel",
        transformers_version="4.57.2",
    )
    change(
        directory / "tokenizer_config.json",
        auto_map=code,
        name_or_path=hub,
        tokenizer_file="https://hostile.example/tokenizer.json",
        vocab_file="https://hostile.example/vocab.json",
        processor_class="HostileProcessor",
        custom_generate=hub,
        chat_template="{% include 'https://hostile.example/template' %}",
    )
    change(directory / "generation_config.json", custom_generate=hub, assistant_model=hub)
    change(directory / "processor_config.json", auto_map=code, processor_class="HostileProcessor")
    for name in ("code.py", "custom_generate/generate.py", "modeling_hostile.py"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("raise SystemExit('code of a checkpoint was run')\n")


def change(path: Path, **values: object) -> None:
    """Set keys of a JSON file, which may not exist yet."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def ui(directory: Path) -> Connections:
    """Serve, fetch every file that the first page names, and end as Ctrl-C does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch) / "trace"
        command = [*STRACE, "-e", CALLS, "-o", str(trace), *PYTHON, "coordexp.cli", "ui"]
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=directory,
            env=environment(Path(scratch)),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            fetch_pages(f"http://127.0.0.1:{port}", server)
            time.sleep(10)  # what the server does by itself, it does in its first seconds
        finally:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(SERVER_WITHIN_S)
        return count_connections(trace.read_text(errors="replace"))


def fetch_pages(address: str, server: subprocess.Popen[bytes]) -> None:
    """Get the pages and the files that they name, from this machine alone."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + SERVER_WITHIN_S
    while True:
        try:
            first = direct.open(address, timeout=60).read().decode()
            break
        except (URLError, ConnectionError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(1)
    named = re.findall(r'(?:src|href)="\.?/?([^":]+)"', first)
    for page in (*PAGES, *(f"/{name}" for name in named)):
        try:
            direct.open(address + page, timeout=60).read()
        except urllib.error.HTTPError as error:
            error.close()  # a refusal is an answer too


COMMANDS: dict[str, Callable[[Path], Connections]] = {
    "`snakemake … stage1_ablation --config experiment=smoke`": smoke,
    "`coordexp compare` of three logs": compare,
    "`coordexp evaluate` of a hostile checkpoint": evaluate,
    "`coordexp ui`, its pages fetched": ui,
}


def table(found: dict[str, Connections]) -> str:
    lines = [
        "| command | calls that name 127.0.0.1 or ::1 | other addresses | DNS lookups |",
        "|---|---:|---:|---:|",
    ]
    for name, counts in found.items():
        columns = (counts.loopback, counts.others.total(), counts.dns)
        lines.append(f"| {name} | {' | '.join(map(str, columns))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    if shutil.which("strace") is None:
        sys.exit("connections.py: strace is not installed: `apt-get install strace`")
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, trace in COMMANDS.items():
            found[name] = trace(Path(directory))
            print(name, found[name], file=sys.stderr, flush=True)
    print(table(found), end="")
    head, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(head + START + table(found) + END + rest.partition(END)[2])
    if any(counts.leave for counts in found.values()):
        sys.exit("connections.py: a request would have left the machine")


if __name__ == "__main__":
    main()
