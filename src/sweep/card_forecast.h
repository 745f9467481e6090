#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sweep/cell.h"

// What a card that is not there could run of a plan: from its memory, the backends that it has and the bytes
// that weights take in their forms. Arithmetic alone; no speed.
namespace slidesparse {

struct KnownCard {
  std::string_view name;          // "rtx4090"
  std::string_view words;         // "NVIDIA GeForce RTX 4090, 24 GB"
  std::int64_t memory_bytes = 0;  // as the driver states it
  std::int64_t held_bytes = 0;    // by the driver, a context and, on a desktop card, a screen
  int compute_capability = 0;     // 89
  // cuSPARSELt's compressed rows, bytes a byte of slid row.
  double compressed_share = 0;
  bool measured = false;  // that share on such a card; else taken from the nearest one that was
};
const std::vector<KnownCard>& known_cards();
// Throws kUsage with the names there are.
const KnownCard& known_card(std::string_view name);

enum class ForecastVerdict {
  kFits,         // as asked for
  kSmaller,      // in chunks, or fewer sequences
  kDoesNotFit,   // not even one prompt or sequence
  kUnsupported,  // the card has no such kernels
  kNotAsked,     // convert, tune, gemm, eval: memory is not what decides
};
struct CardForecast {
  Cell cell;
  ForecastVerdict verdict = ForecastVerdict::kNotAsked;
  std::int64_t weight_bytes = 0;  // linears, in the smallest form that the backend has
  std::int64_t needed_bytes = 0;  // at the M asked for, in one step, with what the driver holds
  std::int64_t largest_m = 0;     // kSmaller: that is run (decode), or tokens of a step (prefill)
  std::string why;                // in bytes or in words; empty when it fits
};

// Every prefill and decode cell of known shapes; cells of directories need the directory. `memory_limit` of a
// cell, where there is one, counts instead of the card's memory.
std::vector<CardForecast> forecast_card(const KnownCard& card, const std::vector<Cell>& cells);
// Totals, then the rows that do not run as asked for.
std::string forecast_table(const KnownCard& card, const std::vector<CardForecast>& forecasts);

}  // namespace slidesparse
