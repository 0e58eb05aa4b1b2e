#include "settle/io/npy.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "numpy_fixtures.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

NpyArray array_of(const std::string& bytes) { return {{bytes.begin(), bytes.end()}, "a.npy"}; }

/// A file with this dictionary, and so many bytes of numbers.
NpyArray with_header(const std::string& text, std::size_t bytes) {
  return array_of(std::string("\x93NUMPY\1\0", 8) + static_cast<char>(text.size()) + '\0' + text +
                  std::string(bytes, '\1'));
}

/// arange(24).reshape(2, 3, 4) / 8, in row-major order.
std::vector<double> ramp(double unit = 0.125) {
  std::vector<double> out(24);
  for (std::size_t k = 0; k < 24; ++k) out[k] = unit * static_cast<double>(k);
  return out;
}

}  // namespace

TEST_CASE("NumPy's files are read in every type of number") {
  const std::vector<double> real{0.5, -2.25, 1024}, integers{0, -7, 100}, naturals{0, 7, 200};
  for (const auto& [name, values] : std::vector<std::pair<std::string, std::vector<double>>>{
           {"b1", {0, 1, 1}},
           {"i1", integers},
           {"i2", integers},
           {"i4", integers},
           {"i8", integers},
           {"u1", naturals},
           {"u2", naturals},
           {"u4", naturals},
           {"u8", naturals},
           {"f2", real},
           {"f4", real},
           {"f8", real}}) {
    const NpyArray array = read_npy(fixtures / (name + ".npy"));
    CAPTURE(array.dtype());
    CHECK(array.dtype().substr(1) == name);
    CHECK(array.shape() == Shape{3});
    CHECK(list(array.get_as<double>()) == values);
    CHECK(list(array.get_as<float>()) == std::vector<float>(values.begin(), values.end()));
  }
  for (const char* name : {"c8.npy", "c16.npy"}) {
    const Tensor<double> pairs = read_npy(fixtures / name).get_as<double>();
    CHECK(pairs.shape() == Shape{3, 2});
    CHECK(list(pairs) == std::vector<double>{0.5, 1, -2.25, 0, 1024, -3});
  }
}

TEST_CASE("NumPy's files are read in either order of axes and of bytes, and in every version of the format") {
  CHECK(list(read_npy(fixtures / "fortran.npy").get<float>().reshape({24})) ==
        [] { const auto r = ramp(); return std::vector<float>(r.begin(), r.end()); }());
  CHECK(list(read_npy(fixtures / "big_endian.npy").get<double>()) == ramp());
  const NpyArray both = read_npy(fixtures / "big_endian_fortran.npy");
  CHECK(both.shape() == Shape{2, 3, 4});
  const std::vector<double> eighths = ramp();
  std::vector<double> whole(24);
  std::transform(eighths.begin(), eighths.end(), whole.begin(), [](double v) { return std::floor(v); });
  CHECK(list(both.get_as<double>()) == whole);
  CHECK(list(read_npy(fixtures / "version_2.npy").get_as<double>()) == ramp());
  CHECK(read_npy(fixtures / "scalar.npy").get<double>().item() == 2.5);
  CHECK(read_npy(fixtures / "scalar.npy").shape() == Shape{});
  CHECK(read_npy(fixtures / "empty.npy").get<float>().shape() == Shape{0, 3});
}

TEST_CASE("NumPy's texts are read") {
  const std::vector<std::string> texts{"one", "", "zw\xc3\xb6lf", "\xf0\x9f\x98\x80\xe6\x97\xa5"};
  CHECK(read_npy(fixtures / "texts.npy").strings() == texts);
  CHECK(read_npy(fixtures / "texts.npy").extents() == std::vector<Index>{2, 2});
  CHECK(read_npy(fixtures / "texts_big_endian_fortran.npy").strings() == texts);
  CHECK(read_npy(fixtures / "bytes.npy").strings() == std::vector<std::string>{"ab", "c"});
}

TEST_CASE("numbers that are stored as they are computed with are not copied") {
  const NpyArray array = read_npy(fixtures / "f8.npy");
  const Tensor<double> a = array.get<double>();
  Tensor<double> b = array.get_as<double>();
  CHECK(a.data() == b.data());
  b.mutable_data()[0] = 7;
  CHECK(a.data()[0] == 0.5);
  CHECK(array.get_as<float>().unique());
}

TEST_CASE("what is written is what NumPy writes, and read again") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "a.npy";
  write_npy(path, Tensor<float>({3}, {0.5f, -2.25f, 1024}));
  CHECK(bytes_of(path) == bytes_of(fixtures / "f4.npy"));
  write_npy(path, Tensor<double>({3}, {0.5, -2.25, 1024}));
  CHECK(bytes_of(path) == bytes_of(fixtures / "f8.npy"));
  write_npy(path, Tensor<double>(Shape{}, 2.5));
  CHECK(bytes_of(path) == bytes_of(fixtures / "scalar.npy"));
  write_npy(path, Tensor<float>(Shape{0, 3}));
  CHECK(bytes_of(path) == bytes_of(fixtures / "empty.npy"));
  const std::vector<std::string> texts{"", "zw\xc3\xb6lf", "\xf0\x9f\x98\x80"};
  for (const auto& some : {texts, std::vector<std::string>{}, std::vector<std::string>{"", ""}}) {
    write_npy(path, some);
    CHECK(read_npy(path).strings() == some);
  }
  CHECK(folder.files() == 1);
  CHECK(error_of([&] { write_npy(path, std::vector<std::string>{"\xff"}); }) ==
        "[npy] expected texts in UTF-8, got one that is not");
  CHECK(contains(error_of([&] { write_npy(folder.path() / "none" / "a.npy", texts); }), "cannot be created"));
}

TEST_CASE("what is no array of numbers is refused with what was found") {
  const std::string half = "{'descr': '<f4', 'fortran_order': False, 'shape': ";
  CHECK(contains(error_of([] { read_npy(fixtures / "none.npy"); }), "none.npy: cannot be opened: "));
  CHECK(contains(error_of([] { read_npy(fixtures / "records.npy"); }), ": structured types (records) are not read"));
  CHECK(contains(error_of([] { read_npy(fixtures / "objects.npy"); }), ": holds Python objects, which are not read"));
  CHECK(contains(error_of([] { return read_npy(fixtures / "seven_axes.npy").shape(); }), "has 7 axes, a tensor at most 6"));
  CHECK(contains(error_of([] { return read_npy(fixtures / "f4.npy").get<double>(); }), "expected float64, found <f4"));
  CHECK(contains(error_of([] { return read_npy(fixtures / "f4.npy").strings(); }), "expected texts, found <f4"));
  CHECK(contains(error_of([] { return read_npy(fixtures / "texts.npy").get_as<float>(); }),
                 "items of <U5 are not numbers to compute with"));
  CHECK(error_of([] { array_of("\x93NUMPX\1\0  "); }) ==
        "[npy] a.npy: expected a file that begins with \\x93NUMPY and a version");
  CHECK(error_of([&] { with_header(half + "(3,), }", 11); }) ==
        "[npy] a.npy: expected the bytes of 3 items of <f4 (4 each), found 11 bytes");
  CHECK(error_of([&] { with_header(half + "(3,) ", 12); }) == "[npy] a.npy: header: expected ,, got '' at byte 55 of it");
  CHECK(error_of([&] { with_header(half + "(-3,), }", 12); }) ==
        "[npy] a.npy: header: expected a whole number, got '-3,), }' at byte 51 of it");
  CHECK(contains(error_of([&] { with_header(half + "(99999999999999999999,), }", 12); }), "an extent of 63 bits"));
  CHECK(contains(error_of([&] { with_header(half + "(9223372036854775807, 9), }", 12); }), "expected the bytes of "));
  CHECK(contains(error_of([&] { with_header("{'descr': '<f4', 'shape': (), }", 4); }),
                 "expected 'descr', 'fortran_order' and 'shape'"));
  CHECK(contains(error_of([&] { with_header("{'descr': '<M8[D]', 'fortran_order': False, 'shape': (), }", 8); }),
                 "expected numbers or texts, such as <f4 or <U8, got the type '<M8[D]'"));
  CHECK(contains(error_of([&] {
                   return with_header("{'descr': '<U1', 'fortran_order': False, 'shape': (), }", 4).strings();
                 }),
                 "text 0: 16843009 is no character"));
}

TEST_CASE("a file that is cut short or changed is read or refused, and never more than it holds") {
  const std::string whole = bytes_of(fixtures / "texts_big_endian_fortran.npy");
  for (std::size_t length = 0; length < whole.size(); ++length)
    CHECK(contains(error_of([&] { array_of(whole.substr(0, length)); }), "[npy] a.npy: "));
  for (std::size_t at = 0; at < whole.size(); ++at)
    for (const char change : {'\0', '\x7f', '\xff', '9', '\''}) {
      std::string bytes = whole;
      bytes[at] = change;
      const std::string said = error_of([&] { array_of(bytes).strings(); });
      CHECK((said == "no error" || said.starts_with("[npy] a.npy: ")));
    }
}
