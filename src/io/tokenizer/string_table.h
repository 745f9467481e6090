#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace slidesparse::tok {

// A hash table from byte strings to non-negative values: one allocation for all the text, open addressing, at
// most half full. Vocabularies of 150,000 tokens and the cache of words live in it.
class StringTable {
 public:
  // False, and nothing changes, when `key` is there already.
  bool insert(std::string_view key, std::int32_t value) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    const std::size_t hash = std::hash<std::string_view>{}(key);
    Slot& slot = slots_[position(key, hash)];
    if (slot.value >= 0) return false;
    slot = {hash, text_.size(), key.size(), value};
    text_ += key;
    ++count_;
    return true;
  }

  // The value of `key`, or -1.
  std::int32_t find(std::string_view key) const {
    if (slots_.empty()) return -1;
    return slots_[position(key, std::hash<std::string_view>{}(key))].value;
  }

  std::size_t size() const { return count_; }

 private:
  struct Slot {
    std::size_t hash = 0;
    std::size_t offset = 0;
    std::size_t length = 0;
    std::int32_t value = -1;
  };

  std::size_t position(std::string_view key, std::size_t hash) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash & mask;
    while (slots_[i].value >= 0 &&
           (slots_[i].hash != hash ||
            key != std::string_view(text_).substr(slots_[i].offset, slots_[i].length))) {
      i = (i + 1) & mask;
    }
    return i;
  }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 64 : 2 * slots_.size());
    old.swap(slots_);
    const std::size_t mask = slots_.size() - 1;
    for (const Slot& slot : old) {
      if (slot.value < 0) continue;
      std::size_t i = slot.hash & mask;
      while (slots_[i].value >= 0) i = (i + 1) & mask;
      slots_[i] = slot;
    }
  }

  std::vector<Slot> slots_;
  std::string text_;
  std::size_t count_ = 0;
};

}  // namespace slidesparse::tok
