#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert/directory_job.h"
#include "io/model_directory.h"
#include "model/weights.h"

namespace slidesparse {

// What second moments were collected from.
struct StatisticsOrigin {
  std::string fingerprint;  // of the model
  std::string calibration;  // CalibrationText::description
  std::string along;        // what had been pruned how when a group's input was seen
  bool full = false;        // matrices, not diagonals only
};

// SHA-256 over config.json and all norms, which training moves: which model statistics belong to.
std::string model_fingerprint(const ModelDirectory& model, const WeightTable& table);

// Second moments of the fused groups' inputs on disk: a directory with the tensors GROUP.second_moments in
// safetensors files, F32 [k] (mean of x_c^2) or [k, k] (lower triangle of the mean of x x^T), and in its
// config.json the origin, under "slidesparse_statistics".
class StatisticsReader {
 public:
  // Throws kInput for a directory that holds something else, and for statistics of another model.
  StatisticsReader(const std::filesystem::path& directory, const std::string& fingerprint);

  const StatisticsOrigin& origin() const { return origin_; }
  // The moments of `group`, [k] or, with `full`, [k, k]. Diagonals are taken out of matrices; throws kInput
  // when matrices are needed and only diagonals are there, and for missing or wrongly shaped tensors.
  std::vector<float> read(const FusedGroup& group, bool full) const;

 private:
  std::filesystem::path path_;
  ModelDirectory directory_;
  StatisticsOrigin origin_;
};

// Writes such a directory, atomically and resumably, a layer at a time.
class StatisticsWriter {
 public:
  StatisticsWriter(const std::filesystem::path& directory, const WeightTable& table, StatisticsOrigin origin,
                   bool force);
  // moments: [k] or [k * k]
  void write(const FusedGroup& group, std::span<const float> moments);
  // All groups of the layer are written: makes them durable.
  void finish_layer(std::int64_t layer);
  void publish();

 private:
  StatisticsOrigin origin_;
  std::unique_ptr<DirectoryJob> job_;
};

}  // namespace slidesparse
