#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"
#include "settle/core/tensor.hpp"
#include "settle/io/atomic_file.hpp"

namespace settle {

namespace detail {

static_assert(std::endian::native == std::endian::little, "safetensors files hold little-endian numbers");

/// The value of an IEEE half-precision number, given as its bits.
inline float from_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const float fraction = static_cast<float>(bits & 1023);
  float value;
  if (exponent == 31)
    value = fraction > 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  else if (exponent == 0)
    value = std::ldexp(fraction, -24);
  else
    value = std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -value : value;
}

/// The value of a bfloat16 number, given as its bits: the upper half of a float.
inline float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Calls f(Stored{}, to_number) for the type that a dtype's name stands for: how a number is stored, and the function
/// that makes a C++ number of it. Returns whether the name is known.
template <class F>
bool with_dtype(std::string_view name, const F& f) {
  const auto same = [](auto value) { return value; };
  if (name == "F64") return f(double{}, same), true;
  if (name == "F32") return f(float{}, same), true;
  if (name == "F16") return f(std::uint16_t{}, from_half), true;
  if (name == "BF16") return f(std::uint16_t{}, from_bfloat16), true;
  if (name == "I64") return f(std::int64_t{}, same), true;
  if (name == "I32") return f(std::int32_t{}, same), true;
  if (name == "I16") return f(std::int16_t{}, same), true;
  if (name == "I8") return f(std::int8_t{}, same), true;
  if (name == "U64") return f(std::uint64_t{}, same), true;
  if (name == "U32") return f(std::uint32_t{}, same), true;
  if (name == "U16") return f(std::uint16_t{}, same), true;
  if (name == "U8") return f(std::uint8_t{}, same), true;
  if (name == "BOOL") return f(std::uint8_t{}, [](std::uint8_t value) { return value != 0; }), true;
  return false;
}

/// The name in safetensors files of a C++ type.
template <class T>
constexpr const char* dtype_name() {
  if constexpr (std::same_as<T, double>) {
    return "F64";
  } else if constexpr (std::same_as<T, float>) {
    return "F32";
  } else if constexpr (std::same_as<T, std::int64_t>) {
    return "I64";
  } else if constexpr (std::same_as<T, std::int32_t>) {
    return "I32";
  } else {
    static_assert(std::same_as<T, std::uint8_t>, "expected double, float, int64, int32 or uint8");
    return "U8";
  }
}

}  // namespace detail

/// Named tensors and texts as read from a safetensors file, all of it checked.
class SafetensorsFile {
 public:
  std::map<std::string, std::string> metadata;
  std::vector<std::string> names;  ///< the tensors, in the order of their data in the file

  /// Where it was read, for complaints.
  const std::string& path() const { return path_; }

  bool has(const std::string& name) const { return entries_.contains(name); }

  /// A tensor's extents. Throws Error when the file has no such tensor.
  const Shape& shape(const std::string& name) const { return entry(name).shape; }

  /// A tensor's type in the format's spelling: F64, F32, F16, BF16, I64, ..., U8, BOOL.
  const std::string& dtype(const std::string& name) const { return entry(name).dtype; }

  /// A tensor of exactly the asked type (double, float, std::int64_t, std::int32_t or std::uint8_t).
  /// Throws Error when the file has no such tensor, or one of another type.
  template <class T>
  Tensor<T> get(const std::string& name) const {
    const Entry& found = entry(name);
    const char* expected = detail::dtype_name<T>();
    require(found.dtype == expected, "safetensors", path_, ": '", name, "': expected dtype ", expected, ", got ",
            found.dtype);
    Tensor<T> out(found.shape);
    if (out.size() > 0) std::memcpy(out.mutable_data(), data(found), static_cast<std::size_t>(out.size()) * sizeof(T));
    return out;
  }

  /// A tensor of any stored type, each number converted to the nearest T; true is 1.
  /// Throws Error when the file has no such tensor.
  template <Scalar T>
  Tensor<T> get_as(const std::string& name) const {
    const Entry& found = entry(name);
    Tensor<T> out(found.shape);
    const std::byte* bytes = data(found);
    T* number = out.mutable_data();
    detail::with_dtype(found.dtype, [&]<class Stored>(Stored stored, auto to_number) {
      for (Index i = 0; i < out.size(); ++i, bytes += sizeof stored) {
        std::memcpy(&stored, bytes, sizeof stored);
        number[i] = static_cast<T>(to_number(stored));
      }
    });
    return out;
  }

 private:
  friend SafetensorsFile read_safetensors(const std::filesystem::path& path);

  struct Entry {
    std::string dtype;
    Shape shape;
    std::uint64_t begin = 0, end = 0;  // in bytes, from the first byte after the header
  };

  const Entry& entry(const std::string& name) const {
    const auto found = entries_.find(name);
    require(found != entries_.end(), "safetensors", path_, ": expected a tensor '", name, "', found none among its ",
            names.size());
    return found->second;
  }

  const std::byte* data(const Entry& entry) const { return data_.data() + entry.begin; }

  std::string path_;
  std::map<std::string, Entry> entries_;
  std::vector<std::byte> data_;
};

namespace detail {

/// Checks one file's header, and names the file in every complaint.
class SafetensorsHeader {
 public:
  using Json = nlohmann::json;

  explicit SafetensorsHeader(std::string path) : path_(std::move(path)) {}

  template <class... Parts>
  void expect(bool condition, const Parts&... parts) const {
    require(condition, "safetensors", path_, ": ", parts...);
  }

  /// The header's JSON object. JSON itself lets a later key replace an earlier one; here a repeated key is an error.
  Json parse(const std::string& text) const {
    std::vector<std::set<std::string>> keys;
    const auto check = [&](int depth, Json::parse_event_t event, Json& value) {
      if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start)
        expect(depth < 3, "header: nested deeper than the format allows");
      if (event == Json::parse_event_t::object_start) keys.emplace_back();
      if (event == Json::parse_event_t::object_end) keys.pop_back();
      if (event == Json::parse_event_t::key) {
        const auto& key = value.get_ref<const std::string&>();
        expect(keys.back().insert(key).second, "'", key, "' occurs twice in the header");
      }
      return true;
    };
    try {
      Json header = Json::parse(text, check);
      expect(header.is_object(), "header: expected an object, got ", header.type_name());
      return header;
    } catch (const Json::exception& error) {
      fail("safetensors", path_, ": offset 8: expected a header in JSON, got ", error.what());
    }
  }

  /// The texts under "__metadata__".
  std::map<std::string, std::string> metadata(const Json& value) const {
    expect(value.is_object(), "'__metadata__': expected an object of strings, got ", value.type_name());
    std::map<std::string, std::string> out;
    for (const auto& [key, text] : value.items()) {
      expect(text.is_string(), "'__metadata__': '", key, "': expected a string, got ", text);
      out[key] = text.get<std::string>();
    }
    return out;
  }

  /// One tensor's dtype, shape and place, consistent with each other.
  template <class Entry>
  Entry entry(const std::string& name, const Json& value) const {
    expect(value.is_object(), "'", name, "': expected an object, got ", value);
    for (const auto& [key, unused] : value.items())
      expect(key == "dtype" || key == "shape" || key == "data_offsets", "'", name,
             "': expected dtype, shape and data_offsets, got '", key, "'");
    Entry out;
    const Json& dtype = field(name, value, "dtype");
    expect(dtype.is_string(), "'", name, "': dtype: expected a string, got ", dtype);
    out.dtype = dtype.get<std::string>();
    std::int64_t bytes = 0;
    const bool known = with_dtype(out.dtype, [&](auto stored, auto) { bytes = sizeof stored; });
    expect(known, "'", name, "': dtype: expected F64, F32, F16, BF16, an integer type or BOOL, got '", out.dtype, "'");

    const std::vector<std::uint64_t> extents = whole_numbers(name, value, "shape");
    expect(extents.size() <= static_cast<std::size_t>(Shape::max_rank), "'", name, "': shape: expected at most ",
           Shape::max_rank, " axes, got ", extents.size());
    for (std::uint64_t extent : extents) {
      const bool overflow = __builtin_mul_overflow(bytes, extent, &bytes);
      expect(!overflow && extent <= INT64_MAX, "'", name, "': shape: ", value.at("shape"),
             " has more bytes than 64 bits count");
      out.shape.append(static_cast<Index>(extent));
    }

    const std::vector<std::uint64_t> offsets = whole_numbers(name, value, "data_offsets");
    expect(offsets.size() == 2, "'", name, "': data_offsets: expected [begin, end], got ", offsets.size(), " numbers");
    out.begin = offsets[0];
    out.end = offsets[1];
    expect(out.begin <= out.end, "'", name, "': data_offsets: expected begin <= end, got [", out.begin, ", ", out.end,
           "]");
    expect(out.end - out.begin == static_cast<std::uint64_t>(bytes), "'", name, "': expected ", bytes, " bytes for ",
           out.dtype, " ", out.shape, ", data_offsets [", out.begin, ", ", out.end, "] span ", out.end - out.begin);
    return out;
  }

 private:
  const Json& field(const std::string& name, const Json& value, const char* key) const {
    expect(value.contains(key), "'", name, "': expected ", key, ", found none");
    return value.at(key);
  }

  std::vector<std::uint64_t> whole_numbers(const std::string& name, const Json& value, const char* key) const {
    const Json& list = field(name, value, key);
    expect(list.is_array(), "'", name, "': ", key, ": expected a list, got ", list);
    std::vector<std::uint64_t> out;
    for (const Json& number : list) {
      expect(number.is_number_unsigned(), "'", name, "': ", key, ": expected whole numbers >= 0, got ", number);
      out.push_back(number.get<std::uint64_t>());
    }
    return out;
  }

  std::string path_;
};

}  // namespace detail

/// Reads a safetensors file. Tensors must fill the data without gaps or overlaps, as the format demands.
/// Throws Error naming the file, the offset or key, what was expected and what was found, when anything is amiss.
/// Source: github.com/huggingface/safetensors, section "Format" of its README.
inline SafetensorsFile read_safetensors(const std::filesystem::path& path) {
  constexpr std::uint64_t largest_header = 100'000'000;
  const detail::SafetensorsHeader header(path.string());
  SafetensorsFile out;
  out.path_ = path.string();

  std::error_code error;
  header.expect(std::filesystem::is_regular_file(path, error), "expected a file, found ",
                std::filesystem::exists(path, error) ? "something else" : "none");
  std::ifstream file(path, std::ios::binary);
  header.expect(file.is_open(), "cannot be opened for reading");
  const std::uint64_t size = std::filesystem::file_size(path);

  header.expect(size >= 8, "expected the header's length in the first 8 bytes, the file has ", size);
  std::uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), 8);
  header.expect(length <= largest_header, "offset 0: expected a header of at most ", largest_header, " bytes, got ",
                length);
  header.expect(length <= size - 8, "offset 0: expected a header of ", length, " bytes, the file has ", size - 8,
                " after offset 8");
  std::string text(length, '\0');
  file.read(text.data(), static_cast<std::streamsize>(length));

  const auto json = header.parse(text);
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      out.metadata = header.metadata(value);
    } else {
      out.entries_[name] = header.entry<SafetensorsFile::Entry>(name, value);
      out.names.push_back(name);
    }
  }
  const auto place = [&](const std::string& name) {
    const auto& entry = out.entries_.at(name);
    return std::pair(entry.begin, entry.end);
  };
  std::stable_sort(out.names.begin(), out.names.end(),
                   [&](const auto& a, const auto& b) { return place(a) < place(b); });

  const std::uint64_t data_bytes = size - 8 - length;
  std::uint64_t filled = 0;
  for (const auto& name : out.names) {
    const auto [begin, end] = place(name);
    header.expect(begin == filled, "'", name, "': data_offsets: expected to begin at ", filled,
                  ", where the tensor before ends, got ", begin, begin < filled ? " (they overlap)" : " (a hole)");
    header.expect(end <= data_bytes, "'", name, "': data_offsets: end at ", end, ", the file has ", data_bytes,
                  " bytes of data (truncated?)");
    filled = end;
  }
  header.expect(filled == data_bytes, "expected ", filled, " bytes of data, found ", data_bytes);

  out.data_.resize(data_bytes);
  file.read(reinterpret_cast<char*>(out.data_.data()), static_cast<std::streamsize>(data_bytes));
  header.expect(file.good(), "cannot be read to its end");
  return out;
}

/// Collects named tensors and texts, and writes them as one safetensors file.
class SafetensorsWriter {
 public:
  std::map<std::string, std::string> metadata;

  /// Adds a tensor of any device. Throws Error when the name is taken, or is the reserved "__metadata__".
  template <Scalar T, class Device>
  void add(const std::string& name, const Tensor<T, Device>& tensor) {
    require(name != "__metadata__", "safetensors", "a tensor cannot be named '__metadata__'");
    for (const auto& [taken, unused] : tensors_)
      require(taken != name, "safetensors", "expected distinct names, got '", name, "' twice");
    tensors_.emplace_back(name, to<Cpu>(tensor));
  }

  /// Writes the file; it appears complete or not at all. The doubles come first, then the floats, each in the order
  /// they were added, so that every number is aligned to its size.
  void write(const std::filesystem::path& path) const {
    std::vector<const Named*> order;
    for (const auto& named : tensors_) order.push_back(&named);
    std::stable_sort(order.begin(), order.end(), [](auto a, auto b) { return a->second.index() < b->second.index(); });

    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!metadata.empty()) header["__metadata__"] = metadata;
    std::size_t begin = 0;
    for (const Named* named : order) {
      const auto [dtype, shape, bytes] = describe(named->second);
      header[named->first] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, begin + bytes.size()}}};
      begin += bytes.size();
    }
    const std::string text = dump(header, path);
    const std::uint64_t length = text.size();

    AtomicFile file(path);
    file.write(&length, sizeof length);
    file.write(text);
    for (const Named* named : order) {
      const auto bytes = describe(named->second).bytes;
      file.write(bytes.data(), bytes.size());
    }
    file.commit();
  }

 private:
  using Named = std::pair<std::string, std::variant<Tensor<double>, Tensor<float>>>;

  struct Description {
    const char* dtype;
    std::vector<Index> shape;
    std::span<const std::byte> bytes;
  };

  static Description describe(const std::variant<Tensor<double>, Tensor<float>>& tensor) {
    return std::visit(
        []<class T>(const Tensor<T>& t) {
          return Description{detail::dtype_name<T>(), {t.shape().begin(), t.shape().end()}, std::as_bytes(t.values())};
        },
        tensor);
  }

  /// The header's text, padded with spaces so that the data begins at a multiple of 8.
  static std::string dump(const nlohmann::ordered_json& header, const std::filesystem::path& path) {
    try {
      std::string text = header.dump();
      text.resize((text.size() + 7) / 8 * 8, ' ');
      return text;
    } catch (const nlohmann::json::exception& error) {
      fail("safetensors", path.string(), ": names and metadata must be UTF-8: ", error.what());
    }
  }

  std::vector<Named> tensors_;
};

/// Writes a list of (name, tensor) pairs, all float or all double, and metadata as one safetensors file, complete or
/// not at all. Throws Error on a repeated name, or when the file cannot be written.
template <class NamedTensors>
void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                       const std::map<std::string, std::string>& metadata = {}) {
  SafetensorsWriter writer;
  writer.metadata = metadata;
  for (const auto& [name, tensor] : tensors) writer.add(name, tensor);
  writer.write(path);
}

}  // namespace settle
