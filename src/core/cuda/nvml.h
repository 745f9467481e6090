#pragma once

#include <string>

namespace slidesparse {

// What a card does at this moment, as NVIDIA's management library says (libnvidia-ml.so.1, opened at run
// time). Numbers that it does not give are 0.
struct CardState {
  bool known = false;  // false: no library, no card
  int sm_clock_mhz = 0;
  int power_watts = 0;
  int temperature_celsius = 0;
  int other_processes = 0;    // that compute on it besides this one
  bool power_capped = false;  // slowed down by its power limit: normal under load
  bool throttled = false;     // slowed down by heat or by the board: figures are not the card's
};
// Of the first card. Never throws.
CardState read_card_state();

// A state for several: lowest clock, most power, highest temperature, any flag.
CardState worse_of(const CardState& a, const CardState& b);

}  // namespace slidesparse
