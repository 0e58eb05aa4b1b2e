#pragma once
#include "settle/core/macros_off.hpp"
#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/hash.hpp"
#include "settle/core/shape.hpp"
#include "settle/core/tensor.hpp"
#include "settle/io/atomic_file.hpp"
#include "settle/io/file_bytes.hpp"
#include "settle/io/small_floats.hpp"

namespace settle::inline v0_2 {

namespace detail {

static_assert(std::endian::native == std::endian::little, "safetensors files hold little-endian numbers");

/// Calls f(Stored{}, to_number) for the type that a dtype's name stands for: how a number is stored, and the function
/// that makes a C++ number of it. Returns whether the name is known.
template <class F>
bool with_dtype(std::string_view name, const F& f) {
  const auto same = [](auto value) { return value; };
  if (name == "F64") return f(double{}, same), true;
  if (name == "F32") return f(float{}, same), true;
  if (name == "F16") return f(std::uint16_t{}, from_half), true;
  if (name == "BF16") return f(std::uint16_t{}, from_bfloat16), true;
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const auto e5m2 = [](std::uint8_t b) { return from_half(static_cast<std::uint16_t>(b << 8)); };
  const auto e4m3 = [](std::uint8_t b) { return (b & 127) == 127 ? nan : from_small_float(b, 3, 7); };
  const auto e5m2fnuz = [](std::uint8_t b) { return b == 128 ? nan : from_small_float(b, 2, 16); };
  const auto e4m3fnuz = [](std::uint8_t b) { return b == 128 ? nan : from_small_float(b, 3, 8); };
  const auto e8m0 = [](std::uint8_t b) { return b == 255 ? nan : std::ldexp(1.f, b - 127); };
  if (name == "F8_E5M2") return f(std::uint8_t{}, e5m2), true;
  if (name == "F8_E4M3") return f(std::uint8_t{}, e4m3), true;
  if (name == "F8_E5M2FNUZ") return f(std::uint8_t{}, e5m2fnuz), true;
  if (name == "F8_E4M3FNUZ") return f(std::uint8_t{}, e4m3fnuz), true;
  if (name == "F8_E8M0") return f(std::uint8_t{}, e8m0), true;
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

/// The bits of one number of a dtype; 0 where the name is not known.
inline std::uint64_t dtype_bits(std::string_view name) {
  std::uint64_t bits = 0;
  if (with_dtype(name, [&](auto stored, auto) { bits = 8 * sizeof stored; })) return bits;
  if (name == "F4") return 4;
  if (name == "F6_E2M3" || name == "F6_E3M2") return 6;
  return name == "C64" ? 64 : 0;
}

/// The steps that make one text of another: characters added, dropped or changed. Of long texts, the ends count.
inline std::size_t edit_distance(std::string_view a, std::string_view b) {
  constexpr std::size_t most = 96;
  if (a.size() > most) a.remove_prefix(a.size() - most);
  if (b.size() > most) b.remove_prefix(b.size() - most);
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

/// A text that may be long, for a complaint.
inline std::string shortened(const std::string& text) {
  return text.size() <= 120 ? text : text.substr(0, 60) + "..." + text.substr(text.size() - 57);
}

/// A list for a complaint: its first parts, and how many more there are.
inline std::string listed(const std::vector<std::string>& parts, const char* separator) {
  constexpr std::size_t most = 8;
  std::string out;
  for (std::size_t i = 0; i < std::min(parts.size(), most); ++i) out += (i ? separator : "") + parts[i];
  if (parts.size() > most) out += separator + ("and " + std::to_string(parts.size() - most)) + " more";
  return out;
}

/// Extents as a Shape is printed: "(2, 3)".
inline std::string in_words(const std::vector<Index>& extents) {
  std::string out = "(";
  for (std::size_t i = 0; i < extents.size(); ++i) out += (i ? ", " : "") + std::to_string(extents[i]);
  return out + ")";
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

class ModuleLoader;

// A file's checksums, under "__metadata__": that of the header's text, in which its own digits count as 0, and those of
// the tensors that have bytes, in the order of these. Either is a sign that there must be both: no change of a bit
// hides them.
inline constexpr const char* header_checksum = "settle.checksum.header";
inline constexpr const char* tensor_checksums = "settle.checksum.tensors";

/// A hash as 16 digits.
inline std::string checksum(std::string_view text) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash(text)));
  return digits;
}

inline std::string checksum(std::span<const std::byte> bytes) {
  return checksum(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

/// Where the digits of the header's own checksum stand in its text; std::string::npos where they do not.
inline std::size_t header_checksum_place(const std::string& text) {
  const std::string key = '"' + std::string(header_checksum) + "\":\"";
  const std::size_t at = text.find(key);
  return at == std::string::npos || text.size() - at < key.size() + 16 ? std::string::npos : at + key.size();
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

  /// A tensor's extents. Throws Error when the file has no such tensor, or one of more axes than a Shape has.
  Shape shape(const std::string& name) const {
    Shape out;
    const auto& all = extents(name);
    require(all.size() <= static_cast<std::size_t>(Shape::max_rank), "safetensors", path_, ": '", name,
            "': expected at most ", Shape::max_rank, " axes, got ", all.size());
    for (const Index extent : all) out.append(extent);
    return out;
  }

  /// A tensor's extents, however many.
  const std::vector<Index>& extents(const std::string& name) const { return entry(name).extents; }

  /// A tensor's type in the format's spelling: F64, F32, F16, BF16, F8_E4M3, ..., I64, ..., U8, BOOL, C64.
  const std::string& dtype(const std::string& name) const { return entry(name).dtype; }

  /// A tensor in words, for lists and complaints: "'conv.weight' F32 (25, 25, 5, 5)".
  std::string description(const std::string& name) const {
    return "'" + detail::shortened(name) + "' " + detail::shortened(dtype(name)) + ' ' +
           detail::in_words(extents(name));
  }

  /// A tensor of exactly the asked type (double, float, std::int64_t, std::int32_t or std::uint8_t).
  /// Throws Error when the file has no such tensor, or one of another type.
  template <class T>
  Tensor<T> get(const std::string& name) const {
    const Entry& found = entry(name);
    const char* expected = detail::dtype_name<T>();
    require(found.dtype == expected, "safetensors", path_, ": '", name, "': expected dtype ", expected, ", got ",
            found.dtype);
    Tensor<T> out(shape(name));
    if (out.size() > 0) std::memcpy(out.mutable_data(), data(found), static_cast<std::size_t>(out.size()) * sizeof(T));
    return out;
  }

  /// Whether get_as knows the tensor's type. Throws Error when the file has no such tensor.
  bool converts(const std::string& name) const {
    return detail::with_dtype(dtype(name), [](auto, auto) {});
  }

  /// A tensor of any real stored type of whole bytes, each number converted to the nearest T; true is 1.
  /// Throws Error when the file has no such tensor, or one of another type.
  template <Scalar T>
  Tensor<T> get_as(const std::string& name) const {
    const Entry& found = entry(name);
    require(converts(name), "safetensors", path_, ": ", description(name), ": this type is not one to compute with");
    Tensor<T> out(shape(name));
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
  friend class detail::ModuleLoader;

  struct Entry {
    std::string dtype;
    std::vector<Index> extents;
    std::uint64_t begin = 0, end = 0;  // in bytes, from the first byte after the header
  };

  const Entry& entry(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) fail("safetensors", path_, ": ", absent(name));
    return found->second;
  }

  /// The complaint about a name that the file does not have: it lists what there is, the most alike first.
  std::string absent(const std::string& name) const {
    std::vector<std::pair<std::size_t, std::string>> similar;
    for (const std::string& key : names) similar.emplace_back(detail::edit_distance(name, key), key);
    std::stable_sort(similar.begin(), similar.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<std::string> there;
    for (const auto& [distance, key] : similar) there.push_back(there.size() < 8 ? description(key) : "");
    return "expected a tensor '" + detail::shortened(name) + "', found none among its " + std::to_string(names.size()) +
           (names.empty() ? "" : ": ") + detail::listed(there, ", ");
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
        expect(depth < 16, "header: nested deeper than the format allows");
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
    std::map<std::string, std::string> out;
    if (value.is_null()) return out;
    expect(value.is_object(), "'__metadata__': expected an object of strings, got ", value.type_name());
    for (const auto& [key, text] : value.items()) {
      expect(text.is_string(), "'__metadata__': '", key, "': expected a string, got ", text);
      out[key] = text.get<std::string>();
    }
    return out;
  }

  /// Takes the checksums out of the metadata, where there are any: returns those of the tensors.
  /// Throws Error when the header's is not that of its text.
  std::optional<std::string> take_checksums(std::string text, std::map<std::string, std::string>& metadata) const {
    const auto own = metadata.extract(header_checksum), tensors = metadata.extract(tensor_checksums);
    if (own.empty() && tensors.empty()) return {};
    const std::size_t place = header_checksum_place(text);
    expect(!own.empty() && !tensors.empty() && place != std::string::npos,
           "header: expected the checksums of the header and of the tensors, found one of them: the file is damaged");
    text.replace(place, 16, 16, '0');
    expect(own.mapped() == checksum(text), "header: expected a text with the checksum ", own.mapped(), ", found ",
           checksum(text), ": the file is damaged, or a program changed it that does not know these checksums");
    return tensors.mapped();
  }

  /// One tensor's dtype, shape and place, consistent with each other. What else is said of it is passed over.
  template <class Entry>
  Entry entry(const std::string& name, const Json& value) const {
    expect(value.is_object(), "'", name, "': expected an object, got ", value);
    Entry out;
    const Json& dtype = field(name, value, "dtype");
    expect(dtype.is_string(), "'", name, "': dtype: expected a string, got ", dtype);
    out.dtype = dtype.get<std::string>();

    const std::uint64_t bits_each = dtype_bits(out.dtype);
    std::uint64_t numbers = 1, bits = 0;
    for (std::uint64_t extent : whole_numbers(name, value, "shape")) {
      const bool overflow = __builtin_mul_overflow(numbers, extent, &numbers) ||
                            __builtin_mul_overflow(numbers, std::max<std::uint64_t>(bits_each, 8), &bits);
      expect(!overflow && extent <= INT64_MAX && bits / 8 <= INT64_MAX, "'", name, "': shape: ", value.at("shape"),
             " has more bytes than 64 bits count");
      out.extents.push_back(static_cast<Index>(extent));
    }
    bits = numbers * bits_each;

    const std::vector<std::uint64_t> offsets = whole_numbers(name, value, "data_offsets");
    expect(offsets.size() == 2, "'", name, "': data_offsets: expected [begin, end], got ", offsets.size(), " numbers");
    out.begin = offsets[0];
    out.end = offsets[1];
    expect(out.begin <= out.end, "'", name, "': data_offsets: expected begin <= end, got [", out.begin, ", ", out.end,
           "]");
    if (bits_each == 0) return out;  // a type of a later version: what its numbers take is not known
    expect(bits % 8 == 0, "'", name, "': expected whole bytes for ", out.dtype, ' ', value.at("shape"), ", got ", bits,
           " bits");
    expect(out.end - out.begin == bits / 8, "'", name, "': expected ", bits / 8, " bytes for ", out.dtype, ' ',
           in_words(out.extents), ", data_offsets [", out.begin, ", ", out.end, "] span ", out.end - out.begin);
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
  detail::InputFile file(path, "safetensors");
  const std::uint64_t size = file.size();

  header.expect(size >= 8, "expected the header's length in the first 8 bytes, the file has ", size);
  std::uint64_t length = 0;
  file.read(&length, 8);
  header.expect(length <= largest_header, "offset 0: expected a header of at most ", largest_header, " bytes, got ",
                length);
  header.expect(length <= size - 8, "offset 0: expected a header of ", length, " bytes, the file has ", size - 8,
                " after offset 8");
  std::string text(length, '\0');
  file.read(text.data(), length);

  const auto json = header.parse(text);
  if (json.contains("__metadata__")) out.metadata = header.metadata(json.at("__metadata__"));
  const auto checksums = header.take_checksums(text, out.metadata);
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") continue;
    out.entries_[name] = header.entry<SafetensorsFile::Entry>(name, value);
    out.names.push_back(name);
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
  file.read(out.data_.data(), data_bytes);
  if (!checksums) return out;
  std::istringstream expected(*checksums);
  std::string digits;
  for (const auto& name : out.names) {
    const auto [begin, end] = place(name);
    if (begin == end) continue;
    const std::string found = detail::checksum(std::span(out.data_).subspan(begin, end - begin));
    expected >> digits;
    header.expect(found == digits, out.description(name), ": expected numbers with the checksum ", digits, ", found ",
                  found, ": the file is damaged");
  }
  return out;
}

/// Collects named tensors and texts, and writes them as one safetensors file.
class SafetensorsWriter {
 public:
  std::map<std::string, std::string> metadata;
  bool checksums = true;  ///< whether the file carries them, as metadata that other readers pass over

  /// Adds a tensor of any device. Throws Error when the name is taken, or is the reserved "__metadata__".
  template <Scalar T, class Device>
  void add(const std::string& name, const Tensor<T, Device>& tensor) {
    require(name != "__metadata__", "safetensors", "a tensor cannot be named '__metadata__'");
    for (const auto& [taken, unused] : tensors_)
      require(taken != name, "safetensors", "expected distinct names, got '", name, "' twice");
    tensors_.emplace_back(name, to<Cpu>(tensor));
  }

  /// Writes the file; it appears complete or not at all. The doubles come first, then the floats, each in the order
  /// they were added, so that every number is aligned to its size. With checksums, read_safetensors notices a change of
  /// any bit. Throws Error when the file cannot be written, and for metadata that is not UTF-8 or named as checksums.
  void write(const std::filesystem::path& path) const {
    std::vector<const Named*> order;
    for (const auto& named : tensors_) order.push_back(&named);
    std::stable_sort(order.begin(), order.end(), [](auto a, auto b) { return a->second.index() < b->second.index(); });

    for (const char* reserved : {detail::header_checksum, detail::tensor_checksums})
      require(!metadata.contains(reserved), "safetensors", path.string(), ": '", reserved,
              "' is not free for metadata");
    auto texts = metadata;
    if (checksums) {
      std::string all;
      for (const Named* named : order)
        if (const auto bytes = describe(named->second).bytes; !bytes.empty())
          all += (all.empty() ? "" : " ") + detail::checksum(bytes);
      texts[detail::header_checksum] = std::string(16, '0');
      texts[detail::tensor_checksums] = all;
    }
    nlohmann::ordered_json header = nlohmann::ordered_json::object();
    if (!texts.empty()) header["__metadata__"] = texts;
    std::size_t begin = 0;
    for (const Named* named : order) {
      const auto [dtype, shape, bytes] = describe(named->second);
      header[named->first] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, begin + bytes.size()}}};
      begin += bytes.size();
    }
    std::string text = dump(header, path);
    if (checksums) text.replace(detail::header_checksum_place(text), 16, detail::checksum(text));
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
#include "settle/core/macros_on.hpp"
