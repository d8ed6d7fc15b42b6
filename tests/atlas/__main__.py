"""`python -m tests.atlas`: the data and the page of the atlas, made anew from the programs themselves."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from shimproxy.probe.atlas import DATA, Atlas, AtlasEntry
from tests.atlas.inside import SEEN
from tests.atlas.page import PAGE, page
from tests.atlas.receivers import Receiver, receivers
from tests.atlas.senders import Sender, senders
from tests.atlas.world import NotHere, World

_KINDS = ("receivers", "senders")
_AT_ONCE = 4  # they wait more than they work


def _entry(world: World, peer: Receiver | Sender) -> AtlasEntry:
    """What the program does today. Raises NotHere."""
    world.install(peer.name)
    about, seen = json.loads(world.about(peer.name)), json.loads(world.measure(peer.name))
    return AtlasEntry(
        name=peer.name,
        package=str(peer.package),
        seen=str(datetime.date.today()),
        **about,
        **{field: seen[field] for field in SEEN},
    )


def _written(atlas: Atlas) -> None:
    """Write the data and the page."""
    data: dict[str, Any] = {kind: [attrs.asdict(each) for each in getattr(atlas, kind)] for kind in _KINDS}
    DATA.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(atlas), encoding="utf-8")


def main() -> int:
    """The exit status: 1 if a program could not be asked, and has its old data."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.atlas",
        description="Install each program of the atlas in a folder, ask it for its habits, and write atlas.json and "
        "atlas.md. Nothing outside that folder is installed. It needs root, and half an hour without a filled folder.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="programs to ask; all of them without one")
    parser.add_argument("--folder", type=Path, help="where programs are kept for the next time; else a temporary one")
    parser.add_argument("--page", action="store_true", help="only write atlas.md from the data that there are")
    parser.add_argument("--list", action="store_true", help="only print the names")
    options = parser.parse_args()
    peers: dict[str, dict[str, Any]] = {"receivers": receivers(), "senders": senders()}
    known = [name for kind in _KINDS for name in peers[kind]]
    if options.list:
        print("\n".join(known))
        return 0
    if unknown := set(options.names) - set(known):
        parser.error(f"no program of the atlas: {', '.join(sorted(unknown))}; --list prints their names")
    atlas = Atlas.of(json.loads(DATA.read_text(encoding="utf-8")))
    if options.page:
        _written(atlas)
        return 0
    if os.geteuid():
        parser.error("programs run in overlays of their own: run it as root")
    found = {kind: {each.name: each for each in getattr(atlas, kind)} for kind in _KINDS}
    wanted = [(kind, name) for kind in _KINDS for name in peers[kind] if name in (options.names or known)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="shimproxy-atlas-") as temporary, ThreadPoolExecutor(_AT_ONCE) as threads:
        world = World((options.folder or Path(temporary)).absolute())
        asked = [(kind, name, threads.submit(_entry, world, peers[kind][name])) for kind, name in wanted]
        for kind, name, entry in asked:
            try:
                found[kind][name] = entry.result()
                print(f"{found[kind][name].title}: seen", flush=True)
            except KeyboardInterrupt:
                # Those that run have got it too; nobody waits for the others.
                threads.shutdown(cancel_futures=True)
                raise SystemExit(130) from None
            except NotHere as why:
                failed += 1
                old = f"; what was seen on {found[kind][name].seen} stays" if name in found[kind] else ""
                print(f"{name}: not asked ({why}){old}", file=sys.stderr, flush=True)
            # In the order of the code, so that a change of one program is a change of a few lines.
            entries = {each: [found[each][one] for one in peers[each] if one in found[each]] for each in _KINDS}
            _written(Atlas(receivers=tuple(entries["receivers"]), senders=tuple(entries["senders"])))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
