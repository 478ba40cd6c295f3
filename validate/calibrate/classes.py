"""Kernel classes: what a kernel or torch operator is, by its name, in the words of the prediction."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

# First match wins. Names of CUDA and ROCm kernels, and of torch's own operators on a CPU.
PATTERNS: dict[str, str] = {
    "communication": r"nccl|rccl|allreduce|all_?gather|reduce_scatter|all_?to_?all|deepep|c10d::",
    "attention": r"flash|fmha|attention|sdpa",
    "grouped_gemm": r"grouped|ptr_array|group_gemm",
    "gemm": r"gemm|cutlass|cublas|nvjet|xmma|matmul|aten::(mm|addmm|bmm|linear)\b|mkldnn_.*linear|Cijk_",
    "optimizer": r"adam|multi_tensor|foreach|lamb",
    "softmax_cross_entropy": r"cross_entropy|softmax|nll_loss|logsumexp|aten::(gather|scatter_add_?|exp_|amax)\b",
    "norm": r"rms_?norm|layer_?norm",
    "permute": r"permute|index|gather|scatter|sort|topk|bincount|histogram|embedding|cumsum|scan",
    "cast_transpose": r"cast|quant|transpose",
    "copy": r"memcpy|memset|copy|clone|fill|zero",
    "elementwise": r"elementwise|vectorized|triton_|aten::|silu|swiglu|rope",
}
_COMPILED = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in PATTERNS.items()}


def class_of(kernel: str) -> str:
    """The class of a kernel's or operator's name; "other" where no pattern fits."""
    return next((name for name, pattern in _COMPILED.items() if pattern.search(kernel)), "other")


def by_class(seconds: Iterable[tuple[str, float]]) -> dict[str, float]:
    """(name, seconds) pairs added up by class, the largest first."""
    found: dict[str, float] = defaultdict(float)
    for name, spent in seconds:
        found[class_of(name)] += spent
    return dict(sorted(found.items(), key=lambda item: -item[1]))
