"""Fits the kernel curves of `hardware/data/kernels` to measured kernel times: `python -m validate.kernels RAW_DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.curves import DATA, GemmCurve
from hardware.specs import Accelerator
from validate.kernels.common import INFERENCE, MEASURED, TRAINING, Overhead, part, rounded
from validate.kernels.heldout import error_summary, held_out, interpolation, report, sample
from validate.kernels.inference import (
    attention_collection_s,
    attention_rows,
    fit_attention,
    fit_gemm,
    fit_grouped,
    gemm_collection_s,
    grouped_collection_s,
    moe_rows,
    with_latency,
)
from validate.kernels.training import apply_training


def fit_part(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """All curves of one part, from the inference-side collection, with their held-out errors."""
    measured = part(name)
    own = {key: table[table.gpu == name] for key, table in tables.items()}
    entry: dict[str, Any] = {"gemm": {}, "grouped_gemm": {}, "attention": {}}
    latency_s = fit_gemm(own["gemm"][own["gemm"].dtype == "bf16"], measured, "bf16")[0].latency_s
    for dtype in sorted(own["gemm"].dtype.unique()):
        frame = own["gemm"][own["gemm"].dtype == dtype]
        fitted = with_latency(fit_gemm(frame, measured, dtype), latency_s)
        entry["gemm"][dtype] = record(fitted, gemm_held_out(frame, measured, dtype))
        moe = moe_rows(own["moe"], dtype)
        if not moe.empty:
            grouped = fit_grouped(moe, measured, dtype, fitted[0])
            entry["grouped_gemm"][dtype] = record(grouped, grouped_held_out(moe, measured, dtype, fitted[0]))
    for dtype in sorted(own["attention"].dtype.unique()):
        rows = attention_rows(own["attention"], dtype)
        errors = attention_held_out(rows, measured, latency_s)
        entry["attention"][dtype] = record(fit_attention(rows, measured, latency_s), errors)
    if not entry["grouped_gemm"]:  # collected with skewed routing only: the dense kernels stand in
        entry["grouped_gemm"]["bf16"] = {"curve": entry["gemm"]["bf16"]["curve"]}
    return entry


def gemm_held_out(frame: pd.DataFrame, part: Accelerator, dtype: str) -> dict[str, Any]:
    """Errors at training sizes (m >= 1024) with whole (n, k) cells held out, of the fit and of interpolation."""
    frame = frame.reset_index(drop=True)
    cells = (frame.n * 100_000 + frame.k).to_numpy()
    training = (frame.m >= 1024).to_numpy()
    fit = held_out(frame, cells, lambda f: fit_gemm(f, part, dtype), lambda f, x: gemm_collection_s(f, part, dtype, x))
    rival = held_out(frame, cells, interpolation, lambda f, x: x(np.log(f[list("mnk")].to_numpy(float))))
    return {"fit": error_summary(fit[training]), "interpolation": error_summary(rival[training])}


def grouped_held_out(frame: pd.DataFrame, part: Accelerator, dtype: str, dense: GemmCurve) -> dict[str, Any]:
    """Errors with whole models (hidden, inter, experts, top-k) held out."""
    frame = frame.reset_index(drop=True)
    models = frame.groupby(["hidden_size", "inter_size", "num_experts", "topk"]).ngroup().to_numpy()
    errors = held_out(frame, models, lambda f: fit_grouped(f, part, dtype, dense),
                      lambda f, x: grouped_collection_s(f, part, dtype, x))  # fmt: skip
    return {"fit": error_summary(errors)}


def attention_held_out(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> dict[str, Any]:
    """Errors with single shapes held out."""
    errors = held_out(rows, rows.index.to_numpy(), lambda r: fit_attention(r, part, latency_s),
                      lambda r, fitted: attention_collection_s(r, part, fitted))  # fmt: skip
    return {"fit": error_summary(errors)}


def record(fitted: tuple[Any, Overhead], errors: Mapping[str, Any]) -> dict[str, Any]:
    return {"curve": rounded(asdict(fitted[0])), "set_apart": rounded(asdict(fitted[1])), "held_out": errors}


def read(raw: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    for key, file in {"gemm": "gemm", "moe": "moe_layer_forward", "attention": "attention_forward"}.items():
        frame = pd.read_csv(raw / f"{file}.csv.gz")
        yield key, frame.assign(gpu=frame.gpu.str.lower(), dtype=frame.dtype.replace("bfloat16", "bf16"))


def main(raw: Path, out: Path = DATA) -> None:
    tables = dict(read(raw))
    entries = {name: fit_part(name, tables) for name in MEASURED}
    apply_training(entries, pd.read_csv(raw / "training_kernel_efficiency.csv.gz"))
    out.mkdir(parents=True, exist_ok=True)
    for name, entry in entries.items():
        peaks = {"peak_flops_per_s": dict(part(name).peak_flops_per_s)}
        head = {"name": name, "source": INFERENCE, "training_source": TRAINING, "part": peaks}
        write(out / f"{name}.json", json.dumps(head | entry, indent=1) + "\n")
    write(out / "FIT.md", report(entries))
    for key, rows in samples(tables).items():
        write(out / f"sample_{key}.csv", rows.to_csv(index=False, lineterminator="\n"))


def samples(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A few rows of every collection, picked as the fits pick theirs."""
    gemm = tables["gemm"][tables["gemm"].m >= 1024]
    moe = pd.concat([moe_rows(tables["moe"], dtype) for dtype in ("bf16", "fp8", "fp8_block", "nvfp4")])
    attention = []
    for gpu, dtype in sorted(set(zip(tables["attention"].gpu, tables["attention"].dtype, strict=True))):
        rows = attention_rows(tables["attention"][tables["attention"].gpu == gpu], dtype)
        attention.append(rows.assign(gpu=gpu, dtype=dtype))
    return {
        "gemm": sample(gemm, 40).drop(columns="tflops"),
        "moe": sample(moe, 20),
        "attention": sample(pd.concat(attention), 20).drop(columns="count"),
    }


def write(path: Path, text: str) -> None:
    aside = path.with_suffix(path.suffix + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
