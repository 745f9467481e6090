"""HellaSwag by transformers and PyTorch with lm-evaluation-harness' rules: the oracle of `slidesparse eval --hellaswag`.

Usage: python3 hellaswag.py DIR FILE [--max-tasks N] [--dtype float32|bfloat16] [--threads T] [--json OUT] [--compare EVAL_JSON]
FILE is the official jsonl or llama.cpp's six lines a task. Needs torch and transformers. With --compare (what
`slidesparse eval DIR --hellaswag FILE --json EVAL_JSON` wrote) every task's four sums and both decisions are compared.

The rules (lm-evaluation-harness, task hellaswag): the query is "activity_label: ctx_a Ctx_b" and, like the endings, loses "[...]" after
" [title]" became ". "; context and context + " " + ending are tokenised, and the ending's tokens are what the second has more than the
first; acc takes the largest sum of log probabilities, acc_norm the largest sum divided by the ending's length in characters.
"""

import argparse
import json
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def preprocess(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def read_tasks(path):
    """Yields (query, [four endings], label)."""
    text = open(path, encoding="utf-8").read()
    if text.startswith("{"):
        for line in text.splitlines():
            doc = json.loads(line)
            query = doc["activity_label"] + ": " + doc["ctx_a"] + " " + doc["ctx_b"].capitalize()
            yield preprocess(query), [preprocess(ending) for ending in doc["endings"]], int(doc["label"])
    else:  # prepared already
        lines = text.rstrip("\n").split("\n")
        for i in range(0, len(lines), 6):
            yield lines[i], lines[i + 2:i + 6], int(lines[i + 1])


def encode_pair(tokenizer, context, continuation):
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = tokenizer(context + continuation, add_special_tokens=False).input_ids
    head = tokenizer(context, add_special_tokens=False).input_ids
    return head, whole[len(head):]


def score(model, tokenizer, query, endings):
    """Sums of the log probabilities of the endings' tokens. Padding is at the right, where causal attention does not see it."""
    pairs = [encode_pair(tokenizer, query, " " + ending) for ending in endings]
    length = max(len(head) + len(tail) for head, tail in pairs) - 1
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    for row, (head, tail) in enumerate(pairs):
        fed = (head + tail)[:-1]
        ids[row, :len(fed)] = torch.tensor(fed)
    first = min(len(head) for head, _ in pairs) - 1
    logits = model(ids, logits_to_keep=length - first).logits.float().log_softmax(-1)
    sums = []
    for row, (head, tail) in enumerate(pairs):
        begin = len(head) - 1 - first
        sums.append(logits[row, begin:begin + len(tail)].gather(-1, torch.tensor(tail)[:, None]).sum().item())
    return sums


def argmax(values):
    return max(range(len(values)), key=lambda i: values[i])  # the first of equals


def compare(ours, theirs, tasks):
    assert len(ours) == len(theirs), f"{len(ours)} tasks in the file, {len(theirs)} here"
    largest = 0.0
    for i, (a, b, (_, endings, _)) in enumerate(zip(ours, theirs, tasks)):
        largest = max(largest, *(abs(x - y) for x, y in zip(a["log_likelihoods"], b["log_likelihoods"])))
        for name in ("chosen", "chosen_norm"):
            if a[name] == b[name]:
                continue
            sums = b["log_likelihoods"]
            if name == "chosen_norm":
                sums = [s / len(ending) for s, ending in zip(sums, endings)]
            gap = sums[b[name]] - sums[a[name]]
            print(f"task {i}: {name} {a[name]}, here {b[name]}; the two are {gap:.4f} apart here")
    same = [sum(a[name] == b[name] for a, b in zip(ours, theirs)) for name in ("chosen", "chosen_norm")]
    print(f"same decisions: acc {same[0]}, acc_norm {same[1]} of {len(theirs)}; sums differ by at most {largest:.4f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("file")
    parser.add_argument("--max-tasks", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json")
    parser.add_argument("--compare")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.directory)
    model = AutoModelForCausalLM.from_pretrained(options.directory, dtype=getattr(torch, options.dtype)).eval()
    tasks = list(read_tasks(options.file))
    tasks = tasks[:options.max_tasks or len(tasks)]
    results = []
    with torch.inference_mode():
        for query, endings, label in tasks:
            sums = score(model, tokenizer, query, endings)
            results.append({"label": label, "chosen": argmax(sums),
                            "chosen_norm": argmax([s / len(ending) for s, ending in zip(sums, endings)]), "log_likelihoods": sums})
    n = len(results)
    print(f"tasks {n} acc {sum(r['chosen'] == r['label'] for r in results) / n:.4f} "
          f"acc_norm {sum(r['chosen_norm'] == r['label'] for r in results) / n:.4f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(results, out)
    if options.compare:
        with open(options.compare, encoding="utf-8") as file:
            compare(json.load(file)["rows"][0]["hellaswag"]["choices"], results, tasks)


if __name__ == "__main__":
    main()
