"""What PyTorch moves where nothing fuses it, counted kernel by kernel, against the passes of the workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from simulator.model.catalogue import load
from simulator.model.spec import Attention, MoE
from simulator.plans.spec import Plan
from simulator.workload.ffns import clamp, expert_bias, ffn_work, routed_rows
from simulator.workload.mixers import rope
from simulator.workload.operators import Pass
from simulator.workload.shape import shape_of
from tests.simulator.stacks import stack_of

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_flatten  # noqa: E402

VIEWS = "view split split_with_sizes slice select expand t transpose detach unsqueeze squeeze alias permute as_strided"
MOVE_NOTHING = {*VIEWS.split(), "unbind", "chunk", "scalar_tensor"}
LARGE = 20_000  # bytes: biases and probabilities are less


class Counting(TorchDispatchMode):
    """Adds up the bytes that kernels read and write, and counts kernels that move large tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.kernels = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        read = [] if name == "slice_backward" else tree_flatten((args, kwargs))[0]
        if name not in MOVE_NOTHING:
            tensors = [x for x in (*read, *tree_flatten(result)[0]) if isinstance(x, torch.Tensor)]
            moved = sum(x.numel() * x.element_size() for x in tensors)
            self.bytes += moved
            self.kernels += moved > LARGE
        return result


def counted(run: Callable[[], Any]) -> tuple[int, int, int, int]:
    """Bytes and large kernels of forward, and of backward with an output gradient made beforehand."""
    with Counting() as ahead:
        out = run()
    gradient = torch.ones_like(out)
    with Counting() as back:
        out.backward(gradient)
    return ahead.bytes, back.bytes, ahead.kernels, back.kernels


MODEL = load("gpt-oss-120b")
PLAN = Plan(dp=32, ep=32, micro_batch_size=1, global_batch_size=32)
LOCAL, PER_EXPERT = 4, 32


def moe() -> MoE:
    ffn = MODEL.layers[0].ffn
    assert isinstance(ffn, MoE)
    return ffn


def tensor(*sizes: int, dtype: Any = torch.bfloat16) -> Any:
    return torch.randn(*sizes, dtype=dtype).requires_grad_()


def agrees(part: Pass, found: tuple[int, int, int, int], tolerance: float = 0.03) -> None:
    """Small operands (biases, masks of one column) are the tolerance."""
    assert (part.forward_bytes, part.backward_bytes) == pytest.approx(found[:2], rel=tolerance)
    assert (part.forward_kernels, part.backward_kernels) == found[2:]


def test_clamping_both_halves_outside_the_fused_activation() -> None:
    shape = shape_of(MODEL, PLAN, 128)
    rows, width = LOCAL * PER_EXPERT, moe().width
    x = tensor(rows, 2 * width)

    def run() -> Any:
        gate, linear = x.chunk(2, -1)
        return torch.cat((gate.clamp(min=None, max=7.0), linear.clamp(min=-7.0, max=7.0)), -1)

    (part,) = clamp(moe(), rows, shape)
    agrees(part, counted(run), tolerance=1e-3)


@pytest.mark.parametrize(("dispatcher", "probabilities"), [("alltoall", torch.bfloat16), ("hybridep", torch.float32)])
def test_biases_weighted_by_probability_expert_by_expert(dispatcher: Any, probabilities: Any) -> None:
    shape = shape_of(MODEL, replace(PLAN, dispatcher=dispatcher), 128)
    rows, width = LOCAL * PER_EXPERT, MODEL.hidden
    x, p = tensor(rows, width), tensor(rows, 1, dtype=probabilities)
    biases = [tensor(width) for _ in range(LOCAL)]
    sizes = [PER_EXPERT] * LOCAL

    def run() -> Any:
        parts = zip(torch.split(x, sizes), biases, torch.split(p, sizes), strict=True)
        return torch.cat([t + b * weight for t, b, weight in parts]).to(x.dtype)

    (part,) = expert_bias(moe(), rows, shape)
    agrees(part, counted(run), tolerance=0.05)


def test_rotary_embedding_with_a_scale() -> None:
    mixer = MODEL.layers[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.scaled_rope
    shape = shape_of(MODEL, PLAN, 128)
    widths = (mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim)
    angles = torch.randn(128, 1, 1, mixer.head_dim)
    cosine, sine = (angles.cos() * 1.35).bfloat16(), (angles.sin() * 1.35).bfloat16()

    def run(x: Any) -> Any:
        kept, rest = x[..., : mixer.head_dim], x[..., mixer.head_dim :]
        first, second = torch.chunk(kept, 2, -1)
        turned = torch.cat((-second, first), -1)
        return torch.cat((kept * cosine + turned * sine, rest), -1)

    inputs = [tensor(128, 1, width // mixer.head_dim, mixer.head_dim) for width in widths]
    found = [counted(partial(run, x)) for x in inputs]
    forward, backward, ahead, back = (sum(each) for each in zip(*found, strict=True))
    agrees(rope(sum(widths), shape, scaled=True), (forward, backward, ahead, back))


def test_the_fused_grouped_mlp_quantises_what_arrives() -> None:
    """Two FP8 copies of FC1's input forward and of FC2's output gradient backward; no pass between the products."""
    plan = replace(PLAN, dispatcher="hybridep", precision="mxfp8", stack=stack_of(fused_experts=True))
    shape = shape_of(MODEL, plan, 4096)
    elements = routed_rows(moe(), shape) * MODEL.hidden
    experts = [op for op in ffn_work(moe(), shape).operators if isinstance(op, Pass) and op.name.startswith("expert_")]
    low = 1 + 1 / 32
    forward = sum(op.forward_bytes for op in experts)
    backward = sum(op.backward_bytes for op in experts)
    assert forward == pytest.approx(elements * (2 + 2 * low))
    assert backward == pytest.approx(elements * (2 + 2 * low + 2))
    assert not any("clamp" in op.name or "activation" in op.name for op in experts)
