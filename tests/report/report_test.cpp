#include "report/report.h"
#include "report/test_database.h"
#include <gtest/gtest.h>
#include <cstdlib>
namespace slidesparse { namespace {
TEST(Report, Sample) {
  const std::filesystem::path file = "/tmp/sample/results.db";
  std::filesystem::remove_all("/tmp/sample"); std::filesystem::create_directories("/tmp/sample");
  testing::TestDatabase db(file); testing::fill_matrix(db, 4, 1); db.commit();
  testing::TestDatabase db2("/tmp/sample/other.db"); testing::fill_matrix(db2, 4, 2); db2.commit();
  write_report({file, "/tmp/sample/en", {}, "en"});
  write_report({file, "/tmp/sample/zh", "/tmp/sample/other.db", "zh"});
}
}}
