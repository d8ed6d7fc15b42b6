"""The peers of the tests: what they expect of faulty receivers, and real programs from Debian.

table.py      the table of faulty receivers of shimproxy/faulty, with what must come of each
contents.py   mails that are hard to get right, and their comparison with a mailbox
senders.py    smtplib
programs.py   swaks, curl, msmtp, smtp-source, smtp-sink
packages.py   the Debian packages that have them, and which of those are missing
processes.py  how programs are found, run, waited for and ended
postfix.py    a private Postfix, exim.py a private Exim
shim.py       the shim between them, in this process or in one of its own
gateway.py    a gateway between a sender's host and a receiver's, in network namespaces
confinement.py  a user without privileges, and a root that such a one can read
outcome.py    what a sender may believe
mail.py       the mails, which are dangerous if run as commands

Rules: everything on 127.0.0.1 and on free ports, or in namespaces of its own; every wait has a deadline; a process is
ended by its pid; nothing sleeps to let something happen.
"""
