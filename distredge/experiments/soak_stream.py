"""The requester of a soak: streams images for so long, compares each result at once, notes it as a line of JSON.

python -m distredge.experiments.soak_stream PLAN SCENARIO_FILE KEYS SECONDS NAME=HOST:PORT ...
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from distredge.engine.base import FloatRows
from distredge.engine.onnxruntime import Undivided
from distredge.model.load import load_model
from distredge.plans.plan import Plan
from distredge.runtime.images import load_images
from distredge.runtime.keys import Keys
from distredge.runtime.replan import Improver
from distredge.runtime.requester import Requester, Terms
from distredge.runtime.run import link_rates
from distredge.scenario import REQUESTER, load_scenario

PHOTOGRAPHS = 10
INFLIGHT = 2


def main(arguments: Sequence[str]) -> None:
    """Stream until the time is over; one line a result on stdout."""
    plan_file, scenario_file, keys, seconds, *at = arguments
    plan, scenario = Plan.load(plan_file), load_scenario(scenario_file)
    graph = load_model(plan.model.name)
    bound, undivided = plan.bind(graph), Undivided(graph)
    images = [*load_images(PHOTOGRAPHS, graph)]
    wanted = [undivided.run(image) for image in images]
    scale = max(float(np.abs(x).max()) for outputs in wanted for x in outputs.values())
    terms = Terms(wire="float32", rates_mbps=link_rates(scenario))
    addresses = dict(item.split("=", 1) for item in at)
    improver = Improver(bound, scenario)
    with Requester(
        bound, addresses, keys=Keys.load(Path(keys), REQUESTER), terms=terms, improver=improver
    ) as requester:
        until = time.monotonic() + float(seconds)
        for result in requester.stream(_until(images, until), INFLIGHT):
            right = wanted[result.index % PHOTOGRAPHS]
            off = max(float(np.abs(np.subtract(result.outputs[name], x)).max()) for name, x in right.items()) / scale
            line = {"index": result.index, "t_s": result.done_s, "epoch": result.epoch, "difference": off}
            print(json.dumps(line), flush=True)


def _until(images: Sequence[FloatRows], until: float) -> Iterator[FloatRows]:
    for image in itertools.cycle(images):
        if time.monotonic() >= until:
            return
        yield image


if __name__ == "__main__":
    main(sys.argv[1:])
