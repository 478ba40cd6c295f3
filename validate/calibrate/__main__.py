"""`torchrun ... -m validate.calibrate --out profiles/mycluster`: measures on all ranks; rank 0 fits and writes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from hardware.problems import InputError
from validate.calibrate.measuring.session import calibrate
from validate.calibrate.measuring.timing import Clock
from validate.calibrate.options import PARTS, Options
from validate.calibrate.torch_ranks import PeerLost, rank_place


def parsed(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m validate.calibrate", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the profile's folder")
    parser.add_argument("--scenario", type=Path, help="measure this scenario's shapes and groups first")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the scenario"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--part", default="", help="the accelerator's catalogue name, where its own name does not tell")
    parser.add_argument("--budget", type=float, default=420.0, metavar="SECONDS", help="time for measuring")
    parser.add_argument("--case", type=float, default=0.5, metavar="SECONDS", help="time for one case")
    parser.add_argument("--only", choices=PARTS, help="measure only this")
    parser.add_argument("--shared", action="store_true", help="measure although other work runs on the device")
    given = parser.parse_args(arguments)
    return Options(
        out=given.out,
        scenario=given.scenario,
        overrides=tuple(given.set),
        device=given.device,
        part=given.part,
        budget_s=given.budget,
        case_s=given.case,
        parts=(given.only,) if given.only else PARTS,
        shared=given.shared,
    )


def main(arguments: list[str], clock: Clock = time.monotonic) -> int:
    """Exit code 0 with a profile, 1 without or where a rank was lost, 2 for bad input. `clock` measures the budget."""
    from validate.calibrate.profile_files import finish

    options = parsed(arguments)
    skipped: list[str] = []
    lost = ""
    try:
        try:
            skipped = calibrate(options, clock)
        except PeerLost as error:
            lost = str(error)
        profile = finish(options, skipped, lost) if rank_place().rank == 0 else {}
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 1 if lost or profile is None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
