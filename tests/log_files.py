"""The same run as a logging.jsonl, as a run directory and as TensorBoard events."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from studies import run_manifest

from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.storage.logs.log import EVAL, Log
from coordexp.storage.logs.tensorboard import intact_records
from coordexp.storage.manifest import write_manifest
from coordexp.storage.runs import RunDirectory

ROWS = [
    row
    for step in (10, 20, 30, 40)
    for row in (
        {
            STEP_KEY: f"{step}/40",
            "loss": 1 / step,
            "epoch": step / 7,
            "coord_softce_w1/loss": 0.1 + step,
        },
        {
            STEP_KEY: f"{step}/40",
            "eval_loss": 2 / step,
            "eval_coord_diag/expected_bin_mae": 3.7 * step,
            "epoch": step / 7,
        },
    )
]


def write_log(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_run(
    path: Path,
    variant: str = "pure_ce",
    seed: int = 0,
    finished: bool = True,
    config: str | None = None,
) -> Path:
    write_log(path / "logging.jsonl")
    (path / "config.yaml").write_text(
        config or f"variant:\n  name: {variant}\nseed: {seed}\nother: ${{oc.env:ABSENT}}\n",
        errors="surrogateescape",
    )
    if finished:
        write_manifest(RunDirectory(path), run_manifest(variant=variant, seed=seed))
    return path


def tag_of(key: str) -> str:
    """What `rewrite_logs` of transformers makes of a key."""
    return f"eval/{key.removeprefix(EVAL)}" if key.startswith(EVAL) else f"train/{key}"


def write_events(
    directory: Path,
    rows: list[dict[str, Any]],
    opened: float | None = None,
    suffix: str = "",
    **options: Any,
) -> Path:
    """Write rows as events, as Hugging Face's TensorBoardCallback does.

    `opened` is the first wall time in the file.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    before = set(directory.glob("*")) if directory.exists() else set()
    writer = EventFileWriter(str(directory), filename_suffix=suffix)
    for row in rows:
        step = int(str(row[STEP_KEY]).split("/")[0])
        for key, number in row.items():
            if key != STEP_KEY:
                writer.add_event(Event(step=step, summary=summary(tag_of(key), number, **options)))
    writer.close()
    (file,) = set(directory.glob("*")) - before
    if opened is not None:
        _, end = intact_records(file.read_bytes()[: record_ends(file.read_bytes())[0]])
        rest = file.read_bytes()[end:]
        file.write_bytes(
            record(Event(wall_time=opened, file_version="brain.Event:2").SerializeToString()) + rest
        )
    return file


def summary(tag: str, number: Any, as_tensor: str = "") -> Any:
    """A summary of one value: a number (or, `as_tensor`, one in a tensor's field), or a text."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    if isinstance(number, str):
        return Summary(
            value=[
                Summary.Value(tag=tag, tensor=TensorProto(dtype=7, string_val=[number.encode()]))
            ]
        )
    if not as_tensor:
        return Summary(value=[Summary.Value(tag=tag, simple_value=number)])
    fields = {
        "float_val": (1, [number]),
        "double_val": (2, [number]),
        "tensor_content": (1, struct.pack("<f", number)),
    }
    dtype, content = fields[as_tensor]
    return Summary(
        value=[Summary.Value(tag=tag, tensor=TensorProto(dtype=dtype, **{as_tensor: content}))]
    )


def record(content: bytes) -> bytes:
    """A TFRecord, by tensorboard's own writer."""
    import io

    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    RecordWriter(buffer).write(content)
    return buffer.getvalue()


def record_ends(content: bytes) -> list[int]:
    ends, end = [], 0
    while end < len(content):
        end += 16 + struct.unpack_from("<Q", content, end)[0]
        ends.append(end)
    return ends


def in_float32(log: Log) -> tuple[dict, dict]:
    return tuple(
        {
            step: {
                key: struct.unpack("<f", struct.pack("<f", number))[0]
                for key, number in row.items()
            }
            for step, row in rows.items()
        }
        for rows in (log.train, log.evals)
    )  # type: ignore[return-value]
