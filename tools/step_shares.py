"""Where the time of a model's step on a card goes, from Nsight Compute's durations.

Usage: ncu --csv --print-kernel-base function --metrics gpu__time_duration.sum --clock-control none slidesparse --quiet bench decode ... | python3 step_shares.py
Takes the last step that ran (it begins with the look-up of the embedding and gathers rows twice for the head) and prints, for each kind of
kernel, launches, microseconds and share. Each kernel runs alone here, caches as the one before left them.
"""

import csv
import re
import sys

KINDS = [("attention", r"^(decode|prefill|join)_kernel"), ("norms of heads, rotary, cache", r"^qkv_kernel"), ("quantise, norm, SiLU", r"^quantize"),
         ("rows by id", r"^gather_kernel"), ("drawing tokens", r"^(greedy|pick|histogram|scan|top|raw_sum|max_of_pieces|feed)"), ("tail", r"^tail_kernel"),
         ("products", r"device_kernel|gemm|nvjet|xmma|cublas|splitK|cusparselt")]


def main():
    rows = []
    for row in csv.DictReader(line for line in sys.stdin if line.startswith('"')):
        if row.get("Metric Name") != "gpu__time_duration.sum":
            continue
        value = float(row["Metric Value"].replace(",", ""))
        unit = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3}[row["Metric Unit"]]
        rows.append((row["Kernel Name"], value * unit))
    gathers = [i for i, (name, _) in enumerate(rows) if name.startswith("gather_kernel")]
    if len(gathers) < 3:
        sys.exit(f"error: {len(rows)} kernels, {len(gathers)} of them gather rows: no whole step")
    step = rows[gathers[-3]:]
    totals, others = {}, {}
    for name, us in step:
        kind = next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")
        count, sum_us = totals.get(kind, (0, 0.0))
        totals[kind] = (count + 1, sum_us + us)
        if kind == "other":
            others[name[:60]] = others.get(name[:60], 0.0) + us
    whole = sum(us for _, us in totals.values())
    print(f"{len(step)} launches, {whole:.1f} us")
    for kind, (count, us) in sorted(totals.items(), key=lambda item: -item[1][1]):
        print(f"{kind}: {count} launches, {us:.1f} us, {100 * us / whole:.1f} %")
    for name, us in sorted(others.items(), key=lambda item: -item[1])[:8]:
        print(f"  other: {name} {us:.1f} us")


if __name__ == "__main__":
    main()
