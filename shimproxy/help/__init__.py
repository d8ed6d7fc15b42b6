"""`shimproxy help` and `shimproxy explain`: the pages and the texts about names, for a terminal and as man pages.

It reads what the package has beside its code, and what the code says of itself. It serves no mail.
"""
