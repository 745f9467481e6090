#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace slidesparse {

// Says on stderr how far long work is: on a terminal one line that is rewritten (share, amount, rate, time
// left), otherwise a plain line at most every ten seconds. Silent when quiet.
class Progress {
 public:
  enum class Unit { kBytes, kItems };
  Progress(std::string title, std::int64_t total, Unit unit, bool quiet = false);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(std::int64_t amount);
  // Work found already done: counts towards the total but not towards the rate.
  void skip(std::int64_t amount);
  void set_detail(std::string detail) { detail_ = std::move(detail); }
  // Last line with the final figures; called by the destructor otherwise.
  void finish();

 private:
  void print(bool last);

  std::string title_;
  std::string detail_;
  std::int64_t total_;
  std::int64_t done_ = 0;
  std::int64_t skipped_ = 0;
  Unit unit_;
  bool quiet_;
  bool terminal_;
  bool finished_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_print_;
};

}  // namespace slidesparse
