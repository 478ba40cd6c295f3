"""The project's torch model: it is the scenario's model, its hand-written gradients are right, and steps compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardware.documents import Document
from hardware.problems import InputError, Place
from simulator.model.parameters import total_parameters
from simulator.plans.spec import Recompute
from simulator.predict.prediction import evaluate
from simulator.scenario.schema import Scenario, read_scenario
from validate.calibrate.training_step import SIZES, StepMeasured, measure_step, predicted_classes, row_of, scenario_data

torch = pytest.importorskip("torch")
from validate.calibrate import transformer as net  # noqa: E402
from validate.calibrate.measuring import fused  # noqa: E402
from validate.calibrate.measuring.fused import MainAdam  # noqa: E402

CPU = torch.device("cpu")
DENSE, MIXTURE = SIZES["cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


def scenario(size: Any = DENSE, micro: int = 2, recompute: str = "none", **changes: Any) -> Scenario:
    """On one H100: what the model is does not depend on where it runs."""
    data = scenario_data(replace(size, **changes), micro, recompute, "hgx-h100", Path("none"))
    del data["hardware"]
    return read_scenario(Document(data, Place("step.yaml")), "step")


def network(held: Scenario) -> net.Transformer:
    torch.manual_seed(0)
    return net.Transformer(held.model, held.plan, held.model.vocab, held.run.seq_length, CPU)


def tokens(held: Scenario) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    drawn = torch.randint(held.model.vocab, (2, held.run.seq_length + 1))
    return drawn[:, :-1], drawn[:, 1:].contiguous()


@pytest.mark.parametrize("size", [DENSE, MIXTURE], ids=lambda size: size.name)
def test_it_has_the_parameters_that_the_simulator_counts(size: Any) -> None:
    held = scenario(size)
    assert sum(p.numel() for p in network(held).parameters()) == total_parameters(held.model)


@pytest.mark.parametrize("size", [DENSE, MIXTURE], ids=lambda size: size.name)
def test_recomputation_changes_neither_loss_nor_gradients(size: Any) -> None:
    found = []
    for recompute in ("none", "full"):
        held = scenario(size, recompute=recompute)
        made = network(held)
        loss = made(*tokens(held))
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in made.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_an_untrained_model_knows_nothing() -> None:
    held = scenario()
    loss = network(held)(*tokens(held))
    assert float(loss.detach()) == pytest.approx(torch.log(torch.tensor(float(held.model.vocab))).item(), rel=0.02)


def test_swiglu_has_the_gradients_of_autograd() -> None:
    torch.manual_seed(0)
    both, weight = torch.randn(5, 8, dtype=torch.float64), torch.rand(5, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(fused.SwiGLU.apply, (both.requires_grad_(), weight.requires_grad_()))
    assert torch.autograd.gradcheck(lambda x: fused.SwiGLU.apply(x, None), (both,))


def test_rope_turns_heads_and_turns_gradients_back() -> None:
    torch.manual_seed(0)
    angle = torch.rand(3, 1, 2, dtype=torch.float64)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: fused.Rope.apply(t.clone(), 3, angle.cos(), angle.sin()), (x,))
    out = fused.Rope.apply(x.clone(), 3, angle.cos(), angle.sin())
    torch.testing.assert_close(out[:, :, :3].norm(dim=-1), x[:, :, :3].norm(dim=-1))
    assert torch.equal(out[:, :, 3], x[:, :, 3]), "values are not turned"


def test_loss_and_its_gradient_are_torchs_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(7, 11, dtype=torch.bfloat16), torch.randint(11, (7,))
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = fused.TokenLoss.apply(mine, target)
    reference = torch.nn.functional.cross_entropy(theirs.float(), target)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_experts_are_a_weighted_sum_of_the_chosen() -> None:
    held = scenario(MIXTURE)
    torch.manual_seed(0)
    made = net.Experts(held.model.layers[0].ffn, held.model.hidden, CPU)
    x = torch.randn(1, 6, held.model.hidden).to(net.DTYPE)
    rows = x[0]
    scores = torch.softmax(made.router(rows).float(), -1)
    weight, chosen = scores.topk(2, -1)
    expected = made.shared(rows).float()
    for row in range(6):
        for slot in range(2):
            expert = int(chosen[row, slot])
            inside = fused.gated(rows[row : row + 1] @ made.fc1[expert], weight[row, slot].to(net.DTYPE)[None, None])
            expected[row] += (inside @ made.fc2[expert])[0].float()
    torch.testing.assert_close(made(x)[0].float(), expected, atol=0.02, rtol=0.05)


def test_gradients_are_summed_in_fp32_and_freed() -> None:
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MainAdam([weight], lr=0.1)
    optimizer.collect()
    for _ in range(2):
        (weight * 0.01).sum().backward()
    assert weight.grad is None
    assert optimizer.gradients[0].tolist() == pytest.approx([0.02] * 4, rel=1e-2)
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9] * 4, rel=1e-2)
    assert optimizer.gradients[0].abs().sum() == 0
    assert optimizer.state_bytes() == 4 * 18 + 4, "2 + 4 + 4 + 8 bytes a parameter, and Adam's step count"


@pytest.fixture(scope="module")
def measured() -> tuple[Scenario, StepMeasured]:
    held = scenario(MIXTURE)
    return held, measure_step(held, CPU, steps=3, warmup=1)


def test_training_learns_its_batch(measured: tuple[Scenario, StepMeasured]) -> None:
    losses = measured[1].losses
    assert losses[-1] < losses[0] - 0.05


def test_peak_memory_is_what_the_simulator_says(measured: tuple[Scenario, StepMeasured]) -> None:
    """Torch's own count of allocated bytes against the memory report: weights, gradients, states, activations."""
    held, step = measured
    predicted = evaluate(held).peak_memory_bytes
    assert step.peak_bytes == pytest.approx(predicted, rel=0.1)


def test_measured_and_predicted_stand_side_by_side(measured: tuple[Scenario, StepMeasured]) -> None:
    held, step = measured
    row = row_of(held, step, evaluate(held))
    assert row["step_time_error_fraction"] == pytest.approx(row["step_time_predicted_s"] / step.seconds - 1)
    assert set(row["classes_predicted_s"]) >= {"gemm", "grouped_gemm", "attention", "norm", "permute", "optimizer"}
    assert 0 < sum(row["classes_measured_s"].values()) <= step.profiled_s, "operators' own times are parts of the step"
    assert {"gemm", "attention", "optimizer"} <= set(row["classes_measured_s"])


def test_predicted_classes_add_up_to_the_prediction() -> None:
    """On one GPU, with nothing to wait for, the kernels are the step."""
    held = scenario(SIZES["cuda"][1])
    whole = evaluate(held)
    waiting = whole.breakdown_s.get("host", 0.0)
    assert sum(predicted_classes(held).values()) == pytest.approx(whole.step_time_s - waiting, rel=1e-3)


def test_predicted_classes_count_recomputation() -> None:
    big = SIZES["cuda"][1]
    none, full = (predicted_classes(scenario(big, recompute=each)) for each in ("none", "full"))
    assert full["attention"] > 1.2 * none["attention"]
    assert full["softmax_cross_entropy"] == none["softmax_cross_entropy"]
    whole = evaluate(scenario(big, recompute="full"))
    assert sum(full.values()) == pytest.approx(whole.step_time_s - whole.breakdown_s.get("host", 0.0), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: replace(s, plan=replace(s.plan, precision="fp8-blockwise")), "bf16"),
        (lambda s: replace(s, plan=replace(s.plan, recompute=Recompute("selective", modules=("mlp",)))), "recompute"),
        (lambda s: replace(s, model=replace(s.model, norm="layer")), "RMS"),
        (lambda s: replace(s, plan=replace(s.plan, dp=2)), "one GPU"),
    ],
)
def test_what_it_cannot_train_is_refused(change: Any, words: str) -> None:
    held = change(scenario())
    with pytest.raises(InputError, match=words):
        net.check(held.model, held.plan, "step.yaml")


def test_twelve_configurations_on_a_gpu() -> None:
    from validate.calibrate.training_step import MICRO_BATCHES

    assert len(SIZES["cuda"]) * len(MICRO_BATCHES["cuda"]) * 2 >= 12
