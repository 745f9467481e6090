#pragma once

#include <cstddef>
#include <vector>

namespace slidesparse {

// How long steps take. With several under way at once, a step's time is that from the arrival of the one
// before to its own: what a request waits for a token.
class StepTimes {
 public:
  static constexpr std::size_t kKept = 1024;  // the last so many count for quantile()

  // A step that started and arrived at these times (now_seconds()).
  void add(double start, double arrival);
  // The smallest kept time that at least a share `q` (0 to 1) of them does not exceed; 0 when there is none.
  double quantile(double q) const;
  double sum() const { return sum_; }  // of all steps

 private:
  std::vector<double> last_;  // a ring
  std::size_t next_ = 0;
  double last_arrival_ = 0;
  double sum_ = 0;
};

}  // namespace slidesparse
