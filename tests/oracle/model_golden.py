#!/usr/bin/env python3
"""Makes tests/model/golden: tiny random models of the three families as Hugging Face directories, and the logits that
transformers computes for them, in FP32 and in BF16, from the same BF16 weights.

    python tests/oracle/model_golden.py tests/model/golden

Needs torch, transformers and safetensors; the tests that read the result need none of them. Versions that made the committed
files are in each directory's expected.safetensors (metadata).
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = dict(
    vocab_size=128, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-5, hidden_act="silu",
    bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16", use_cache=True,
)
FAMILIES = {
    # Three query heads share one key head; rotary frequencies on both sides of llama3's two limits and between them.
    "llama": dict(COMMON, architectures=["LlamaForCausalLM"], model_type="llama", tie_word_embeddings=False,
                  rope_theta=500.0, attention_bias=False, mlp_bias=False,
                  rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                    original_max_position_embeddings=64)),
    "qwen2": dict(COMMON, architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=True,
                  rope_theta=10000.0, use_sliding_window=False, sliding_window=64, max_window_layers=2),
    # head_dim is not hidden / heads.
    "qwen3": dict(COMMON, architectures=["Qwen3ForCausalLM"], model_type="qwen3", tie_word_embeddings=True,
                  rope_theta=1000000.0, head_dim=32, attention_bias=False, use_sliding_window=False,
                  sliding_window=None, max_window_layers=2),
}
LENGTH = 80


def fill(model, generator):
    """Weights that make attention and norms matter: nothing is near zero or uniform."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("norm.weight"):
                value = 1.0 + 0.3 * noise
            elif name.endswith(".bias"):
                value = 0.5 * noise
            elif "embed_tokens" in name:
                value = noise
            else:
                value = noise * 1.5 / tensor.shape[1] ** 0.5
            tensor.copy_(value.to(torch.bfloat16).float())


def main():
    root = pathlib.Path(sys.argv[1])
    for seed, (family, settings) in enumerate(FAMILIES.items()):
        directory = root / family
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
        config = AutoConfig.from_pretrained(directory)
        generator = torch.Generator().manual_seed(20 + seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        fill(model, generator)
        tied = settings["tie_word_embeddings"]
        weights = {n: t.to(torch.bfloat16).contiguous() for n, t in model.state_dict().items()
                   if not (tied and n == "lm_head.weight")}
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        tokens = torch.randint(0, settings["vocab_size"], (1, LENGTH), generator=generator)
        with torch.no_grad():
            exact = model(tokens).logits[0].float()
            rounded = model.to(torch.bfloat16)(tokens).logits[0].float()
        # Every fourth position keeps the file small.
        rows = torch.arange(3, LENGTH, 4)
        save_file({"tokens": tokens[0].to(torch.int32), "rows": rows.to(torch.int32),
                   "logits_f32": exact[rows].contiguous(), "logits_bf16": rounded[rows].to(torch.bfloat16).contiguous()},
                  directory / "expected.safetensors",
                  metadata={"torch": torch.__version__, "transformers": transformers.__version__})
        gap = (rounded - exact).pow(2).mean().sqrt().item()
        print(f"{family}: logits rms {exact.pow(2).mean().sqrt().item():.3f}, BF16 - FP32 rms {gap:.4f}")


if __name__ == "__main__":
    main()
