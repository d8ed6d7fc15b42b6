"""A sender that comes with Python: smtplib, the way scripts use it."""

from __future__ import annotations

import contextlib
import smtplib
from typing import TYPE_CHECKING

from shimproxy.faulty.client import WAIT_SECONDS
from shimproxy.faulty.mail import RECIPIENT, SENDER
from shimproxy.faulty.outcome import Believed, Outcome, believed_of
from shimproxy.faulty.receiving import HOST

if TYPE_CHECKING:
    from shimproxy.faulty.mail import Mail


def python_smtplib(port: int, mail: Mail, host: str = HOST, patience_seconds: float = WAIT_SECONDS) -> Outcome:
    """smtplib.sendmail(), the way scripts use it."""
    session = smtplib.SMTP(timeout=patience_seconds)
    try:
        session.connect(host, port)
        session.sendmail(SENDER, [RECIPIENT], mail.crlf_text)
        outcome = Outcome(Believed.DELIVERED, "sendmail() returned")
        session.quit()
    except smtplib.SMTPResponseException as refused:
        error = refused.smtp_error
        words = error.decode("latin-1") if isinstance(error, bytes) else error
        text = "\n".join(f"{refused.smtp_code} {line}" for line in words.split("\n"))
        outcome = Outcome(believed_of(text.encode("latin-1")), text)
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            session.quit()
    except TimeoutError as error:
        outcome = Outcome(Believed.HUNG, repr(error))
    except (OSError, smtplib.SMTPException) as error:
        outcome = Outcome(Believed.DEFERRED, repr(error))
    finally:
        session.close()
    return outcome
