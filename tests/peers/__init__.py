"""The peers of the tests: receivers with a fault, senders of all ages, and real programs from Debian.

receiving.py  a receiver on real sockets, in threads: what every fault receiver is made of
chunks.py     the same where mail data come in chunks
table.py      the table of fault receivers, with what must come of each
faults.py     those of evidence.md 3.1, one small function each
silence.py    those that say too much or nothing
form.py       those whose replies are wrong in form or in place
contents.py   mails that are hard to get right, and their comparison with a mailbox
senders.py    the sender of 1999, the one that sends chunks, and smtplib
programs.py   swaks, curl, msmtp, smtp-source, smtp-sink
processes.py  how programs are found, run, waited for and ended
postfix.py    a private Postfix, exim.py a private Exim
shim.py       the shim between them, in this process or in one of its own
gateway.py    a gateway between a sender's host and a receiver's, in network namespaces
confinement.py  a user without privileges, and a root that such a one can read
outcome.py    what a sender believes, and what it may believe
mail.py       the mails

Rules: everything on 127.0.0.1 and on free ports, or in namespaces of its own; every wait has a deadline; a process is
ended by its pid; nothing sleeps to let something happen.
"""
