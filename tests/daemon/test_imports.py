"""What the processes of `shimproxy run` import: each module takes memory for as long as they run."""

from __future__ import annotations

import pytest

from tests.imports import imported_by

_SESSION = {f"shimproxy.session{each}" for each in ("", ".limits", ".policy", ".replies", ".setting")}
"""What the settings need of it."""


def test_a_supervisor_has_no_session() -> None:
    """It dials no receiver, reads no mail and writes no records; the admin address is asked for by a setting."""
    found = imported_by("import shimproxy.cli.run")

    assert {each for each in found if each.startswith("shimproxy.session")} <= _SESSION
    assert not found & {
        "shimproxy.admin.server",
        "shimproxy.client",
        "shimproxy.net.driver",
        "shimproxy.net.leg",
        "shimproxy.observe.metrics",
        "shimproxy.records.files",
        "shimproxy.records.text",
        "shimproxy.service.serve",
    }


@pytest.mark.parametrize("module", ["shimproxy.cli.run", "shimproxy.daemon.worker"])
def test_what_is_for_mistakes_and_files_is_imported_with_them(module: str) -> None:
    """Most processes read no file of settings, suggest no other name and read no records."""
    assert not imported_by(f"import {module}") & {"calendar", "datetime", "difflib", "tomllib"}


def test_a_worker_has_no_command_line() -> None:
    """Its supervisor has read that."""
    assert not imported_by("import shimproxy.daemon.worker") & {
        "argparse",
        "shimproxy.cli",
        "shimproxy.daemon.supervisor",
    }


def test_a_worker_has_what_records_and_shows_sessions_once_a_session_is() -> None:
    assert not imported_by("import shimproxy.daemon.worker") & {
        "shimproxy.admin.repaired",
        "shimproxy.admin.status",
        "shimproxy.records.files",
        "shimproxy.records.text",
    }
