"""The events of the log: each by one token, which does not change, and what it means.

In text a token is the word after the level, in JSON the value of `event`. Whatever else a line has stands in fields;
words for people stand in `message` alone, and may change.
"""

from __future__ import annotations

import enum
import logging


class Event(enum.Enum):
    """What a line of the log reports; the value is its token."""

    level: int
    meaning: str

    def __new__(cls, token: str, level: int, meaning: str) -> Event:
        """A member with this token, logged at `level`, of logging's; `meaning` is one sentence or more."""
        member = object.__new__(cls)
        member._value_ = token
        member.level, member.meaning = level, meaning
        return member

    # of sessions
    SAID = ("said", logging.DEBUG, "A peer sent a command or a reply.")
    SESSION = ("session", logging.INFO, "A session has ended.")
    MAIL = ("mail", logging.INFO, "A mail has its verdict, or was given up; `outcome` says which.")
    AUTH_REFUSED = ("auth_refused", logging.WARNING, "The receiver refused a login of the sender.")
    REPAIR = ("repair", logging.WARNING, "shimproxy repaired a violation; `repair` names it. A sender's habit is INFO.")
    SEEN = (
        "seen",
        logging.WARNING,
        "shimproxy saw a violation and passed it on as it came; `violation` names it. A sender's habit is INFO.",
    )
    REPEATS = ("repeats", logging.WARNING, "shimproxy counted repairs of one kind instead of logging each of them.")
    LIKELY_MEND = (
        "likely_mend",
        logging.WARNING,
        "A receiver seems to want other settings, by what was `seen` of it; told once for each receiver.",
    )
    BUG = ("bug", logging.ERROR, "shimproxy failed; a traceback follows. Please report it.")
    OBSERVER = ("observer", logging.ERROR, "The embedding program's observer raised an error; the session continues.")
    # of this process
    START = ("start", logging.INFO, "A listener serves senders in a way that limits what shimproxy can repair.")
    LOST = ("lost", logging.WARNING, "The reader of the log was too slow; `lines` lines are missing here.")
    LISTENER = ("listener", logging.WARNING, "A listener could not accept a connection; `reason` is the error's name.")
    RECORDS = (
        "records",
        logging.WARNING,
        "Session records cannot be written (`reason` is the error's name), or can be again (`reason=written_again`).",
    )
    # of the supervisor
    RELOADED = ("reloaded", logging.INFO, "New workers serve with the new settings; `retiring` older ones finish.")
    RELOAD_FAILED = ("reload_failed", logging.WARNING, "The new settings could not be used; nothing has changed.")
    UPGRADING = ("upgrading", logging.INFO, "The supervisor starts the code that is installed now.")
    UPGRADE_FAILED = (
        "upgrade_failed",
        logging.WARNING,
        "The code that is installed now could not take over; nothing has changed.",
    )
    UPGRADE_UNFINISHED = (
        "upgrade_unfinished",
        logging.WARNING,
        "The new supervisor could not start new workers; the old workers continue.",
    )
    SETTINGS_UNUSABLE = (
        "settings_unusable",
        logging.WARNING,
        "The new supervisor cannot use the settings of the old workers; they continue.",
    )
    SETTINGS_WARNING = (
        "settings_warning",
        logging.WARNING,
        "The settings can be used, but one is dangerous; `message` says which, and how to correct it.",
    )
    CERTIFICATE = (
        "certificate",
        logging.WARNING,
        "A certificate for senders expires within 14 days, or has expired; once a day.",
    )
    FILE_CHANGED = (
        "file_changed",
        logging.WARNING,
        "A file with a certificate or a key has changed since it was loaded, and is not used yet; once a day.",
    )
    LOG_MOVED = ("log_moved", logging.WARNING, "The log goes to standard error, because its own place cannot be used.")
    LISTENING_AGAIN = (
        "listening_again",
        logging.INFO,
        "A socket had vanished from the file system; shimproxy made it again.",
    )
    RECEIVER_DRAINED = (
        "receiver_drained",
        logging.INFO,
        "An operator drains a receiver: it gets no new sessions, and those that are open continue.",
    )
    RECEIVER_READY = ("receiver_ready", logging.INFO, "A receiver that was drained gets new sessions again.")
    STOPPING = ("stopping", logging.INFO, "No new sessions are accepted; open ones have `grace_seconds` to finish.")
    WORKER_ENDED = ("worker_ended", logging.WARNING, "A worker has ended; another starts after `pause_seconds`.")
    WORKER_KILLED = (
        "worker_killed",
        logging.WARNING,
        "The supervisor killed a worker: `reason` is not_started, no_answer or grace_exceeded.",
    )
    WORKER_NOT_STARTED = (
        "worker_not_started",
        logging.WARNING,
        "A worker could not be started; shimproxy tries again after `pause_seconds`.",
    )
    WORKER_UNREADABLE = (
        "worker_unreadable",
        logging.WARNING,
        "A worker sent the supervisor a line that cannot be read.",
    )
