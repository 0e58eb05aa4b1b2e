#include "settle/io/npz.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "errors.hpp"
#include "files.hpp"
#include "numpy_fixtures.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

TEST_CASE("NumPy's archives are read, stored as ZIP64 and deflated") {
  const NpzFile stored(fixtures / "stored.npz");
  CHECK(stored.names == std::vector<std::string>{"ramp", "texts", "scalar"});
  const Tensor<float> ramp = stored.array("ramp").get<float>();
  CHECK(ramp.shape() == Shape{2, 3, 4});
  CHECK(ramp.data()[23] == 23 / 8.f);
  CHECK(stored.array("texts").strings()[2] == "zw\xc3\xb6lf");
  CHECK(stored.array("scalar").get<double>().item() == 2.5);

  const NpzFile deflated(fixtures / "deflated.npz");
  CHECK(list(deflated.array("ramp").get<float>()) == list(ramp));
  CHECK(list(deflated.array("zeros").get<double>()) == std::vector<double>(2000, 0.0));
  CHECK(list(deflated.array("labels").get_as<float>()) == std::vector<float>{0, 1, 2, 3, 4});
}

TEST_CASE("archives are written complete, the same bytes for the same arrays, and read again") {
  const TemporaryFolder folder;
  NpzWriter writer;
  writer.add("a", Tensor<float>({2, 2}, {1, 2, 3, 4}));
  writer.add("layer/b", Tensor<double>(Shape{}, 0.1));
  writer.add("names", std::vector<std::string>{"one", "zw\xc3\xb6lf"});
  writer.add("nothing", Tensor<float>(Shape{0, 2}));
  writer.add("many", Tensor<double>(Shape{100, 1000}, 0.25));
  for (const bool compressed : {false, true}) {
    const fs::path path = folder.path() / (compressed ? "c.npz" : "a.npz");
    writer.write(path, compressed);
    const std::string bytes = bytes_of(path);
    CHECK((bytes.size() > 800000) == !compressed);
    writer.write(path, compressed);
    CHECK(bytes_of(path) == bytes);
    const NpzFile file(path);
    CHECK(file.names == std::vector<std::string>{"a", "layer/b", "names", "nothing", "many"});
    CHECK(list(file.array("a").get<float>()) == std::vector<float>{1, 2, 3, 4});
    CHECK(file.array("layer/b").get<double>().item() == 0.1);
    CHECK(file.array("names").strings()[1] == "zw\xc3\xb6lf");
    CHECK(file.array("nothing").shape() == Shape{0, 2});
    CHECK(list(file.array("many").get<double>()) == std::vector<double>(100000, 0.25));
  }
  CHECK(folder.files() == 2);
  NpzWriter().write(folder.path() / "empty.npz");
  CHECK(NpzFile(folder.path() / "empty.npz").names.empty());
  CHECK(error_of([&] { writer.add("a", Tensor<float>(Shape{1})); }) == "[npz] expected distinct names, got 'a' twice");
}

TEST_CASE("archives that are missing, damaged or without an array of that name say so") {
  CHECK(contains(error_of([] { NpzFile(fixtures / "none.npz"); }), "none.npz: expected a ZIP archive: "));
  CHECK(contains(error_of([] { NpzFile(fixtures / "f4.npy"); }), "f4.npy: expected a ZIP archive: "));
  CHECK(contains(error_of([] { return NpzFile(fixtures / "stored.npz").array("b"); }),
                 "stored.npz: expected an array 'b', found 'ramp', 'texts', 'scalar'"));
  const std::string whole = bytes_of(fixtures / "deflated.npz");
  int refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::vector<std::uint8_t> bytes(whole.begin(), whole.end());
    bytes[at] = static_cast<std::uint8_t>(~bytes[at]);
    const std::string said = error_of([&] {
      const NpzFile file(bytes, "a.npz");
      for (const std::string& name : file.names) file.array(name).get_as<double>();
    });
    refused += said != "no error";
    CHECK((said == "no error" || said.starts_with("[npz] a.npz: ") || said.starts_with("[npy] a.npz: ")));
  }
  CHECK(refused > 200);
}

TEST_CASE("NumPy reads what is written") {
  // On the development machine: SETTLE_PYTHON names a python with NumPy, if it is not python3.
  const char* const named = std::getenv("SETTLE_PYTHON");
  const std::string python = named ? named : "python3";
  if (std::system((python + " -c 'import numpy' > /dev/null 2>&1").c_str()) != 0) {
    MESSAGE("SKIP: " << python << " has no NumPy");
    return;
  }
  const TemporaryFolder folder;
  const fs::path plain = folder.path() / "a.npy", archive = folder.path() / "a.npz", packed = folder.path() / "c.npz";
  write_npy(plain, Tensor<double>({2, 3}, {0.1, -2, 3, 4, 5, 1e300}));
  NpzWriter writer;
  writer.add("x", Tensor<float>({2, 1, 2}, {1, 2, 3, 0.1f}));
  writer.add("names", std::vector<std::string>{"one", "zw\xc3\xb6lf", ""});
  writer.add("nothing", Tensor<float>(Shape{3, 0}));
  writer.write(archive), writer.write(packed, true);
  write_bytes(folder.path() / "check.py", R"(import sys
import numpy as np
a = np.load(sys.argv[1])
assert a.dtype == np.float64 and a.tolist() == [[0.1, -2, 3], [4, 5, 1e300]] and a.flags.c_contiguous
for path in sys.argv[2:]:
    z = np.load(path)
    assert z.files == ["x", "names", "nothing"], z.files
    assert z["x"].dtype == np.float32 and z["x"].tolist() == np.float32([[[1, 2]], [[3, 0.1]]]).tolist()
    assert z["names"].tolist() == ["one", "zw\u00f6lf", ""]
    assert z["nothing"].shape == (3, 0)
)");
  const std::string command = python + " " + (folder.path() / "check.py").string() + " " + plain.string() + " " +
                              archive.string() + " " + packed.string();
  CHECK(std::system(command.c_str()) == 0);
}
