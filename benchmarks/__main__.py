"""`python -m benchmarks [WORK ...] [--rounds N] [--quick]`: measure mcpproxy beside nginx and HAProxy."""

from __future__ import annotations

import argparse
import os
import sys
import time

from benchmarks import machine, profile, publish, report, verify
from benchmarks.lab import CONTENDERS, HERE, OURS, Lab, open_lab
from benchmarks.load import BadRun
from benchmarks.works import ALL
from benchmarks.works.base import Alone, Figures, Scale, Work
from benchmarks.works.guard import Guarded

DISTURBED = 0.08  # share of the proxy's core used by others: above it the caches are theirs, and a request costs up to a fifth more
TRIES = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog="works: " + ", ".join(ALL))
    parser.add_argument(
        "works",
        nargs="*",
        metavar="WORK",
        help="default: all of them; `profile WORK` looks into our process instead, `publish` renews chart and README from the results",
    )
    parser.add_argument("--rounds", type=int, help="how often each contender is measured (5, quick: 2)")
    parser.add_argument("--quick", action="store_true", help="short runs, small numbers: a first look, kept apart from the results")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, comma separated (default: all)")
    parser.add_argument(
        "--ours", default="", metavar="COMMAND", help="another way to start our daemon; {config} in it becomes the configuration file"
    )
    parser.add_argument(
        "--nice", default="0", metavar="N", help="on a machine with other work: niceness of all that is measured, such as -10 (needs root)"
    )
    parser.add_argument("--dry", action="store_true", help="print, but write no result files")
    chosen = parser.parse_args()
    if chosen.works == ["publish"]:
        return chosen
    profiling = chosen.works[:1] == ["profile"]
    if unknown := [name for name in chosen.works[profiling:] if name not in ALL]:
        parser.error(f"no such work: {', '.join(unknown)} (choose from {', '.join(ALL)})")
    if unknown := [name for name in chosen.only.split(",") if name not in CONTENDERS]:
        parser.error(f"no such contender: {', '.join(unknown)} (choose from {', '.join(CONTENDERS)})")
    if profiling and len(chosen.works) != 2:
        parser.error("profile takes one work")
    return chosen


def main() -> int:
    chosen = arguments()
    if chosen.works == ["publish"]:
        return publish.publish()
    if packages := machine.missing():
        print(f"missing: {' '.join(packages)}\n  apt-get install {' '.join(packages)}", file=sys.stderr)
        return 2
    contenders = [name for name in CONTENDERS if name in chosen.only.split(",")]
    if "mcpproxy" in contenders and not machine.has_mcpproxy():
        print("mcpproxy itself cannot be imported here; measuring the peers only", file=sys.stderr)
        contenders.remove("mcpproxy")
    if chosen.works[:1] == ["profile"]:
        return profile.run(ALL[chosen.works[1]], chosen.ours, contenders[0])
    os.environ[machine.NICENESS] = chosen.nice
    scale = Scale(chosen.quick, chosen.rounds or (2 if chosen.quick else 5))
    works = [ALL[name] for name in chosen.works] or list(ALL.values())
    bad = False
    with open_lab(chosen.ours) as lab:
        for work in works:
            try:
                rounds = measure(lab, work, contenders, scale)
            except (BadRun, AssertionError, RuntimeError) as error:
                print(f"\n{work.name}: no result: {error}", file=sys.stderr)
                bad = True
                continue
            report.show(work, rounds)
            if not chosen.dry:
                print(f"  -> {report.save(work, rounds, scale).relative_to(HERE.parent)}")
            bad |= any(not row["met"] for row in report.judge(work, rounds))
    if not chosen.dry:
        publish.draw(publish.newest())
    return 1 if bad else 0


def measure(lab: Lab, work: Work, contenders: list[str], scale: Scale) -> dict[str, list[Figures]]:
    """Contenders in turn, round after round; who goes first changes with the round."""
    contenders = [name for name in contenders if name == OURS or not isinstance(work, Alone)]
    work.prepare(lab, contenders, scale)
    rounds: dict[str, list[Figures]] = {name: [] for name in contenders}
    for number in range(scale.rounds):
        shift = number % len(contenders)
        for name in contenders[shift:] + contenders[:shift]:
            began = time.monotonic()
            figures = undisturbed(work, lab, name, scale, number)
            rounds[name].append(figures)
            first, took = next(iter(work.shown)), time.monotonic() - began
            round_name = f"{work.name} round {number + 1}/{scale.rounds} {name}"
            print(f"{round_name}: {first} {figures[first]:.2f} ({took:.0f} s, others {figures['others']:.0%})", file=sys.stderr)
    return rounds


def undisturbed(work: Work, lab: Lab, name: str, scale: Scale, number: int) -> Figures:
    """Measure; again, in a fresh process, if somebody else used the proxy's core meanwhile. The least disturbed try counts.

    A refused run is tried again under the same condition only; undisturbed it stands.
    """
    tries: list[Figures] = []
    for left in reversed(range(TRIES)):
        figures, refusal, others = attempt(work, lab, name, scale, number)
        if refusal is None:
            tries.append({**figures, "others": others})
        elif others <= DISTURBED or (left == 0 and not tries):
            raise refusal
        else:
            print(f"  refused, others had {others:.0%} of the core: {refusal}", file=sys.stderr)
        if others <= DISTURBED:
            break
    return min(tries, key=lambda figures: figures["others"])


def attempt(work: Work, lab: Lab, name: str, scale: Scale, number: int) -> tuple[Figures, BadRun | None, float]:
    """(figures, why they are refused, share of the proxy's core that others used)."""
    core = machine.cores()[0]
    figures: Figures = {}
    refusal = None
    with lab.contender(name, guards=isinstance(work, Guarded)) as proxy:
        if spoken := verify.prove(lab, proxy):
            print(f"{name}: same answers, same fields, same log ({spoken})", file=sys.stderr)
        busy, own, began = machine.core_busy_ns(core), proxy.cpu_ns() + lab.variants_ns, time.monotonic()
        try:
            figures = work.measure(lab, proxy, scale, number)
        except BadRun as error:
            refusal = error
        busy, own = machine.core_busy_ns(core) - busy, proxy.cpu_ns() + lab.variants_ns - own
        return figures, refusal, max(0.0, (busy - own) / 1e9 / (time.monotonic() - began))


if __name__ == "__main__":
    sys.exit(main())
