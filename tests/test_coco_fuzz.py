"""Annotation files with random faults are converted or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from coco_files import picture
from coco_fuzz import convert


@pytest.mark.usefixtures("in_tmp")
def test_files_with_random_faults_are_one_line_or_counted():
    for i in range(3):
        picture(Path(f"pictures/{i}.jpg"), seed=i)
    refusals = [convert(seed) for seed in range(300)]
    assert all(line is None or line.isprintable() for line in refusals)
    assert 50 < sum(line is not None for line in refusals) < 280
