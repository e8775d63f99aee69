"""TensorBoard event files -> the same `Log` that a logging.jsonl gives.

Tags are those of Hugging Face's Trainer and of ms-swift (`rewrite_logs`): `eval/<key>` for what a logging.jsonl calls
`eval_<key>`, `train/<key>` for everything else. Values are float32.

An event file is a sequence of TFRecords, little-endian: uint64 length, uint32 masked CRC-32C of these 8 bytes, the
serialised `Event`, uint32 masked CRC-32C of it.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.logs import SUMMARY_KEYS, Log, note_repeats

HEADER, CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")
TENSOR_FLOATS = {
    1: (struct.Struct("<f"), "float_val"),
    2: (struct.Struct("<d"), "double_val"),
}  # by TensorProto's dtype
_TAG = re.compile(r"(train|eval)/.+", re.DOTALL)

Scalar = tuple[int, str, float]  # step, tag, value


def event_files(path: Path) -> list[Path]:
    """The event files in a directory (not below it), by name; a file is its own only one."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*tfevents*") if file.is_file())


def read_events(path: Path) -> Log:
    """Read the event files of one run: a directory of them, or a single one.

    Files count in the order in which they were opened (a restart opens a new one): the last value of a step wins.
    Each is read up to the first damaged record, with a warning. Steps without `train/loss` give no train row, and
    values that sum up the whole run (`train/train_runtime`) are left out, both as in a logging.jsonl. `max_steps` is
    unknown. `dropped` counts values (steps, where the loss is missing).

    Raises:
        UserError: there is no event file, one cannot be read, or together they hold no row.
    """
    log = Log(path)
    files = [_events(file, log.warnings) for file in event_files(path)]
    if not files:
        raise UserError(f"{path}: holds no TensorBoard event file (*tfevents*)")
    files.sort(key=lambda events: events[0].wall_time if events else 0.0)
    scalars = [scalar for events in files for event in events for scalar in _scalars(event)]
    named = [scalar for scalar in scalars if _TAG.fullmatch(scalar[1])]
    placed = [scalar for scalar in named if scalar[0] >= 0]
    _leave_out(
        log,
        "other tags",
        len(scalars) - len(named),
        "values under tags other than train/ and eval/",
    )
    _leave_out(log, "bad step", len(named) - len(placed), "values at negative steps")
    _take(placed, log)
    if not log.rows:
        raise UserError(
            "; ".join([f"{path}: no event holds train/loss or an eval/ value", *log.warnings])
        )
    return log


def _take(scalars: list[Scalar], log: Log) -> None:
    """Rows from scalars, in the order in which they were written."""
    repeated: set[int] = set()
    last_step = 0
    for step, tag, number in scalars:
        kind, key = tag.split("/", 1)
        if kind == "train" and key in SUMMARY_KEYS:
            continue
        row = (log.evals if kind == "eval" else log.train).setdefault(step, {})
        if key in row and (
            kind == "eval" or key == "loss"
        ):  # eval rows write train/epoch, too: that is no restart
            repeated.add(step)
        row[key] = number
        last_step = step
    lossless = {step: log.train.pop(step) for step in [*log.train] if "loss" not in log.train[step]}
    alone = [
        step for step, row in lossless.items() if step not in log.evals and row.keys() != {"epoch"}
    ]
    _leave_out(log, "no values", len(alone), "steps without train/loss and eval/ values")
    log.rows = len(log.train) + len(log.evals)
    note_repeats(log, repeated, last_step)


def _leave_out(log: Log, reason: str, count: int, what: str) -> None:
    if count:
        log.dropped[reason] = count
        log.warnings.append(f"{count} {what} were left out")


def _events(file: Path, warnings: list[str]) -> list[Any]:
    """The `Event`s of a file up to the first damaged record."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    events: list[Any] = []
    records, end = intact_records(content)
    try:
        for record in records:
            events.append(Event.FromString(record))
    except DecodeError:
        warnings.append(
            f"{file.name}: record {len(events) + 1} is no event: what follows was not read"
        )
    if end < len(content) or not content:
        warnings.append(
            f"{file.name}: damaged at byte {end} of {len(content)}: what follows was not read"
        )
    return events


def intact_records(content: bytes) -> tuple[list[bytes], int]:
    """The TFRecords up to the first damaged or torn one, and the offset at which they end."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    records, offset = [], 0
    while offset + HEADER.size + CHECKSUM.size <= len(content):
        length, checksum = HEADER.unpack_from(content, offset)
        start = offset + HEADER.size
        end = start + length
        if checksum != masked_crc32c(content[offset : offset + 8]) or end + CHECKSUM.size > len(
            content
        ):
            break
        if CHECKSUM.unpack_from(content, end)[0] != masked_crc32c(content[start:end]):
            break
        records.append(content[start:end])
        offset = end + CHECKSUM.size
    return records, offset


def _scalars(event: Any) -> list[Scalar]:
    """The scalars of an event; texts, images and histograms are none."""
    found = ((value.tag, _scalar(value)) for value in event.summary.value)
    return [(event.step, tag, number) for tag, number in found if number is not None]


def _scalar(value: Any) -> float | None:
    """The number of a summary value: `simple_value` (torch, tensorboardX), or a tensor of rank 0 (TensorFlow 2)."""
    if value.HasField("simple_value"):
        return value.simple_value
    tensor = value.tensor
    if tensor.dtype not in TENSOR_FLOATS or tensor.tensor_shape.dim:
        return None
    layout, field = TENSOR_FLOATS[tensor.dtype]
    if len(tensor.tensor_content) == layout.size:
        return layout.unpack(tensor.tensor_content)[0]
    numbers = getattr(tensor, field)
    return numbers[0] if numbers else None
