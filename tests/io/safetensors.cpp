#include "errors.hpp"
#include "files.hpp"
#include "settle/io/modules.hpp"
#include "temporary_folder.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

using namespace settle;
namespace fs = std::filesystem;

namespace {

const fs::path data_folder = SETTLE_DATA_DIR;

std::string little_endian(std::uint64_t number) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(number >> (8 * i));
  return out;
}

/// A file with this header and as many bytes of data.
std::string with_header(const std::string& header, std::size_t data_bytes) {
  return little_endian(header.size()) + header + std::string(data_bytes, '\1');
}

/// A module with a value that is saved and not trained.
struct Normed {
  Var<float> weight, mean;
  void parameters(auto&& visit) { visit("weight", weight); }
  void buffers(auto&& visit) { visit("mean", mean); }

  static Normed of(float weight, float mean) { return {Tensor<float>(Shape{2}, weight), Tensor<float>(Shape{}, mean)}; }
};

template <class T>
std::vector<T> list(const Tensor<T>& tensor) {
  return {tensor.values().begin(), tensor.values().end()};
}

}  // namespace

TEST_CASE("a file of the Python package is read in every dtype") {
  const SafetensorsFile file = read_safetensors(data_folder / "fixtures" / "every_dtype.safetensors");
  CHECK(file.metadata == std::map<std::string, std::string>{{"made by", "safetensors 0.4.5"},
                                                            {"text", "na\xc3\xafve \"quoted\"\nline"}});
  CHECK(file.names == std::vector<std::string>{"U64", "I64", "F64", "scalar", "F32", "empty", "U32", "I32", "BF16",
                                               "F16", "U16", "I16", "I8", "U8", "BOOL"});

  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<std::string, std::vector<double>>> expected{
      {"F64", {0.1, -2.5, 1e300}},
      {"F32", {static_cast<double>(0.1f), -2.5, static_cast<double>(1e30f)}},
      {"F16", {1, -2.5, std::ldexp(1, -24), 65504, -infinity, -std::ldexp(1, -14)}},
      {"BF16", {1, -2.5, infinity}},
      {"I64", {1, -2, 1099511627776}},
      {"I32", {1, -2, 1073741824}},
      {"I16", {1, -2, 16384}},
      {"I8", {1, -2, 127}},
      {"U64", {1, 2, 1099511627776}},
      {"U32", {1, 2, 2147483648}},
      {"U16", {1, 2, 32768}},
      {"U8", {1, 2, 255}},
      {"BOOL", {1, 0, 1}},
  };
  for (const auto& entry : expected) {
    const auto& name = entry.first;
    const auto& values = entry.second;
    CAPTURE(file.dtype(name));
    REQUIRE(file.has(name));
    CHECK(file.dtype(name) == name);
    CHECK(file.shape(name) == Shape{static_cast<Index>(values.size())});
    CHECK(list(file.get_as<double>(name)) == values);
    std::vector<float> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), [](double v) { return static_cast<float>(v); });
    CHECK(list(file.get_as<float>(name)) == rounded);
  }
  CHECK(file.shape("scalar") == Shape{});
  CHECK(file.get<double>("scalar").item() == 7);
  CHECK(file.shape("empty") == Shape{0, 4});
  CHECK(file.get<float>("empty").size() == 0);
  CHECK(file.get_as<double>("empty").size() == 0);

  CHECK(list(file.get<float>("F32")) == std::vector<float>{0.1f, -2.5f, 1e30f});
  CHECK(list(file.get<std::int64_t>("I64")) == std::vector<std::int64_t>{1, -2, std::int64_t{1} << 40});
  CHECK(list(file.get<std::int32_t>("I32")) == std::vector<std::int32_t>{1, -2, 1 << 30});
  CHECK(list(file.get<std::uint8_t>("U8")) == std::vector<std::uint8_t>{1, 2, 255});
}

TEST_CASE("half-precision bits become the numbers they stand for") {
  CHECK(detail::from_half(0x3555) == 0.333251953125f);
  CHECK(detail::from_half(0x03FF) == std::ldexp(1023.f, -24));
  CHECK(std::signbit(detail::from_half(0x8000)));
  CHECK(detail::from_half(0x8000) == 0);
  CHECK(std::isnan(detail::from_half(0x7E00)));
  CHECK(std::isnan(detail::from_bfloat16(0x7FC0)));
}

TEST_CASE("an absent tensor and a wrong type are named") {
  const SafetensorsFile file = read_safetensors(data_folder / "fixtures" / "every_dtype.safetensors");
  CHECK_FALSE(file.has("weight"));
  const std::string absent = error_of([&] { file.get<float>("weight"); });
  CHECK(absent.find("expected a tensor 'weight'") != std::string::npos);
  CHECK(absent.find("every_dtype.safetensors") != std::string::npos);
  CHECK(error_of([&] { file.get<float>("F64"); }).find("'F64': expected dtype F32, got F64") != std::string::npos);
  CHECK(error_of([&] { file.get<std::uint8_t>("BOOL"); }).find("expected dtype U8, got BOOL") != std::string::npos);
  CHECK_THROWS_AS(file.shape("weight"), Error);
  CHECK_THROWS_AS(file.get_as<double>("weight"), Error);
}

TEST_CASE("the writer's bytes equal the Python package's") {
  const TemporaryFolder folder;
  SafetensorsWriter writer;
  writer.checksums = false;
  writer.metadata["model"] = "hgru";
  writer.add("conv.bias", Tensor<float>({3}, {0.5f, -1.5f, 3.f}));
  writer.add("norm.weight", Tensor<float>(Shape{0, 2}));
  writer.add("conv.weight", Tensor<double>({1, 2, 3, 1}, {0, 0.125, 0.25, 0.375, 0.5, 0.625}));
  writer.add("step", Tensor<double>({}, 12.0));
  writer.write(folder.path() / "ours.safetensors");
  CHECK(bytes_of(folder.path() / "ours.safetensors") ==
        bytes_of(data_folder / "fixtures" / "float_and_double.safetensors"));
}

TEST_CASE_TEMPLATE("what is written is read back", T, float, double) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "tensors.safetensors";
  Random random(3);
  const std::map<std::string, Tensor<T>> tensors{{"a", normal<T>({2, 3, 5}, 0, 1, random)},
                                                 {"b \"quoted\" \xc3\xa9", normal<T>({7}, 0, 1, random)},
                                                 {"scalar", Tensor<T>({}, T(0.1))},
                                                 {"empty", Tensor<T>({3, 0})}};
  const std::map<std::string, std::string> metadata{{"seed", "3"}, {"note", "two\nlines"}};
  write_safetensors(path, tensors, metadata);
  write_safetensors(path, tensors, metadata);  // over itself
  CHECK(folder.files() == 1);
  const SafetensorsFile file = read_safetensors(path);
  CHECK(file.metadata == metadata);
  CHECK(file.names.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    CHECK(file.shape(name) == tensor.shape());
    CHECK(list(file.get<T>(name)) == list(tensor));
  }

  write_safetensors(path, std::map<std::string, Tensor<T>>{});
  CHECK(read_safetensors(path).names.empty());
}

TEST_CASE("a write that fails leaves what was there, and nothing else") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "tensors.safetensors";
  write_bytes(path, "before");
  SafetensorsWriter writer;
  writer.add("a", Tensor<float>({2}, 1.f));
  CHECK_THROWS_AS(writer.add("a", Tensor<double>({2}, 1.0)), Error);
  CHECK_THROWS_AS(writer.add("__metadata__", Tensor<float>({2}, 1.f)), Error);
  writer.metadata["text"] = "\xff not UTF-8";
  CHECK(error_of([&] { writer.write(path); }).find("must be UTF-8") != std::string::npos);
  writer.metadata.clear();
  CHECK_THROWS_AS(writer.write(folder.path() / "absent" / "tensors.safetensors"), Error);
  CHECK_THROWS_AS(writer.write(folder.path()), Error);
  {
    AtomicFile abandoned(path);
    abandoned.write("half");
  }
  CHECK(bytes_of(path) == "before");
  CHECK(folder.files() == 1);
  writer.write(path);
  CHECK(read_safetensors(path).has("a"));
}

TEST_CASE("every malformed file is refused with the reason") {
  struct Case {
    const char* what;
    std::string bytes;
    const char* reason;
  };
  const std::string f32 = R"("dtype":"F32")";
  const auto one = [&](const std::string& fields, std::size_t data_bytes = 8) {
    return with_header(R"({"a":{)" + fields + "}}", data_bytes);
  };
  const auto two = [&](const std::string& first, const std::string& second, std::size_t data_bytes) {
    return with_header(R"({"a":{)" + f32 + R"(,"shape":[2],"data_offsets":)" + first + R"(},"b":{)" + f32 +
                           R"(,"shape":[2],"data_offsets":)" + second + "}}",
                       data_bytes);
  };
  const std::string good = f32 + R"(,"shape":[2],"data_offsets":[0,8])";
  const std::vector<Case> cases{
      {"empty", "", "expected the header's length in the first 8 bytes, the file has 0"},
      {"seven bytes", std::string(7, '\0'), "first 8 bytes, the file has 7"},
      {"header longer than the file", little_endian(100) + "{}", "expected a header of 100 bytes, the file has 2"},
      {"header over 100 MB", little_endian(100'000'001) + "{}", "at most 100000000 bytes, got 100000001"},
      {"header of 2^64 - 1", little_endian(~std::uint64_t{0}) + "{}", "got 18446744073709551615"},
      {"no header", little_endian(0), "expected a header in JSON"},
      {"not JSON", with_header("{\"a\":", 0), "expected a header in JSON"},
      {"not UTF-8", with_header("{\"\xff\":1}", 0), "expected a header in JSON"},
      {"text after the JSON", with_header("{}{}", 0), "expected a header in JSON"},
      {"number beyond doubles", with_header("{\"a\":1e999}", 0), "expected a header in JSON"},
      {"a list", with_header("[]", 0), "header: expected an object, got array"},
      {"deep nesting", with_header(std::string(100000, '['), 0), "nested deeper than the format allows"},
      {"tensor not an object", with_header(R"({"a":3})", 0), "'a': expected an object, got 3"},
      {"metadata not an object", with_header(R"({"__metadata__":[]})", 0), "'__metadata__': expected an object"},
      {"metadata not text", with_header(R"({"__metadata__":{"k":1}})", 0), "'k': expected a string, got 1"},
      {"repeated tensor", with_header("{\"a\":{" + good + "},\"a\":{" + good + "}}", 8), "'a' occurs twice"},
      {"repeated field", one(good + R"(,"dtype":"F32")"), "'dtype' occurs twice"},
      {"repeated metadata", with_header(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "'k' occurs twice"},
      {"no dtype", one(R"("shape":[2],"data_offsets":[0,8])"), "'a': expected dtype, found none"},
      {"no shape", one(f32 + R"(,"data_offsets":[0,8])"), "'a': expected shape, found none"},
      {"no offsets", one(f32 + R"(,"shape":[2])"), "'a': expected data_offsets, found none"},
      {"dtype not text", one(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), "dtype: expected a string, got 32"},
      {"shape not a list", one(f32 + R"(,"shape":2,"data_offsets":[0,8])"), "shape: expected a list, got 2"},
      {"negative extent", one(f32 + R"(,"shape":[-2],"data_offsets":[0,8])"), "whole numbers >= 0, got -2"},
      {"fractional extent", one(f32 + R"(,"shape":[2.0],"data_offsets":[0,8])"), "whole numbers >= 0, got 2.0"},
      {"extent of 2^64", one(f32 + R"(,"shape":[18446744073709551616],"data_offsets":[0,8])"), "whole numbers >= 0"},
      {"half a byte", one(R"("dtype":"F4","shape":[15],"data_offsets":[0,8])"), "expected whole bytes for F4 [15]"},
      {"wrong size of F4", one(R"("dtype":"F4","shape":[8],"data_offsets":[0,8])"), "expected 4 bytes for F4 (8)"},
      {"wrong size of F6", one(R"("dtype":"F6_E2M3","shape":[8],"data_offsets":[0,8])"),
       "expected 6 bytes for F6_E2M3"},
      {"wrong size of F8", one(R"("dtype":"F8_E4M3","shape":[7],"data_offsets":[0,8])"),
       "expected 7 bytes for F8_E4M3"},
      {"wrong size of C64", one(R"("dtype":"C64","shape":[2],"data_offsets":[0,8])"), "expected 16 bytes for C64 (2)"},
      {"bits beyond 64", one(R"("dtype":"C64","shape":[4611686018427387904],"data_offsets":[0,0])"), "more bytes than"},
      {"overflow of a later type", one(R"("dtype":"F3","shape":[4294967296,4294967296],"data_offsets":[0,8])"),
       "more bytes than"},
      {"overflowing shape", one(f32 + R"(,"shape":[4294967296,4294967296],"data_offsets":[0,0])"), "more bytes than"},
      {"overflow hidden by a zero", one(f32 + R"(,"shape":[0,18446744073709551615],"data_offsets":[0,0])", 0),
       "more bytes than"},
      {"one offset", one(f32 + R"(,"shape":[2],"data_offsets":[8])"), "expected [begin, end], got 1 numbers"},
      {"negative offset", one(f32 + R"(,"shape":[2],"data_offsets":[-8,0])"), "data_offsets: expected whole numbers"},
      {"offsets reversed", one(f32 + R"(,"shape":[2],"data_offsets":[8,0])"), "expected begin <= end, got [8, 0]"},
      {"span too short", one(f32 + R"(,"shape":[3],"data_offsets":[0,8])"), "expected 12 bytes for F32 (3)"},
      {"span too long", one(f32 + R"(,"shape":[1],"data_offsets":[0,8])"), "expected 4 bytes for F32 (1)"},
      {"one byte cut off", one(good, 7), "end at 8, the file has 7 bytes of data (truncated?)"},
      {"no data", one(good, 0), "end at 8, the file has 0 bytes"},
      {"one byte too many", one(good, 9), "expected 8 bytes of data, found 9"},
      {"hole before the first", one(f32 + R"(,"shape":[2],"data_offsets":[8,16])", 16), "begin at 0"},
      {"hole between", two("[0,8]", "[12,20]", 20), "'b': data_offsets: expected to begin at 8"},
      {"overlap", two("[0,8]", "[4,12]", 12), "got 4 (they overlap)"},
      {"same place twice", two("[0,8]", "[0,8]", 8), "'b': data_offsets: expected to begin at 8"},
      {"beyond the file", two("[0,8]", "[8,16]", 8), "'b': data_offsets: end at 16, the file has 8"},
  };
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "malformed.safetensors";
  for (const Case& c : cases) {
    CAPTURE(c.what);
    write_bytes(path, c.bytes);
    const std::string text = error_of([&] { read_safetensors(path); });
    INFO(text);
    CHECK(text.find(c.reason) != std::string::npos);
    CHECK(text.find("malformed.safetensors") != std::string::npos);
  }
  CHECK(error_of([&] { read_safetensors(folder.path() / "absent"); }).find("expected a file, found none") !=
        std::string::npos);
  CHECK(error_of([&] { read_safetensors(folder.path()); }).find("expected a file") != std::string::npos);

  write_bytes(path, one(good));  // the cases' starting point is itself accepted
  CHECK(read_safetensors(path).shape("a") == Shape{2});
}

TEST_CASE("a tensor that the library cannot compute with leaves the others readable") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  const struct {
    const char *fields, *description, *complaint;
    std::size_t bytes;
  } odd[] = {
      {R"("dtype":"F8","shape":[8])", "'odd' F8 (8)", "'odd' F8 (8): this type is not one to compute with", 8},
      {R"("dtype":"C64","shape":[1])", "'odd' C64 (1)", "'odd' C64 (1): this type is not one to compute with", 8},
      {R"("dtype":"F4","shape":[2,8])", "'odd' F4 (2, 8)", "this type is not one to compute with", 8},
      {R"("dtype":"F6_E3M2","shape":[4])", "'odd' F6_E3M2 (4)", "this type is not one to compute with", 3},
      {R"("dtype":"Q4_0","shape":[3,5])", "'odd' Q4_0 (3, 5)", "this type is not one to compute with", 1},
      {R"("dtype":"C128","shape":[])", "'odd' C128 ()", "this type is not one to compute with", 16},
      {R"("dtype":"F32","shape":[1,1,1,1,1,1,2])", "'odd' F32 (1, 1, 1, 1, 1, 1, 2)", "expected at most 6 axes, got 7",
       8},
      {R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,0])", "'odd' U8 (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0)",
       "expected at most 6 axes, got 12", 0},
  };
  for (const auto& o : odd) {
    CAPTURE(o.fields);
    const std::string end = std::to_string(8 + o.bytes);
    write_bytes(path, with_header(R"({"good":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"odd":{)" +
                                      std::string(o.fields) + R"(,"data_offsets":[8,)" + end + "]}}",
                                  8 + o.bytes));
    const SafetensorsFile file = read_safetensors(path);
    CHECK(file.names == std::vector<std::string>{"good", "odd"});
    CHECK(file.get<float>("good").shape() == Shape{2});
    CHECK(file.description("odd") == o.description);
    CHECK(contains(error_of([&] { file.get_as<float>("odd"); }), o.complaint));
    CHECK(contains(error_of([&] { file.get_as<double>("odd"); }), path.string()));
    CHECK_THROWS_AS(file.get<double>("odd"), Error);
  }
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  for (const std::string& header :
       {R"({"__metadata__":null,"a":{)" + good + "}}", R"({"a":{)" + good + R"(,"strides":[1],"quantised":null}})",
        R"({"a":{"scales":{"axis":0,"values":[[1.5,2],[3]]},)" + good + "}}"}) {
    write_bytes(path, with_header(header, 8));
    CHECK(read_safetensors(path).get<float>("a").size() == 2);
    CHECK(read_safetensors(path).metadata.empty());
  }
}

TEST_CASE("8-bit floats are what PyTorch makes of them, code by code") {
  const SafetensorsFile file = read_safetensors(data_folder / "fixtures" / "float8.safetensors");
  for (const std::string name : {"F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0"}) {
    CAPTURE(name);
    const Tensor<float> ours = file.get_as<float>(name), theirs = file.get<float>(name + " as F32");
    REQUIRE(ours.shape() == Shape{256});
    for (std::size_t code = 0; code < 256; ++code) {
      const float a = ours.values()[code], b = theirs.values()[code];
      CHECK((std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b)));
    }
  }
  CHECK(file.description("C64") == "'C64' C64 (2)");
  CHECK(file.description("F4") == "'F4' F4 (6)");
  CHECK(file.extents("seven axes") == std::vector<Index>{1, 2, 1, 3, 1, 1, 1});
}

TEST_CASE("a missing tensor's message lists what is there, the most alike first, and stays short") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  SafetensorsWriter writer;
  writer.add("readout.norm.scale", Tensor<float>(Shape{3}, 1.f));
  writer.add("unit1.w_gate_inh", Tensor<double>(Shape{2, 5}, 1.0));
  writer.add("unit1.w_gate_exc", Tensor<float>(Shape{}, 1.f));
  writer.write(path);
  CHECK(contains(error_of([&] { read_safetensors(path).shape("w_gate_inh"); }),
                 "expected a tensor 'w_gate_inh', found none among its 3: 'unit1.w_gate_inh' F64 (2, 5), "
                 "'unit1.w_gate_exc' F32 (), 'readout.norm.scale' F32 (3)"));
  for (int i = 0; i < 500; ++i) writer.add(std::string(3000, 'x') + std::to_string(i), Tensor<float>(Shape{}, 1.f));
  writer.write(path);
  const std::string text = error_of([&] { read_safetensors(path).shape("unit1.w_gate"); });
  CHECK(contains(text, "none among its 503: 'unit1.w_gate_"));
  CHECK(contains(text, "and 495 more"));
  CHECK(text.size() < 1500);
  CHECK(error_of([&] { read_safetensors(path).shape(std::string(100000, 'y')); }).size() < 2000);
  writer = {};
  writer.write(path);
  CHECK(
      contains(error_of([&] { read_safetensors(path).shape("a"); }), "expected a tensor 'a', found none among its 0"));
}

TEST_CASE("a real file cut anywhere is refused") {
  const std::string whole = bytes_of(data_folder / "fixtures" / "float_and_double.safetensors");
  const TemporaryFolder folder;
  for (std::size_t length = 0; length < whole.size(); ++length) {
    write_bytes(folder.path() / "cut", whole.substr(0, length));
    CHECK_THROWS_AS(read_safetensors(folder.path() / "cut"), Error);
  }
}

TEST_CASE("the parity cases are read, and their objective adds up") {
  int files = 0;
  for (const auto& item : fs::directory_iterator(data_folder / "parity")) {
    if (item.path().extension() != ".safetensors") continue;
    CAPTURE(item.path());
    ++files;
    const SafetensorsFile file = read_safetensors(item.path());
    const auto number = [&](const char* key) { return std::stod(file.metadata.at(key)); };
    const Index batch = std::stoll(file.metadata.at("batch")), size = std::stoll(file.metadata.at("size"));
    CHECK(file.shape("input") == Shape{batch, 1, size, size});
    CHECK(file.get_as<double>("target").shape() == Shape{batch, size, size});
    CHECK(file.get<double>("logits").shape() == Shape{batch, 2, size, size});
    for (const std::string& name : file.names) {
      if (!name.starts_with("grad.")) continue;
      CHECK(file.shape(name) == file.shape("param." + name.substr(5)));
      const Tensor<double> gradient = file.get<double>(name);
      for (double value : gradient.values()) REQUIRE(std::isfinite(value));
    }
    double total = file.get<double>("loss").item();
    if (file.metadata.at("penalty") == "1") total += number("penalty_weight") * file.get<double>("penalty").item();
    CHECK(file.get<double>("total").item() == doctest::Approx(number("loss_scale") * total).epsilon(1e-12));
  }
  CHECK(files == 8);
}

TEST_CASE("a module is saved with its buffers, and loaded whole or not at all") {
  const TemporaryFolder folder;
  SafetensorsWriter writer;
  add_module(writer, "net.", Normed::of(1.5f, 2.5f));
  add_tensors(writer, "adam.", NamedTensors<double>{{"steps", Tensor<double>(Shape{}, 7.0)}});
  writer.write(folder.path() / "file");
  const SafetensorsFile file = read_safetensors(folder.path() / "file");

  Normed loaded = Normed::of(0, 0);
  load_module(file, "net.", loaded);
  CHECK(loaded.weight.value().data()[1] == 1.5f);
  CHECK(loaded.mean.item() == 2.5f);
  const auto tensors = load_tensors<float>(file, "adam.");
  REQUIRE(tensors.size() == 1);
  CHECK(tensors[0].first == "steps");
  CHECK(tensors[0].second.item() == 7.f);

  Normed other = Normed::of(0, 0);
  CHECK(
      contains(error_of([&] { load_parameters(file, "net.", other); }), "'net.mean' is not a parameter of this model"));
  CHECK(contains(error_of([&] { load_module(file, "", other); }), "expected a tensor 'weight', found none"));
  other.mean = Tensor<float>(Shape{3}, 0.f);
  CHECK(contains(error_of([&] { load_module(file, "net.", other); }), "'net.mean': expected shape (3), got ()"));
  CHECK(other.weight.value().data()[0] == 0);
}

namespace {

/// A module of one parameter, whose name is the prefix.
struct Single {
  Var<float> value;
  void parameters(auto&& visit) { visit("", value); }
};

/// A batch norm by PyTorch's names.
struct Norm {
  Var<double> weight = Tensor<double>(Shape{2}, 0.0), bias = weight, mean = weight, variance = weight;
  void parameters(auto&& visit) { visit("weight", weight), visit("bias", bias); }
  void buffers(auto&& visit) { visit("running_mean", mean), visit("running_var", variance); }
};

}  // namespace

TEST_CASE(
    "a file of PyTorch's DataParallel is loaded with its prefix, which the message tells; counts are passed over") {
  const SafetensorsFile file = read_safetensors(data_folder / "fixtures" / "data_parallel.safetensors");
  Norm norm;
  const std::string text = error_of([&] { load_module(file, "", norm); });
  CHECK(contains(text, "expected a tensor 'weight', found none among its 5: 'module.weight' F32 (2)"));
  CHECK(contains(text, "with the prefix 'module.' in place of '', 4 of the 4 missing would be found"));
  CHECK(contains(error_of([&] { load_module(file, "net.", norm); }), "with the prefix 'module.' in place of 'net.'"));
  CHECK(norm.weight.value().data()[0] == 0);
  load_module(file, "module.", norm);
  CHECK(list(norm.weight.value()) == std::vector<double>{1, 1});
  CHECK(norm.mean.value().data()[0] == doctest::Approx(0.2));
  CHECK(norm.variance.value().data()[1] == doctest::Approx(1.7));
}

TEST_CASE("what fits is loaded, and the report tells the rest by name") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  SafetensorsWriter writer;
  writer.add("net.weight", Tensor<float>(Shape{2}, 3.f));
  writer.add("net.bias", Tensor<float>(Shape{1, 2}, 3.f));
  writer.add("net.scale", Tensor<float>(Shape{2}, 3.f));
  writer.add("net.0.num_batches_tracked", Tensor<double>(Shape{}, 3.0));
  writer.add("net.my_num_batches_tracked", Tensor<double>(Shape{}, 3.0));
  writer.add("other", Tensor<float>(Shape{2}, 3.f));
  writer.write(path);
  const SafetensorsFile file = read_safetensors(path);
  Norm norm;
  const LoadReport report = load_what_fits(file, "net.", norm);
  CHECK_FALSE(report.complete());
  CHECK(report.loaded == std::vector<std::string>{"net.weight"});
  CHECK(report.mismatched == std::vector<std::string>{"net.bias"});
  CHECK(report.missing == std::vector<std::string>{"net.running_mean", "net.running_var"});
  CHECK(report.unexpected == std::vector<std::string>{"net.my_num_batches_tracked", "net.scale"});
  CHECK(norm.weight.value().data()[1] == 3);
  CHECK(norm.bias.value().data()[1] == 0);
  Norm untouched;
  const std::string text = error_of([&] { load_module(file, "net.", untouched); });
  for (const char* part :
       {"'net.bias': expected shape (2), got (1, 2)", "expected a tensor 'net.running_mean', found none",
        "nor 'net.running_var'", "'net.scale' is not a parameter of this model"})
    CHECK(contains(text, part));
  CHECK(text.find("'net.0.num_batches_tracked'") > text.find("found none"));  // listed as present, not complained of
  CHECK(untouched.weight.value().data()[1] == 0);

  const SafetensorsFile odd = read_safetensors(data_folder / "fixtures" / "float8.safetensors");
  Single complex{Tensor<float>(Shape{2}, 1.f)}, quantised{Tensor<float>(Shape{256}, 1.f)},
      axes{Tensor<float>(Shape{6}, 1.f)};
  CHECK(
      contains(error_of([&] { load_module(odd, "C64", complex); }), "'C64' C64 (2): this type is not one to compute"));
  CHECK(load_what_fits(odd, "F8_E8M0", quantised).loaded == std::vector<std::string>{"F8_E8M0"});
  CHECK(quantised.value.value().data()[127] == 1.f);
  CHECK(contains(error_of([&] { load_module(odd, "seven axes", axes); }),
                 "expected shape (6), got (1, 2, 1, 3, 1, 1, 1)"));
}
