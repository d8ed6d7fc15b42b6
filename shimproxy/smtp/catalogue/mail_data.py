"""Mail data, by DATA or by BDAT: from the command to the verdict."""

from __future__ import annotations

from shimproxy.smtp.catalogue.entry import CatalogueEntry


class RepliesToMailData:
    """What receivers do instead of one reply after the end of mail data."""

    EARLY_REPLY = CatalogueEntry(
        "early-reply",
        by="receiver",
        rule="RFC 5321 4.2, 4.3.2",
        repair="shimproxy holds the reply, resets the receiver and drains the sender; it relays the reply once, "
        "after the end of mail data",
    )
    """The receiver replied before the end of the mail.

    The receiver decided about the mail while the sender was still sending it. Most senders do not read then. They see a
    broken connection, lose the reply, and send the same mail again for days. shimproxy waits for the end of the mail
    and gives the sender that reply.

    Programs:
    - the receiver of KB Q152940, 1999: 552 and 421 for the size, then FIN or RST (Microsoft KB Q152940)
    - Microsoft IIS and Exchange SMTP: 552 4.3.1 for the size, then a reset (IBM swg21255392, Microsoft KB 816866)
    - Cisco ESA: 552 for the size, and a second one later (Cisco 118546)
    - mox, commit 1c958766: 451 for the size, then a reset (its source)
    - chasquid, commit ca2538b9: 521 for a bare CR or LF, then FIN (its source)
    - OpenSMTPD, commit 3153385b: 500 for a long line, then FIN (its source)
    - Apache James, commit 20bf8083: 500 for a line without CRLF, then FIN (its source)
    - notqmail, commit a7012e4f: 451 for a bare LF, then it exits (its source)
    - qpsmtpd, commit df5b04d8: 421 for a bare newline, then FIN (its source)
    - Haraka, commit 0bf10cbb: 554 for too many MIME parts, then FIN (its source)
    - gen_smtp, commit 185c54d: 552 for the size or 451 for a bare LF, and stays (its source)
    - Mailpit, commit 408b30d5: 552 for the size, and stays (its source)
    - smtp-gated, commit 09a7c736: 552 for the size (its source)
    - aiosmtpd, before pull request 59 of 2020: 552 for each line, then 250 (issue 9)
    - smtp-sink -A 0 (Postfix), 3.7.11: 550 when mail data begin, and reads no more (shimproxy's tests)

    Tell the vendor of the receiver:
    Your server replies to DATA before the end of the mail data (RFC 5321 sections 4.2 and 4.3.2). Many senders do not
    read while they write. They lose the reply when the connection breaks, and send the mail again for days. Please read
    and discard the rest up to CRLF.CRLF, and give the one reply then.

    Example: q152940
    """

    EARLY_SUCCESS = CatalogueEntry(
        "early-success",
        by="receiver",
        rule="RFC 5321 4.1.1.4, 4.2.5",
        repair="never relayed as success: shimproxy resets the receiver, and replies 451 4.3.0 after the end of "
        "mail data (--early-success)",
    )
    """The receiver accepted a mail before it had read all of it.

    The receiver said 2yz while mail data were still on their way. What it has accepted is not the whole mail, or it
    takes an end for one that is none. shimproxy never relays such a success. The sender keeps the mail and tries again.

    Tell the vendor of the receiver:
    Your server accepts a mail before it has received CRLF.CRLF (RFC 5321 sections 4.1.1.4 and 4.2.5). After a 2yz reply
    the server is responsible for the whole mail, which it does not have yet. Please end mail data at CRLF.CRLF only,
    and reply after that.

    Example: early-success
    """

    FURTHER_REPLY = CatalogueEntry(
        "further-reply",
        by="receiver",
        rule="RFC 5321 4.2",
        repair="a repeated 354, a 500 for each line, or a second 552: dropped; a 421 answers the next command",
    )
    """The receiver replied more than once to one mail.

    Each command has one reply. A second one stands where the reply to the next command should be. Every later reply is
    then taken for another command's. shimproxy drops the further replies, and keeps a 421 for the next command.

    Programs:
    - Cisco ESA: a second 552 at twice the size limit (Cisco 118546)
    - Cisco ESA: a 500 for each line after a 552 for the header, then 421 (Cisco 118495)
    - aiosmtpd, before pull request 59 of 2020: a 552 for each line, then 250 (issue 9)

    Tell the vendor of the receiver:
    Your server gives several replies to one DATA command (RFC 5321 section 4.2: one reply for each command). The sender
    pairs replies with commands by counting, so each further reply shifts all later ones. Please give one reply, after
    CRLF.CRLF.

    Example: repeated-354
    """

    REWRITTEN_REPLY = CatalogueEntry(
        "rewritten-reply",
        by="receiver",
        rule="RFC 5321 4.2.1",
        repair="a rule of the operator's says that this refusal means another one: the sender gets that (--rewrite)",
    )
    """The receiver refused with a code that the operator corrects.

    A 4yz says that the sender may try again, and a 5yz that it must not. Some receivers say one and mean the other. The
    sender then tries for days, or gives up a mail that would be accepted later. A rule of `--rewrite` matched the
    reply: `rule` names it, `reply` is what the receiver said, and `given` is what the sender got.

    Programs:
    - mox, commit 1c958766: 451 to what is too large (its source)

    Tell the vendor of the receiver:
    Your server refuses for good with 4yz, or for now with 5yz (RFC 5321 section 4.2.1). A sender tries a mail again for
    days after 4yz, and returns it at once after 5yz. Please reply 552 5.3.4 to a mail that is larger than your limit.

    No peer: it depends on a rule of the operator's; `mox-451-rst` gives a reply for which there may be one.

    Example: rewrite
    """

    CLOSED_IN_DATA = CatalogueEntry(
        "closed-in-data",
        by="receiver",
        rule="RFC 5321 3.8",
        repair="shimproxy drains the sender; after the end of mail data it relays the verdict, or replies 451 "
        "4.4.2 without one",
    )
    """The receiver closed the connection in the middle of a mail.

    The receiver sent FIN before the end of mail data, or before its verdict. If it had said something, that is the
    verdict. If it had not, it is not known what became of the mail. The sender gets 451 and tries again.

    Tell the vendor of the receiver:
    Your server closes the connection while it receives a mail (RFC 5321 section 3.8: only after QUIT and 221, after
    421, or after a timeout). The sender cannot tell whether the mail was refused, and sends it again. Please read to
    CRLF.CRLF and reply with 4yz or 5yz.

    Example: closed-in-data
    """

    RESET_IN_DATA = CatalogueEntry(
        "reset-in-data",
        by="receiver",
        rule="RFC 5321 3.8",
        repair="shimproxy reads all that the receiver sent; after the end of mail data it relays the verdict, or "
        "replies 451 4.4.2",
    )
    """The receiver reset the connection in the middle of a mail.

    The receiver sent RST, often because it closed a socket with octets that it had not read. A reset can destroy a
    reply on its way. shimproxy reads what arrived before the reset. Without a reply in it, the sender gets 451.

    Tell the vendor of the receiver:
    Your server resets the connection while it receives a mail (RFC 5321 section 3.8). A TCP stack does that when a
    program closes a socket that still holds unread octets. The reset can delete the reply that was sent before it.
    Please read to CRLF.CRLF, reply, and wait for QUIT.

    Example: reset-in-data
    """

    STALLED_IN_DATA = CatalogueEntry(
        "stalled-in-data",
        by="receiver",
        rule="RFC 5321 4.5.3.2.5",
        repair="the receiver accepts nothing or too little, or stops within a reply: after the deadline shimproxy "
        "resets it, drains the sender, and replies 451 4.4.2",
    )
    """The receiver stopped reading a mail, or stopped in the middle of a reply.

    The receiver took no mail data, or next to none, until the deadline passed. Or it began a reply and did not finish
    it. shimproxy gives it up and reads the rest of the mail from the sender. It answers 451, or the refusal that had
    begun.

    Tell the vendor of the receiver:
    Your server stops reading in the middle of a mail and keeps the connection open (RFC 5321 section 4.5.3.2.5). The
    sender waits three minutes and more, and sends the mail again later. Please read on, or reply 4yz after CRLF.CRLF.

    Example: half-a-refusal-in-data
    """


class MailData:
    """What senders do instead of sending one mail whole and waiting for its verdict."""

    DATA_WITHOUT_354 = CatalogueEntry(
        "data-without-354",
        by="sender",
        rule="RFC 5321 4.3.1",
        repair="mail data after a refused DATA: never forwarded as commands, 421 4.5.0, close",
    )
    """The sender sent mail data although DATA was refused.

    The receiver refused DATA, and the mail came all the same. Its lines would be taken for commands. shimproxy forwards
    none of them, answers 421 and closes.

    Tell the vendor of the sender:
    Your program sends the mail although DATA was refused (RFC 5321 section 4.3.1). Please send mail data only after a
    354.

    Example: data-refused-mail-data-later
    """

    CHUNK_OF_NO_SIZE = CatalogueEntry(
        "chunk-of-no-size",
        by="sender",
        rule="RFC 3030 2",
        repair="a BDAT without an unambiguous chunk size: 421 4.5.0, close",
    )
    """The sender gave a BDAT without a usable size.

    BDAT says how many octets follow. This one has no number, or one too large to be true. Where its chunk ends cannot
    be known, so nothing that follows can be read. The sender gets 421 4.5.0, and the connection closes.

    Tell the vendor of the sender:
    Your program sends BDAT without a valid size (RFC 3030 section 2). Please write the number of octets in the chunk,
    in decimal, and LAST for the last chunk.

    Example: chunks-of-no-size
    """

    OVERSIZE = CatalogueEntry(
        "oversize",
        by="sender",
        rule="RFC 1870 6.1",
        repair="larger than --max-size: 552 5.3.4 to MAIL or RCPT if SIZE= says so, otherwise shimproxy drains the "
        "mail and replies 552 5.3.4",
    )
    """The mail is larger than --max-size.

    Your own limit, and no fault of anybody. If the sender declares the size, it gets 552 at MAIL or RCPT. If it does
    not, the mail is counted, the receiver is reset, and the 552 comes after the end. A 552 is final: the mail bounces.

    Tell the sender:
    Your mail is larger than this server accepts (552 5.3.4). The limit is in the SIZE line of its EHLO reply (RFC
    1870). Please send a smaller mail, or a link to a file.

    Example: oversize
    """

    SENDER_STALLED = CatalogueEntry(
        "sender-stalled",
        by="sender",
        rule="RFC 5321 4.5.3.2.7",
        repair="no command, no end of mail data, or an octet a minute: 421 4.4.2 or the held verdict, close",
    )
    """The sender stopped in the middle of its work.

    No command, no end of a mail, or next to no mail data came until the deadline passed. A sender that only drips holds
    a session as well. It gets 421 4.4.2, or the verdict that was held for it, and the connection closes.

    Programs:
    - Microsoft Exchange IMC, 4.0: its thread blocks when a receiver leaves in mid-mail (Microsoft KB Q152940)

    Tell the vendor of the sender:
    Your program keeps an SMTP connection open and sends nothing for minutes (RFC 5321 section 4.5.3.2.7). Please finish
    the command or the mail, or say QUIT, and open a new connection for the next mail.

    Example: sender-idle
    """

    VANISHED_IN_DATA = CatalogueEntry(
        "vanished-in-data",
        by="sender",
        rule="RFC 5321 4.1.1.4",
        repair="FIN or RST before the end of mail data: shimproxy resets the receiver's connection; a Unix socket "
        "has no reset, so its receiver sees end of file after the last whole line",
    )
    """The sender disconnected in the middle of a mail.

    The mail has no end. A lax receiver could take the end of the connection for that of the mail, and deliver half of
    it. So shimproxy resets the receiver's connection instead of closing it.

    Tell the vendor of the sender:
    Your program disconnects in the middle of a mail, without CRLF.CRLF (RFC 5321 section 4.1.1.4). Please check its
    timeouts and its log at that time. The mail was not delivered.

    Example: vanished-in-data
    """

    VERDICT_UNREAD = CatalogueEntry(
        "verdict-unread",
        by="sender",
        rule="RFC 5321 4.5.3.2.6, RFC 1047",
        repair="the sender disconnected before its host received the verdict, and will send the mail again; an "
        "accepted mail arrives twice, which no proxy can prevent",
    )
    """The sender disconnected before it had the verdict on its mail.

    The receiver decided, but the sender had disconnected, or its host did not confirm the reply. It does not know the
    verdict and will send the mail again. If the mail was accepted, its recipients get it twice. That cannot be mended
    afterwards.

    Tell the vendor of the sender:
    Your program disconnects after the end of a mail and does not wait for the reply (RFC 5321 section 4.5.3.2.6: ten
    minutes; RFC 1047). It then sends a mail again that was accepted. Please raise that timeout to ten minutes.

    Example: verdict-unread
    """
