#!/usr/bin/env python3
"""Writes tests/quant/golden.bin: weights quantised by the compressed-tensors package (and PyTorch).

    pip install torch compressed-tensors && python tests/oracle/quant_golden.py

Format, little endian: "SSQG", u32 cases; a case is u8 source (0 BF16, 1 F16, 2 F32), u8 target (0 INT8, 1 FP8 E4M3),
u16 zero, u32 rows, u32 k, then weights [rows, k] and scales [rows] in the source dtype and codes [rows, k].
"""
import pathlib
import struct

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import calculate_qparams

K = 67
SOURCES = [torch.bfloat16, torch.float16, torch.float32]
TARGETS = [("int", torch.int8), ("float", torch.float8_e4m3fn)]


def rows_for(dtype, generator):
    def normal(scale):
        return torch.randn(K, generator=generator, dtype=torch.float64) * scale

    info = torch.finfo(dtype)
    tiny, smallest = info.tiny, info.smallest_normal * info.eps  # smallest normal, smallest subnormal
    rows = [torch.zeros(K, dtype=torch.float64), -torch.zeros(K, dtype=torch.float64)]
    rows += [normal(0.02) for _ in range(12)]
    rows += [normal(s) for s in (1.0, 1e-3, 1e-5, 3e3)]
    rows.append(normal(0.02) * (torch.rand(K, generator=generator) < 0.5))  # with -0.0 among the zeros
    ramp = torch.linspace(-1, 1, K, dtype=torch.float64)
    rows += [ramp, ramp * 0.7, ramp * 127.5, ramp * 448, ramp * 3.0]  # many ties after rounding; codes -128
    rows += [ramp * m for m in (0.999, 0.37, 1.0079, 0.0613, 1.93)]
    rows.append(torch.where(torch.arange(K) % 2 == 0, info.max, -info.max).double() * ramp.abs())
    rows.append(torch.full((K,), info.max, dtype=torch.float64))
    rows.append(normal(1.0) * tiny)  # around the smallest normal
    for most in (1, 2, 60, 63, 64, 65, 100, 127, 191, 192, 223, 224, 225, 447, 448, 671, 672, 1000):
        rows.append(torch.round(ramp * most) * smallest)  # subnormals: the scale is 0, one or a few steps
    wide = normal(1.0) * torch.pow(2.0, -torch.arange(K, dtype=torch.float64) / 2)
    rows += [wide, wide * 1e3, -wide]  # FP8 subnormals and underflow to -0
    return torch.stack(rows).to(dtype)


def raw(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def main():
    generator = torch.Generator().manual_seed(20260101)
    cases = []
    for source, dtype in enumerate(SOURCES):
        w = rows_for(dtype, generator)
        for target, (kind, code_dtype) in enumerate(TARGETS):
            args = QuantizationArgs(num_bits=8, type=kind, symmetric=True, strategy="channel")
            scale, zero_point = calculate_qparams(w.amin(1, keepdim=True), w.amax(1, keepdim=True), args)
            codes = quantize(w, scale, zero_point, args, dtype=code_dtype)
            assert scale.dtype == dtype and scale.shape == (w.shape[0], 1)
            head = struct.pack("<BBHII", source, target, 0, w.shape[0], K)
            cases.append(head + raw(w) + raw(scale) + raw(codes))
            if kind == "int":
                print(dtype, "rows", w.shape[0], "codes -128:", int((codes == -128).sum()))
    path = pathlib.Path(__file__).parent.parent / "quant" / "golden.bin"
    path.write_bytes(b"SSQG" + struct.pack("<I", len(cases)) + b"".join(cases))
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
