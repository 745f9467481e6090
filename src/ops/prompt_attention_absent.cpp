#include "core/fail.h"
#include "ops/prompt_attention.h"

namespace slidesparse {

struct PromptAttention::State {
  std::string reason = "built without cuDNN's headers";
};

std::string prompt_attention_library() {
  return {};
}

PromptAttention::PromptAttention() : state_(std::make_unique<State>()) {}
PromptAttention::~PromptAttention() = default;
const std::string& PromptAttention::reason() const {
  return state_->reason;
}
std::string PromptAttention::version() const {
  return {};
}
bool PromptAttention::takes(const PromptShape&, std::int64_t, std::int64_t) {
  return false;
}
void PromptAttention::run(const PromptShape&, const PromptArgs&, void*) {
  fail(ErrorKind::kInternal, "attention of prompts: {}", state_->reason);
}

}  // namespace slidesparse
