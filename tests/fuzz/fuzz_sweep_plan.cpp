// A sweep's plan, its cells and their keys.
#include "fuzz.h"
#include "sweep/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace slidesparse;
  const std::string text(reinterpret_cast<const char*>(data), size);
  fuzz::accepts([&] {
    const SweepPlan plan = parse_plan(text, "fuzz");
    // What was accepted can be written, and reads as the same.
    const std::string written = plan_to_json(plan);
    fuzz::hold(plan_to_json(parse_plan(written, "again")) == written);
    // Names that are no known shapes stand for directories of one form.
    const auto form = [](const std::string&) { return ModelForm{"int8", "6:8", "slide", true}; };
    for (const Cell& cell : plan_cells(plan, form))
      fuzz::hold(cell_key(parse_cell_key(cell_key(cell), "key")) == cell_key(cell));
  });
  fuzz::accepts([&] {
    const Cell cell = parse_cell_key(text, "fuzz");
    fuzz::hold(parse_cell_key(cell_key(cell), "again") == cell);
  });
  return 0;
}
