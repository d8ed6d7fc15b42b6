"""The instructions that mail data cost in smtp/: both tests of a block, as a session calls them.

They are where the end is, and whether anything is stray. Mail data are made by the process that counts, as making them
costs more than all that is counted.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.mail_data import BLOCKS, small_mail
from shimproxy.net.block import BLOCK_START
from shimproxy.smtp.mail_data import EndOfData
from shimproxy.smtp.newlines import Normaliser
from tests.instructions.counting import What, counted

_MIB: Final = 1024 * 1024
_SMALL_MAILS: Final = 100
_SMALL: Final = "2 KiB, a hundred times"


def of_mail_data() -> dict[str, int]:
    """The instructions of each kind, for a MiB of it or for a hundred small mails."""
    mails = {kind: make(_MIB) for kind, make in BLOCKS.items()} | {_SMALL: small_mail(2048)}
    with tempfile.TemporaryDirectory() as folder:
        for at, (kind, octets) in enumerate(mails.items()):
            Path(folder, f"{at} {kind}").write_bytes(octets)
        with counted(What.INSTRUCTIONS, __name__, folder) as run:
            totals = run.totals()
    # What comes before the first of two marks is no figure.
    pairs = zip(mails.items(), totals[1::2], strict=True)
    return {kind: total if kind == _SMALL else round(total * _MIB / len(octets)) for (kind, octets), total in pairs}


def _judge_all(folder: Path) -> None:
    """Have the mail data in the folder judged, each kind between two marks."""
    for path in sorted(folder.iterdir()):
        block = bytearray(BLOCK_START) + path.read_bytes()
        times = _SMALL_MAILS if path.name.endswith(_SMALL) else 1
        _judge(block)
        os.getppid()
        for _ in range(times):
            _judge(block)
        os.getppid()


def _judge(block: bytearray) -> None:
    stop = EndOfData().feed(block, BLOCK_START, len(block))
    Normaliser().feed(block, BLOCK_START, stop or len(block), ended=stop is not None)


if __name__ == "__main__":
    _judge_all(Path(sys.argv[1]))
