"""What a name in the log or a reply means: its texts, and an example played as it is explained.

`stage` holds a session in memory, and `transcript` plays a written dialogue on it. `words` reads what
is said of each violation from the catalogue. `entries` has all names with their texts, and finds one. `page` puts an
entry and its example on paper. `command` is what `shimproxy explain` runs.

The command line imports all of this only when it explains: no mail passes through here.
"""
