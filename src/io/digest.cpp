#include "io/digest.h"

#include <openssl/evp.h>

#include <array>

#include "core/fail.h"

namespace slidesparse {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  require(state_->context != nullptr && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1,
          "libcrypto cannot start SHA-256");
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> data) {
  require(EVP_DigestUpdate(state_->context, data.data(), data.size()) == 1,
          "libcrypto failed in SHA-256 of {} bytes", data.size());
}

std::string Sha256::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  require(EVP_DigestFinal_ex(state_->context, digest.data(), &length) == 1 && length == 32,
          "libcrypto failed to finish SHA-256");
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * length);
  for (unsigned int i = 0; i < length; ++i) {
    hex += kDigits[digest[i] >> 4];
    hex += kDigits[digest[i] & 15];
  }
  return hex;
}

std::string sha256_hex(std::string_view text) {
  Sha256 digest;
  digest.update(std::as_bytes(std::span(text.data(), text.size())));
  return digest.finish();
}

}  // namespace slidesparse
