#!/usr/bin/env python3
"""Checks that transformers + compressed-tensors load an unpacked directory and compute with its weights.

    pip install torch transformers compressed-tensors accelerate safetensors
    python tests/oracle/check_compressed_tensors.py DIR            a directory that `slidesparse unpack` wrote
    python tests/oracle/check_compressed_tensors.py --self-test PROGRAM
        PROGRAM reads config.json text and writes config_with_compressed_tensors() of it (tests/oracle/config_tool.cpp);
        tiny random models are quantised here, INT8 and FP8

The logits of the loaded model are compared with those of the same model in FP32 whose linears are replaced by code * scale and whose
inputs are quantised per token by hand. Exit code 1 when they differ by more than 2 % of their norm.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

LIMIT = 0.02


def load_tensors(directory):
    tensors = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def quantise_input(x, kind):
    """One scale for each token: absmax / 127 or absmax / 448."""
    top = 127.0 if kind == "int" else 448.0
    scale = (x.abs().amax(-1, keepdim=True) / top).clamp_min(1e-12)
    if kind == "int":
        return torch.clamp(torch.round(x / scale), -128, 127) * scale
    return torch.clamp(x / scale, -448, 448).to(torch.float8_e4m3fn).to(x.dtype) * scale


def reference_logits(directory, ids):
    config = json.loads((directory / "config.json").read_text())
    kind = config.pop("quantization_config")["config_groups"]["group_0"]["weights"]["type"]
    tensors = load_tensors(directory)
    quantised = {name[: -len(".weight_scale")] for name in tensors if name.endswith(".weight_scale")}
    assert quantised, "no linear is quantised"
    with tempfile.TemporaryDirectory() as scratch:
        (pathlib.Path(scratch) / "config.json").write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(scratch)).float().eval()
    state = {name: value.float() for name, value in tensors.items() if not name.endswith(".weight_scale")}
    for name in quantised:
        state[name + ".weight"] *= tensors[name + ".weight_scale"].float()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("lm_head" in name for name in missing), (missing, unexpected)
    model.tie_weights()
    for name in quantised:
        model.get_submodule(name).register_forward_pre_hook(lambda _, x: (quantise_input(x[0], kind),))
    with torch.no_grad():
        return model(ids).logits


def check(directory):
    vocab = json.loads((directory / "config.json").read_text())["vocab_size"]
    ids = torch.randint(0, vocab, (2, 24), generator=torch.Generator().manual_seed(1))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(ids).logits.float()
    expected = reference_logits(directory, ids)
    error = ((logits - expected).norm() / expected.norm()).item()
    verdict = "ok" if error <= LIMIT else "WRONG"
    print(f"{directory}: relative difference of the logits {error:.2e}, limit {LIMIT}: {verdict}")
    return error <= LIMIT


def make_directory(directory, kind, program):
    torch.manual_seed(7)
    config = LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=256, max_position_embeddings=128, tie_word_embeddings=False)
    config.architectures = ["LlamaForCausalLM"]
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    config.dtype = torch.bfloat16
    config.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(subprocess.run([program, kind], input=path.read_text(), capture_output=True, text=True, check=True).stdout)
    tensors = {}
    for name, value in model.state_dict().items():
        if not name.endswith("_proj.weight"):
            tensors[name] = value.contiguous()
            continue
        top = 127.5 if kind == "int" else 448.0
        scale = value.abs().amax(1, keepdim=True) / top
        codes = value.float() / scale.float()
        codes = torch.clamp(codes.round(), -128, 127).to(torch.int8) if kind == "int" else codes.clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors[name] = codes
        tensors[name[: -len("weight")] + "weight_scale"] = scale
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", nargs="?", type=pathlib.Path)
    parser.add_argument("--self-test", metavar="PROGRAM")
    options = parser.parse_args()
    if options.self_test is None:
        if options.directory is None:
            parser.error("DIR or --self-test is needed")
        return 0 if check(options.directory) else 1
    good = True
    for kind in ("int", "float"):
        with tempfile.TemporaryDirectory() as scratch:
            make_directory(pathlib.Path(scratch), kind, options.self_test)
            good &= check(pathlib.Path(scratch))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
