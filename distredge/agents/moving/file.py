"""The agent's file: one `.safetensors`, read with numpy alone; nothing is unpickled.

metadata                         under `distredge`, JSON: `Header`
critic                           (plans, pieces, 3 P + 1) float16
embedding                        (plans, D) float32
actor.N.weight, actor.N.bias     of layer N, float32
kinds, alone                     (P,) and (P, 2): `Roles`
orders                           (plans, P)
locations, cuts                  (rows,) and (rows, P + 1): the volumes of all plans, one after the other; a plan
                                 begins where a location is 0
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from distredge.agents.moving.header import Header
from distredge.agents.moving.policy import MovingAgent, Networks, Roles, WholePlan
from distredge.agents.tensors import Arrays, read_tensors
from distredge.config import validate
from distredge.errors import InputError
from distredge.resources import write_atomically

KEY = "distredge"


def save_agent(agent: MovingAgent, path: Path) -> None:
    """Write an agent; the file appears whole or not at all."""
    write_atomically(path, pack(agent))


def pack(agent: MovingAgent) -> bytes:
    """An agent as its file's content; equal agents give equal bytes."""
    plans, networks = agent.library, agent.networks
    arrays: Arrays = {
        "critic": networks.critic.astype(np.float16),
        "embedding": networks.embedding,
        "kinds": agent.roles.kinds,
        "alone": agent.roles.alone,
        "orders": np.array([plan.order for plan in plans], dtype=np.int16),
        "locations": np.concatenate([plan.locations for plan in plans]).astype(np.int32),
        "cuts": np.concatenate([plan.cuts for plan in plans]).astype(np.int32),
    }
    for n, (weight, bias) in enumerate(networks.actor):
        arrays |= {f"actor.{n}.weight": weight, f"actor.{n}.bias": bias}
    return save({k: np.ascontiguousarray(a) for k, a in arrays.items()}, {KEY: agent.header.model_dump_json()})


def load_agent(path: Path) -> MovingAgent:
    """Read an agent; raises `InputError` with one line if the file is missing, damaged or of another version."""
    if not path.is_file():
        raise InputError(f"cannot read '{path}': no such file; `distredge pretrain` makes one")
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read '{path}': {exc.strerror}") from exc
    return unpack(content, str(path))


def unpack(blob: bytes, where: str) -> MovingAgent:
    """The agent of a file's content; raises `InputError` with one line, in which the file is called `where`."""
    try:
        about, arrays = read_tensors(blob)
        header = validate(json.loads(about[KEY]), Header, InputError, where)
        return _assembled(header, arrays)
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError) as exc:
        raise InputError(f"'{where}' is no agent, or damaged ({exc}): pre-train it again") from exc


def _assembled(header: Header, arrays: Arrays) -> MovingAgent:
    """The agent of a file's content; raises `ValueError` or `KeyError` where it does not hold together."""
    count, critic, starts = len(header.providers), arrays["critic"], np.flatnonzero(arrays["locations"] == 0)
    orders, cuts, embedding = arrays["orders"], arrays["cuts"], arrays["embedding"]
    actor = [(arrays[f"actor.{n}.weight"], arrays[f"actor.{n}.bias"]) for n in _layers(arrays)]
    sizes = [4 * count, *(len(bias) for _, bias in actor)]
    fits = (
        len(critic) == len(starts) == len(orders) == len(embedding) > 0
        and critic.ndim == 3
        and critic.shape[1] > 0
        and critic.shape[2] == 3 * count + 1
        and [w.shape for w, _ in actor] == list(itertools.pairwise(sizes))
        and embedding.shape[1:] == (sizes[-1],)
        and np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(count), (len(orders), 1)))
        and starts[0] == 0
        and cuts.shape == (len(arrays["locations"]), count + 1)
        and bool(np.all(np.diff(cuts, axis=1) >= 0))
        and (arrays["kinds"].shape, arrays["alone"].shape) == ((count,), (count, 2))
        and all(np.isfinite(a).all() for a in (critic, embedding, arrays["alone"], *itertools.chain(*actor)))
    )
    if not fits:
        raise ValueError("its parts do not fit together")
    stops = [*starts[1:], len(cuts)]
    library = tuple(
        WholePlan(tuple(arrays["locations"][a:b].tolist()), tuple(order.tolist()), cuts[a:b].astype(np.int64))
        for a, b, order in zip(starts, stops, orders, strict=True)
    )
    networks = Networks(critic.astype(np.float32), tuple(actor), embedding)
    return MovingAgent(header, Roles(arrays["kinds"], arrays["alone"]), library, networks)


def _layers(arrays: Arrays) -> range:
    return range(sum(name.startswith("actor.") and name.endswith(".weight") for name in arrays))
