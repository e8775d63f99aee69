"""Reading TensorBoard event files into the same `Log` that a logging.jsonl gives.

Tags are those of Hugging Face's Trainer and of ms-swift (`rewrite_logs`): `eval/<key>` for what a
logging.jsonl calls `eval_<key>`, and `train/<key>` for everything else. Values are float32.

An event file is a sequence of TFRecords, little-endian: uint64 length, uint32 masked CRC-32C of
these 8 bytes, the serialised `Event`, uint32 masked CRC-32C of the event.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.logs.dialects import TENSORBOARD
from coordexp.storage.logs.log import EVAL, SUMMARY_KEYS, UNTOLD, Log, Told
from coordexp.storage.logs.rows import RawRow, add_rows

HEADER = struct.Struct("<QI")  # length, checksum of the length
CHECKSUM = struct.Struct("<I")
# How a TensorProto stores a number, by its dtype: layout of raw bytes, name of the list field.
TENSOR_FLOATS = {
    1: (struct.Struct("<f"), "float_val"),
    2: (struct.Struct("<d"), "double_val"),
}
_TAG = re.compile(r"(train|eval)/.+", re.DOTALL)

Scalar = tuple[int, str, float]  # step, tag, value


def event_files(path: Path) -> list[Path]:
    """The event files in a directory (not below it), by name; for a file, the file itself."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*tfevents*") if file.is_file())


def read_events(path: Path, told: Told = UNTOLD) -> Log:
    """Read the event files of one run: a directory of them, or a single one.

    Files count in the order in which they were opened (a restart opens a new one), and the last
    value of a step counts. Each file is read up to its first damaged record, with a warning. As in
    a logging.jsonl, steps without `train/loss` give no train row, and values that sum up the whole
    run (`train/train_runtime`) are left out. `max_steps` is unknown. `dropped` counts values, or
    steps where the loss is missing.

    Raises:
        UserError: there is no event file, one cannot be read, together they hold no row, or several
            evaluation sets of which none is chosen.
    """
    log = Log(path)
    files = [_events(file, log) for file in event_files(path)]
    if not files:
        raise UserError(f"{path}: holds no TensorBoard event file (*tfevents*)")
    files.sort(key=lambda events: events[0].wall_time if events else 0.0)

    kept: list[Scalar] = []
    n_other_tags = n_negative_steps = 0
    for events in files:
        for event in events:
            for scalar in _scalars(event):
                step, tag, _ = scalar
                if not _TAG.fullmatch(tag):
                    n_other_tags += 1
                elif step < 0:
                    n_negative_steps += 1
                else:
                    kept.append(scalar)
    _leave_out(log, "other tags", n_other_tags, "values under tags other than train/ and eval/")
    _leave_out(log, "bad step", n_negative_steps, "values at negative steps")

    add_rows(log, _rows(kept, log), TENSORBOARD, told)
    if not log.rows:
        problem = f"{path}: no event holds train/loss or an eval/ value"
        raise UserError("; ".join([problem, *log.warnings]))
    return log


def _rows(scalars: list[Scalar], log: Log) -> list[RawRow]:
    """The rows that scalars make, given in the order in which they were written.

    A step has a row of train values and a row of eval values. A restart writes them again: another
    row begins where a step repeats its loss, or a key of its evaluation. (An eval row writes
    train/epoch a second time; that is no restart.)
    """
    rows: dict[tuple[int, str], list[dict[str, object]]] = {}
    last_written: dict[tuple[int, str, int], int] = {}  # step, kind, number of the row
    for number, (step, tag, value) in enumerate(scalars):
        kind, key = tag.split("/", 1)
        if kind == "train" and key in SUMMARY_KEYS:
            continue
        written = rows.setdefault((step, kind), [{}])
        if key in written[-1] and (kind == "eval" or key == "loss"):
            written.append({})
        written[-1][key] = value
        last_written[step, kind, len(written) - 1] = number

    n_without_values = 0
    found: list[RawRow] = []
    for step, kind, number in sorted(last_written, key=last_written.__getitem__):
        values = rows[step, kind][number]
        if kind == "eval":
            values = {EVAL + key: value for key, value in values.items()}
        elif "loss" not in values:
            n_without_values += (step, "eval") not in rows and values.keys() != {"epoch"}
            continue
        found.append(RawRow(len(found) + 1, step, values))
    _leave_out(log, "no values", n_without_values, "steps without train/loss and eval/ values")
    return found


def _leave_out(log: Log, reason: str, count: int, what: str) -> None:
    if count:
        log.dropped[reason] = count
        log.doubt(f"{count} {what} were left out", "not used")


def _events(file: Path, log: Log) -> list[Any]:
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
        log.doubt(
            f"{file.name}: record {len(events) + 1} is no event: what follows was not read",
            "not used",
        )
    if end < len(content) or not content:
        log.doubt(
            f"{file.name}: damaged at byte {end} of {len(content)}: what follows was not read",
            "not used",
        )
    return events


def intact_records(content: bytes) -> tuple[list[bytes], int]:
    """The TFRecords before the first damaged or incomplete one, and the offset where they end."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    records: list[bytes] = []
    offset = 0
    while offset + HEADER.size + CHECKSUM.size <= len(content):
        length, length_checksum = HEADER.unpack_from(content, offset)
        start = offset + HEADER.size
        end = start + length
        if length_checksum != masked_crc32c(content[offset : offset + 8]):
            break
        if end + CHECKSUM.size > len(content):
            break
        (checksum,) = CHECKSUM.unpack_from(content, end)
        if checksum != masked_crc32c(content[start:end]):
            break
        records.append(content[start:end])
        offset = end + CHECKSUM.size
    return records, offset


def _scalars(event: Any) -> list[Scalar]:
    """The scalars of an event. Texts, images and histograms are left out."""
    found = []
    for value in event.summary.value:
        number = _scalar(value)
        if number is not None:
            found.append((event.step, value.tag, number))
    return found


def _scalar(value: Any) -> float | None:
    """The number of a summary value, or None.

    torch and tensorboardX write `simple_value`, TensorFlow 2 a tensor of rank 0.
    """
    if value.HasField("simple_value"):
        return float(value.simple_value)
    tensor = value.tensor
    if tensor.dtype not in TENSOR_FLOATS or tensor.tensor_shape.dim:
        return None
    layout, field = TENSOR_FLOATS[tensor.dtype]
    if len(tensor.tensor_content) == layout.size:
        return float(layout.unpack(tensor.tensor_content)[0])
    numbers = getattr(tensor, field)
    return float(numbers[0]) if numbers else None
