#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"
#include "settle/core/tensor.hpp"
#include "settle/io/atomic_file.hpp"
#include "settle/io/file_bytes.hpp"
#include "settle/io/small_floats.hpp"

namespace settle::inline v0_2 {

namespace detail {

static_assert(std::endian::native == std::endian::little, "npy files are written as little-endian numbers");

/// What a .npy file says of its array: a dictionary, as Python prints it.
struct NpyHeader {
  std::string dtype;  ///< as "<f4"
  bool fortran_order = false;
  std::vector<Index> extents;
};

/// Reads that dictionary. Complaints name the file.
class NpyHeaderText {
 public:
  NpyHeaderText(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  NpyHeader parse() {
    std::optional<std::string> dtype;
    std::optional<bool> fortran_order;
    std::optional<std::vector<Index>> extents;
    take('{');
    while (!is('}')) {
      const std::string key = quoted();
      take(':');
      if (key == "descr") {
        if (is('['))
          fail("npy", name_, ": structured types (records) are not read");
        dtype = quoted();
      } else if (key == "fortran_order") {
        fortran_order = truth();
      } else if (key == "shape") {
        extents = numbers();
      } else {
        expected("'descr', 'fortran_order' or 'shape'");
      }
      if (!is('}')) take(',');
    }
    take('}');
    skip();
    if (at_ != text_.size()) expected("the end of the header");
    if (!dtype || !fortran_order || !extents) expected("'descr', 'fortran_order' and 'shape'");
    return {std::move(*dtype), *fortran_order, std::move(*extents)};
  }

 private:
  [[noreturn]] void expected(const char* what) const {
    fail("npy", name_, ": header: expected ", what, ", got '", printable(text_.substr(at_, 16)), "' at byte ", at_,
         " of it");
  }

  static std::string printable(std::string_view text) {
    std::string out(text);
    for (char& c : out)
      if (c < ' ' || c > '~') c = '?';
    return out;
  }

  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool is(char c) {
    skip();
    return at_ < text_.size() && text_[at_] == c;
  }
  void take(char c) {
    const char text[] = {c, '\0'};
    if (!is(c)) expected(text);
    ++at_;
  }
  bool took(std::string_view word) {
    skip();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  std::string quoted() {
    if (!is('\'') && !is('"')) expected("a text in quotes");
    const char quote = text_[at_];
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) expected("a closing quote");
    const std::size_t begin = std::exchange(at_, end + 1) + 1;
    return std::string(text_.substr(begin, end - begin));
  }
  bool truth() {
    if (took("True")) return true;
    if (!took("False")) expected("True or False");
    return false;
  }
  std::vector<Index> numbers() {
    std::vector<Index> out;
    take('(');
    while (!is(')')) {
      Index number = 0;
      const std::size_t begin = at_;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
        if (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, text_[at_] - '0', &number))
          expected("an extent of 63 bits");
      if (at_ == begin) expected("a whole number");
      took("L");  // as Python 2 prints a long one
      out.push_back(number);
      if (!is(')')) take(',');
    }
    take(')');
    return out;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t at_ = 0;
};

/// Adds a character to a text in UTF-8.
inline void add_utf8(std::string& text, std::uint32_t c) {
  const auto byte = [&](std::uint32_t value) { text += static_cast<char>(value); };
  const auto rest = [&](int bits) { byte(0x80 | ((c >> bits) & 63)); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6), rest(0);
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12), rest(6), rest(0);
  } else {
    byte(0xF0 | c >> 18), rest(12), rest(6), rest(0);
  }
}

/// The characters of a text in UTF-8; none where it is not UTF-8.
inline std::optional<std::vector<std::uint32_t>> characters(std::string_view text) {
  std::vector<std::uint32_t> out;
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[at + k]); };
    const int leading = std::countl_one(byte(0));
    const std::size_t length = leading == 0 ? 1 : static_cast<std::size_t>(leading);
    if (leading == 1 || leading > 4 || at + length > text.size()) return {};
    std::uint32_t c = leading == 0 ? byte(0) : byte(0) & (0x7Fu >> leading);
    for (std::size_t k = 1; k < length; ++k) {
      if (byte(k) >> 6 != 2) return {};
      c = c << 6 | (byte(k) & 63u);
    }
    std::string again;
    add_utf8(again, c);
    if (again != text.substr(at, length) || c > 0x10FFFF || c >> 11 == 0x1B) return {};
    out.push_back(c);
    at += length;
  }
  return out;
}

/// The first bytes of a .npy file, up to its numbers, which begin at a multiple of 64.
inline std::string npy_head(const std::string& dtype, const std::vector<Index>& extents) {
  std::string text = "{'descr': '" + dtype + "', 'fortran_order': False, 'shape': (";
  for (std::size_t a = 0; a < extents.size(); ++a) text += (a ? ", " : "") + std::to_string(extents[a]);
  text += extents.size() == 1 ? ",), }" : "), }";
  const std::size_t before = 10, all = (before + text.size() + 1 + 63) / 64 * 64;
  text.resize(all - before - 1, ' ');
  text += '\n';
  std::string out = "\x93NUMPY";
  out += '\1', out += '\0';
  out += static_cast<char>(text.size() & 255), out += static_cast<char>(text.size() >> 8);
  return out + text;
}

/// A file's bytes in two parts: the head, and numbers that may be a tensor's own memory.
struct NpyParts {
  std::string head;
  const void* data = nullptr;
  std::size_t bytes = 0;
  std::shared_ptr<const void> owner;
};

template <Scalar T>
NpyParts npy_parts(const Tensor<T>& tensor) {
  const auto owner = std::make_shared<const Tensor<T>>(tensor);
  return {npy_head(std::same_as<T, float> ? "<f4" : "<f8", {tensor.shape().begin(), tensor.shape().end()}),
          owner->data(), owner->bytes(), owner};
}

inline NpyParts npy_parts(const std::vector<std::string>& texts) {
  std::vector<std::vector<std::uint32_t>> all;
  std::size_t longest = 1;
  for (const std::string& text : texts) {
    auto letters = characters(text);
    require(letters.has_value(), "npy", "expected texts in UTF-8, got one that is not");
    require(letters->empty() || letters->back() != 0, "npy", "a text cannot end with a zero: it would be lost");
    longest = std::max(longest, letters->size());
    all.push_back(std::move(*letters));
  }
  const auto units = std::make_shared<std::vector<std::uint32_t>>(longest * texts.size(), 0);
  for (std::size_t k = 0; k < all.size(); ++k)
    std::copy(all[k].begin(), all[k].end(), units->begin() + static_cast<std::ptrdiff_t>(k * longest));
  return {npy_head("<U" + std::to_string(longest), {std::ssize(texts)}), units->data(), 4 * units->size(), units};
}

}  // namespace detail

/// The array of a .npy file, numbers of any kind or texts, as it stands there: converted when it is asked for.
/// Source: numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
class NpyArray {
 public:
  /// Of a file's bytes; complaints begin with its name. Throws Error where they are no .npy file, or not as many as its
  /// header says.
  NpyArray(std::vector<std::uint8_t> bytes, std::string name)
      : name_(std::move(name)), bytes_(std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes))) {
    const auto& b = *bytes_;
    expect(b.size() >= 10 && std::memcmp(b.data(), "\x93NUMPY", 6) == 0,
           "expected a file that begins with \\x93NUMPY and a version");
    expect(b[6] >= 1 && b[6] <= 3, "expected version 1, 2 or 3 of the format, got ", int{b[6]});
    const std::size_t digits = b[6] == 1 ? 2 : 4;
    expect(b.size() >= 8 + digits, "ends within the length of its header");
    std::size_t length = 0;
    for (std::size_t k = 0; k < digits; ++k) length |= std::size_t{b[8 + k]} << 8 * k;
    begin_ = 8 + digits + length;
    expect(begin_ <= b.size(), "expected a header of ", length, " bytes, the file has ", b.size() - 8 - digits,
           " after its length");
    header_ = detail::NpyHeaderText({reinterpret_cast<const char*>(b.data()) + 8 + digits, length}, name_).parse();
    read_dtype();
    std::size_t count = 1;
    bool fits = true;
    for (const Index extent : header_.extents) fits &= !__builtin_mul_overflow(count, extent, &count);
    if (std::find(header_.extents.begin(), header_.extents.end(), 0) != header_.extents.end()) count = 0, fits = true;
    std::size_t needed = 0;
    fits = fits && !__builtin_mul_overflow(count, item_bytes_, &needed);
    expect(fits && needed == b.size() - begin_, "expected the bytes of ", count, " items of ", header_.dtype, " (",
           item_bytes_, " each), found ", b.size() - begin_, " bytes");
    count_ = count;
  }

  /// As NumPy writes it, such as "<f4", ">i8", "|b1" or "<U12".
  const std::string& dtype() const { return header_.dtype; }
  /// Of the array as NumPy shows it, however its numbers are ordered in the file.
  const std::vector<Index>& extents() const { return header_.extents; }
  /// The same, where a tensor can have as many axes. Throws Error otherwise.
  Shape shape() const {
    expect(header_.extents.size() <= Shape::max_rank, "has ", header_.extents.size(), " axes, a tensor at most ",
           Shape::max_rank);
    Shape out;
    for (const Index extent : header_.extents) out.append(extent);
    return out;
  }

  /// The numbers converted to T; complex ones as pairs (real, imaginary) along a last axis of their own. Where the file
  /// has them as T in row-major order, the tensor is a view of what was read, and nothing is copied. Throws Error for
  /// texts, numbers of more than 64 bits, and more axes than a tensor has.
  template <Scalar T>
  Tensor<T> get_as() const {
    Shape to = shape();
    if (kind_ == 'c') to.append(2);
    const std::uint8_t* const from = bytes_->data() + begin_;
    const bool aligned = reinterpret_cast<std::uintptr_t>(from) % alignof(T) == 0;
    if (kind_ == 'f' && item_bytes_ == sizeof(T) && !swapped_ && !header_.fortran_order && aligned)
      return Tensor<T>::view(reinterpret_cast<const T*>(from), to, bytes_);
    Tensor<T> out(to);
    T* values = out.mutable_data();
    const bool known = with_number([&](auto stored, auto to_number) {
      using Stored = decltype(stored);
      each_place([&](std::size_t place) {
        for (std::size_t at = place * item_bytes_; at < (place + 1) * item_bytes_; at += sizeof(Stored))
          *values++ = static_cast<T>(to_number(stored_at<Stored>(from + at)));
      });
    });
    expect(known, "items of ", header_.dtype, " are not numbers to compute with");
    return out;
  }

  /// The numbers, which must be stored as T in either byte order: get<float>() refuses doubles, and loses no digit.
  template <Scalar T>
  Tensor<T> get() const {
    expect(kind_ == 'f' && item_bytes_ == sizeof(T), "expected ", scalar_name<T>(), ", found ", header_.dtype);
    return get_as<T>();
  }

  /// The texts, in row-major order and in UTF-8. Throws Error for numbers, and for what is no character.
  std::vector<std::string> strings() const {
    expect(kind_ == 'U' || kind_ == 'S', "expected texts, found ", header_.dtype);
    const std::uint8_t* const from = bytes_->data() + begin_;
    std::vector<std::string> out;
    out.reserve(count_);
    each_place([&](std::size_t place) {
      std::string text;
      if (kind_ == 'S') {
        text.assign(reinterpret_cast<const char*>(from) + place * item_bytes_, item_bytes_);
        text.resize(text.find_last_not_of('\0') + 1);
      } else {
        std::size_t letters = item_bytes_ / 4;
        const auto letter = [&](std::size_t k) {
          return stored_at<std::uint32_t>(from + place * item_bytes_ + 4 * k);
        };
        while (letters > 0 && letter(letters - 1) == 0) --letters;
        for (std::size_t k = 0; k < letters; ++k) {
          expect(letter(k) <= 0x10FFFF && letter(k) >> 11 != 0x1B, "text ", out.size(), ": ", letter(k),
                 " is no character");
          detail::add_utf8(text, letter(k));
        }
      }
      out.push_back(std::move(text));
    });
    return out;
  }

 private:
  template <class... Parts>
  void expect(bool condition, const Parts&... parts) const {
    require(condition, "npy", name_, ": ", parts...);
  }

  /// "<f4": byte order, kind, and bytes of an item (of texts '<U12', characters of 4 bytes).
  void read_dtype() {
    const std::string& d = header_.dtype;
    const bool has_order = !d.empty() && std::string_view("<>|=").find(d[0]) != std::string_view::npos;
    const std::string_view rest = std::string_view(d).substr(has_order ? 1 : 0);
    swapped_ = has_order && d[0] == '>';
    expect(!rest.starts_with('O'), "holds Python objects, which are not read");
    std::uint32_t number = 0;
    bool good = rest.size() >= 2 && rest.size() <= 9 && std::string_view("biufcUS").find(rest[0]) != rest.npos;
    for (std::size_t k = 1; good && k < rest.size(); ++k) {
      good = rest[k] >= '0' && rest[k] <= '9';
      number = 10 * number + static_cast<std::uint32_t>(rest[k] - '0');
    }
    expect(good && number > 0, "expected numbers or texts, such as <f4 or <U8, got the type '", d, "'");
    kind_ = rest[0];
    item_bytes_ = kind_ == 'U' ? std::size_t{4} * number : number;
  }

  /// Calls f(Stored{}, to_number) for the type that each number is stored as. Returns whether there is one.
  template <class F>
  bool with_number(const F& f) const {
    const auto same = [](auto value) { return value; };
    switch (kind_) {
      case 'b': return item_bytes_ == 1 && (f(std::uint8_t{}, [](std::uint8_t v) { return v != 0; }), true);
      case 'f':
      case 'c': {
        const std::size_t bytes = kind_ == 'c' ? item_bytes_ / 2 : item_bytes_;
        if (bytes == 2 && kind_ == 'f') return f(std::uint16_t{}, detail::from_half), true;
        if (bytes == 4) return f(float{}, same), true;
        return bytes == 8 && item_bytes_ % 8 == 0 && (f(double{}, same), true);
      }
      case 'i':
        switch (item_bytes_) {
          case 1: return f(std::int8_t{}, same), true;
          case 2: return f(std::int16_t{}, same), true;
          case 4: return f(std::int32_t{}, same), true;
          case 8: return f(std::int64_t{}, same), true;
          default: return false;
        }
      case 'u':
        switch (item_bytes_) {
          case 1: return f(std::uint8_t{}, same), true;
          case 2: return f(std::uint16_t{}, same), true;
          case 4: return f(std::uint32_t{}, same), true;
          case 8: return f(std::uint64_t{}, same), true;
          default: return false;
        }
      default: return false;
    }
  }

  template <class Stored>
  Stored stored_at(const std::uint8_t* at) const {
    std::array<std::uint8_t, sizeof(Stored)> bytes;
    std::copy_n(at, sizeof(Stored), bytes.begin());
    if (swapped_) std::reverse(bytes.begin(), bytes.end());
    return std::bit_cast<Stored>(bytes);
  }

  /// Calls f(place) for each item in row-major order, with its number in the file.
  template <class F>
  void each_place(const F& f) const {
    if (!header_.fortran_order) {
      for (std::size_t k = 0; k < count_; ++k) f(k);
      return;
    }
    const std::size_t rank = header_.extents.size();
    std::vector<std::size_t> index(rank, 0), stride(rank, 1);
    for (std::size_t a = 1; a < rank; ++a) stride[a] = stride[a - 1] * static_cast<std::size_t>(extents()[a - 1]);
    std::size_t place = 0;
    for (std::size_t k = 0; k < count_; ++k) {
      f(place);
      for (std::size_t a = rank; a-- > 0;) {
        place += stride[a];
        if (++index[a] < static_cast<std::size_t>(extents()[a])) break;
        place -= stride[a] * std::exchange(index[a], 0);
      }
    }
  }

  std::string name_;
  std::shared_ptr<const std::vector<std::uint8_t>> bytes_;
  detail::NpyHeader header_;
  char kind_ = 'f';
  bool swapped_ = false;
  std::size_t begin_ = 0, item_bytes_ = 0, count_ = 0;
};

/// Reads a .npy file, in the memory that the file takes. Throws Error where there is none, or it is damaged.
inline NpyArray read_npy(const std::filesystem::path& path) {
  detail::InputFile file(path, "npy");
  require(file.is_regular(), "npy", path.string(), ": expected a file, found a pipe, a socket or a device");
  std::vector<std::uint8_t> bytes(file.size());
  file.read(bytes.data(), bytes.size());
  return {std::move(bytes), path.string()};
}

/// Writes a tensor of any device, or a list of texts in UTF-8, as a .npy file, complete or not at all.
inline void write_npy(const std::filesystem::path& path, const std::vector<std::string>& texts) {
  const detail::NpyParts parts = detail::npy_parts(texts);
  AtomicFile file(path);
  file.write(parts.head);
  file.write(parts.data, parts.bytes);
  file.commit();
}
template <Scalar T, class Device>
void write_npy(const std::filesystem::path& path, const Tensor<T, Device>& tensor) {
  const detail::NpyParts parts = detail::npy_parts(to<Cpu>(tensor));
  AtomicFile file(path);
  file.write(parts.head);
  file.write(parts.data, parts.bytes);
  file.commit();
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
