#pragma once
#include "settle/core/macros_off.hpp"
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <streambuf>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/shape.hpp"
#include "settle/io/file_bytes.hpp"

namespace settle::inline v0_2 {

namespace detail {

/// A value as it is printed in a complaint: cut where it is long.
struct Shown {
  const nlohmann::json& value;

  friend std::ostream& operator<<(std::ostream& out, const Shown& shown) {
    const std::string text = shown.value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return text.size() > 60 ? out << std::string_view(text).substr(0, 57) << "..." : out << text;
  }
};

}  // namespace detail

/// An object of a JSON file, and where it stands there, for complaints: "file.json: images[3]".
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    expect(object.is_object(), "expected an object, found ", detail::Shown{object});
  }

  const nlohmann::json& object() const { return object_; }
  const std::string& where() const { return where_; }
  bool has(const char* name) const { return object_.contains(name); }

  /// The value of a field. Throws Error when there is none.
  const nlohmann::json& value(const char* name) const {
    const auto found = object_.find(name);
    expect(found != object_.end(), "expected a field '", name, "', found none");
    return *found;
  }

  /// A whole number of at least `least`.
  Index whole(const char* name, Index least = 0) const {
    const auto& number = value(name);
    constexpr double exact = 9007199254740992;  // as 1.0 or 1e3, which other languages write
    const bool whole = number.is_number_integer() ||
                       (number.is_number_float() && number.get<double>() <= exact && number.get<double>() >= -exact &&
                        number.get<double>() == static_cast<double>(number.get<Index>()));
    const bool fits = whole && !(number.is_number_unsigned() && number.get<std::uint64_t>() >> 63);
    expect(fits && number.get<Index>() >= least, "'", name, "': expected a whole number of at least ", least,
           ", found ", detail::Shown{number});
    return number.get<Index>();
  }

  /// 0 or 1, or true or false.
  bool flag(const char* name) const {
    const auto& it = value(name);
    const bool known = it.is_boolean() || it == 0 || it == 1;
    expect(known, "'", name, "': expected 0 or 1, found ", detail::Shown{it});
    return it.is_boolean() ? it.get<bool>() : it == 1;
  }

  double number(const char* name) const {
    expect(value(name).is_number(), "'", name, "': expected a number, found ", detail::Shown{value(name)});
    return value(name).get<double>();
  }

  std::string text(const char* name) const {
    expect(value(name).is_string(), "'", name, "': expected a text, found ", detail::Shown{value(name)});
    return value(name).get<std::string>();
  }

  /// A list of numbers.
  std::vector<double> numbers(const char* name) const { return numbers(value(name), name); }
  std::vector<double> numbers(const nlohmann::json& list, const char* name) const {
    expect(list.is_array(), "'", name, "': expected a list of numbers, found ", detail::Shown{list});
    std::vector<double> out;
    out.reserve(list.size());
    for (const auto& number : list) {
      expect(number.is_number(), "'", name, "': expected numbers, found ", detail::Shown{number});
      out.push_back(number.get<double>());
    }
    return out;
  }

  /// Throws Error, naming the place, unless the condition holds.
  template <class... Parts>
  void expect(bool condition, const Parts&... parts) const {
    require(condition, "read_json", where_, ": ", parts...);
  }

 private:
  const nlohmann::json& object_;
  std::string where_;
};

namespace detail {

/// A file as a stream that tells of it what is wrong.
class InputBuffer : public std::streambuf {
 public:
  InputBuffer(const std::filesystem::path& path, const char* where) : file_(path, where), bytes_(1 << 16) {}

 protected:
  int_type underflow() override {
    const std::size_t count = file_.read_some(bytes_.data(), bytes_.size());
    setg(bytes_.data(), bytes_.data(), bytes_.data() + count);
    return count == 0 ? traits_type::eof() : traits_type::to_int_type(bytes_[0]);
  }

 private:
  InputFile file_;
  std::vector<char> bytes_;
};

/// Follows the parser through a file that is one object, and puts together each element of the lists that are asked
/// for, hands it on and forgets it; all else is passed over. So a file may be much larger than the memory.
class JsonLists : public nlohmann::json_sax<nlohmann::json> {
 public:
  using Json = nlohmann::json;
  using Action = std::function<void(const JsonFields&)>;

  JsonLists(std::string file, const std::map<std::string, Action>& lists) : file_(std::move(file)), lists_(lists) {}

  const std::set<std::string>& found() const { return found_; }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      list_ = lists_.find(name);
      if (list_ != lists_.end()) refuse_unless(found_.insert(name).second, "'", name, "' is there twice");
      number_ = 0;
    } else if (!open_.empty()) {
      if (open_.back()->contains(name)) fail("read_json", file_, ": ", place(), ": '", name, "' is there twice");
      key_ = std::move(name);
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
    const std::string_view all = error.what();
    const std::size_t at = all.find("line ");
    fail("read_json", file_, ": no JSON: ", all.substr(at == std::string_view::npos ? 0 : at).substr(0, 300));
  }

 private:
  template <class... Parts>
  void refuse_unless(bool condition, const Parts&... parts) const {
    require(condition, "read_json", file_, ": ", parts...);
  }
  std::string place() const { return list_->first + "[" + std::to_string(number_) + "]"; }
  bool wanted() const { return depth_ >= 2 && list_ != lists_.end(); }

  template <class Value>
  bool put(Value&& value) {
    if (depth_ == 0) fail("read_json", file_, ": expected an object, found ", Shown{value});
    if (depth_ == 1 && list_ != lists_.end())
      fail("read_json", file_, ": expected a list as '", list_->first, "', found ", Shown{value});
    if (wanted()) place_value(std::forward<Value>(value));
    return true;
  }

  /// Puts a value where it belongs in the element, and returns it; an element that is no object is handed on at once.
  Json* place_value(Json value) {
    if (open_.empty()) {
      element_ = std::move(value);
      if (!element_.is_structured()) finish();
      return &element_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    return &(parent[key_] = std::move(value));
  }

  bool open(Json empty) {
    refuse_unless(depth_ > 0 || empty.is_object(), "expected an object, found a list");
    if (depth_ == 1 && list_ != lists_.end())
      refuse_unless(empty.is_array(), "expected a list as '", list_->first, "', found an object");
    refuse_unless(depth_ < 100, "expected at most 100 levels of lists and objects");
    if (wanted()) open_.push_back(place_value(std::move(empty)));
    ++depth_;
    return true;
  }
  bool close() {
    --depth_;
    if (wanted() && !open_.empty()) {
      open_.pop_back();
      if (open_.empty()) finish();
    }
    return true;
  }
  void finish() {
    list_->second(JsonFields(element_, file_ + ": " + place()));
    element_ = nullptr;
    ++number_;
  }

  std::string file_;
  const std::map<std::string, Action>& lists_;
  std::map<std::string, Action>::const_iterator list_ = lists_.end();
  std::set<std::string> found_;
  std::size_t depth_ = 0, number_ = 0;  ///< levels that are open; of the element in its list
  Json element_;
  std::vector<Json*> open_;  ///< what is open within the element; an element before another one does not move it
  std::string key_;
};

}  // namespace detail

/// Reads a JSON file that is an object of lists of objects: calls lists.at(name) with each element of the list `name`,
/// in the file's order, holding one element at a time; what else the file has is passed over. Returns the names of the
/// lists that were there. Throws Error naming the file when it cannot be read or is no JSON, with the byte, when a list
/// is something else or comes twice, or an element is no object or has a field twice.
inline std::set<std::string> read_json_lists(
    const std::filesystem::path& path, const std::map<std::string, std::function<void(const JsonFields&)>>& lists) {
  detail::InputBuffer buffer(path, "read_json");
  std::istream file(&buffer);
  detail::JsonLists handler(path.string(), lists);
  nlohmann::json::sax_parse(file, &handler);
  return handler.found();
}

}  // namespace settle
#include "settle/core/macros_on.hpp"
