"""What shimproxy costs beside HAProxy and beside no proxy at all: `python -m bench`.

Arrows only downward: `__main__` (arguments), `report` (table, targets) and `rounds` (who takes a turn when) ->
`measures` (the figures) -> `programs` (processes) -> `peers` (own senders and receiver) -> `mail_data`.
"""
