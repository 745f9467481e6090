#include "core/shared_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace slidesparse {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(SharedLibrary, FindsByNameAndGivesFunctions) {
  const SharedLibrary library("", {"libno-such-thing.so", "libm.so.6"});
  ASSERT_TRUE(library.found()) << library.reason();
  EXPECT_EQ(library.path(), "libm.so.6");
  EXPECT_EQ(library.reason(), "");
  auto* const cosine = reinterpret_cast<double (*)(double)>(library.symbol("cos"));
  ASSERT_NE(cosine, nullptr);
  EXPECT_EQ(cosine(0.0), 1.0);
  EXPECT_EQ(library.symbol("no_such_function"), nullptr);
}

TEST(SharedLibrary, SaysWhatWasTried) {
  const SharedLibrary library("", {"libno-such-thing.so.7"});
  EXPECT_FALSE(library.found());
  EXPECT_THAT(library.reason(), HasSubstr("libno-such-thing.so.7"));
  EXPECT_EQ(library.symbol("cos"), nullptr);
}

TEST(SharedLibrary, AnOptionIsTheOnlyPlace) {
  const SharedLibrary library("/no/such/file.so", {"libm.so.6"});
  EXPECT_FALSE(library.found());
  EXPECT_THAT(library.reason(), HasSubstr("/no/such/file.so"));
}

TEST(SharedLibrary, LooksIntoPythonsNvidiaPackages) {
  // In a process of its own, because of the environment.
  const fs::path root = fs::temp_directory_path() / ("slidesparse_site_" + std::to_string(::getpid()));
  const fs::path lib = root / "lib/python3.11/site-packages/nvidia/thing/lib";
  fs::create_directories(lib);
  const SharedLibrary real("", {"libm.so.6"});
  ASSERT_TRUE(real.found());
  fs::path source;
  for (const char* place : {"/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib64/libm.so.6", "/lib64/libm.so.6"}) {
    if (fs::exists(place)) source = place;
  }
  if (source.empty()) GTEST_SKIP() << "libm.so.6 is not where it usually is";
  fs::create_symlink(source, lib / "libthing-for-test.so.1");
  EXPECT_EXIT(
      {
        ::setenv("VIRTUAL_ENV", root.c_str(), 1);
        const SharedLibrary library("", {"libthing-for-test.so.1"});
        std::exit(library.found() && library.path() == lib / "libthing-for-test.so.1" ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
  fs::remove_all(root);
}

}  // namespace
}  // namespace slidesparse
