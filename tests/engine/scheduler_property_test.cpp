// A million random steps. Every token of a request is a hash of (request, position), so the right output of
// each request is known beforehand. The steps run on a cache that remembers which token of whom was written
// where: a page with two owners, a token fed at a wrong position or not at all, a wrong input row, all show
// there.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>

#include "core/fail.h"
#include "core/random.h"
#include "engine/scheduler.h"
#include "engine/scheduler_client.h"

namespace slidesparse {
namespace {

using test::Client;
using test::mark;
using test::random_client;
using test::token_at;

struct Flight {
  const Step* step = nullptr;
  std::vector<std::int64_t> uids;     // [entries]
  std::vector<std::int64_t> prompts;  // [entries] tokens
};

struct Totals {
  std::int64_t steps = 0;
  std::int64_t finished = 0;
  std::int64_t cancelled = 0;
  std::int64_t refused = 0;
  std::int64_t preemptions = 0;
  std::int64_t surplus = 0;
  std::int64_t fed_in_flight = 0;
};

SchedulerOptions random_options(Random& random) {
  SchedulerOptions options;
  options.max_sequences = 1 + random.below(8);
  options.max_batched_tokens = options.max_sequences + random.below(24);
  options.max_context = 2 + random.below(60);
  options.watermark = random.below(2) == 0 ? 0.0 : 0.5 * random.uniform();
  return options;
}

class World {
 public:
  World(std::uint64_t seed, Totals& totals)
      : random_(seed),
        totals_(totals),
        overlap_(random_.below(2) == 0),
        options_(random_options(random_)),
        scheduler_(options_, 1 + random_.below(30), 1 + random_.below(5)) {
    cache_.resize(static_cast<std::size_t>(blocks().pages() * blocks().page_size()));
    users_.resize(static_cast<std::size_t>(blocks().pages()));
  }

  void run(std::int64_t steps) {
    const std::int64_t arrivals = random_.below(60);  // a step, in per cent
    const std::int64_t cancels = random_.below(5);
    for (std::int64_t i = 0; i < steps; ++i) {
      while (clients_.size() < 20 && random_.below(100) < arrivals) arrive();
      if (random_.below(100) < cancels) cancel();
      turn();
    }
    // The last ones end. The oldest goes on in every third step at least.
    for (std::int64_t left = 40 * 64 * 4; !clients_.empty() || !flights_.empty(); --left) {
      require(left > 0, "{} requests are left, no end in sight", clients_.size());
      turn();
    }
    require(scheduler_.schedule() == nullptr && scheduler_.live() == 0, "a step without requests");
    require(blocks().used() == 0, "{} pages leaked", blocks().used());
    totals_.preemptions += scheduler_.preemptions();
  }

 private:
  struct User {
    std::int64_t uid = 0;
    std::int64_t steps = 0;  // in flight that read or write the page
  };

  const BlockManager& blocks() const { return scheduler_.blocks(); }

  void arrive() {
    const std::int64_t id = random_.below(64);
    if (std::ranges::any_of(clients_, [&](const auto& c) { return c.second.request.id == id; })) return;
    const Client client = random_client(random_, uids_, id, scheduler_.max_context());
    if (client.prompt >= scheduler_.max_context()) {
      EXPECT_THROW(scheduler_.add(client.request), Error);
      ++totals_.refused;
      return;
    }
    scheduler_.add(client.request);
    clients_.emplace(uids_++, client);
  }

  void cancel() {
    if (clients_.empty()) return;
    auto victim = clients_.begin();
    std::advance(victim, random_.below(static_cast<std::int64_t>(clients_.size())));
    require(scheduler_.cancel(victim->second.request.id), "request {} is not live", victim->first);
    require(!scheduler_.cancel(victim->second.request.id), "request {} is cancelled twice", victim->first);
    clients_.erase(victim);
    ++totals_.cancelled;
  }

  // Schedules while it may, otherwise completes; with overlap now and then one step at a time, and now and
  // then it asks again before it completes.
  void turn() {
    const std::size_t ahead = overlap_ && random_.below(8) != 0 ? 2 : 1;
    const bool scheduled = flights_.size() < ahead && schedule();
    if (!scheduled && !flights_.empty() && random_.below(8) != 0) complete();
    check_counts();
  }

  void check_counts() {
    require(blocks().used() + blocks().free() == blocks().pages(), "pages vanish");
    const std::int64_t busy = std::ranges::count_if(users_, [](const User& user) { return user.steps > 0; });
    require(blocks().used() >= busy, "{} pages are in use, {} are counted", busy, blocks().used());
    require(scheduler_.live() == static_cast<std::int64_t>(clients_.size()), "{} requests live, not {}",
            scheduler_.live(), clients_.size());
    require(scheduler_.running() <= options_.max_sequences, "{} run", scheduler_.running());
  }

  bool schedule() {
    ++totals_.steps;
    const Client* oldest = oldest_unfinished();
    const Step* step = scheduler_.schedule();
    if (step == nullptr) {
      require(!flights_.empty() || clients_.empty(), "nothing is scheduled, nothing runs, {} requests wait",
              clients_.size());
    } else {
      check_step(*step);
    }
    // Without overlap the oldest goes on in each step. With it, pages may be in flight: at most two steps.
    if (oldest == nullptr || (step != nullptr && oldest->last_step == step->number)) {
      starved_ = 0;
    } else {
      if (oldest->uid != starving_) starved_ = 0;
      starving_ = oldest->uid;
      if (completed_ != starved_since_) ++starved_;
      starved_since_ = completed_;
      require(starved_ <= (overlap_ ? 2 : 0), "request {} is the oldest and sits out", oldest->uid);
    }
    return step != nullptr;
  }

  // The oldest that has a token left to draw.
  const Client* oldest_unfinished() const {
    for (const auto& [uid, client] : clients_) {
      if (client.drawn < most_output(client)) return &client;
    }
    return nullptr;
  }

  std::int64_t most_output(const Client& client) const {
    return std::min(scheduler_.max_context() - client.prompt, client.request.max_new_tokens);
  }

  void check_step(const Step& step) {
    Flight flight{.step = &step, .uids = {}, .prompts = {}};
    std::int64_t tokens = 0;
    std::int64_t wanted = 0;
    std::int64_t last_drawn = 0;  // entries that nothing follows
    bool starts = false;
    std::int64_t last_uid = kNone;
    bool decodes = true;
    require(step.number == steps_, "step {} has number {}", steps_, step.number);
    ++steps_;
    for (const StepEntry& entry : step.entries) {
      Client& client = by_id(entry.id);
      const bool decode = entry.count == 1 && entry.want_last && entry.start > 0;
      require(decodes || !decode, "a decode after a chunk of a prompt");
      if (decodes && !decode) last_uid = kNone;
      decodes = decode;
      require(client.uid > last_uid, "{} comes after {}", client.uid, last_uid);
      last_uid = client.uid;
      check_entry(step, entry, client);
      for (const std::int32_t page : entry.table) {
        User& user = users_.at(static_cast<std::size_t>(page));
        require(user.steps == 0 || user.uid == client.uid, "page {} belongs to {} and to {}", page, user.uid,
                client.uid);
        user = {client.uid, user.steps + 1};
      }
      tokens += entry.count;
      wanted += entry.want_last ? 1 : 0;
      starts = starts || entry.start == 0;
      last_drawn += client.drawn == most_output(client) ? 1 : 0;
      flight.uids.push_back(client.uid);
      flight.prompts.push_back(client.prompt);
    }
    require(tokens == step.tokens && tokens <= options_.max_batched_tokens, "{} tokens", tokens);
    require(wanted == step.wanted, "{} rows", wanted);
    require(!starts || step.sequences() == scheduler_.running() + last_drawn,
            "one starts while one sits out");
    require(step.sequences() > 0 && step.sequences() <= options_.max_sequences, "{} entries",
            step.sequences());
    require(step.all_decode() ==
                std::ranges::all_of(step.entries, [](const StepEntry& entry) { return entry.count == 1; }),
            "decode or mixed?");
    flights_.push_back(std::move(flight));
  }

  void check_entry(const Step& step, const StepEntry& entry, Client& client) {
    if (entry.start == 0) check_start(step, client);
    require(entry.start == client.next && entry.count >= 1, "request {}: position {} follows {}", client.uid,
            entry.start, client.next);
    client.next = entry.start + entry.count;
    client.last_step = step.number;
    const std::int64_t planned = client.prompt + client.drawn;
    require(client.next <= planned, "request {}: token {} is not there yet", client.uid, client.next);
    require(entry.want_last == (client.next == planned), "request {}: wanted or not?", client.uid);
    require(entry.output_index == (entry.want_last ? client.drawn : kNone), "request {}: output {}",
            client.uid, entry.output_index);
    if (entry.want_last) ++client.drawn;
    require(client.drawn <= most_output(client), "request {}: {} tokens are drawn", client.uid, client.drawn);
    if (entry.input_row == kNone) {
      require(static_cast<std::int64_t>(entry.tokens.size()) == entry.count, "request {}: no tokens",
              client.uid);
    } else {
      require(flights_.size() == 1 && entry.count == 1 && entry.tokens.empty(),
              "request {}: an input in flight?", client.uid);
      ++totals_.fed_in_flight;
    }
    require(static_cast<std::int64_t>(entry.table.size()) == blocks().pages_for(client.next),
            "request {}: {} pages for {} tokens", client.uid, entry.table.size(), client.next);
  }

  // First starts come in the order of arrival; and while an older one waits to start again, no younger one
  // starts.
  void check_start(const Step& step, Client& client) {
    if (client.last_step == kNone) {
      require(client.uid > newest_, "{} starts after {}", client.uid, newest_);
      newest_ = client.uid;
    }
    for (auto younger = clients_.upper_bound(client.uid); younger != clients_.end(); ++younger) {
      require(client.last_step == kNone || younger->second.started_step <= client.last_step, "{} overtook {}",
              younger->first, client.uid);
    }
    client.started_step = step.number;
    client.next = 0;
  }

  // Runs the oldest step in flight on the cache and hands over what it drew.
  void complete() {
    const Flight flight = std::move(flights_.front());
    flights_.pop_front();
    std::vector<std::int32_t> sampled;
    for (std::size_t i = 0; i < flight.uids.size(); ++i) {
      const StepEntry& entry = flight.step->entries[i];
      for (const std::int32_t page : entry.table) --users_[static_cast<std::size_t>(page)].steps;
      feed(entry, flight.uids[i]);
      if (entry.want_last) {
        sampled.push_back(token_at(flight.uids[i], flight.prompts[i] + entry.output_index));
      }
    }
    const StepResult& result = scheduler_.complete(*flight.step, sampled);
    for (const NewToken& token : result.tokens) {
      Client& client = by_id(token.id);
      require(
          token.index == client.shown++ && token.token == token_at(client.uid, client.prompt + token.index),
          "request {}: token {} at {}", client.uid, token.token, token.index);
      require(client.shown <= client.output, "request {}: tokens past the end", client.uid);
    }
    for (const FinishedRequest& finished : result.finished) leave(finished);
    drawn_ = std::move(sampled);
    ++completed_;
  }

  // The input must be the right token, and all tokens before it must be in the cache.
  void feed(const StepEntry& entry, std::int64_t uid) {
    const auto place = [&](std::int64_t position) -> std::uint64_t& {
      const std::int64_t page = entry.table[static_cast<std::size_t>(position / blocks().page_size())];
      return cache_[static_cast<std::size_t>(page * blocks().page_size() + position % blocks().page_size())];
    };
    for (std::int64_t i = 0; i < entry.count; ++i) {
      const std::int64_t position = entry.start + i;
      const std::int32_t token = entry.input_row == kNone
                                     ? entry.tokens[static_cast<std::size_t>(i)]
                                     : drawn_.at(static_cast<std::size_t>(entry.input_row));
      require(token == token_at(uid, position), "request {}: token {} is fed at {}", uid, token, position);
      place(position) = mark(uid, position);
    }
    for (std::int64_t position = 0; position < entry.start + entry.count; ++position) {
      require(place(position) == mark(uid, position), "request {}: token {} is lost", uid, position);
    }
  }

  void leave(const FinishedRequest& finished) {
    const Client& client = by_id(finished.id);
    require(finished.reason == client.reason && client.shown == client.output,
            "request {}: {} of {} tokens, {}", client.uid, client.shown, client.output,
            stop_reason_name(finished.reason));
    require(static_cast<std::int64_t>(finished.output.size()) == client.output &&
                finished.prompt_tokens == client.prompt,
            "request {}: {} tokens", client.uid, finished.output.size());
    for (std::int64_t i = 0; i < client.output; ++i) {
      require(finished.output[static_cast<std::size_t>(i)] == token_at(client.uid, client.prompt + i),
              "request {}: output {}", client.uid, i);
    }
    if (client.drawn > client.output + (client.reason == StopReason::kStopToken ? 1 : 0)) ++totals_.surplus;
    ++totals_.finished;
    clients_.erase(client.uid);
  }

  Client& by_id(std::int64_t id) {
    for (auto& [uid, client] : clients_) {
      if (client.request.id == id) return client;
    }
    fail_input("no request {}", id);
  }

  Random random_;
  Totals& totals_;
  bool overlap_;
  SchedulerOptions options_;
  Scheduler scheduler_;
  std::vector<std::uint64_t> cache_;  // [pages, page_size] mark of what is there
  std::vector<User> users_;           // [pages]
  std::map<std::int64_t, Client> clients_;
  std::deque<Flight> flights_;
  std::vector<std::int32_t> drawn_;  // by the last completed step
  std::int64_t uids_ = 0;
  std::int64_t steps_ = 0;
  std::int64_t newest_ = kNone;  // uid that started last
  std::int64_t starving_ = kNone;
  std::int64_t starved_ = 0;            // calls of schedule(), those between two completed steps counted once
  std::int64_t starved_since_ = kNone;  // completed steps at the last of them
  std::int64_t completed_ = 0;          // steps
};

TEST(SchedulerProperty, AMillionRandomSteps) {
  Totals totals;
  for (std::uint64_t seed = 1; totals.steps < 1'000'000; ++seed) {
    try {
      World(seed, totals).run(400);
    } catch (const std::exception& error) {
      FAIL() << "seed " << seed << ": " << error.what();
    }
  }
  std::printf(
      "%lld requests finished, %lld cancelled, %lld refused; %lld preemptions, %lld surplus tokens, "
      "%lld inputs in flight\n",
      static_cast<long long>(totals.finished), static_cast<long long>(totals.cancelled),
      static_cast<long long>(totals.refused), static_cast<long long>(totals.preemptions),
      static_cast<long long>(totals.surplus), static_cast<long long>(totals.fed_in_flight));
  // It means something only if all that happened.
  EXPECT_GT(totals.finished, 100'000);
  EXPECT_GT(totals.cancelled, 1'000);
  EXPECT_GT(totals.refused, 1'000);
  EXPECT_GT(totals.preemptions, 10'000);
  EXPECT_GT(totals.surplus, 1'000);
  EXPECT_GT(totals.fed_in_flight, 100'000);
}

}  // namespace
}  // namespace slidesparse
