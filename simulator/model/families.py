"""What a Hugging Face config leaves unsaid: the conventions of each model_type, and the keys that decide no size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Family:
    """Conventions of one model_type where the config is silent.

    `attention_bias` is the default of the query, key and value biases, `out_bias` whether the output projection has
    one whenever they do. `window_off`: sliding windows need use_sliding_window. `qk_norm_gains`: qk-norm has gains.
    `chunked`: three layers of four attend within chunks. `one_shared_expert`: beside the routed ones, unsaid.
    `extra_positions`: further rows of learned tables, such as token types. `scaled_rope`: YaRN from the first token on.
    `clamped`: the experts' activation limits its input.
    """

    gated: bool = True
    norm: Literal["rms", "layer"] = "rms"
    qk_norm: Literal["head", "layer"] | None = None
    qk_norm_gains: bool = True
    attention_bias: bool = False
    out_bias: bool = True
    mlp_bias: bool = False
    tied: bool = False
    positions: bool = False
    extra_positions: int = 0
    causal: bool = True
    window_off: bool = False
    chunked: bool = False
    one_shared_expert: bool = False
    shared_gate: bool = False
    output_gate: bool = False
    expert_bias: bool = False
    sinks: bool = False
    scaled_rope: bool = False
    clamped: bool = False
    parallel_blocks: bool = False


CLASSIC = Family(gated=False, norm="layer", attention_bias=True, mlp_bias=True, tied=True, positions=True)

# model_type -> conventions; from the reference implementations in huggingface/transformers and the vendors' own code.
FAMILIES: dict[str, Family] = {
    "bailing_moe_v2": Family(),
    # Two token types are rows of a table too.
    "bert": Family(gated=False, norm="layer", attention_bias=True, mlp_bias=True, tied=True, positions=True,
                   extra_positions=2, causal=False),
    "bloom": Family(gated=False, norm="layer", attention_bias=True, mlp_bias=True, tied=True),
    "deepseek": Family(),
    "deepseek_v2": Family(),
    "deepseek_v3": Family(),
    "deepseek_v32": Family(),
    "deepseek_v4": Family(),
    "glm4_moe": Family(out_bias=False),
    "glm_moe_dsa": Family(),
    "gpt2": CLASSIC,
    "gpt_neox": Family(gated=False, norm="layer", attention_bias=True, mlp_bias=True, parallel_blocks=True),
    "gpt_oss": Family(attention_bias=True, expert_bias=True, sinks=True, scaled_rope=True, clamped=True),
    "kimi_k2": Family(),
    "kimi_linear": Family(),
    "llama": Family(),
    "llama4_text": Family(qk_norm_gains=False, chunked=True, one_shared_expert=True),
    "mimo_v2_flash": Family(),
    "minimax_m2": Family(),
    "minimax_m3": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "mpt": CLASSIC,
    "nemotron": Family(gated=False, norm="layer"),
    "nemotron_h": Family(gated=False),
    "olmoe": Family(qk_norm="layer"),
    # OPT offsets its positions by two.
    "opt": Family(gated=False, norm="layer", attention_bias=True, mlp_bias=True, tied=True, positions=True,
                  extra_positions=2),
    "phi3": Family(),
    "qwen2": Family(attention_bias=True, out_bias=False, window_off=True),
    "qwen2_moe": Family(attention_bias=True, out_bias=False, window_off=True, shared_gate=True),
    "qwen3": Family(qk_norm="head", window_off=True),
    "qwen3_moe": Family(qk_norm="head", window_off=True),
    "qwen3_next": Family(qk_norm="head", shared_gate=True, output_gate=True),
    "qwen3_5_text": Family(qk_norm="head", output_gate=True),
    "qwen3_5_moe_text": Family(qk_norm="head", shared_gate=True, output_gate=True),
}  # fmt: skip

GELU = frozenset({"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"})
GATED_ACTIVATIONS = GELU | {"silu", "situ", "swigluoai"}
PLAIN_ACTIVATIONS = GELU | {"relu", "relu2"}

# Keys that change neither parameters nor matrix work, by reason.
HARMLESS_WORDS = {
    "identity, format and software": """_name_or_path _text_config_of architectures auto_map dtype ep_size expert_dtype
        model_type pretraining_tp quant_method quantization_config torch_dtype transformers_version use_cache
        keys_to_ignore_at_inference output_router_logits output_attentions output_hidden_states return_dict
        gradient_checkpointing slow_but_exact skip_bias_add skip_bias_add_qkv use_mamba_kernels num_logits_to_keep
        apply_residual_connection_post_layernorm do_layer_norm_before moe_shared_expert_overlap mamba_ssm_cache_dtype
        mamba_ssm_dtype mamba_chunk_size chunk_size rescale_prenorm_residual residual_in_fp32 fp32_residual_connection
        moe_router_dtype init_device init_config verbose classifier_dropout reorder_and_upcast_attn language_model_only
        attn_impl attn_uses_sequence_id prefix_lm""",
    "tokens": """bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id decoder_start_token_id
        image_token_index video_token_id vision_start_token_id vision_end_token_id""",
    "rotary embedding, linear biases and lengths": """compress_rope_theta initial_context_length max_position_embeddings
        max_window_layers mla_use_nope indexer_rope_interleave original_max_position_embeddings partial_rotary_factor
        rope_interleave rope_parameters rope_scaling rope_theta rotary_dim swa_rope_theta for_llm_compressor
        attn_temperature_tuning attn_scale floor_scale no_rope_layer_interval seq_length alibi_bias_max rotary_pct
        rotary_emb_base""",
    "numeric details, initialisation, dropout": """activation_situ_beta activation_situ_linear_beta attention_dropout
        attention_value_scale attn_pdrop embd_pdrop resid_pdrop resid_pdrob emb_pdrop dropout activation_dropout
        hidden_dropout hidden_dropout_prob attention_probs_dropout_prob layerdrop hc_eps initializer_range init_std
        layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps rms_norm_eps router_jitter_noise swiglu_alpha
        swiglu_limit attention_softmax_in_fp32 use_gemma_norm time_step_floor time_step_limit time_step_max
        time_step_min time_step_rank mamba_dt_min mamba_dt_max mamba_hidden_act hc_sinkhorn_iters summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj task_specific_params logit_scale
        scale_attn_weights scale_attn_by_inverse_layer_idx softmax_scale clip_qkv gate_lower_bound""",
    "routing: which experts and key blocks, not how many": """aux_loss_alpha moe_renormalize moe_router_activation_func
        norm_topk_prob num_hash_layers routed_scaling_factor router_aux_loss_coef router_z_loss_coef scoring_func
        score_function seq_aux topk_method use_grouped_topk use_routing_bias moe_router_enable_expert_bias
        sparse_disable_index_value sparse_init_block sparse_local_block sparse_score_type""",
    "a vector per layer: below 0.001 % of the parameters it comes with": "attn_res_block_size latent_moe_use_norm",
}
HARMLESS = frozenset(word for words in HARMLESS_WORDS.values() for word in words.split())
