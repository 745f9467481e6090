"""Prints the demo's one table from what `eval` and `bench` wrote. Usage: demo_table.py EVAL.json (standard library only)"""

import json
import pathlib
import sys


def speed(directory, phase):
    return json.loads(pathlib.Path(f"{directory}.{phase}.json").read_text())["rows"][0]["tokens_per_second"]


def main():
    evaluated = json.loads(pathlib.Path(sys.argv[1]).read_text())["rows"]
    print(f"\nSmolLM2-135M-Instruct on {json.loads(pathlib.Path(sys.argv[1]).read_text())['machine']['processor']}")
    header = ["dtype", "kept:group", "zeroed", "bytes on disk", "linears / dense", "perplexity", "/ dense",
              "HellaSwag acc_norm", "prefill tok/s", "decode tok/s"]
    rows, dense = [], {}
    for row in evaluated:
        directory = pathlib.Path(row["directory"])
        size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
        perplexity = row["perplexity"]["perplexity"]
        if row["pattern"] == "dense":
            dense[row["dtype"]] = (row["linear_bytes"], perplexity)
        bytes_dense, perplexity_dense = dense[row["dtype"]]
        kept, group = row["pattern"].split()[0].split(":") if ":" in row["pattern"] else ("1", "1")
        rows.append([
            row["dtype"], row["pattern"], f"{int(group) - int(kept)} of {group}" if group != "1" else "-",
            f"{size:,}", f"{row['linear_bytes'] / bytes_dense:.3f}", f"{perplexity:.3f}",
            f"{perplexity / perplexity_dense:.3f}",
            f"{row['hellaswag']['acc_norm']:.3f}" if "hellaswag" in row else "-",
            f"{speed(directory, 'prefill'):,.0f}", f"{speed(directory, 'decode'):,.1f}"])
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows)]
    for cells in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.rjust(width) for cell, width in zip(cells, widths)) + " |")
    print("perplexity: 4 windows of 1024 tokens; dense of the same dtype = 1; disk bytes hold a BF16 embedding of 56.6 MB too")


if __name__ == "__main__":
    main()
