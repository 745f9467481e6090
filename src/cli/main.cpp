#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>

#include "cli/commands.h"
#include "core/cpu.h"
#include "core/fail.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/text.h"
#include "core/version.h"

namespace {

using namespace slidesparse;

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

void print_error(const char* message) {
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", message);
}

// By default libgomp's idle threads spin for milliseconds; when another busy process shares the cores, the
// thread that has work waits behind a spinning one and everything becomes several times slower. Microseconds
// are enough between two parallel loops. The library reads its settings before main, so the program starts
// itself once more; a user's own settings win.
void limit_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (::setenv("GOMP_SPINCOUNT", "2000", 1) == 0) ::execv("/proc/self/exe", argv);
  // Where it cannot be started again (no /proc), it runs as it is.
}

void apply(const GlobalOptions& global) {
  init_log(global.quiet);
  set_thread_count(global.threads);
  if (global.isa.empty()) return;
  const auto isa = parse_isa(global.isa);
  if (!isa) fail(ErrorKind::kUsage, "--isa {}: possible are avx512, avx2, portable", global.isa);
  force_isa(isa);
}

int run(int argc, char** argv) {
  CLI::App app{
      "SlideSparse: (2N-2):2N structured sparsity for LLM inference.\n"
      "Prunes, quantises, packs, evaluates and runs Hugging Face models.\n"};
  app.footer(
      "Patterns are kept:group (6:8 keeps 6 of each 8 input channels).\n"
      "Exit codes: 0 done, 1 failed, 2 wrong use.\n"
      "Example: slidesparse convert Llama-3.2-1B llama-6of8 --pattern 6:8 --dtype fp8");
  app.set_version_flag("--version", std::string("slidesparse ") + kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  GlobalOptions global;
  app.add_option("--threads", global.threads, "Threads to use (default: the cores this process may run on)")
      ->check(CLI::Range(0, 4096));
  app.add_option("--isa", global.isa,
                 "Instruction set of the CPU kernels: avx512, avx2 or portable (default: the best)");
  app.add_flag("--quiet", global.quiet, "No progress and no informative messages");
  app.parse_complete_callback([&] { apply(global); });
  add_info(app, global);
  add_convert(app, global);
  add_unpack(app, global);
  add_inspect(app, global);
  add_random_model(app, global);
  add_tokenize(app, global);
  add_pareto(app, global);
  add_eval(app, global);
  add_generate(app, global);
  add_bench(app, global);
  add_tune(app, global);
  add_plan(app, global);
  add_sweep(app, global);
  add_report(app, global);
  add_sweep_worker(app);
  add_probe_kernel(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    const auto unknown = app.remaining();
    print_error(
        !unknown.empty() && app.get_subcommands().empty()
            ? fmt::format("there is no command or option '{}'", printable(unknown.front(), 40)).c_str()
            : error.what());
    const auto chosen = app.get_subcommands();
    fmt::print(stderr, "see: slidesparse {}--help\n", chosen.empty() ? "" : chosen.front()->get_name() + " ");
    return kWrongUse;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  limit_spinning(argv);
  install_interrupt_handler();
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    print_error(error.what());
    return error.kind() == ErrorKind::kUsage ? kWrongUse : kFailed;
  } catch (const std::bad_alloc&) {
    print_error("out of host memory");
  } catch (const std::exception& error) {
    print_error(error.what());
  }
  return kFailed;
}
