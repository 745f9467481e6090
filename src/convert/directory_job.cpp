#include "convert/directory_job.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <system_error>

#include "core/fail.h"
#include "core/text.h"
#include "io/json.h"

namespace slidesparse {
namespace {

namespace fs = std::filesystem;

std::string name_of(const fs::path& path) {
  return printable(path.string(), 400);
}

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

fs::path parent_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
}

// "/models/out/" is "/models/out"; names like "." have no sibling to write to.
fs::path without_slash(const fs::path& path) {
  fs::path clean = path.lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  if (clean.empty() || clean.filename() == "." || clean.filename() == ".." || !clean.has_filename()) {
    fail(ErrorKind::kUsage, "\"{}\" cannot be the target: name a directory that is to be made",
         name_of(path));
  }
  return clean;
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail(ErrorKind::kIo, "{}: cannot remove it: {}", name_of(path), error.message());
}

// Blocks that a directory's files have already: room that a continued job does not need again.
std::int64_t reserved_bytes(const fs::path& directory) {
  std::int64_t total = 0;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(directory, error)) {
    struct stat status {};
    if (::lstat(item.path().c_str(), &status) == 0)
      total += static_cast<std::int64_t>(status.st_blocks) * 512;
  }
  return total;
}

bool contains_path(const fs::path& outer, const fs::path& inner) {
  const auto [end, unused] = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  return end == outer.end();
}

}  // namespace

void check_source_and_target(const fs::path& source, const fs::path& target) {
  std::error_code error;
  const fs::path from = fs::weakly_canonical(source, error);
  if (error) fail(ErrorKind::kIo, "{}: {}", name_of(source), error.message());
  const fs::path clean = without_slash(target);
  const fs::path to = fs::weakly_canonical(clean, error);
  if (error) fail(ErrorKind::kIo, "{}: {}", name_of(target), error.message());
  if (from == to) {
    fail(ErrorKind::kUsage, "source and target are the same directory ({}); choose another target",
         name_of(to));
  }
  if (contains_path(from, to)) {
    fail(ErrorKind::kUsage, "target {} lies inside the source {}; choose a target outside", name_of(to),
         name_of(from));
  }
  for (const fs::path& outer : {to, with_suffix(to, ".partial")}) {
    if (contains_path(outer, from)) {
      fail(ErrorKind::kUsage, "source {} lies inside the target {}; choose another target", name_of(from),
           name_of(outer));
    }
  }
}

void check_target_is_free(const fs::path& target, bool force) {
  const fs::path clean = without_slash(target);
  if (force || !is_there(clean) || is_there(clean / kJournalName)) return;
  fail(ErrorKind::kIo, "{}: exists already; choose another target, or replace it with --force",
       name_of(clean));
}

DirectoryJob::DirectoryJob(DirectoryPlan plan) : plan_(std::move(plan)) {
  plan_.target = without_slash(plan_.target);
  partial_ = with_suffix(plan_.target, ".partial");
  plan_shards();
  if (finish_published()) return;
  check_target_is_free(plan_.target, plan_.force);
  check_parent();
  open_partial();
  check_space();
  open_shards();
}

DirectoryJob::~DirectoryJob() {
  if (published_ || !journal_) return;
  // Interrupted or failed: what is finished is kept for the next run, as far as the disk allows.
  try {
    commit();
  } catch (...) {
    if (commit_running_.valid()) commit_running_.wait();
  }
}

void DirectoryJob::plan_shards() {
  std::vector<std::vector<TensorEntry>> groups(1);
  std::int64_t bytes = 0;
  for (const TensorEntry& tensor : plan_.tensors) {
    const std::int64_t size = tensor.shape.count() * static_cast<std::int64_t>(dtype_size(tensor.dtype));
    if (!groups.back().empty() && bytes + size > plan_.shard_bytes) {
      groups.emplace_back();
      bytes = 0;
    }
    groups.back().push_back(tensor);
    bytes += size;
  }
  for (std::size_t i = 0; i < groups.size(); ++i) {
    Shard shard;
    shard.name = groups.size() == 1 ? "model.safetensors"
                                    : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, groups.size());
    shard.tensors = std::move(groups[i]);
    sort_for_alignment(shard.tensors);
    shard.header = build_safetensors_header(shard.tensors, {{"format", "pt"}});
    for (const TensorEntry& tensor : shard.tensors) {
      const std::int64_t offset = static_cast<std::int64_t>(shard.header.size()) + tensor.begin;
      require(places_.emplace(tensor.name, Place{i, offset, tensor.bytes()}).second,
              "tensor {} is planned twice", tensor.name);
      shard.size = std::max(shard.size, offset + tensor.bytes());
    }
    files_.insert(shard.name);
    shards_.push_back(std::move(shard));
  }
}

void DirectoryJob::check_parent() const {
  const fs::path parent = parent_of(plan_.target);
  std::error_code error;
  if (!fs::is_directory(parent, error)) {
    fail(ErrorKind::kIo, "{}: there is no directory {} to write it in; make it first", name_of(plan_.target),
         name_of(parent));
  }
  if (::access(parent.c_str(), W_OK | X_OK) != 0) {
    fail(ErrorKind::kIo, "{}: cannot write in {}: {}", name_of(plan_.target), name_of(parent),
         std::strerror(errno));
  }
}

void DirectoryJob::check_space() const {
  std::int64_t needed = plan_.side_bytes;
  for (const Shard& shard : shards_) needed += shard.size;
  struct statvfs status {};
  if (::statvfs(partial_.c_str(), &status) != 0) return;  // the writes will tell
  const std::int64_t reserved = reserved_bytes(partial_);
  const auto free = static_cast<std::int64_t>(status.f_bavail) * static_cast<std::int64_t>(status.f_frsize);
  if (needed > free + reserved) {
    fail(ErrorKind::kIo, "{}: the disk is too full: {} more are needed, {} are free; make room and run again",
         name_of(plan_.target), format_bytes(static_cast<double>(needed - reserved)),
         format_bytes(static_cast<double>(free)));
  }
}

// Finishes what a run that died after its rename left to do. True when the target is then complete.
bool DirectoryJob::finish_published() {
  const fs::path journal = plan_.target / kJournalName;
  if (!is_there(journal)) return false;
  try {
    const Journal same(journal, plan_.identity_json);
  } catch (const Error& error) {
    if (plan_.force && error.kind() == ErrorKind::kInput) return false;  // another job's: replaced at the end
    throw;
  }
  std::error_code error;
  fs::remove(journal, error);
  if (error) fail(ErrorKind::kIo, "{}: cannot remove it: {}", name_of(journal), error.message());
  sync_directory(plan_.target);
  // With --force the exchange had left the replaced directory here.
  if (plan_.force && is_there(partial_)) remove_tree(partial_);
  published_ = true;
  return true;
}

void DirectoryJob::open_partial() {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(partial_, error);
  if (status.type() != fs::file_type::not_found) {
    if (!fs::is_directory(status)) {
      fail(ErrorKind::kIo, "{}: is in the way and not a directory; remove it", name_of(partial_));
    }
    if (!is_there(partial_ / kJournalName) && !fs::is_empty(partial_, error)) {
      if (!plan_.force) {
        fail(ErrorKind::kIo,
             "{}: is in the way and not the leftover of a job; remove it, or use --force to discard it",
             name_of(partial_));
      }
      remove_tree(partial_);
    }
  }
  for (int attempt = 0;; ++attempt) {
    if (::mkdir(partial_.c_str(), 0777) != 0 && errno != EEXIST) {
      fail(ErrorKind::kIo, "{}: cannot create the directory: {}", name_of(partial_), std::strerror(errno));
    }
    try {
      journal_ = std::make_unique<Journal>(partial_ / kJournalName, plan_.identity_json);
      break;
    } catch (const Error& job_error) {
      if (job_error.kind() != ErrorKind::kInput) throw;
      if (!plan_.force || attempt > 0) {
        fail_input("{}; or use --force to discard it", job_error.what());
      }
      remove_tree(partial_);
    }
  }
  sync_directory(parent_of(plan_.target));
}

void DirectoryJob::open_shards() {
  for (Shard& shard : shards_) {
    shard.file.emplace(partial_ / shard.name, shard.size);
    shard.file->write_at(0, std::as_bytes(std::span(shard.header.data(), shard.header.size())));
  }
}

std::optional<std::string> DirectoryJob::finished(const std::string& item) const {
  if (const auto entry = recent_.find(item); entry != recent_.end()) return entry->second;
  const std::lock_guard lock(journal_mutex_);
  return journal_->find(item);
}

void DirectoryJob::write(const std::string& name, std::int64_t offset, std::span<const std::byte> data) {
  const auto entry = places_.find(name);
  require(entry != places_.end(), "tensor {} was not planned", name);
  const Place& place = entry->second;
  require(offset >= 0 && offset + static_cast<std::int64_t>(data.size()) <= place.bytes,
          "tensor {}: bytes {} to {} of {}", name, offset, offset + static_cast<std::int64_t>(data.size()),
          place.bytes);
  shards_[place.shard].file->write_at(place.offset + offset, data);
}

void DirectoryJob::finish_item(const std::string& item, const std::string& payload_json, std::int64_t bytes) {
  recent_.insert_or_assign(item, payload_json);
  pending_.emplace_back(item, payload_json);
  pending_bytes_ += bytes;
  if (pending_bytes_ < plan_.commit_bytes) return;
  // The disk works while the processor goes on; a second commit waits for the first one.
  if (commit_running_.valid() &&
      commit_running_.wait_for(std::chrono::seconds(0)) != std::future_status::ready &&
      pending_bytes_ < 4 * plan_.commit_bytes) {
    return;
  }
  wait_for_commit();
  pending_bytes_ = 0;
  commit_running_ =
      std::async(std::launch::async, [this, items = std::exchange(pending_, {})] { commit_items(items); });
}

void DirectoryJob::commit_items(const Items& items) {
  for (Shard& shard : shards_) shard.file->sync();
  const std::lock_guard lock(journal_mutex_);
  for (const auto& [item, payload] : items) journal_->record(item, payload);
}

void DirectoryJob::wait_for_commit() {
  if (commit_running_.valid()) commit_running_.get();
}

void DirectoryJob::commit() {
  wait_for_commit();
  commit_items(pending_);
  pending_.clear();
  pending_bytes_ = 0;
}

void DirectoryJob::copy_side_file(const fs::path& from) {
  const std::string name = from.filename().string();
  std::ifstream input(from, std::ios::binary);
  std::error_code error;
  const auto size = static_cast<std::int64_t>(fs::file_size(from, error));
  if (!input || error) fail(ErrorKind::kIo, "{}: cannot read", name_of(from));
  OutputFile output(partial_ / name, size);
  std::vector<char> buffer(1 << 20);
  for (std::int64_t offset = 0; offset < size;) {
    input.read(buffer.data(), static_cast<std::streamsize>(std::min<std::int64_t>(size - offset, 1 << 20)));
    if (input.gcount() <= 0) fail(ErrorKind::kIo, "{}: ends at byte {} of {}", name_of(from), offset, size);
    output.write_at(offset,
                    std::as_bytes(std::span(buffer.data(), static_cast<std::size_t>(input.gcount()))));
    offset += input.gcount();
  }
  output.sync();
  files_.insert(name);
}

void DirectoryJob::write_side_file(const std::string& name, const std::string& content) {
  write_file_atomically(partial_ / name, content);
  files_.insert(name);
}

// A run that died may have left temporary files; the result has the same files whatever happened on the way.
void DirectoryJob::remove_strangers() const {
  std::error_code error;
  for (const auto& item : fs::directory_iterator(partial_, error)) {
    const std::string name = item.path().filename().string();
    if (name != kJournalName && !files_.contains(name)) remove_tree(item.path());
  }
}

void DirectoryJob::publish(const std::string& config_text) {
  commit();
  if (shards_.size() > 1) {
    std::int64_t total = 0;
    OrderedJson map = OrderedJson::object();
    for (const auto& [name, place] : places_) {
      map.get_ref<OrderedJson::object_t&>().push_back({name, shards_[place.shard].name});
      total += place.bytes;
    }
    OrderedJson index = OrderedJson::object();
    index["metadata"] = {{"total_size", total}};
    index["weight_map"] = std::move(map);
    write_side_file("model.safetensors.index.json", index.dump(2) + "\n");
  }
  write_side_file("config.json", config_text);
  for (Shard& shard : shards_) shard.file.reset();
  remove_strangers();
  sync_directory(partial_);
  replace_target();
  published_ = true;
}

void DirectoryJob::replace_target() {
  const fs::path parent = parent_of(plan_.target);
  const auto rename_or_fail = [](const fs::path& from, const fs::path& to) {
    if (file_ops().rename(from.c_str(), to.c_str()) != 0) {
      fail(ErrorKind::kIo, "{}: cannot rename {} to it: {}", name_of(to), name_of(from),
           std::strerror(errno));
    }
  };
  fs::path replaced;
  if (!is_there(plan_.target)) {
    rename_or_fail(partial_, plan_.target);
  } else if (!plan_.force) {
    fail(ErrorKind::kIo, "{}: was made by somebody else meanwhile; the result waits in {}",
         name_of(plan_.target), name_of(partial_));
  } else if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, plan_.target.c_str(), RENAME_EXCHANGE) == 0) {
    replaced = partial_;
  } else {
    // This file system cannot exchange: the old directory is set aside first, never removed before the new
    // one is there.
    replaced = with_suffix(plan_.target, ".replaced");
    if (is_there(replaced)) remove_tree(replaced);
    rename_or_fail(plan_.target, replaced);
    rename_or_fail(partial_, plan_.target);
  }
  sync_directory(parent);
  std::error_code error;
  fs::remove(plan_.target / kJournalName, error);
  if (error)
    fail(ErrorKind::kIo, "{}: cannot remove the journal: {}", name_of(plan_.target), error.message());
  sync_directory(plan_.target);
  journal_.reset();
  if (!replaced.empty()) remove_tree(replaced);
}

}  // namespace slidesparse
