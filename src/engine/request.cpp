#include "slidesparse/engine/request.h"

namespace slidesparse {

std::string_view stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kStopToken:
      return "stop token";
    case StopReason::kMaxTokens:
      return "max tokens";
    case StopReason::kMaxModelLen:
      return "max model length";
    case StopReason::kCaller:
      return "caller";
    case StopReason::kInterrupted:
      return "interrupted";
  }
  return "?";
}

}  // namespace slidesparse
