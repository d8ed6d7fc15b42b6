"""Deliberate defects of shimproxy: the explorer, or a test that is named, catches each one."""

from __future__ import annotations

from pathlib import Path

import pytest

import shimproxy
from tests.defects.__main__ import apply, tried
from tests.defects.patches import DEFECTS, Defect

_MOST_SECONDS = 120.0
"""How long the explorer may look; it stops at the first dialogue that is broken, after two seconds as a rule."""
pytestmark = pytest.mark.once


def test_there_are_at_least_forty() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 40


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_what_a_defect_changes_is_there(defect: Defect, tmp_path: Path) -> None:
    """So that a defect does not go out of date unseen."""
    path = tmp_path / "shimproxy" / defect.file
    path.parent.mkdir(parents=True)
    path.write_text((Path(shimproxy.__file__).parent / defect.file).read_text())

    apply(defect, tmp_path)


@pytest.mark.slow
@pytest.mark.volume
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_is_caught(defect: Defect) -> None:
    assert tried(defect, _MOST_SECONDS)
