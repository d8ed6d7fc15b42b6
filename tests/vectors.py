"""What smugglers put where a strict and a lax receiver may disagree about the end of a mail.

From smtpsmug, SMTP-Smuggling-Tools, smtp_smuggling_checker, and the tests of mox, chasquid, go-smtp, aiosmtpd, Exim
(0900), Stalwart, James and elemta; the numbers are those of the table that they were gathered in.
"""

from __future__ import annotations

BEHIND = b"MAIL FROM:<smuggled@example.org>\r\nRCPT TO:<x@example.org>\r\nDATA\r\n"
BEFORE = b"Subject: x\r\n\r\nfirst mail"
OVER_LIMIT = b"x" * 998 + b"\r\n"
LAST_LINE = b"\r\n.\r\n"

# The row -> what stands between the mail and what a smuggler wants to be read as commands. None of it ends mail data.
NO_END = {
    "1: LF . LF": b"\n.\n",
    "2: LF . CRLF": b"\n.\r\n",
    "3: CRLF . LF": b"\r\n.\n",
    "4: CR . CR": b"\r.\r",
    "5: CR . LF": b"\r.\n",
    "6: LF . CR": b"\n.\r",
    "7: CR . CRLF": b"\r.\r\n",
    "8: CRLF . CR": b"\r\n.\r",
    "8: CRLF . CR x": b"\r\n.\rx",
    "9: CRLF NUL . CRLF": b"\r\n\0.\r\n",
    "10: CRLF . NUL CRLF": b"\r\n.\0\r\n",
    "11: CRLF . CR CRLF": b"\r\n.\r\r\n",
    "12: CR CRLF . CR CRLF": b"\r\r\n.\r\r\n",
    "13: CRLF NUL . CR": b"\r\n\0.\r",
    "13: CRLF NUL . LF": b"\r\n\0.\n",
    "14: LF LF . CRLF": b"\n\n.\r\n",
    "15: CRLF . blank CRLF": b"\r\n. \r\n",
    "18: over the line limit, then LF . LF": OVER_LIMIT + b".\nHELP\r\n",
    "20: . LF behind a line (BDAT smuggle of Exim 0900)": b"\r\n.\nMAIL FROM:<>\r\nRCPT TO:<x>\r\nBDAT 86 LAST\r\n",
    "21: a stuffed dot alone on its line": b"\r\n..\r\n",
    "21: a stuffed dot and text": b"\r\n..x\r\n",
    "21: a dot that was not stuffed": b"\r\n.x\r\n",
}
