"""How many keys a query meets, by the mask that an attention has and the convention that counts it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = Literal["causal", "megatron", "full"]
Floats = NDArray[np.float64]


def keys_seen(seq_length: ArrayLike, limit: float | None, mask: Mask) -> Floats:
    """Mean number of keys that one query of a sequence meets, where it may see at most `limit` of them.

    "causal": the lower triangle, s/2 or w(1 - w/2s) within a window w; "full": all of them; "megatron": half of
    "full", even within a window.
    """
    seq = np.asarray(seq_length, dtype=float)
    seen: Floats = seq if limit is None else np.minimum(seq, float(limit))
    if mask == "full":
        return seen
    halved: Floats = seen / 2 if mask == "megatron" else seen * (1 - seen / (2 * seq))
    return halved


def chunk_keys(seq_length: ArrayLike, chunk: int, mask: Mask) -> Floats:
    """The same where attention stays within chunks: each chunk is a short sequence of its own, the last a shorter."""
    seq = np.asarray(seq_length, dtype=float)
    whole, rest = np.divmod(seq, chunk)
    seen: Floats = (whole * chunk**2 + rest**2) / seq
    return seen if mask == "full" else seen / 2


def chosen_keys(seq_length: ArrayLike, window: int | None, top_k: int | None, mask: Mask) -> Floats:
    """Mean keys per query after the window and an indexer's choice of `top_k` (None: none; "full" knows no choice)."""
    if top_k is None or mask == "full":
        return keys_seen(seq_length, window, mask)
    if mask == "megatron":
        return np.minimum(keys_seen(seq_length, window, mask), top_k)
    return keys_seen(seq_length, min(top_k, window or top_k), mask)
