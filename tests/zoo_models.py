"""A tiny random model of every causal-LM and multimodal type of the installed transformers, without a list of types.

The type's own default configuration is made small: each size named in SIZES that it has, in all its
sub-configurations too. What a type needs beyond that stands in EXTRA.
"""

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

CAUSAL = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_MULTIMODAL = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES | MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
MULTIMODAL = tuple(name for name in _MULTIMODAL if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

LAYERS, WIDTH, HEADS = 4, 32, 4
MOST = 20  # million parameters
_NAMES = {
    "vocab_size vocab_size_per_layer_input": 100,
    "hidden_size n_embd d_model dim word_embed_proj_dim embedding_size projection_dim": WIDTH,
    "intermediate_size n_inner ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_inner": 64,
    "dense_intermediate_size": 64,
    "moe_intermediate_size shared_expert_intermediate_size": 32,
    "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers": LAYERS,
    "num_encoder_layers num_blocks depth": LAYERS,
    "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim d_kv": 8,
    "max_position_embeddings n_positions": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_local_experts num_experts n_routed_experts": 4,
    "num_experts_per_tok moe_topk top_k": 2,
    "n_shared_experts first_k_dense_replace n_group topk_group": 1,
    "q_lora_rank kv_lora_rank": 16,
    "qk_rope_head_dim rotary_dim": 4,
    "qk_nope_head_dim v_head_dim hidden_size_per_layer_input": 8,
    "qk_head_dim": 12,
    "state_size mamba_d_state ssm_state_size": 8,
    "sliding_window mamba_chunk_size chunk_size": 8,
    "mamba_d_ssm": 64,
    "out_hidden_size adapter_out_dim adapter_in_dim adapter_input_size text_hidden_size": WIDTH,
    "swa_kv_lora_rank swa_q_lora_rank": 16,
    "initializer_range init_std initializer_std": 0.3,  # far above the usual 0.02: every block then matters
}
SIZES = {name: size for names, size in _NAMES.items() for name in names.split()}
# Multi-head latent attention has a key and value per head, and calls the rotated part its head.
LATENT = {"num_key_value_heads": HEADS, "head_dim": 4}

THREE_AXES = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
}  # of position: time, height and width share a head of 8
HALF_ROTATED = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [1, 1, 0],
        "partial_rotary_factor": 0.5,
    }
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16}
HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2}
# By configuration: values added to SIZES; a name with None after "-" is one that must stay at its default.
EXTRA: dict[str, dict[str, object]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": MAMBA2 | {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 50, "cross_attn_k": 2},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        }
    },
    "chameleon_vqgan": {"base_channels": 32},
    "chameleon": {"vocabulary_map": {"<image>": 99}},
    "cohere2_vision": {"alignment_intermediate_size": 64},
    "cosmos3_edge_text": THREE_AXES,
    "cpmant": {"dim_ff": 64, "dim_head": 8},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "dots3_note_text": {
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_qk_nope_head_dim": 8,
        "swa_head_dim": 12,
        "swa_v_head_dim": 8,
        "head_dim": 12,
        "index_head_dim": 8,
        "index_n_heads": 2,
    },
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"] * 2},
    "ernie4_5_vl_moe_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        "moe_intermediate_size": [32, 32],
    },
    "falcon": {"-head_dim": None},
    "falcon_h1": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": LAYERS,
        }
    },
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4v_text": THREE_AXES,
    "glm4v_moe_text": HALF_ROTATED,
    "glm5_next_text": {
        "qk_rope_head_dim": 0,
        "-head_dim": None,
        "linear_head_dim": 8,
        "linear_num_heads": HEADS,
        "index_head_dim": 8,
        "index_n_heads": 2,
    },
    "glm_ocr_text": HALF_ROTATED,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "granitemoehybrid": MAMBA2 | HYBRID,
    "hunyuan_vl_text": THREE_AXES,
    "janus_vqgan": {"base_channels": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": HYBRID | {"linear_head_dim": 8, "linear_num_heads": 4},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": WIDTH // 4}},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    # Past its window transformers' cache forgets what its full pass still sees, so decoding has no one truth.
    "longcat_flash": {"-num_hidden_layers": None, "num_layers": LAYERS},
    "mistral4": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 1.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 128,
        }
    },
    "molmo2_adapter": {"vision_feature_layer": [3, 2]},
    "moshi": {"sliding_window": 128},
    "rwkv": {"rescale_every": 2},
    "paddleocr_vl_text": THREE_AXES,
    "prophetnet": {
        "-num_hidden_layers": None,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
    },
    "qwen2_5_omni_text": THREE_AXES,
    "qwen2_5_vl_text": THREE_AXES,
    "qwen2_vl_text": THREE_AXES,
    "qwen2_vl_vision": {"embed_dim": WIDTH},
    "qwen3_vl_moe_text": {"-sliding_window": None},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "reformer": {
        "attn_layers": ["local", "lsh"] * 2,
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [16, 16],
        "attention_head_size": 8,
        "-num_hidden_layers": None,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
        "pronunciation_vocab_size": 100,
        "shape_vocab_size": 100,
    },
    "xlnet": {"-max_position_embeddings": None},
    "xlstm": {"hidden_size": 128, "-v_head_dim": None, "-qk_head_dim": None},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_key_value_heads": HEADS,
        "-head_dim": None,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {
        "num_key_value_heads": HEADS,
        "-head_dim": None,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "n_mamba_heads": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}


def tiny_config(cls: type[PreTrainedConfig], **overrides: object) -> PreTrainedConfig:
    """A small configuration of this class."""
    default = cls()
    values = {name: size for name, size in SIZES.items() if _has(default, name)}
    if _has(default, "kv_lora_rank"):
        values |= LATENT
    for name in cls.sub_configs:
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig):
            values[name] = tiny_config(type(part))
    for name, value in (EXTRA.get(cls.model_type, {}) | overrides).items():
        if name.startswith("-"):
            values.pop(name[1:], None)
        elif isinstance(value, dict) and isinstance(values.get(name), PreTrainedConfig):
            values[name] = tiny_config(type(values[name]), **value)
        else:
            values[name] = value
    return cls(**values)


def zoo_class(model_type: str) -> type[PreTrainedModel]:
    """The class that transformers loads for this type: the causal LM, or the multimodal model around one."""
    return getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type) or _MULTIMODAL[model_type])


def zoo_model(model_type: str, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model of this type in float32 and eval mode; `overrides` go to its configuration."""
    cls = zoo_class(model_type)
    decoder = {"is_decoder": True} if model_type in CAUSAL and _has(cls.config_class(), "is_decoder") else {}
    config = tiny_config(cls.config_class, **decoder, **overrides)
    with torch.device("meta"):
        millions = cls._from_config(config).num_parameters() / 1e6
    if millions > MOST:
        raise ValueError(f"its configuration was not made small: {millions:.0f} million parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls._from_config(config, dtype=torch.float32).eval()


def _has(config: PreTrainedConfig, name: str) -> bool:
    try:
        return hasattr(config, name)
    except RuntimeError:  # it differs between layers
        return False
