"""Rows of numbers by step, in 8 bytes a number: a log of 1 GB holds hundreds of thousands."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, MutableMapping

Row = dict[str, float]


class NumberRows(MutableMapping[int, Row]):
    """A dict of rows by step. Each row that is taken from it is a copy: assign it to change it.

    A dict for each row would take some 70 bytes a number. Here all numbers stand in one array; of
    a row are kept where its numbers start, and its keys, which it shares with rows like it.
    """

    def __init__(self, rows: Mapping[int, Row] | None = None) -> None:
        self._numbers = array("d")
        self._starts: dict[int, int] = {}
        self._keys: dict[int, tuple[str, ...]] = {}
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.update(rows or {})

    def __getitem__(self, step: int) -> Row:
        start, keys = self._starts[step], self._keys[step]
        return dict(zip(keys, self._numbers[start : start + len(keys)], strict=True))

    def __setitem__(self, step: int, row: Row) -> None:
        keys = tuple(row)
        if self._keys.get(step) == keys:
            start = self._starts[step]
            self._numbers[start : start + len(keys)] = array("d", row.values())
            return
        self._starts[step] = len(self._numbers)
        self._keys[step] = self._shared.setdefault(keys, keys)
        self._numbers.extend(row.values())

    def __delitem__(self, step: int) -> None:
        del self._starts[step], self._keys[step]  # its numbers stay, unused

    def __iter__(self) -> Iterator[int]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        return f"NumberRows({dict(self)!r})"
