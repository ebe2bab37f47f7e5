"""Tiny networks of Hugging Face's library, at random weights, with inputs for each."""

from dataclasses import dataclass, field
from typing import Any

import torch

IDS = torch.arange(3, 15).reshape(2, 6)
TEXT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
BOTH = {**TEXT, "decoder_input_ids": IDS[:, :4]}
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()
SOUND = torch.linspace(-1, 1, 2 * 8 * 20).reshape(2, 8, 20).sin()

SIZE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 32, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
GROUPED = {**SIZE, "num_key_value_heads": 1}
VISION = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
          "intermediate_size": 24, "image_size": 32, "patch_size": 8, "num_labels": 5}  # fmt: skip
BART = {"vocab_size": 40, "d_model": 16, "encoder_layers": 4, "decoder_layers": 3,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "max_position_embeddings": 32, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
SPEECH = {k: v for k, v in BART.items() if k != "max_position_embeddings"}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


@dataclass(frozen=True)
class Family:
    """A class, its configuration, inputs, and names of two blocks to remove."""

    kind: str
    config: str
    options: dict[str, Any]
    remove: tuple[str, ...]
    inputs: dict[str, torch.Tensor] = field(default_factory=lambda: TEXT)
    writes: bool = False
    """Whether it generates text."""

    def build(self, **more):
        import transformers

        config = getattr(transformers, self.config)(**{**self.options, **more})
        model = getattr(transformers, self.kind)(config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model


def decoder(kind, config, options, *, layers="model.layers", **more):
    names = tuple(f"{layers}.{i}" for i in (0, 2))
    return Family(kind, config, {**options, **more}, names, writes=True)


def stack(kind, config, options, layers, inputs=TEXT, gone=(0, 2), **more):
    names = tuple(f"{layers}.{i}" for i in gone)
    return Family(kind, config, {**options, **more}, names, inputs)


PIXELS = {"pixel_values": IMAGE}
FAMILIES = {
    "llama": decoder("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "gpt2": decoder(
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": 40, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 32,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        layers="transformer.h",
    ),
    "gemma3": decoder("Gemma3ForCausalLM", "Gemma3TextConfig", GROUPED, head_dim=8,
                      layer_types=MIXED, sliding_window=3),
    "mixtral": decoder("MixtralForCausalLM", "MixtralConfig", GROUPED, num_local_experts=2,
                       num_experts_per_tok=1),
    "bert": stack("BertForSequenceClassification", "BertConfig", SIZE, "bert.encoder.layer"),
    "distilbert": stack(
        "DistilBertForSequenceClassification", "DistilBertConfig",
        {"vocab_size": 40, "dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24,
         "max_position_embeddings": 32, "pad_token_id": 0},
        "distilbert.transformer.layer",
    ),
    "t5": Family(
        "T5ForConditionalGeneration", "T5Config",
        {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 4,
         "num_decoder_layers": 3, "num_heads": 2, "decoder_start_token_id": 0},
        ("encoder.block.1", "encoder.block.3", "decoder.block.1"), BOTH, writes=True,
    ),
    "vit": stack("ViTForImageClassification", "ViTConfig", VISION, "vit.layers", PIXELS),
    "convnext": Family(
        "ConvNextForImageClassification", "ConvNextConfig",
        {"hidden_sizes": [8, 12, 16, 20], "depths": [2, 2, 3, 2], "num_labels": 5,
         "drop_path_rate": 0.2, "layer_scale_init_value": 0.5},
        ("convnext.encoder.stages.0.layers.1", "convnext.encoder.stages.2.layers.1"), PIXELS,
    ),
    "whisper": Family(
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**SPEECH, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16},
        ("model.encoder.layers.0", "model.decoder.layers.1"),
        {"input_features": SOUND, "decoder_input_ids": IDS[:, :4]}, writes=True,
    ),
}  # fmt: skip
MORE = {
    "mistral": decoder("MistralForCausalLM", "MistralConfig", GROUPED, sliding_window=3),
    "qwen2": decoder("Qwen2ForCausalLM", "Qwen2Config", GROUPED, use_sliding_window=True,
                     sliding_window=3, max_window_layers=2),
    "qwen3": decoder("Qwen3ForCausalLM", "Qwen3Config", GROUPED, head_dim=8),
    "qwen3-moe": decoder("Qwen3MoeForCausalLM", "Qwen3MoeConfig", GROUPED, head_dim=8,
                         num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8,
                         mlp_only_layers=[1, 2]),
    "gemma": decoder("GemmaForCausalLM", "GemmaConfig", GROUPED, head_dim=8),
    "gemma2": decoder("Gemma2ForCausalLM", "Gemma2Config", GROUPED, head_dim=8, sliding_window=3),
    "gpt-neox": decoder("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZE, layers="gpt_neox.layers"),
    "gpt-oss": decoder("GptOssForCausalLM", "GptOssConfig", GROUPED, head_dim=8, sliding_window=3,
                       num_local_experts=2, num_experts_per_tok=1),
    "smollm3": decoder("SmolLM3ForCausalLM", "SmolLM3Config", GROUPED,
                       no_rope_layers=[1, 0, 1, 1]),
    "llama4": decoder("Llama4ForCausalLM", "Llama4TextConfig", GROUPED, head_dim=8,
                      intermediate_size_mlp=24, num_local_experts=2, moe_layers=[1, 3],
                      no_rope_layers=[1, 0, 1, 1], attention_chunk_size=4),
    "opt": decoder(
        "OPTForCausalLM", "OPTConfig",
        {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
         "ffn_dim": 24, "max_position_embeddings": 32, "word_embed_proj_dim": 16,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        layers="model.decoder.layers",
    ),
    "falcon": decoder("FalconForCausalLM", "FalconConfig", SIZE, layers="transformer.h"),
    "phi3": decoder("Phi3ForCausalLM", "Phi3Config", GROUPED),
    "olmo2": decoder("Olmo2ForCausalLM", "Olmo2Config", GROUPED),
    "mamba": decoder("MambaForCausalLM", "MambaConfig",
                     {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4,
                      "state_size": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
                     layers="backbone.layers"),
    "roberta": stack("RobertaForTokenClassification", "RobertaConfig", SIZE,
                     "roberta.encoder.layer"),
    "electra": stack("ElectraForSequenceClassification", "ElectraConfig", SIZE,
                     "electra.encoder.layer"),
    # Its encoder does not run without any layer, so the first one stays.
    "deberta": stack("DebertaV2ForSequenceClassification", "DebertaV2Config", SIZE,
                     "deberta.encoder.layer", gone=(1, 3)),
    "modernbert": stack("ModernBertForMaskedLM", "ModernBertConfig", SIZE, "model.layers",
                        layer_types=MIXED[::-1], local_attention=4, cls_token_id=1,
                        sep_token_id=2, gone=(1, 3)),
    "deit": stack("DeiTForImageClassification", "DeiTConfig", VISION, "deit.layers", PIXELS),
    "beit": stack("BeitForImageClassification", "BeitConfig", VISION, "beit.layers", PIXELS,
                  drop_path_rate=0.2, layer_scale_init_value=0.5, use_relative_position_bias=True),
    "dinov2": stack("Dinov2ForImageClassification", "Dinov2Config",
                    {k: v for k, v in VISION.items() if k != "intermediate_size"},
                    "dinov2.encoder.layer", PIXELS, drop_path_rate=0.2),
    "resnet": Family(
        "ResNetForImageClassification", "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [2, 2, 3, 2],
         "layer_type": "basic", "num_labels": 5},
        ("resnet.encoder.stages.1.layers.1", "resnet.encoder.stages.2.layers.1"), PIXELS,
    ),
    "bart": Family("BartForConditionalGeneration", "BartConfig", BART,
                   ("model.encoder.layers.1", "model.encoder.layers.2", "model.decoder.layers.0"),
                   BOTH, writes=True),
    "wav2vec2": stack("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config",
                      {**SIZE, "apply_spec_augment": False, "conv_dim": [8, 8],
                       "conv_stride": [5, 2], "conv_kernel": [10, 3],
                       "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4},
                      "wav2vec2.encoder.layers",
                      {"input_values": IMAGE.reshape(2, -1)[:, :800]}),
    "clip-vision": stack("CLIPVisionModelWithProjection", "CLIPVisionConfig",
                         {k: v for k, v in VISION.items() if k != "num_labels"},
                         "vision_model.encoder.layers", PIXELS),
    "xlm-roberta": stack("XLMRobertaForMaskedLM", "XLMRobertaConfig", SIZE,
                         "roberta.encoder.layer"),
}  # fmt: skip
