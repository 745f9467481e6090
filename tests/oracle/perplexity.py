"""Perplexity of a Hugging Face directory by transformers and PyTorch: the oracle of `slidesparse eval`, and its yardstick.

Usage: python3 perplexity.py DIR TEXT [--window 2048] [--max-windows N] [--dtype float32|bfloat16] [--threads T]
Needs torch and transformers (and compressed-tensors for W8A8 directories). Non-overlapping windows; each predicts window - 1 tokens.
"""

import argparse
import math
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("text")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--max-windows", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.directory)
    model = AutoModelForCausalLM.from_pretrained(options.directory, dtype=getattr(torch, options.dtype)).eval()
    ids = tokenizer(open(options.text, encoding="utf-8").read(), return_tensors="pt", add_special_tokens=False).input_ids[0]
    windows = len(ids) // options.window
    if options.max_windows:
        windows = min(windows, options.max_windows)
    total, count, seconds = 0.0, 0, 0.0
    with torch.inference_mode():
        model(ids[None, :128])  # warm-up
        for i in range(windows):
            part = ids[i * options.window:(i + 1) * options.window][None]
            start = time.perf_counter()
            logits = model(part).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits.float(), part[0, 1:], reduction="sum")
            seconds += time.perf_counter() - start
            total += loss.item()
            count += options.window - 1
            print(f"window {i}: {math.exp(loss.item() / (options.window - 1)):.4f}", flush=True)
    print(f"tokens {len(ids)} windows {windows} perplexity {math.exp(total / count):.4f} "
          f"{windows * options.window / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
