#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "settle/vision/rle.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// For each of the 256 neighbourhoods of a pixel whether thinning deletes it, in the first and the second half of a
/// pass. Bit k - 1 of a neighbourhood is x_k: east, north-east, and on anticlockwise to south-east.
inline const std::array<std::array<bool, 256>, 2>& thinning_tables() {
  static const auto tables = [] {
    std::array<std::array<bool, 256>, 2> out{};
    for (unsigned around = 0; around < 256; ++around) {
      const auto x = [around](unsigned k) { return (around >> ((k - 1) % 8) & 1) != 0; };  // x_9 is x_1
      int crossings = 0, odd = 0, even = 0;
      for (unsigned k = 1; k <= 4; ++k) {
        crossings += !x(2 * k - 1) && (x(2 * k) || x(2 * k + 1));
        odd += x(2 * k - 1) || x(2 * k);
        even += x(2 * k) || x(2 * k + 1);
      }
      const int least = std::min(odd, even);
      const bool border = crossings == 1 && least >= 2 && least <= 3;
      out[0][around] = border && !((x(2) || x(3) || !x(8)) && x(1));
      out[1][around] = border && !((x(6) || x(7) || !x(4)) && x(5));
    }
    return out;
  }();
  return tables;
}

}  // namespace detail

/// The mask thinned to lines of one pixel that keep its connections: Guo's and Hall's parallel algorithm with two
/// halves to a pass (A1; Guo and Hall 1989, Lam, Lee and Suen 1992), repeated until nothing changes, as MATLAB's
/// bwmorph(mask, 'thin', Inf) does. Outside the mask all is 0.
inline Mask thinned(const Mask& mask) {
  // With a border of zeros each pixel has eight neighbours.
  const Index width = mask.width + 2;
  std::vector<std::uint8_t> values(static_cast<std::size_t>((mask.height + 2) * width));
  std::vector<Index> ones, deleted;
  for (Index y = 0; y < mask.height; ++y)
    for (Index x = 0; x < mask.width; ++x)
      if (mask(y, x)) values[static_cast<std::size_t>(ones.emplace_back((y + 1) * width + x + 1))] = 1;
  const std::array<Index, 8> neighbours{1, 1 - width, -width, -width - 1, -1, width - 1, width, width + 1};
  for (bool changed = true; changed;) {
    changed = false;
    for (const auto& deletes : detail::thinning_tables()) {
      deleted.clear();
      std::erase_if(ones, [&](Index at) {
        std::size_t around = 0;
        for (std::size_t k = 0; k < 8; ++k)
          around |= static_cast<std::size_t>(values[static_cast<std::size_t>(at + neighbours[k])]) << k;
        if (deletes[around]) deleted.push_back(at);
        return deletes[around];
      });
      for (const Index at : deleted) values[static_cast<std::size_t>(at)] = 0;
      changed = changed || !deleted.empty();
    }
  }
  Mask out = empty_mask(mask.height, mask.width);
  for (const Index at : ones) out(at / width - 1, at % width - 1) = 1;
  return out;
}

}  // namespace settle
