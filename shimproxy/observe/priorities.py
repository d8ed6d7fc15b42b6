"""What is the same wherever syslog is: the number before a line, and how long a line may be."""

from __future__ import annotations

import logging
from typing import Final

_FACILITY_MAIL: Final = 2
_SEVERITY_INFO: Final = 6
_SEVERITIES: Final = {logging.DEBUG: 7, logging.INFO: _SEVERITY_INFO, logging.WARNING: 4, logging.ERROR: 3}
MOST_OCTETS: Final = 8096
"""Of a line to syslog; rsyslogd cuts what is longer, unless its maxMessageSize is larger."""


def priority(record: logging.LogRecord) -> int:
    """Facility and severity (RFC 5424 section 6.2.1)."""
    return _FACILITY_MAIL << 3 | _SEVERITIES.get(record.levelno, _SEVERITY_INFO)
