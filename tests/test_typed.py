"""Typed files: what is written is read back; a wrong file is one line with file and key."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import jsonschema
import pytest

from coordexp.errors import UserError
from coordexp.storage.typed import SEAL, json_schema, read_typed, write_typed


@dataclass(frozen=True)
class Row:
    """One row."""

    seed: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of rows."""

    name: str
    rows: list[Row]
    best: Row | None = None


TABLE = Table("a", [Row(0, {"mae": 1.0}), Row(1)])


def test_written_value_is_read_back(tmp_path):
    write_typed(tmp_path / "table.json", TABLE)
    assert read_typed(tmp_path / "table.json", Table) == TABLE


def test_value_that_was_read_is_written_with_its_defaults(tmp_path):
    (tmp_path / "table.json").write_text('{"name": "a", "rows": [{"seed": 0}]}')
    write_typed(tmp_path / "table.json", read_typed(tmp_path / "table.json", Table))
    content = json.loads((tmp_path / "table.json").read_text())
    del content[SEAL]
    assert content == {"name": "a", "rows": [{"seed": 0, "values": {}}], "best": None}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{}", "name"),
        ("[]", "array"),
        ("", "not valid JSON"),
        ('{"name": "a"}', "rows"),
        ('{"name": "a", "rows": [{"seed": "x"}]}', "rows[0].seed"),
        ('{"name": "a", "rows": [{"seed": 0, "values": {"mae": null}}]}', "rows[0].values"),
        ('{"name": "a", "rows": [', "not valid JSON"),
        ('{"name": "\udcff"}', "not valid JSON"),
    ],
)
def test_wrong_shape_is_one_line_with_file_and_key(tmp_path, refused, content, named):
    path = tmp_path / "table.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with refused(str(path), named):
        read_typed(path, Table)


def test_missing_file_and_directory_are_refused(tmp_path, refused):
    with refused("no such file"):
        read_typed(tmp_path / "none.json", Table)
    with refused("a directory"):
        read_typed(tmp_path, Table)


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_typed(tmp_path / "table.json", Table("a", [Row(0, {"mae": math.nan})]))
    assert not (tmp_path / "table.json").exists()


def test_schema_accepts_written_files_and_refuses_less(tmp_path):
    write_typed(tmp_path / "table.json", TABLE)
    content = json.loads((tmp_path / "table.json").read_text())
    schema = json_schema(Table, "table.json")
    jsonschema.validate(content, schema)
    del content["rows"][0]["seed"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_file_with_one_flipped_bit_is_refused_or_reads_as_it_was(tmp_path):
    path = tmp_path / "table.json"
    write_typed(path, TABLE)
    intact = path.read_bytes()
    for position in range(8 * len(intact)):
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        message = ""
        try:
            assert read_typed(path, Table) == TABLE, damaged
        except UserError as error:
            message = str(error)
        assert message == "" or message.startswith(str(path))
        assert "\n" not in message


def test_file_without_a_seal_is_read_as_it_is(tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"name": "a", "rows": [], "rule_sha256": "' + "0" * 64 + '"}')
    assert read_typed(path, Table) == Table("a", [])
