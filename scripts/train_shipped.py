#!/usr/bin/env python3
"""Train the agents that are shipped, VGG-16 on the scenarios of Tables I to III, and write `agents/manifest.json`.

    python scripts/train_shipped.py [--seeds N] [--set KEY=VALUE ...] [--out agents] [SCENARIO ...]

Settings are changed as by `distredge train`. With names of scenarios only these are trained anew, and the others stay
in the manifest as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import tempfile
from pathlib import Path

from distredge.agents.actor_file import POLICY, SUFFIX, load_agent
from distredge.agents.manifest import MANIFEST, Entry, Manifest, load_manifest
from distredge.agents.settings import load_settings
from distredge.experiments.gold import references
from distredge.experiments.groups import DEVICES, LARGE, NETWORKS
from distredge.model.load import load_model
from distredge.planners.training import Job, train_seed
from distredge.resources import write_atomically
from distredge.scenario import load_scenario

MODEL = "vgg16"
SCENARIOS = (*DEVICES, *NETWORKS, *LARGE)


def main() -> None:
    """Train one scenario after the other; the manifest is true after each."""
    parser = argparse.ArgumentParser(description="Train the agents that are shipped.")
    parser.add_argument("--seeds", type=int, default=1, help="seeds tried, the best is kept")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("agents"))
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", default=SCENARIOS)
    chosen = parser.parse_args()
    known = load_manifest(chosen.out).agents if (chosen.out / MANIFEST).is_file() else ()
    entries = {entry.file: entry for entry in known}
    for name in chosen.scenarios or SCENARIOS:
        entry = _trained(name, chosen.seeds, chosen.changes, chosen.out)
        entries[entry.file] = entry
        Manifest(agents=tuple(entries[file] for file in sorted(entries))).save(chosen.out)
        over = f", {entry.latency_ms / entry.gold_ms:.4f} of gold" if entry.gold_ms else ""
        print(f"{name}: {entry.latency_ms:.3f} ms{over}", flush=True)


def _trained(scenario: str, seeds: int, changes: list[str], out: Path) -> Entry:
    words = ["distredge", "train", MODEL, "--scenario", scenario, "--preset", "default"]
    command = shlex.join([*words, *(word for change in changes for word in ("--set", change))])
    job = Job(load_model(MODEL), load_scenario(scenario), load_settings("default", changes), "osds", command)
    with tempfile.TemporaryDirectory() as folder:
        found = [
            train_seed(job, seed, Path(folder) / str(seed), False, lambda share, ms: None) for seed in range(seeds)
        ]
        best = min(found, key=lambda trained: trained.policy_latency_ms)
        content = (best.out / POLICY).read_bytes()
    file = f"{MODEL}/{scenario}{SUFFIX}"
    write_atomically(out / file, content)
    gold = {(r.model, r.scenario): r.latency_ms for r in references().references}
    return Entry(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        model=MODEL,
        scenario=scenario,
        command=load_agent(out / file).card.command,
        seed=best.seed,
        latency_ms=best.policy_latency_ms,
        best_latency_ms=best.best_latency_ms,
        gold_ms=gold.get((MODEL, scenario)),
    )


if __name__ == "__main__":
    main()
