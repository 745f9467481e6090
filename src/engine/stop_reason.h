#pragma once

#include <string_view>

namespace slidesparse {

// Why no more tokens are made for a prompt.
enum class StopReason { kStopToken, kMaxTokens, kMaxPosition, kCaller, kInterrupted };
std::string_view stop_reason_name(StopReason reason);  // "stop token", "max tokens", ...

}  // namespace slidesparse
