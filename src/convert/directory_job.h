#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/file_writer.h"
#include "io/journal.h"
#include "io/safetensors.h"

namespace slidesparse {

// What a job writes and how.
struct DirectoryPlan {
  std::filesystem::path target;
  bool force = false;                        // replace what stands at target; discard another job's leftovers
  std::string identity_json;                 // everything that the result depends on
  std::vector<TensorEntry> tensors;          // name, dtype, shape: all that will be written
  std::int64_t side_bytes = 0;               // about what the other files take
  std::int64_t shard_bytes = 5'000'000'000;  // a shard is closed before it would exceed this
  std::int64_t commit_bytes = 256 << 20;     // finished work is made durable at least this often
};

// Writes a model directory atomically and resumably. All work goes to TARGET.partial, with a journal inside
// that says which items are finished; publish() renames it to TARGET, last of all. When the process dies at
// any moment, the same job (same plan) goes on where it was and ends in the same bytes. Order of the last
// steps: rename, then removal of the journal: a directory that holds a journal never opens as a model, and
// the next run of the same job removes it.
class DirectoryJob {
 public:
  // Refuses a target that exists (unless force), a missing or read-only parent, a disk that is too full, and
  // leftovers of another job. Creates and reserves the shard files.
  explicit DirectoryJob(DirectoryPlan plan);
  ~DirectoryJob();
  DirectoryJob(const DirectoryJob&) = delete;
  DirectoryJob& operator=(const DirectoryJob&) = delete;

  // The run before this one died between the rename and the removal of the journal: nothing is left to do.
  bool published() const { return published_; }
  // What finish_item() was given for this item, in this run or an earlier one that was made durable.
  std::optional<std::string> finished(const std::string& item) const;
  // Bytes of tensor `name` from byte `offset` of it. Thread-safe.
  void write(const std::string& name, std::int64_t offset, std::span<const std::byte> data);
  // All of the item has been written; `bytes` of output belong to it. It becomes durable some time later.
  void finish_item(const std::string& item, const std::string& payload_json, std::int64_t bytes);
  // Makes everything that is finished durable.
  void commit();

  // A file that only the job itself needs, to go on after it was killed: where it is to be. publish() removes
  // it.
  std::filesystem::path scratch(const std::string& name) const { return partial_ / name; }

  // Copies a file of another directory, or writes a small one.
  void copy_side_file(const std::filesystem::path& from);
  void write_side_file(const std::string& name, const std::string& content);
  // The index if there are several shards, config.json last, then the rename.
  void publish(const std::string& config_text);

 private:
  struct Shard {
    std::string name;
    std::string header;
    std::vector<TensorEntry> tensors;
    std::int64_t size = 0;
    std::optional<OutputFile> file;
  };
  struct Place {
    std::size_t shard = 0;
    std::int64_t offset = 0;  // in the file
    std::int64_t bytes = 0;
  };
  using Items = std::vector<std::pair<std::string, std::string>>;

  void plan_shards();
  void check_parent() const;
  void check_space() const;
  bool finish_published();
  void open_partial();
  void open_shards();
  void commit_items(const Items& items);
  void wait_for_commit();
  void remove_strangers() const;
  void replace_target();

  DirectoryPlan plan_;
  std::filesystem::path partial_;
  std::vector<Shard> shards_;
  std::map<std::string, Place> places_;
  std::set<std::string> files_;  // names of all files of the result
  mutable std::mutex journal_mutex_;
  std::unique_ptr<Journal> journal_;
  Items pending_;
  std::int64_t pending_bytes_ = 0;
  std::map<std::string, std::string> recent_;  // finished in this run
  std::future<void> commit_running_;
  bool published_ = false;
};

// Refuses a target that is the source, lies inside it, or contains it. Both may be links.
void check_source_and_target(const std::filesystem::path& source, const std::filesystem::path& target);
// Refuses a target that exists, unless `force` or it is an unfinished job's.
void check_target_is_free(const std::filesystem::path& target, bool force);

}  // namespace slidesparse
