#include "errors.hpp"
#include "files.hpp"
#include "settle/core/random.hpp"
#include "settle/io/safetensors.hpp"
#include "temporary_folder.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

using namespace settle;
namespace fs = std::filesystem;

namespace {

/// A training state in small: numbers, an empty tensor, options as text, names that need escapes.
void write_state(const fs::path& path) {
  Random random(1);
  SafetensorsWriter writer;
  writer.metadata = {{"options", R"({"rate": 3e-4, "steps": 1200})"}, {"settle.", "\n"}};
  writer.add("net.\"weight\"", normal<float>({2, 3}, 0, 1, random));
  writer.add("adam.first", normal<double>({3}, 0, 1, random));
  writer.add("empty", Tensor<float>(Shape{0, 3}));
  writer.add("step", Tensor<float>(Shape{}, 12.f));
  writer.write(path);
}

}  // namespace

TEST_CASE("a flip of any bit of a file is noticed") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state.safetensors";
  write_state(path);
  const std::string whole = bytes_of(path);
  REQUIRE(error_of([&] { read_safetensors(path); }) == "no error");
  CHECK(read_safetensors(path).metadata.size() == 2);  // the checksums are not the caller's business
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    write_bytes(path, damaged);
    CAPTURE(bit);
    const std::string text = error_of([&] { read_safetensors(path); });
    CHECK(contains(text, "[safetensors] " + path.string()));
  }
}

TEST_CASE("a damaged tensor is named, and so is a damaged header") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state.safetensors";
  write_state(path);
  const std::string whole = bytes_of(path);
  const auto damaged = [&](std::size_t byte, char value) {
    std::string bytes = whole;
    REQUIRE(bytes[byte] != value);
    bytes[byte] = value;
    write_bytes(path, bytes);
    return error_of([&] { read_safetensors(path); });
  };
  CHECK(contains(damaged(whole.size() - 1, '\1'), "'step' F32 (): expected numbers with the checksum "));
  CHECK(contains(damaged(whole.size() - 5, '\1'), "'net.\"weight\"' F32 (2, 3): expected numbers with the checksum "));
  CHECK(contains(damaged(whole.size() - 29, '\1'), "'adam.first' F64 (3): expected numbers with the checksum "));
  CHECK(contains(damaged(whole.find("1200"), '2'), "header: expected a text with the checksum "));
  CHECK(contains(damaged(whole.find("step\":"), 'S'), "header: expected a text with the checksum "));
  for (const char* key : {"settle.checksum.header", "settle.checksum.tensors"})
    CHECK(
        contains(damaged(whole.find(key), 'S'), "expected the checksums of the header and of the tensors, found one"));

  // Two tensors' bytes exchanged, zeros in a block, a longer run of damage.
  for (const std::size_t length : {2u, 8u, 20u}) {
    std::string bytes = whole;
    bytes.replace(bytes.size() - 24, length, length, '\0');
    write_bytes(path, bytes);
    CHECK(contains(error_of([&] { read_safetensors(path); }), "the file is damaged"));
  }
}

TEST_CASE("files without checksums are read, and the names of checksums are not free") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "plain.safetensors";
  SafetensorsWriter writer;
  writer.add("a", Tensor<float>(Shape{2}, 1.f));
  writer.checksums = false;
  writer.write(path);
  CHECK_FALSE(contains(bytes_of(path), "checksum"));
  CHECK(read_safetensors(path).get<float>("a").values()[1] == 1);
  writer.metadata["settle.checksum.tensors"] = "mine";
  CHECK(contains(error_of([&] { writer.write(path); }), "'settle.checksum.tensors' is not free for metadata"));
  CHECK(read_safetensors(path).has("a"));
}
