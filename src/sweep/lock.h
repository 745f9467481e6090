#pragma once

#include <filesystem>
#include <string>

namespace slidesparse {

// Who runs a sweep.
struct SweepOwner {
  std::string host;
  std::string boot_id;  // of that boot of the host
  long pid = 0;
  std::string started_at;  // UTC, ISO 8601

  static SweepOwner self();
  // "pid 12 on host (boot ...), started at ...".
  std::string words() const;
};

// Holds DATABASE.lock for as long as it lives: the kernel lets go when the process ends, however it ends. The
// file says who holds it and is emptied on a clean end.
class SweepLock {
 public:
  // Throws kIo naming the owner when another process holds it.
  SweepLock(const std::filesystem::path& database, const SweepOwner& owner);
  ~SweepLock();
  SweepLock(const SweepLock&) = delete;
  SweepLock& operator=(const SweepLock&) = delete;

  // The owner that ended without letting go, in its words; empty when there was none.
  const std::string& left_by() const { return left_by_; }

  // Whose it is at this moment; empty when nobody holds it.
  static std::string holder(const std::filesystem::path& database);

 private:
  int fd_ = -1;
  std::string left_by_;
};

// This moment in UTC: "2026-11-30T19:48:36Z".
std::string utc_now();

}  // namespace slidesparse
