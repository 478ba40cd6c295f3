"""Matrix products and attention as training runs them, ready to be timed: by role, number format and shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validate.calibrate.points import Shape

Run = Callable[[], Any]
TORCH_DTYPE = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
FP8_BLOCK = 128


class UnsupportedKernel(Exception):
    """This device or this torch has no kernel for the case; the message says which."""


def plain_dtype(dtype: str) -> Any:
    """torch's dtype of bf16, fp16 or fp32."""
    import torch

    return getattr(torch, TORCH_DTYPE[dtype])


def random(device: Any, dtype: Any, *sizes: int) -> Any:
    """Normal random data, as power draw and so clocks depend on the bits that toggle."""
    import torch

    return torch.randn(*sizes, device=device, dtype=torch.float32).to(dtype)


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__


def dimensions(shape: Shape, *names: str) -> list[int]:
    return [int(shape[name]) for name in names]


def without_gradients(work: Run) -> Run:
    import torch

    def run() -> Any:
        with torch.no_grad():
            return work()

    return run


# ---- dense products


def gemm(shape: Shape, dtype: str, device: Any) -> Run:
    """One product out[m, n] = a[m, k] b[k, n] in the layout of its role.

    forward x w^T (TN), dgrad dy w (NN), wgrad dy^T x (NT) added to an fp32 gradient. m, n, k are the product's own.
    """
    m, n, k = dimensions(shape, "m", "n", "k")
    role = shape["role"]
    if dtype in ("fp8", "fp8_block"):
        return scaled_gemm((m, n, k), role, dtype, device)
    kind = plain_dtype(dtype)
    if role == "wgrad":
        left = random(device, kind, k, m).t()
        right = random(device, kind, k, n)
        return accumulating(left, right, device)
    left = random(device, kind, m, k)
    if role == "forward":
        right = random(device, kind, n, k).t()
    else:
        right = random(device, kind, k, n)
    return lambda: left @ right


def accumulating(left: Any, right: Any, device: Any) -> Run:
    """left right added to an fp32 gradient: in the product's epilogue where torch has it, else as a second kernel."""
    import torch

    main = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float32, device=device)
    if fused_accumulation(device.type):
        return lambda: torch.addmm(main, left, right, out_dtype=torch.float32, out=main)
    return lambda: main.add_(left @ right)


def fused_accumulation(kind: str) -> bool:
    """Whether torch adds a 16-bit product to an fp32 matrix in one kernel on such a device (CUDA, torch >= 2.8)."""
    import torch

    if kind != "cuda":
        return False
    small = torch.ones(16, 16, dtype=torch.bfloat16, device=kind)
    main = torch.zeros(16, 16, dtype=torch.float32, device=kind)
    try:
        torch.addmm(main, small, small, out_dtype=torch.float32, out=main)
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


# ---- FP8 products


def scaled_gemm(mnk: tuple[int, int, int], role: str, dtype: str, device: Any) -> Run:
    """FP8 through torch._scaled_mm, both operands along k: one scale per tensor, or per 1 x 128 and 128 x 128 block.

    Gradients accumulate at full precision inside the product (no fast accumulation), as recipes for training do.
    Raises UnsupportedKernel for sizes and devices that torch has no such product for.
    """
    import torch

    m, n, k = mnk
    check_scaled_sizes(m, n, k, dtype)
    left = random(device, torch.bfloat16, m, k).to(torch.float8_e4m3fn)
    right = random(device, torch.bfloat16, n, k).to(torch.float8_e4m3fn).t()
    scales = tensor_scales(device) if dtype == "fp8" else block_scales(m, n, k, device)
    product = scaled_product(left, right, scales, role == "forward")
    try:
        product()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if "out of memory" in str(error):
            raise
        raise UnsupportedKernel(f"torch._scaled_mm has no {dtype} here: {first_line(error)}") from None
    if role != "wgrad":
        return product
    main = torch.zeros(m, n, dtype=torch.float32, device=device)
    return lambda: main.add_(product())


def check_scaled_sizes(m: int, n: int, k: int, dtype: str) -> None:
    if k % 16 or n % 16:
        raise UnsupportedKernel(f"fp8 products need n and k in multiples of 16, not {n} and {k}")
    if dtype == "fp8_block" and (k % FP8_BLOCK or n % FP8_BLOCK or m % 4):
        raise UnsupportedKernel(
            f"block-scaled fp8 needs n and k in multiples of {FP8_BLOCK}, m of 4: not {n}, {k}, {m}"
        )


def tensor_scales(device: Any) -> list[Any]:
    import torch

    return [torch.ones((), device=device), torch.ones((), device=device)]


def block_scales(m: int, n: int, k: int, device: Any) -> list[Any]:
    """Scales of 1 x 128 blocks of a and 128 x 128 blocks of b, laid out as torch checks them: those of a run along m,
    those of b along k in rows of a multiple of four."""
    import torch

    blocks_of_k = k // FP8_BLOCK
    blocks_of_n = n // FP8_BLOCK
    row = -(-blocks_of_k // 4) * 4
    of_a = torch.ones(blocks_of_k, m, device=device).t()
    of_b = torch.ones(blocks_of_n, row, device=device)[:, :blocks_of_k].t()
    return [of_a, of_b]


def scaled_product(left: Any, right: Any, scales: list[Any], fast: bool) -> Run:
    import torch

    settings = {"scale_a": scales[0], "scale_b": scales[1], "out_dtype": torch.bfloat16, "use_fast_accum": fast}
    return lambda: torch._scaled_mm(left, right, **settings)


# ---- grouped products


def grouped_gemm(shape: Shape, dtype: str, device: Any) -> Run:
    """`groups` products of m rows each in one kernel, as experts compute them; balanced, rows in one tensor.

    wgrad: per group out[m, n] = dy[k, m]^T x[k, n], with k the tokens of an expert, added to fp32 main gradients.
    """
    import torch

    if dtype not in TORCH_DTYPE:
        raise UnsupportedKernel(f"torch has no grouped product in {dtype}")
    groups, m, n, k = dimensions(shape, "groups", "m", "n", "k")
    kind, role = plain_dtype(dtype), shape["role"]
    rows = k if role == "wgrad" else m
    ends = torch.arange(rows, groups * rows + 1, rows, device=device, dtype=torch.int32)
    if role == "wgrad":
        left = random(device, kind, groups * k, m).t()
        right = random(device, kind, groups * k, n)
        main = torch.zeros(groups, m, n, dtype=torch.float32, device=device)
        return lambda: main.add_(grouped_product(left, right, ends))
    left = random(device, kind, groups * m, k)
    if role == "forward":
        right = random(device, kind, groups, n, k).transpose(1, 2)
    else:
        right = random(device, kind, groups, k, n)
    return lambda: grouped_product(left, right, ends)


def grouped_product(left: Any, right: Any, ends: Any) -> Any:
    """torch's grouped product. Raises UnsupportedKernel where this torch has none."""
    import torch

    product = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if product is None:
        raise UnsupportedKernel(f"torch {torch.__version__} has no grouped product; 2.8 has")
    return product(left, right, offs=ends)


# ---- attention


def attention(shape: Shape, dtype: str, device: Any) -> Run:
    """Softmax attention, forward or backward, through torch's fused kernels (flash, cuDNN)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    batch, length, heads, kv_heads = dimensions(shape, "batch", "seq_len", "heads", "kv_heads")
    qk_dim, v_dim = dimensions(shape, "qk_dim", "v_dim")
    keys = int(shape.get("keys", length))
    kind, causal = plain_dtype(dtype), bool(shape["causal"])
    q = random(device, kind, batch, length, heads, qk_dim).transpose(1, 2)
    k = random(device, kind, batch, keys, kv_heads, qk_dim).transpose(1, 2)
    v = random(device, kind, batch, keys, kv_heads, v_dim).transpose(1, 2)

    def forward() -> Any:
        return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)

    if shape["role"] == "forward":
        return without_gradients(forward)
    inputs = [each.requires_grad_() for each in (q, k, v)]
    out = forward()
    gradient = random(device, kind, *out.shape)
    return lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True)
