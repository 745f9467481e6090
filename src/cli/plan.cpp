#include "sweep/plan.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/linear_options.h"
#include "core/fail.h"
#include "io/json.h"
#include "model/presets.h"
#include "sweep/card_forecast.h"

namespace slidesparse {

void add_plan(CLI::App& app, const GlobalOptions&) {
  CLI::App* plan = app.add_subcommand("plan", "Prints a plan for `sweep`, or what a card would run of one");
  plan->require_subcommand(0, 1);
  plan->footer("Example: slidesparse plan --card rtx4090 --file plan.json");
  struct Forecast {
    std::string card, file;
  };
  auto forecast = std::make_shared<Forecast>();
  std::vector<std::string_view> cards;
  for (const KnownCard& card : known_cards()) cards.push_back(card.name);
  plan->add_option("--card", forecast->card,
                   fmt::format("Compute what this card would run, without it: {}", fmt::join(cards, ", ")));
  plan->add_option("--file", forecast->file, "With --card: the plan (default: the mission's)");
  plan->callback([plan, forecast] {
    if (!plan->get_subcommands().empty()) {
      if (!forecast->card.empty() || !forecast->file.empty())
        fail(ErrorKind::kUsage,
             "plan: --card and --file go without a plan's name: plan --card NAME --file PLAN");
      return;
    }
    if (forecast->card.empty())
      fail(ErrorKind::kUsage, "plan: a subcommand is required (mission, cpu), or --card NAME");
    const KnownCard& card = known_card(forecast->card);
    const SweepPlan asked = forecast->file.empty()
                                ? mission_plan({})
                                : parse_plan(read_text_file(forecast->file), forecast->file);
    fmt::print("{}", forecast_table(card, forecast_card(card, plan_cells(asked))));
  });

  struct Command {
    MissionOptions options;
    std::string memory_limit;
  };
  auto command = std::make_shared<Command>();
  CLI::App* mission = plan->add_subcommand(
      "mission", "Four models, INT8 and FP8, dense and four patterns on every backend: prefill and decode");
  mission
      ->add_option("--models", command->options.models,
                   fmt::format("Only these, a list of {}", fmt::join(preset_names(), ", ")))
      ->delimiter(',');
  mission->add_option("--dtype", command->options.dtypes, "Only these, a list of int8, fp8")->delimiter(',');
  mission->add_flag("!--no-convert", command->options.convert, "Leave out the conversions");
  mission->add_option("--memory-limit", command->memory_limit,
                      "As if the card had only so much memory, 22.4GiB for example");
  mission
      ->add_option("--prefill-runs", command->options.prefill_runs,
                   "Timed runs of each prefill at least (the original: 128)")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  mission->add_flag("--native", command->options.native, "And our own kernels, on split weights");
  mission->add_flag(
      "--quick", command->options.quick,
      "Decode 3 x 64 steps (not 256), prefill at least 0.3 s (not 1 s): half an hour on an H200");
  mission->footer("Example: slidesparse plan mission --native > plan.json");
  mission->callback([command] {
    command->options.memory_limit = parse_memory_limit_option(command->memory_limit);
    const std::string text = plan_to_json(mission_plan(command->options));
    plan_cells(parse_plan(text, "plan mission"));  // names that are no models are refused here
    std::fputs(text.c_str(), stdout);
  });

  CLI::App* cpu = plan->add_subcommand("cpu", "The same for the CPU, with a model that it runs in minutes");
  cpu->footer("Example: slidesparse plan cpu > plan.json");
  cpu->callback([] { std::fputs(plan_to_json(cpu_plan()).c_str(), stdout); });
}

}  // namespace slidesparse
