"""The fault explorer: dialogues in memory and in virtual time, with a fault at every octet, judged by an oracle.

`python -m tests.explore --help` says how it is run. What it is made of:

    stepper.py   runs the session's coroutines without trio's loop, which is too slow for a thousand dialogues a second
    kernel.py    connections as the kernel has them: what was written, sent, acknowledged and read
    naive.py     SMTP read by a second, simple implementation, which shares no code with shimproxy
    peers.py     models of senders and receivers, which react to what they read
    faults.py    what a peer may do wrong, and where
    cases.py     dialogues, with the settings under which they are held
    world.py     one dialogue: shimproxy between two peers, until both legs are closed
    seen.py      what both peers saw, put together from the kernel's log
    oracle.py    the guarantees, checked on what both peers saw
    record.py    whether the session's record says the same
    sweep.py     every fault at every place of every case, in a seeded order
    transcript.py  a dialogue in the form of the golden ones
"""
