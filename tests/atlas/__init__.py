"""The atlas: real receivers and senders, installed by name, asked for their habits, and written down.

`python -m tests.atlas` makes shimproxy/docs/atlas.json and atlas.md anew. Each program is installed as its registry has
it, into an overlay over this machine's files that lies in a folder, and runs there with a network and a host name of
its own: nothing outside the folder changes, no name of this machine is seen, and no octet leaves it.

- packages.py: what is installed, its version, and the day of its release.
- world.py: the overlays.
- receivers.py, receivers_of_packages.py: how each receiver is started. whole_mails.py: what it does with whole mails.
- senders.py, sender_programs.py: how each sender is called. ear.py: what it does, as a receiver hears it.
- inside.py: one program in its overlay. page.py: the data in words.
"""
