"""What shimproxy costs beside HAProxy and beside no proxy at all: `python -m bench`.

Arrows only downward: `__main__` (arguments), `report` (table, targets), `picture` and `rounds` (who takes a turn when)
-> `measures` (what takes a figure) -> `programs` (processes) -> `peers` (own senders and receiver) -> `mail_data`.
`figures` (what each means) and `progress` (how long it will take) know none of them.

Beside it stand two others with tops of their own: `soak` (faulty peers for minutes, with a ledger) and `hostile`
(well-behaved mails beside attacks): `hostile_attacks` (what is done), `hostile_table` (what is shown), `hostile_mails`
and `hostile_peers` (the two sides, as processes).
"""
