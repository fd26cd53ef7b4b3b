"""Ours and the peers on one workload, one after the other, round after round, and the ratios of the medians.

Command: make bench-peers && python benchmarks/compare.py w1       (or w2, w3; on an otherwise idle machine)

Machines drift: only ratios of one run mean anything. Every library runs in a process of its own, with a warm-up, and
alone, for two of them do not fit the memory of W2. The matrix rate is measured before each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import pin
from workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".bench"
COMMANDS = {
    "ours": [sys.executable, str(HERE / "step.py")],
    "trl": [str(ENVIRONMENTS / "trl/bin/python"), str(HERE / "peers/run_trl.py")],
    "tunix": [str(ENVIRONMENTS / "tunix/bin/python"), str(HERE / "peers/run_tunix.py")],
}
PARTS = ("rollout", "update", "step", "score")


def run(command: list[str], environment: dict[str, str] | None = None) -> list[str] | None:
    """The lines that a command prints; None, with the end of its errors on stderr, if it fails."""
    variables = os.environ | (environment or {})
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables)
        if done.returncode == 0:
            return done.stdout.splitlines()
        errors.seek(0)
        last = "".join(errors.readlines()[-20:])
        print(f"{' '.join(command)} ended with {done.returncode}:\n{last}", file=sys.stderr, flush=True)
        return None


def matrix_rate() -> float:
    """FLOP a second, in a process of its own."""
    printed = run([sys.executable, str(HERE / "timing.py")])
    if printed is None:
        raise RuntimeError("timing.py failed")
    return float(printed[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=2, help="of all libraries (default 2)")
    parser.add_argument("--steps", type=int, default=1, help="measured steps of a round (default 1)")
    parser.add_argument("--libraries", default=",".join(COMMANDS), metavar="A,B", help="default: %(default)s")
    parser.add_argument("--score", action="store_true", help="time the scoring forward pass too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes a key of our config")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="sets a variable of ours")
    arguments = parser.parse_args()
    for pair in arguments.env:
        if "=" not in pair:
            parser.error(f"--env {pair}: expected NAME=VALUE")
    libraries = arguments.libraries.split(",")
    for library in libraries:
        if library not in COMMANDS:
            raise SystemExit(f"--libraries: {library!r}, expected some of {', '.join(COMMANDS)}")
        if not Path(COMMANDS[library][0]).exists():
            raise SystemExit(f"{COMMANDS[library][0]} does not exist: make bench-peers")
    pin()
    options = [arguments.workload, "--steps", str(arguments.steps), *(["--score"] if arguments.score else [])]
    rates: list[float] = []
    found: list[dict[str, object]] = []
    for _ in range(arguments.rounds):
        for library in libraries:
            rates.append(matrix_rate())
            ours = [f"--set={change}" for change in arguments.set] if library == "ours" else []
            variables = dict(pair.split("=", 1) for pair in arguments.env) if library == "ours" else {}
            for line in run([*COMMANDS[library], *options, *ours], variables) or ():
                if line.startswith('{"library"'):
                    print(line, flush=True)
                    found.append(json.loads(line))
    rates.append(matrix_rate())
    print(summary(arguments.workload, libraries, rates, found))


def summary(name: str, libraries: list[str], rates: list[float], found: list[dict[str, object]]) -> str:
    """A table: for each part, seconds of every library (median, least and most) and how many times ours that is."""
    rate, workload = statistics.median(rates), WORKLOADS[name]
    lines = [f"{name}: matrix product {rate / 1e9:.0f} ({min(rates) / 1e9:.0f}-{max(rates) / 1e9:.0f}) GFLOP/s"]
    for part in PARTS:
        medians = {}
        for library in libraries:
            own = [line for line in found if (line["library"], line["part"]) == (library, part)]
            if not own:
                continue
            seconds = [float(str(line["seconds"])) for line in own]
            medians[library] = middle = statistics.median(seconds)
            of_ours = f", {middle / medians['ours']:.2f} x ours" if "ours" in medians else ""
            share = getattr(workload.needed, part) / middle / rate
            optimizer = f", {own[0]['optimizer']}" if "optimizer" in own[0] and part in ("update", "step") else ""
            lines.append(
                f"  {part:8} {library:6} {middle:7.2f} s ({min(seconds):.2f}-{max(seconds):.2f}){of_ours}, "
                f"{100 * share:.0f} % of the matrix rate by the FLOP needed{optimizer}, "
                f"peak {max(float(str(line['peak_gib'])) for line in own):.2f} GiB"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
