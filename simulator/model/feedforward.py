"""The feed-forward half of a layer: dense or a mixture of experts, with its sizes and its matrices."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.model.parts import Linear, Parts


@dataclass(frozen=True, slots=True)
class DenseFFN:
    """Feed-forward of `width`; `gated` has three matrices (SwiGLU), otherwise two (GELU, squared ReLU)."""

    width: int
    gated: bool = True
    bias: bool = False

    def parts(self, hidden: int) -> Parts:
        wide = self.width * (2 if self.gated else 1)
        linears = [
            Linear("fc1", hidden, wide, "column", self.bias),
            Linear("fc2", self.width, hidden, "row", self.bias),
        ]
        return linears, []


@dataclass(frozen=True, slots=True)
class MoE:
    """`experts` routed experts of `width`, `top_k` per token, beside one shared expert of `shared_width` (0: none).

    `latent_width`: experts work at that width between a down- and an up-projection (None: at the hidden size).
    `groups`/`group_top_k`: a token's experts lie in at most `group_top_k` of `groups` equal groups. `clamped`: what
    enters the activation function is limited. `identity_experts`: so many further outputs of the router that return
    their input (LongCat); `top_k` counts the experts that compute, in the mean.
    """

    experts: int
    top_k: int
    width: int
    gated: bool = True
    shared_width: int = 0
    shared_gate: bool = False
    latent_width: int | None = None
    groups: int = 1
    group_top_k: int = 1
    bias: bool = False
    router_bias: bool = False
    clamped: bool = False
    identity_experts: int = 0

    def parts(self, hidden: int) -> Parts:
        matrices = 2 if self.gated else 1
        width = self.latent_width or hidden
        scored = self.experts + self.identity_experts
        linears = [
            Linear("router", hidden, scored, "replicated", self.router_bias, role="routing"),
            Linear("expert_fc1", width, self.width * matrices, "expert_column", self.bias, self.experts, self.top_k),
            Linear("expert_fc2", self.width, width, "expert_row", self.bias, self.experts, self.top_k),
        ]
        if self.latent_width:
            linears += [
                Linear("latent_down", hidden, self.latent_width, "replicated"),
                Linear("latent_up", self.latent_width, hidden, "replicated"),
            ]
        if self.shared_width:
            linears += [
                Linear("shared_fc1", hidden, self.shared_width * matrices, "column"),
                Linear("shared_fc2", self.shared_width, hidden, "row"),
            ]
        if self.shared_gate:
            linears.append(Linear("shared_gate", hidden, 1, "replicated", role="routing"))
        return linears, []


FFN = DenseFFN | MoE
FFNS: dict[str, type[FFN]] = {"dense": DenseFFN, "moe": MoE}
