#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace slidesparse {

// Instruction sets that kernels are written for, weakest first.
// kAvx2: AVX2 + FMA + BMI2 + F16C. kAvx512: AVX-512 F/BW/VL/DQ/VBMI/VBMI2/VNNI/BF16.
enum class Isa { kPortable, kAvx2, kAvx512 };

std::string_view isa_name(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);  // "portable", "avx2", "avx512"

// The best set that this processor and operating system have.
Isa detected_isa();
// The set that kernels use: detected_isa() unless force_isa() was called.
Isa active_isa();
// Throws kUnsupported when the processor lacks it. Nothing restores the default.
void force_isa(std::optional<Isa> isa);
// AMX tiles with INT8 and BF16 products are usable by this process, which has asked the kernel for them.
bool has_amx();
// "AMD EPYC ..., 2 cores", from /proc/cpuinfo.
std::string cpu_description();

}  // namespace slidesparse
