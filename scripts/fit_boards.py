#!/usr/bin/env python3
"""Calibrate the board profiles on published figures and write `profiles/BOARD.yaml`.

    python scripts/fit_boards.py --data DIR [--out profiles] [--steps]

DIR holds the published figures as CSV: `board_calibration.csv` (whole models), and layer timings in
`tx1_conv_layers_by_batch.csv`, `xavier_trt_fp16_googlenet_layers.csv` and `tophub_conv.csv`. Figures of the Orin Nano
and the Raspberry Pi 4B are in `found_figures.py`, what is known of each board in `board_priors.py` and
`board_power.py`; `fitting.py` tells the method.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import yaml
from board_power import memory, power
from board_priors import Board, Tiles, all_boards, tx1_parameters, xavier_parameters
from fitting import Array, Prior, divided, fit_layers, fitted
from found_figures import found_figures
from published_figures import Row, read, tx1_layers, xavier_layers

from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.board import BoardFile, BoardProfile, Figure, Parameter, undivided_ms
from distredge.profiles.speed import CpuSpeed, GpuSpeed
from distredge.resources import write_atomically

FIGURE_SIGMA = 0.05
"""How far a published latency may be from what its board repeats, as a logarithm."""


def calibrate(board: Board, figures: Sequence[Row], graphs: Mapping[str, LayerGraph]) -> BoardFile:
    """The board's file: parameters, and each figure with what is predicted, with it and without it in the fit."""
    file = board_file(board, fit_board(board, figures, graphs), figures[0]["runtime"])
    rows = []
    for figure in figures:
        graph, published = graphs[figure["model"]], float(figure["latency_ms"])
        now = predicted(file, graph)
        without = predicted(
            board_file(board, fit_board(board, [f for f in figures if f is not figure], graphs), ""), graph
        )
        rows.append(
            Figure(
                model=figure["model"],
                input=figure["input"],
                published_ms=published,
                predicted_ms=round(now, 3),
                residual=round(now / published - 1, 4),
                leave_one_out_ms=round(without, 3),
                leave_one_out=round(without / published - 1, 4),
                source=figure["source"],
            )
        )
    return file.model_copy(update={"figures": tuple(rows)})


def fit_board(board: Board, figures: Sequence[Row], graphs: Mapping[str, LayerGraph]) -> dict[str, float]:
    """All parameters, rounded to 4 digits, with the priors moved by these whole-model figures."""
    constants, priors = divided(board.parameters)

    def residuals(values: dict[str, float]) -> Array:
        file = board_file(board, {**constants, **values}, "")
        now = [predicted(file, graphs[f["model"]]) for f in figures]
        return np.log(np.array(now) / [float(f["latency_ms"]) for f in figures]) / FIGURE_SIGMA

    values = {**constants, **fitted(priors, residuals, robust=False)}
    return {name: float(f"{values[name]:.4g}") for name in board.parameters}


def predicted(file: BoardFile, graph: LayerGraph) -> float:
    """The whole model's latency on a board."""
    return undivided_ms(BoardProfile(file), graph)


def board_file(board: Board, values: Mapping[str, float], runtime: str) -> BoardFile:
    """The board's file, without its figures."""
    parameters = {}
    for quantity in fields(board.model):
        known = board.parameters[quantity.name]
        origin = known.origin
        if isinstance(known, Prior):
            origin = f"fitted; prior {known.value:.3g}, sigma of its logarithm {known.sigma}: {origin}"
        parameters[quantity.name] = Parameter(value=values[quantity.name], **quantity.metadata, origin=origin)
    return BoardFile(
        schema_version=1,
        name=board.name,
        kind="calibrated",
        device=board.device,
        runtime=runtime,
        precision="FP16" if board.precision == "FP16" else "FP32",
        analytic_model="cpu" if board.model is CpuSpeed else "gpu",
        parameters=parameters,
        figures=(),
        power=power(board.name),
        memory_mb=memory(board.name),
        step_evidence=board.step_evidence,
        notes=board.notes,
    )


def print_steps(folder: Path) -> None:
    """Rank tile and wave sizes by how well the layer timings of TX1 and Xavier are fitted with them."""
    cases = (("TX1", tx1_parameters, tx1_layers(folder)), ("Xavier", xavier_parameters, xavier_layers(folder)))
    for board, parameters, timings in cases:
        ranked = []
        for sizes in itertools.product((32, 64, 128, 256), (32, 64, 128), (2, 4, 8, 16, 32), (1, 4, 8)):
            layer_fit = fit_layers(GpuSpeed, parameters(Tiles(*sizes)), timings, element_bytes=2)
            ranked.append((layer_fit.cost, sizes, layer_fit.quality))
        print(f"{board}: cost, (tile pixels, tile channels, tiles in flight, input channel quantum), errors")
        for cost, sizes, quality in sorted(ranked)[:15]:
            print(f"  {cost:7.2f} {sizes} {quality}")


def main() -> None:
    """Fit all boards, write their files and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published figures")
    parser.add_argument("--out", type=Path, default=Path("profiles"), help="folder of the YAML files")
    parser.add_argument("--steps", action="store_true", help="only rank tile sizes by the layer timings (minutes)")
    options = parser.parse_args()
    if options.steps:
        print_steps(options.data)
        return
    published = [*read(options.data, "board_calibration.csv"), *found_figures()]
    graphs = {name: load_model(name) for name in sorted({row["model"] for row in published})}
    for board in all_boards(options.data):
        file = calibrate(board, [row for row in published if row["board"] == board.name], graphs)
        text = yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False, width=120, allow_unicode=True)
        header = "# Calibrated on published figures, not measured. scripts/fit_boards.py writes this file.\n"
        write_atomically(options.out / f"{board.name}.yaml", header + text)
        for f in file.figures:
            print(
                f"{board.name:18} {f.model:14} {f.published_ms:8.2f} ms  predicted {f.predicted_ms:8.2f} "
                f"({f.residual:+.1%})  left out {f.leave_one_out:+.1%}"
            )


if __name__ == "__main__":
    main()
