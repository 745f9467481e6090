"""PyTorch's dense 8-bit products on a card: the peers of `slidesparse bench gemm`.

Usage: python3 torch_gemm.py [--model qwen2.5-7b] [--m 64,512,2048,16384] [--seconds 0.3] [--only "row-wise fast"]
Per M and sum of the model's four fused linears, microseconds (median of batches): torch._scaled_mm with row-wise FP8 scales (both
fast_accum settings), torch._scaled_mm with tensor-wise scales, torch._int_mm (INT8 -> INT32, no scaling) and the BF16 product. Weights have
random bits (FP8: below 2), inputs are normal and scaled to the type's range: what `bench gemm` has, because a card at its power limit
is as fast as its data lets it be. Both rotate over more than twice the L2 cache; each batch is one CUDA graph of one layer.
"""

import argparse
import statistics

import torch

SHAPES = {
    "llama3.2-1b": [(3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)],
    "llama3.2-3b": [(5120, 3072), (3072, 3072), (16384, 3072), (3072, 8192)],
    "qwen2.5-7b": [(4608, 3584), (3584, 3584), (37888, 3584), (3584, 18944)],
    "qwen2.5-14b": [(7168, 5120), (5120, 5120), (27648, 5120), (5120, 13824)],
}
L2_BYTES = 2 * 64 << 20


def random_bits(rows, columns, dtype):
    bits = torch.randint(0, 256, (rows, columns), dtype=torch.uint8, device="cuda")
    if dtype == torch.float8_e4m3fn:
        bits &= 0xBF  # below 2, and never NaN
    return bits.view(dtype)


def quantised_normals(rows, columns, dtype):
    x = torch.randn(rows, columns, device="cuda")
    largest = 448.0 if dtype == torch.float8_e4m3fn else 127.0
    x *= largest / x.abs().amax(dim=1, keepdim=True)
    return x.to(dtype) if dtype == torch.float8_e4m3fn else x.round().to(dtype)


def kernels(n, k, m):
    """name -> list of calls, one a copy of the inputs."""
    copies = max(1, -(-L2_BYTES // (n * k + m * k)))
    made = {name: [] for name in ("row-wise fast", "row-wise", "tensor-wise", "int8", "bf16")}
    sx, sw = torch.rand(m, 1, device="cuda"), torch.rand(1, n, device="cuda")
    one = torch.ones((), device="cuda")
    for _ in range(copies):
        x, w = quantised_normals(m, k, torch.float8_e4m3fn), random_bits(n, k, torch.float8_e4m3fn).t()
        for name, fast, scales in (("row-wise fast", True, (sx, sw)), ("row-wise", False, (sx, sw)),
                                   ("tensor-wise", True, (one, one))):
            made[name].append(lambda x=x, w=w, f=fast, s=scales: torch._scaled_mm(
                x, w, scale_a=s[0], scale_b=s[1], out_dtype=torch.bfloat16, use_fast_accum=f))
        if m > 16:
            xi, wi = quantised_normals(m, k, torch.int8), random_bits(n, k, torch.int8).t()
            made["int8"].append(lambda x=xi, w=wi: torch._int_mm(x, w))
    for _ in range(max(1, copies // 2)):
        xb = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        wb = torch.randn(n, k, device="cuda", dtype=torch.bfloat16).t()
        made["bf16"].append(lambda x=xb, w=wb: x @ w)
    return made


def graph_of(calls):
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="qwen2.5-7b", choices=SHAPES)
    parser.add_argument("--m", default="64,512,2048,16384")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--only", help="one kind alone: nobody else's heat or coolness in its figures")
    options = parser.parse_args()
    torch.manual_seed(1)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {options.model}, sum of four linears, us")
    for m in (int(text) for text in options.m.split(",")):
        totals, refusals = {}, {}
        for n, k in SHAPES[options.model]:
            racers = {}
            for name, calls in kernels(n, k, m).items():
                if not calls or options.only not in (None, name):
                    continue
                try:
                    racers[name] = (graph_of(calls), len(calls), [])
                except Exception as error:  # a peer that refuses a shape is reported, not hidden
                    refusals[name] = str(error).splitlines()[0][:100]
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            spent, rounds = 0.0, 0
            while spent < options.seconds * len(racers):
                # From another start each round: who always runs behind the coolest one is always fast.
                order = list(racers.values())
                order = order[rounds % len(order):] + order[:rounds % len(order)]
                rounds += 1
                for graph, count, samples in order if rounds % 2 else reversed(order):
                    start.record()
                    graph.replay()
                    end.record()
                    end.synchronize()
                    spent += start.elapsed_time(end) * 1e-3
                    samples.append(start.elapsed_time(end) * 1e3 / count)
            for name, (_, _, samples) in racers.items():
                totals[name] = totals.get(name, 0.0) + statistics.median(samples)
            del racers
            torch.cuda.empty_cache()
        print(f"M={m}: " + ", ".join(f"{name} {us:.1f}" for name, us in totals.items() if name not in refusals)
              + "".join(f"; {name} refused: {why}" for name, why in refusals.items()), flush=True)


if __name__ == "__main__":
    main()
