"""The cells of one row of the older column layout, as text and as numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from validate.row import QUALITIES, Unsupported

COLUMN_WORDS = """
    id source source_read model_name params_total_B params_active_B layers hidden heads kv_heads_or_attention
    ffn_hidden n_experts topk moe_ffn_hidden shared_experts dense_layers vocab seq_len gpu_type n_gpus gpus_per_node
    internode_network tp cp pp vp ep etp dp zero_stage_or_distopt micro_batch global_batch_sequences precision recompute
    sequence_parallel schedule overlap_flags measured_step_time_s measured_tflops_per_gpu measured_mfu_pct
    measured_hfu_pct measured_tokens_per_s_per_gpu measured_peak_memory_GiB derived_step_time_s dense_or_moe quality
    group notes
"""
# Cells of these columns must be numbers where they are not empty; other columns carry words beside them.
NUMBER_WORDS = """
    params_total_B params_active_B layers hidden heads ffn_hidden n_experts topk moe_ffn_hidden dense_layers vocab
    seq_len n_gpus gpus_per_node tp cp pp ep etp dp micro_batch global_batch_sequences measured_step_time_s
    measured_tflops_per_gpu measured_mfu_pct measured_hfu_pct measured_tokens_per_s_per_gpu measured_peak_memory_GiB
    derived_step_time_s
"""
COLUMNS, NUMBERS = tuple(COLUMN_WORDS.split()), tuple(NUMBER_WORDS.split())
OPTIONAL = ("stack",)
MAY_BE_ZERO = ("layers", "dense_layers", "params_active_B")
LEADING_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one row by column; an empty cell is something that the source does not say."""

    values: Mapping[str, str]

    def text(self, column: str) -> str:
        return self.values.get(column, "")

    def number(self, column: str) -> float | None:
        """The number that a cell begins with; None where it is empty or begins with a word."""
        leading = LEADING_NUMBER.match(self.text(column))
        return float(leading[1]) if leading else None

    def count(self, column: str) -> int | None:
        number = self.number(column)
        return None if number is None else round(number)

    def need(self, column: str) -> int:
        """A count without which there is no scenario. Raises Unsupported."""
        count = self.count(column)
        if count is None:
            raise Unsupported(f"the source does not say {column}")
        return count

    def problems(self) -> list[str]:
        """Cells that should be numbers and are not, are negative, or zero where zero means nothing; other qualities."""
        found = []
        if self.text("quality") not in QUALITIES:
            found.append(f"quality must be A, B or C, not {self.text('quality')!r}")
        for column in NUMBERS:
            text = self.text(column)
            if text.startswith("-") and LEADING_NUMBER.match(text[1:]):
                found.append(f"{column} must be above zero, not {text!r}; leave it empty where it is not known")
            elif text and not LEADING_NUMBER.match(text):
                found.append(f"{column} must begin with a number, not {text!r}")
            elif text and column not in MAY_BE_ZERO and self.number(column) == 0:
                found.append(f"{column} must not be zero; leave it empty where it is not known")
        return found
