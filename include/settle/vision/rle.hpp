#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"

namespace settle::inline v0_2 {

/// A binary mask: rows from the top, values 0 or 1.
struct Mask {
  Index height = 0, width = 0;
  std::vector<std::uint8_t> values;

  std::uint8_t& operator()(Index y, Index x) { return values[static_cast<std::size_t>(y * width + x)]; }
  std::uint8_t operator()(Index y, Index x) const { return values[static_cast<std::size_t>(y * width + x)]; }
  friend bool operator==(const Mask&, const Mask&) = default;
};

/// A mask of zeros.
inline Mask empty_mask(Index height, Index width) {
  return {height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width))};
}

/// A binary mask as the lengths of its runs, down the columns from left to right, a run of zeros first (COCO's format).
struct Rle {
  Index height = 0, width = 0;
  std::vector<std::uint32_t> counts;

  friend bool operator==(const Rle&, const Rle&) = default;
};

/// A box as COCO writes it: left, top, width, height.
using CocoBox = std::array<double, 4>;

namespace detail {

/// Calls f(first, end) for each run of ones, in positions down the columns.
template <class F>
void for_each_run(const Rle& rle, const F& f) {
  Index position = 0;
  for (std::size_t k = 0; k < rle.counts.size(); ++k) {
    const Index end = position + rle.counts[k];
    if (k % 2 == 1 && end > position) f(position, end);
    position = end;
  }
}

/// Walks along two masks of one size: calls f(length, in_a, in_b) for stretches where neither changes.
template <class F>
void for_each_stretch(const Rle& a, const Rle& b, const F& f) {
  struct Walk {
    const std::vector<std::uint32_t>& counts;
    std::size_t next = 0;
    std::uint32_t left = 0;
    bool inside = true;
    void advance() {
      for (; left == 0 && next < counts.size(); inside = !inside) left = counts[next++];
    }
  } one{a.counts}, two{b.counts};
  for (one.advance(), two.advance(); one.left > 0 && two.left > 0; one.advance(), two.advance()) {
    const std::uint32_t length = std::min(one.left, two.left);
    f(length, one.inside, two.inside);
    one.left -= length, two.left -= length;
  }
}

}  // namespace detail

/// Throws Error "[where] ..." unless the runs fill the mask.
inline void require_rle(const Rle& rle, const char* where) {
  require(rle.height >= 0 && rle.width >= 0, where, "expected a mask's size, got ", rle.height, " x ", rle.width);
  constexpr Index most = std::numeric_limits<std::int32_t>::max();
  require(rle.height == 0 || rle.width <= most / rle.height, where, "expected at most 2^31 - 1 pixels, got ",
          rle.height, " x ", rle.width);
  Index sum = 0;
  for (const std::uint32_t count : rle.counts) sum += count;
  require(sum == rle.height * rle.width, where, "expected runs of ", rle.height * rle.width, " pixels in all (",
          rle.height, " x ", rle.width, "), got ", sum);
}

/// The runs of a mask; whatever is not 0 counts as 1.
inline Rle encode_rle(const Mask& mask) {
  require(mask.height >= 0 && mask.width >= 0 && std::ssize(mask.values) == mask.height * mask.width, "encode_rle",
          "expected ", mask.height, " x ", mask.width, " values, got ", mask.values.size());
  Rle out{mask.height, mask.width, {}};
  std::uint32_t count = 0;
  bool inside = false;
  for (Index x = 0; x < mask.width; ++x)
    for (Index y = 0; y < mask.height; ++y, ++count)
      if ((mask(y, x) != 0) != inside) {
        out.counts.push_back(count);
        count = 0;
        inside = !inside;
      }
  out.counts.push_back(count);
  return out;
}

/// The mask of runs. Throws Error unless they fill it.
inline Mask decode_rle(const Rle& rle) {
  require_rle(rle, "decode_rle");
  Mask mask = empty_mask(rle.height, rle.width);
  detail::for_each_run(rle, [&](Index first, Index end) {
    for (Index at = first; at < end; ++at) mask(at % rle.height, at / rle.height) = 1;
  });
  return mask;
}

/// The number of ones.
inline Index rle_area(const Rle& rle) {
  Index area = 0;
  for (std::size_t k = 1; k < rle.counts.size(); k += 2) area += rle.counts[k];
  return area;
}

/// The smallest box that holds the ones, in whole pixels; zeros where there is none. Runs of length 0 are passed over,
/// unlike in COCO's own code, which a leading one misleads.
inline CocoBox rle_box(const Rle& rle) {
  Index left = rle.width, right = -1, top = rle.height, bottom = -1;
  detail::for_each_run(rle, [&](Index first, Index end) {
    const Index x0 = first / rle.height, x1 = (end - 1) / rle.height;
    left = std::min(left, x0), right = std::max(right, x1);
    top = std::min(top, x0 < x1 ? 0 : first % rle.height);
    bottom = std::max(bottom, x0 < x1 ? rle.height - 1 : (end - 1) % rle.height);
  });
  if (right < 0) return {};
  return {static_cast<double>(left), static_cast<double>(top), static_cast<double>(right - left + 1),
          static_cast<double>(bottom - top + 1)};
}

/// The runs as COCO's text: from the fourth on, a count is written as its difference to the one two before it; numbers
/// go in groups of 5 bits, lowest first, with 32 added where more follow, and 48 added to make a character.
inline std::string rle_text(const Rle& rle) {
  std::string out;
  for (std::size_t k = 0; k < rle.counts.size(); ++k) {
    std::int64_t rest = rle.counts[k];
    if (k > 2) rest -= rle.counts[k - 2];
    for (bool more = true; more;) {
      const std::int64_t group = rest & 31;
      rest >>= 5;
      more = rest != (group & 16 ? -1 : 0);
      out += static_cast<char>(48 + group + (more ? 32 : 0));
    }
  }
  return out;
}

/// The inverse of rle_text for a mask of a given size. Throws Error for characters that are not of that code, a text
/// that ends within a number, negative counts, and runs that do not fill the mask.
inline Rle rle_of_text(std::string_view text, Index height, Index width) {
  Rle out{height, width, {}};
  for (std::size_t at = 0; at < text.size();) {
    std::int64_t number = 0;
    int bits = 0;
    for (bool more = true; more; bits += 5) {
      require(at < text.size(), "rle", "the text ends within a number");
      const int group = text[at] - 48;
      require(group >= 0 && group < 64, "rle", "expected characters '0' to 'o', found code ",
              static_cast<int>(static_cast<unsigned char>(text[at])), " at position ", at);
      require(bits <= 35, "rle", "the number at position ", at, " is too long");
      number |= std::int64_t{group & 31} << bits;
      more = (group & 32) != 0;
      if (!more && (group & 16)) number -= std::int64_t{32} << bits;
      ++at;
    }
    if (out.counts.size() > 2) number += out.counts[out.counts.size() - 2];
    require(number >= 0 && number <= std::numeric_limits<std::uint32_t>::max(), "rle",
            "expected counts of at least 0, found ", number, " as number ", out.counts.size());
    out.counts.push_back(static_cast<std::uint32_t>(number));
  }
  require_rle(out, "rle");
  return out;
}

/// The pixels that are in either mask, or in both where `intersection` is asked for.
/// Throws Error for masks of different sizes.
inline Rle merge_rle(const Rle& a, const Rle& b, bool intersection = false) {
  require_rle(a, "merge_rle"), require_rle(b, "merge_rle");
  require(a.height == b.height && a.width == b.width, "merge_rle", "expected masks of one size, got ", a.height, " x ",
          a.width, " and ", b.height, " x ", b.width);
  Rle out{a.height, a.width, {0}};
  bool inside = false;
  detail::for_each_stretch(a, b, [&](std::uint32_t length, bool in_a, bool in_b) {
    if ((intersection ? in_a && in_b : in_a || in_b) != inside) {
      out.counts.push_back(0);
      inside = !inside;
    }
    out.counts.back() += length;
  });
  return out;
}

/// |a and b| / |a or b|, or |a and b| / |a| where b is a crowd; 0 where they do not meet.
/// Throws Error for masks of different sizes.
inline double rle_iou(const Rle& a, const Rle& b, bool crowd = false) {
  const double common = static_cast<double>(rle_area(merge_rle(a, b, true)));
  const double area = static_cast<double>(rle_area(a));
  return common > 0 ? common / (crowd ? area : area + static_cast<double>(rle_area(b)) - common) : 0;
}

}  // namespace settle
