#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/bench_model.h"
#include "gemm/bench.h"

// Rows of `bench` as Markdown and as the JSON of docs/bench.md.
namespace slidesparse {

std::string gemm_table(const GemmBenchResult& result);
// For each row: kernel, time, share of the limit, why it was chosen, the runner-up, why not the others.
std::string gemm_explanation(const GemmBenchResult& result);
nlohmann::ordered_json gemm_rows_json(const GemmBenchResult& result);
// The forms that weights are kept in and their bytes; with `layers` > 1 also for so many layers.
std::string weights_table(const GemmBenchResult& result, std::int64_t layers);
nlohmann::ordered_json weights_json(const GemmBenchResult& result);
nlohmann::ordered_json limits_json(const MachineLimits& limits);

std::string model_table(const std::vector<BenchModelRow>& rows, const MachineLimits& limits);
nlohmann::ordered_json model_rows_json(const std::vector<BenchModelRow>& rows, const MachineLimits& limits);

}  // namespace slidesparse
