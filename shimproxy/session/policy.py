"""What the operator has decided about sessions: the session asks here, and nowhere else, what it may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from shimproxy.session.limits import Deadlines, Limits
from shimproxy.session.replies import EARLY_SUCCESS
from shimproxy.smtp.newlines import Newlines

if TYPE_CHECKING:
    from shimproxy.smtp.reply import Own


@attrs.frozen(kw_only=True)
class Policy:
    """The decisions for the senders of one listener."""

    deadlines: Deadlines = attrs.field(factory=Deadlines)
    limits: Limits = attrs.field(factory=Limits)
    early_success: Own = EARLY_SUCCESS
    """What answers mail data that the receiver accepted before its end (guarantee 3)."""
    pipelining: bool = True
    """Whether PIPELINING is offered where the receiver offers it (RFC 2920)."""
    newlines: Newlines = Newlines.NORMALISE
    lf_only_devices: bool = False
    """Whether senders end lines with LF alone, and mail data with LF.LF; what they send is normalised."""
