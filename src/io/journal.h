#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace slidesparse {

// Name of the journal inside the directory that a job writes; a directory that holds one is unfinished.
inline constexpr const char* kJournalName = "slidesparse.journal";

// The progress record of a resumable job that writes a directory: an append-only text file, one JSON line a
// finished item, each line with a checksum so that a torn last line is recognised and dropped. The first line
// is the job's identity (source digests, options, versions): a journal with another identity is refused with
// the first difference. One process at a time may hold a journal, and one thread at a time may use it.
class Journal {
 public:
  // Opens or creates; identity_json is an object. Throws kInput when an existing journal belongs to another
  // job, kIo when another process holds it.
  Journal(const std::filesystem::path& path, const std::string& identity_json);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // The payload recorded for an item, if it is finished.
  std::optional<std::string> find(std::string_view item) const;
  // Appends and fsyncs; the item's data must have been synced before.
  void record(std::string_view item, std::string_view payload_json);
  std::size_t size() const { return done_.size(); }

 private:
  void append(const std::string& line);

  std::filesystem::path path_;
  std::map<std::string, std::string, std::less<>> done_;
  int fd_ = -1;
  std::int64_t end_ = 0;
};

}  // namespace slidesparse
