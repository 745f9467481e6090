#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace slidesparse {

void init_log(bool quiet) {
  auto logger = spdlog::get("slidesparse");
  if (!logger) logger = spdlog::stderr_color_mt("slidesparse");
  logger->set_pattern("%^%l:%$ %v");
  logger->set_level(quiet ? spdlog::level::warn : spdlog::level::info);
  spdlog::set_default_logger(logger);
}

}  // namespace slidesparse
