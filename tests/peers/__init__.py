"""The peers of the tests: receivers with a fault, senders of all ages, and real programs from Debian.

receiving.py  a receiver on real sockets, in threads: what every fault receiver is made of
faults.py     the fault receivers of evidence.md 3.1 and 3.3, one small function each, with what must come of them
form.py       the same for replies that are wrong in form or in place
senders.py    the sender of 1999 and smtplib
programs.py   swaks, curl, msmtp, smtp-source, smtp-sink: how they are found, run and ended
postfix.py    a private Postfix, exim.py a private Exim
shim.py       the shim between them, in this process or in one of its own
outcome.py    what a sender believes, and what it may believe
mail.py       the mails

Rules: everything on 127.0.0.1 and on free ports; every wait has a deadline; a process is ended by its pid; nothing
sleeps to let something happen.
"""
