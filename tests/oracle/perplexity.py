"""Perplexity of a Hugging Face directory by transformers and PyTorch: the oracle of `slidesparse eval`, and its yardstick.

Usage: python3 perplexity.py DIR TEXT [--window 2048] [--max-windows N] [--dtype float32|bfloat16] [--threads T]
       [--activations own,slidesparse,none]
Needs torch and transformers (and compressed-tensors for W8A8 directories). Non-overlapping windows; each predicts window - 1 tokens.
--activations, for W8A8 directories: how the linears' inputs are quantised, one result for each name. "own" is compressed-tensors'
(INT8 scale: absmax / 127.5), "slidesparse" ours (absmax / 127; docs/format.md, "Numbers"), "none" leaves them as they are.
"""

import argparse
import math
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def quantise_activations(model, how, own):
    """Sets how compressed-tensors quantises the inputs of the model's linears. `own`: its function for dynamic scales."""
    from compressed_tensors.quantization.lifecycle import forward

    def ours(value, args, module, global_scale=None):
        largest = 127.0 if args.type == "int" else 448.0
        scale = value.abs().amax(-1, keepdim=True) / largest
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        return scale, torch.zeros_like(scale, dtype=torch.int8 if args.type == "int" else scale.dtype)

    forward.compute_dynamic_scales_and_zp = ours if how == "slidesparse" else own
    linears = 0
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            module.quantization_enabled = how != "none"
            linears += 1
    return linears


def measure(model, ids, window, windows):
    total, count, seconds = 0.0, 0, 0.0
    with torch.inference_mode():
        model(ids[None, :128])  # warm-up
        for i in range(windows):
            part = ids[i * window:(i + 1) * window][None]
            start = time.perf_counter()
            logits = model(part).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits.float(), part[0, 1:], reduction="sum")
            seconds += time.perf_counter() - start
            total += loss.item()
            count += window - 1
            print(f"window {i}: {math.exp(loss.item() / (window - 1)):.4f}", flush=True)
    return f"tokens {len(ids)} windows {windows} perplexity {math.exp(total / count):.4f} {windows * window / seconds:.1f} tokens/s"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("text")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--max-windows", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--activations", type=lambda text: text.split(","), default=[])
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.directory)
    model = AutoModelForCausalLM.from_pretrained(options.directory, dtype=getattr(torch, options.dtype)).eval()
    ids = tokenizer(open(options.text, encoding="utf-8").read(), return_tensors="pt", add_special_tokens=False).input_ids[0]
    windows = len(ids) // options.window
    if options.max_windows:
        windows = min(windows, options.max_windows)
    if not options.activations:
        print(measure(model, ids, options.window, windows))
        return
    from compressed_tensors.quantization.lifecycle import forward
    own = forward.compute_dynamic_scales_and_zp
    for how in options.activations:
        linears = quantise_activations(model, how, own)
        print(f"activations {how} ({linears} linears): {measure(model, ids, options.window, windows)}", flush=True)


if __name__ == "__main__":
    main()
