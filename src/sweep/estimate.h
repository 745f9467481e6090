#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sweep/cell.h"

namespace slidesparse {

// How long cells will take: as long as they did, or by a rule from their sizes, corrected by what cells of
// the same phase and model, or of the same phase, took.
class Estimator {
 public:
  explicit Estimator(bool card) : card_(card) {}

  void learn(const Cell& cell, double seconds);
  double seconds(const Cell& cell) const;

 private:
  double rule(const Cell& cell) const;

  bool card_;
  std::map<std::string, double> measured_;             // by key
  std::map<std::string, std::vector<double>> ratios_;  // measured over rule, by phase and model, and by phase
  mutable std::map<std::string, double> weights_;      // of all linears, by model
};

// "45 s", "12 min", "3 h 20 min".
std::string duration_words(double seconds);
// Seconds of "90s", "9m", "1.5h"; nothing for other text, 0 and more than a year.
std::optional<double> parse_duration(std::string_view text);

}  // namespace slidesparse
