"""llama.cpp on random Q8_0 weights of llama3.2-1b's shape: prefill and decode tokens/s, the peer of `slidesparse bench`.

Usage: python3 peer_llama_cpp.py make FILE.gguf          writes the model (1.3 GB)
       python3 peer_llama_cpp.py bench FILE.gguf [--prompt 512] [--tokens 32] [--runs 5] [--threads 2]
Needs gguf, numpy and llama-cpp-python (built from source for this processor). Q8_0 reads 34 bytes for 32 weights, the head included.
"""

import argparse
import ctypes
import statistics
import time

import numpy as np

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 16, 2048, 8192, 32, 8, 64, 128256


def random_q8_0(rng, rows, columns):
    blocks = np.empty((rows, columns // 32, 34), dtype=np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(0.02 / 64).tobytes(), dtype=np.uint8)
    blocks[..., 2:] = rng.integers(0, 256, size=(rows, columns // 32, 32), dtype=np.uint8)
    return blocks.reshape(rows, -1)


def make(path):
    import gguf
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(131072)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    byte_tokens = [chr(b) if b in visible else chr(256 + i) for i, b in enumerate(sorted(range(256), key=lambda b: (b in visible, b)))]
    tokens = byte_tokens + [f"<|t{i}|>" for i in range(VOCAB - 256)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges([f"{byte_tokens[-1]} {byte_tokens[-2]}"])
    writer.add_bos_token_id(VOCAB - 2)
    writer.add_eos_token_id(VOCAB - 1)
    q8 = gguf.GGMLQuantizationType.Q8_0

    def matrix(name, rows, columns):
        writer.add_tensor(name, random_q8_0(rng, rows, columns), raw_dtype=q8)

    matrix("token_embd.weight", VOCAB, HIDDEN)  # tied: llama.cpp uses it as the head too
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", np.ones(HIDDEN, dtype=np.float32))
        matrix(block + "attn_q.weight", HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_k.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_v.weight", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(block + "attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        matrix(block + "ffn_gate.weight", INTERMEDIATE, HIDDEN)
        matrix(block + "ffn_up.weight", INTERMEDIATE, HIDDEN)
        matrix(block + "ffn_down.weight", HIDDEN, INTERMEDIATE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def bench(options):
    import llama_cpp
    global silent  # llama.cpp calls it until the process ends
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama_cpp.Llama(options.file, n_ctx=options.prompt + options.tokens + 8, n_batch=options.prompt,
                            n_ubatch=options.prompt, n_threads=options.threads, n_threads_batch=options.threads,
                            verbose=False)
    rng = np.random.default_rng(2)
    prefill, decode = [], []
    for run in range(options.runs + 1):
        prompt = [int(t) for t in rng.integers(300, VOCAB - 10, size=options.prompt)]
        model.reset()
        start = time.perf_counter()
        model.eval(prompt)
        middle = time.perf_counter()
        for _ in range(options.tokens):
            model.eval([int(rng.integers(300, VOCAB - 10))])
        end = time.perf_counter()
        if run > 0:  # the first is the warm-up
            prefill.append(options.prompt / (middle - start))
            decode.append(options.tokens / (end - middle))
    print(f"llama.cpp Q8_0: prefill {options.prompt}: {statistics.median(prefill):.1f} tokens/s "
          f"({min(prefill):.1f} .. {max(prefill):.1f}), decode: {statistics.median(decode):.2f} tokens/s "
          f"({min(decode):.2f} .. {max(decode):.2f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["make", "bench"])
    parser.add_argument("file")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    make(options.file) if options.action == "make" else bench(options)


if __name__ == "__main__":
    main()
