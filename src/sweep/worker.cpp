#include "sweep/worker.h"

#include <fcntl.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>

#include "core/child_process.h"
#include "core/fail.h"
#include "sweep/convert_runner.h"
#include "sweep/inject.h"
#include "sweep/linear_runner.h"
#include "sweep/messages.h"
#include "sweep/model_runner.h"

namespace slidesparse {
namespace {

// The socket as lines.
class Line {
 public:
  Line()
      : in_(::fdopen(ChildProcess::kChildSocket, "r")),
        out_(::fdopen(::fcntl(ChildProcess::kChildSocket, F_DUPFD_CLOEXEC, 0), "w")) {
    if (in_ == nullptr || out_ == nullptr)
      fail(ErrorKind::kUsage, "sweep-worker: for this program's own use: `slidesparse sweep` starts it");
    // Processes that kernels are tried in must not keep it open.
    ::fcntl(ChildProcess::kChildSocket, F_SETFD, FD_CLOEXEC);
  }
  ~Line() {
    std::fclose(in_);
    std::fclose(out_);
    std::free(text_);
  }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  // False at the end.
  bool read(std::string& line) {
    const ssize_t got = ::getline(&text_, &size_, in_);
    if (got <= 0) return false;
    line.assign(text_, static_cast<std::size_t>(got - (text_[got - 1] == '\n' ? 1 : 0)));
    return true;
  }
  void write(const std::string& line) {
    if (std::fprintf(out_, "%s\n", line.c_str()) < 0 || std::fflush(out_) != 0)
      fail(ErrorKind::kIo, "sweep-worker: the sweep is gone");
  }

 private:
  std::FILE* in_;
  std::FILE* out_;
  char* text_ = nullptr;
  std::size_t size_ = 0;
};

class Worker {
 public:
  void run() {
    std::string text;
    while (line_.read(text)) {
      WorkerTask task = parse_task(text, "sweep-worker");
      if (!task.describe.empty()) {
        const DeviceKind device = task.describe == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu;
        line_.write(machine_line(describe_sweep_machine(device, task.limits)));
      }
      if (task.setup) {
        setup_ = std::move(*task.setup);
        models_ = std::make_unique<ModelRunner>(setup_, [this](bool begins) { say_loading(begins); });
      }
      if (task.order) line_.write(result_line(run_cell(*task.order)));
    }
  }

 private:
  void say_loading(bool begins) { line_.write(begins ? loading_line() : loaded_line()); }

  CellResult run_cell(const CellOrder& order) {
    require(models_ != nullptr, "sweep-worker: a cell before the set-up");
    CellResult result;
    try {
      if (!order.inject.empty()) inject_failure(order.inject);
      dispatch(order, result);
    } catch (const Error& error) {
      result.fail(error);
    } catch (const std::bad_alloc&) {
      result.outcome = Class::kOutOfMemory;
      result.message = "out of host memory";
    } catch (const std::exception& error) {
      result.outcome = Class::kFailed;
      result.message = error.what();
    }
    return result;
  }

  void dispatch(const CellOrder& order, CellResult& result) {
    switch (order.cell.phase) {
      case Phase::kConvert:
        return run_convert_cell(
            setup_, order.cell, [this](bool begins) { say_loading(begins); }, result);
      case Phase::kTune:
        return run_tune_cell(setup_, order.cell, result);
      case Phase::kGemm:
        return run_gemm_cell(setup_, order.cell, result);
      case Phase::kPrefill:
      case Phase::kDecode:
        return models_->bench(order, result);
      case Phase::kEval:
        return models_->evaluate(order, result);
    }
  }

  Line line_;
  WorkerSetup setup_;
  std::unique_ptr<ModelRunner> models_;
};

}  // namespace

void run_sweep_worker() {
  Worker().run();
}

}  // namespace slidesparse
