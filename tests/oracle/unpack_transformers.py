#!/usr/bin/env python3
"""Loads directories that `slidesparse unpack` wrote with transformers, and compares every linear with the file.

    pip install torch transformers accelerate compressed-tensors safetensors
    python tests/oracle/unpack_transformers.py DIR...
"""
import json
import pathlib
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM


def load(path):
    tensors = {}
    for file in sorted(pathlib.Path(path).glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            tensors.update({name: shard.get_tensor(name) for name in shard.keys()})
    return tensors


def check(path):
    tensors = load(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    ids = torch.arange(1, 17).unsqueeze(0)
    with torch.no_grad():
        assert model(ids).logits.isfinite().all()
    compared = 0
    for name, module in model.named_modules():
        weight = tensors.get(name + ".weight")
        if weight is None or not isinstance(module, torch.nn.Linear):
            continue
        scale = tensors.get(name + ".weight_scale")
        want = weight if scale is None else weight.to(scale.dtype) * scale
        assert torch.equal(module.weight.to(want.dtype), want), name
        compared += 1
    kind = json.loads((pathlib.Path(path) / "config.json").read_text()).get("quantization_config", {}).get("format")
    print(f"{path}: {kind or 'plain'}, {compared} linears equal")


if __name__ == "__main__":
    for directory in sys.argv[1:]:
        check(directory)
