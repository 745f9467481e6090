#include "report/test_database.h"

#include <fmt/core.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "sweep/schema.h"

namespace slidesparse::testing {
namespace {

std::string key_of(const CellSpec& spec) {
  nlohmann::ordered_json key = {{"phase", spec.phase},     {"model", spec.model},
                                {"dtype", spec.dtype},     {"backend", spec.backend},
                                {"pattern", spec.pattern}, {"layout", spec.layout}};
  if (spec.m) key["m"] = *spec.m;
  if (spec.memory_limit) key["memory_limit"] = *spec.memory_limit;
  key["options"] = spec.options;
  return key.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

TestDatabase::TestDatabase(const std::filesystem::path& file)
    : connection_(file, SqliteConnection::Mode::kWrite) {
  migrate_schema(connection_);
  transaction_.emplace(connection_);
}

void TestDatabase::commit() {
  transaction_->commit();
  transaction_.reset();
}

std::int64_t TestDatabase::machine(const std::string& fingerprint, const std::string& name,
                                   const std::string& device) {
  SqliteStatement(
      connection_,
      "INSERT INTO machine(fingerprint, device, name, memory_bytes, driver, libraries, processor, threads, "
      "program_version, commit_id, details) VALUES (?, ?, ?, 150754820096, '570.86', 'CUDA 12.8', 'host', "
      "16, "
      "'0.1.0', 'abc1234', '{}')")
      .bind(1, fingerprint)
      .bind(2, device)
      .bind(3, name)
      .run();
  return connection_.last_id();
}

std::int64_t TestDatabase::plan(const std::string& name) {
  SqliteStatement(connection_, "INSERT INTO plan(digest, name, text, added_at) VALUES (?, ?, '{}', 't')")
      .bind(1, "digest of " + name)
      .bind(2, name)
      .run();
  return connection_.last_id();
}

std::int64_t TestDatabase::run(std::int64_t plan, std::int64_t machine) {
  SqliteStatement(connection_,
                  "INSERT INTO run(plan, machine, started_at, host, boot_id, pid, command) "
                  "VALUES (?, ?, '2026-01-02T03:04:05Z', 'host', 'boot', 1, 'slidesparse sweep plan.json')")
      .bind(1, plan)
      .bind(2, machine)
      .run();
  return connection_.last_id();
}

void TestDatabase::end_run(std::int64_t run, const std::string& reason) {
  SqliteStatement(connection_,
                  "INSERT INTO run_end(run, ended_at, reason) VALUES (?, '2026-01-02T03:34:05Z', ?)")
      .bind(1, run)
      .bind(2, reason)
      .run();
}

std::int64_t TestDatabase::cell(std::int64_t plan, const CellSpec& spec) {
  SqliteStatement(
      connection_,
      "INSERT INTO cell(key, phase, model, dtype, backend, pattern, layout, m, memory_limit, options) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .bind(1, key_of(spec))
      .bind(2, spec.phase)
      .bind(3, spec.model)
      .bind(4, spec.dtype)
      .bind(5, spec.backend)
      .bind(6, spec.pattern)
      .bind(7, spec.layout)
      .bind(8, spec.m)
      .bind(9, spec.memory_limit)
      .bind(10, spec.options)
      .run();
  const std::int64_t id = connection_.last_id();
  SqliteStatement(connection_, "INSERT INTO plan_cell(plan, cell, position) VALUES (?, ?, ?)")
      .bind(1, plan)
      .bind(2, id)
      .bind(3, position_++)
      .run();
  return id;
}

std::int64_t TestDatabase::attempt(std::int64_t cell, std::int64_t run, const std::string& changed) {
  SqliteStatement(connection_,
                  "INSERT INTO attempt(cell, run, number, started_at, changed) "
                  "VALUES (?1, ?2, (SELECT count(*) + 1 FROM attempt WHERE cell = ?1), 't', ?3)")
      .bind(1, cell)
      .bind(2, run)
      .bind(3, changed)
      .run();
  return connection_.last_id();
}

void TestDatabase::end(std::int64_t attempt, const EndSpec& spec) {
  SqliteStatement(
      connection_,
      "INSERT INTO outcome(attempt, ended_at, seconds, class, message, signal, library, library_code, "
      "needed_bytes, free_bytes, holders, largest_m) VALUES (?, 't', 1.5, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .bind(1, attempt)
      .bind(2, spec.kind)
      .bind(3, spec.message)
      .bind(4, spec.signal)
      .bind(5, spec.library)
      .bind(6, spec.library_code)
      .bind(7, spec.needed_bytes)
      .bind(8, spec.free_bytes)
      .bind(9, spec.holders)
      .bind(10, spec.largest_m)
      .run();
}

void TestDatabase::measure(std::int64_t attempt, const std::string& name, const std::string& unit,
                           double value, std::optional<double> low, std::optional<double> high,
                           std::int64_t samples) {
  SqliteStatement(
      connection_,
      "INSERT INTO measurement(attempt, name, unit, value, low, high, samples) VALUES (?, ?, ?, ?, ?, ?, ?)")
      .bind(1, attempt)
      .bind(2, name)
      .bind(3, unit)
      .bind(4, value)
      .bind(5, low)
      .bind(6, high)
      .bind(7, samples)
      .run();
}

void TestDatabase::attribute(std::int64_t attempt, const std::string& name, const std::string& value) {
  SqliteStatement(connection_, "INSERT INTO attribute(attempt, name, value) VALUES (?, ?, ?)")
      .bind(1, attempt)
      .bind(2, name)
      .bind(3, value)
      .run();
}

void TestDatabase::check(std::int64_t attempt, const std::string& name, bool passed,
                         const std::string& message) {
  SqliteStatement(connection_, "INSERT INTO \"check\"(attempt, name, passed, message) VALUES (?, ?, ?, ?)")
      .bind(1, attempt)
      .bind(2, name)
      .bind(3, passed ? 1 : 0)
      .bind(4, message)
      .run();
}

void TestDatabase::event(std::int64_t run, const std::string& level, const std::string& text) {
  SqliteStatement(connection_, "INSERT INTO event(run, at, level, text) VALUES (?, 't', ?, ?)")
      .bind(1, run)
      .bind(2, level)
      .bind(3, text)
      .run();
}

std::int64_t TestDatabase::measured(std::int64_t cell, std::int64_t run, double tokens_per_second,
                                    double spread, const std::string& changed) {
  const std::int64_t id = attempt(cell, run, changed);
  end(id, {});
  measure(id, "tokens_per_second", "tokens/s", tokens_per_second, tokens_per_second * (1 - spread),
          tokens_per_second * (1 + spread), 5);
  return id;
}

std::int64_t TestDatabase::failed(std::int64_t cell, std::int64_t run, const EndSpec& spec) {
  const std::int64_t id = attempt(cell, run);
  end(id, spec);
  return id;
}

namespace {

struct MatrixVariant {
  const char* backend;
  const char* pattern;
  const char* layout;
  double speed;   // of prefill over dense, at large M
  double weight;  // bytes over dense
};

constexpr std::array kVariants{MatrixVariant{"cublaslt", "dense", "slide", 1.00, 1.000},
                               MatrixVariant{"cutlass", "dense", "slide", 0.97, 1.000},
                               MatrixVariant{"cusparselt", "2:4", "slide", 1.39, 0.625},
                               MatrixVariant{"cusparselt", "4:6", "slide", 1.05, 0.833},
                               MatrixVariant{"cusparselt", "6:8", "slide", 0.96, 0.9375},
                               MatrixVariant{"cusparselt", "8:10", "slide", 0.91, 1.000},
                               MatrixVariant{"native", "6:8", "split", 1.18, 0.8125},
                               MatrixVariant{"auto", "2:4", "slide", 1.48, 0.625},
                               MatrixVariant{"auto", "4:6", "slide", 1.11, 0.75},
                               MatrixVariant{"auto", "6:8", "slide", 1.04, 0.828},
                               MatrixVariant{"auto", "8:10", "slide", 1.00, 0.875}};
constexpr std::array kModels{"llama3.2-1b", "llama3.2-3b", "qwen2.5-7b", "qwen2.5-14b"};

class Matrix {
 public:
  Matrix(TestDatabase& database, std::uint64_t seed) : database_(database), random_(seed) {
    plan_ = database.plan("mission");
    run_ = database.run(plan_, database.machine("m1"));
  }

  void add(const char* phase, const std::string& model, double size, const char* dtype,
           const MatrixVariant& variant, std::int64_t m) {
    const bool prefill = std::string_view(phase) == "prefill";
    CellSpec spec{phase, model, dtype, variant.backend, variant.pattern, variant.layout, m, {}, ""};
    spec.options = prefill ? R"({"runs":5})" : R"({"prompt":16,"runs":3,"steps":256})";
    const std::int64_t cell = database_.cell(plan_, spec);
    if (fails(cell, size, m)) return;
    const double grown = std::min(1.0, 0.4 + 0.1 * std::log2(static_cast<double>(m) / 32));
    const double ratio = 1 + (variant.speed - 1) * grown + 0.004 * noise();
    const double base = (prefill ? 9e5 : 200.0 * static_cast<double>(m)) * (0.4 + 0.6 * grown) / size;
    const std::int64_t attempt =
        database_.measured(cell, run_, base * ratio, 0.004 + 0.004 * std::abs(noise()));
    const double weights = 1.2e9 * size * variant.weight;
    database_.measure(attempt, "weight_bytes", "B", weights);
    database_.measure(attempt, "peak_bytes", "B", weights + 2e5 * static_cast<double>(m) * std::sqrt(size));
    database_.measure(attempt, "sparse_share", "1",
                      std::string_view(variant.pattern) == "dense" ? 0
                      : m < 1024 && variant.speed < 1.02           ? 0
                                                                   : 1);
    database_.measure(attempt, "sm_clock", "MHz", 1700 + 20 * noise());
    database_.measure(attempt, "power", "W", 640 + 20 * noise());
    database_.measure(attempt, "temperature", "C", 55 + 2 * noise());
    if (prefill) database_.measure(attempt, "step_tokens", "tokens", static_cast<double>(m));
    if (!prefill) database_.measure(attempt, "sequences", "1", static_cast<double>(m));
    database_.measure(attempt, "share_of_limit", "1", 0.6 + 0.02 * noise());
    database_.attribute(attempt, "kernel.gate_up", std::string(variant.backend) + "/128x128");
    database_.attribute(attempt, "kernel.qkv", std::string(variant.backend) + "/64x128");
    database_.check(attempt, "logits", true, "");
  }

  void add_eval(const std::string& model, const char* dtype, const MatrixVariant& variant) {
    CellSpec spec{"eval",
                  model,
                  dtype,
                  variant.backend,
                  variant.pattern,
                  variant.layout,
                  {},
                  {},
                  R"({"text":"wiki.test.raw"})"};
    const std::int64_t attempt = database_.attempt(database_.cell(plan_, spec), run_);
    database_.end(attempt, {});
    database_.measure(attempt, "perplexity", "1", 6 + 20 * (1 - variant.weight) * (1 - variant.weight));
    database_.measure(attempt, "tokens", "tokens", 245000);
  }

  void add_convert(const std::string& model, const char* dtype, const MatrixVariant& variant) {
    const CellSpec spec{"convert", model, dtype, "cpu", variant.pattern, variant.layout, {}, {}, "{}"};
    const std::int64_t attempt = database_.attempt(database_.cell(plan_, spec), run_);
    database_.end(attempt, {});
    database_.measure(attempt, "seconds", "s", 12.5, {}, {}, 1);
    database_.measure(attempt, "bytes", "B", 1.2e9 * variant.weight, {}, {}, 1);
    database_.attribute(attempt, "sha256", std::string(60, 'e') + "0123");
  }

  void finish() {
    database_.event(run_, "warning", "clock fell below 1,200 MHz for 3 s");
    database_.end_run(run_, "deadline");
  }

 private:
  double noise() { return std::normal_distribution<double>()(random_); }

  // Whether the cell has no figure here.
  bool fails(std::int64_t cell, double size, std::int64_t m) {
    if (size > 10 && m == 512 && cell % 3 == 0) {
      database_.failed(cell, run_,
                       {.kind = "does_not_fit",
                        .message = "keys and values of 512 sequences",
                        .needed_bytes = 27'100'000'000,
                        .free_bytes = 24'000'000'000,
                        .largest_m = 371,
                        .holders = R"({"weights":14700000000,"kv_cache":9400000000})"});
      return true;
    }
    switch (cell % 61) {
      case 7:
        database_.failed(cell, run_,
                         {.kind = "out_of_memory",
                          .message = "activations",
                          .needed_bytes = 25'000'000'000,
                          .free_bytes = 22'400'000'000});
        return true;
      case 19:
        database_.failed(cell, run_, {.kind = "time_out", .message = "no end after 120 s"});
        return true;
      case 31:
        database_.failed(
            cell, run_,
            {.kind = "library_error", .message = "matmul", .library_code = 7, .library = "cuSPARSELt"});
        return true;
      case 43:
        database_.failed(cell, run_, {.kind = "killed", .message = "worker ended", .signal = 9});
        return true;
      case 52:
        return true;
      default:
        return false;
    }
  }

  TestDatabase& database_;
  std::mt19937_64 random_;
  std::int64_t plan_ = 0, run_ = 0;
};

}  // namespace

void fill_matrix(TestDatabase& database, int models, std::uint64_t seed) {
  Matrix matrix(database, seed);
  for (int i = 0; i < models; ++i) {
    const auto known = static_cast<std::size_t>(i);
    const std::string model = known < kModels.size() ? kModels[known] : fmt::format("model-{}", i);
    const double size = std::pow(2.2, i % 4);
    for (const char* dtype : {"int8", "fp8"}) {
      for (const MatrixVariant& variant : kVariants) {
        for (std::int64_t m = 512; m <= 65536; m *= 2) matrix.add("prefill", model, size, dtype, variant, m);
        for (std::int64_t m = 64; m <= 512; m *= 2) matrix.add("decode", model, size, dtype, variant, m);
      }
    }
    for (const MatrixVariant& variant : kVariants) {
      matrix.add_eval(model, "int8", variant);
      if (std::string_view(variant.backend) == "cusparselt") matrix.add_convert(model, "int8", variant);
    }
  }
  matrix.finish();
}

}  // namespace slidesparse::testing
