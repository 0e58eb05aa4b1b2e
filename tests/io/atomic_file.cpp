#include "settle/io/atomic_file.hpp"

#include "errors.hpp"
#include "files.hpp"
#include "settle/data/pathfinder_folder.hpp"
#include "settle/io/gif.hpp"
#include "settle/io/safetensors.hpp"
#include "temporary_folder.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace settle;
namespace fs = std::filesystem;

namespace {

void write_atomically(const fs::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

struct stat status_of(const fs::path& path) {
  struct stat out {};
  REQUIRE(::lstat(path.c_str(), &out) == 0);
  return out;
}

}  // namespace

TEST_CASE("a file that is replaced keeps its mode and its owner; a new one has the usual mode") {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "file";
  const mode_t mask = ::umask(022);
  write_atomically(path, "first");
  ::umask(mask);
  CHECK((status_of(path).st_mode & 07777) == 0644);
  for (const mode_t mode : {0600u, 0640u, 0755u, 0666u, 02664u}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    write_atomically(path, "mode");
    CHECK((status_of(path).st_mode & 07777) == mode);
  }
  CHECK(bytes_of(path) == "mode");
  if (::geteuid() == 0) {
    REQUIRE(::chown(path.c_str(), 12345, 23456) == 0);
    write_atomically(path, "owner");
    CHECK(status_of(path).st_uid == 12345);
    CHECK(status_of(path).st_gid == 23456);
    CHECK((status_of(path).st_mode & 0777) == 0664);
  } else {
    REQUIRE(::chmod(path.c_str(), 0444) == 0);
    CHECK(contains(error_of([&] { write_atomically(path, "more"); }), "is protected against writing"));
  }
  CHECK(folder.files() == 1);
}

TEST_CASE("through symbolic links their target is written, and they stay") {
  const TemporaryFolder folder, elsewhere;
  const fs::path target = elsewhere.path() / "target";
  write_bytes(target, "before");
  REQUIRE(::chmod(target.c_str(), 0600) == 0);
  fs::create_symlink(target, folder.path() / "absolute");
  fs::create_symlink("absolute", folder.path() / "chain");
  fs::create_directory(folder.path() / "inner");
  fs::create_symlink("../chain", folder.path() / "inner" / "relative");
  fs::create_directory_symlink("inner", folder.path() / "folder");
  for (const char* name : {"absolute", "chain", "inner/relative", "folder/relative"}) {
    write_atomically(folder.path() / name, name);
    CHECK(bytes_of(target) == name);
    CHECK(fs::is_symlink(folder.path() / name));
    CHECK_FALSE(fs::is_symlink(target));
    CHECK((status_of(target).st_mode & 0777) == 0600);
    CHECK(elsewhere.files() == 1);
  }
  {
    AtomicFile abandoned(folder.path() / "chain");
    abandoned.write("half");
    CHECK(elsewhere.files() == 2);  // beside the file that it is to replace
  }
  CHECK(bytes_of(target) == "folder/relative");
  CHECK(elsewhere.files() == 1);

  fs::remove(target);
  write_atomically(folder.path() / "inner" / "relative", "new");
  CHECK(bytes_of(target) == "new");
  CHECK(fs::is_symlink(folder.path() / "absolute"));
  fs::create_symlink(elsewhere.path() / "none" / "file", folder.path() / "nowhere");
  CHECK(contains(error_of([&] { write_atomically(folder.path() / "nowhere", ""); }),
                 "nowhere: cannot be created: No such"));
  fs::create_symlink("loop", folder.path() / "loop");
  CHECK(contains(error_of([&] { write_atomically(folder.path() / "loop", ""); }), "loop: cannot be created: Too many"));
}

TEST_CASE("devices are written to; pipes, sockets, folders and files of several names are refused and stay") {
  write_atomically("/dev/null", "gone");
  CHECK(S_ISCHR(status_of("/dev/null").st_mode));
  write_safetensors("/dev/null", std::map<std::string, Tensor<float>>{{"a", Tensor<float>(Shape{2}, 1.f)}});
  write_png("/dev/null", blank_image(2, 2));
  CHECK(S_ISCHR(status_of("/dev/null").st_mode));
  if (fs::exists("/dev/full")) {
    CHECK(
        contains(error_of([] { write_atomically("/dev/full", "x"); }), "/dev/full: cannot be written: No space left"));
    CHECK(S_ISCHR(status_of("/dev/full").st_mode));
  }
  const TemporaryFolder folder;
  const fs::path pipe = folder.path() / "pipe", link = folder.path() / "link", file = folder.path() / "file";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(contains(error_of([&] { write_atomically(pipe, "x"); }),
                 "pipe: expected a file, found a pipe, a socket or a disk"));
  CHECK(fs::is_fifo(pipe));
  fs::create_symlink(pipe, link);
  CHECK(contains(error_of([&] { write_atomically(link, "x"); }), "link: expected a file, found a pipe"));
  write_bytes(file, "both");
  fs::create_hard_link(file, folder.path() / "other");
  CHECK(contains(error_of([&] { write_atomically(file, "x"); }), "file: the file has 2 names (hard links)"));
  CHECK(bytes_of(file) == "both");
  CHECK(fs::hard_link_count(file) == 2);
  fs::remove(folder.path() / "other");
  write_atomically(file, "one");
  CHECK(bytes_of(file) == "one");
  CHECK(contains(error_of([&] { write_atomically(folder.path(), "x"); }), "expected a file's name, got a folder's"));
  CHECK_THROWS_AS(write_atomically("", "x"), Error);
  CHECK_THROWS_AS(write_atomically(folder.path() / "none/", "x"), Error);
  CHECK(folder.files() == 3);
}

TEST_CASE("names as long as the system allows are written, longer ones are refused at once") {
  const TemporaryFolder folder;
  for (const std::size_t length : {1u, 240u, 241u, 242u, 254u, 255u}) {
    const fs::path path = folder.path() / std::string(length, 'n');
    for (const char* text : {"new", "replaced"}) {
      write_atomically(path, text);
      CHECK(bytes_of(path) == text);
    }
    write_png(path, blank_image(3, 2));
    CHECK(read_png(path).height == 3);
    write_gif(path, {blank_image(3, 2)});
    write_safetensors(path, std::map<std::string, Tensor<float>>{{"a", Tensor<float>(Shape{2}, 1.f)}});
    CHECK(read_safetensors(path).has("a"));
  }
  const std::string longer(256, 'n');
  CHECK(contains(error_of([&] { AtomicFile file(folder.path() / longer); }),
                 longer + ": cannot be created: File name too"));
  CHECK(folder.files() == 6);
}

TEST_CASE("a file that a killed writer left is in no one's way") {
  const TemporaryFolder folder;
  std::string name;
  {
    AtomicFile file(folder.path() / "file");
    name = fs::directory_iterator(folder.path())->path().filename();
  }
  const std::size_t dash = name.rfind('-');
  const int number = std::stoi(name.substr(dash + 1));
  for (int i = 1; i <= 5; ++i)
    write_bytes(folder.path() / (name.substr(0, dash + 1) + std::to_string(number + i)), "left");
  write_atomically(folder.path() / "file", "whole");
  CHECK(bytes_of(folder.path() / "file") == "whole");
  CHECK(folder.files() == 6);
}

TEST_CASE("errors of reading name the file") {
  const TemporaryFolder folder;
  const fs::path unreadable = "/proc/self/mem";  // opens, and fails at the first byte
  const auto checks = [](const std::string& text, const std::string& part) {
    INFO(text);
    CHECK(contains(text, part));
  };
  if (fs::exists(unreadable)) {
    checks(error_of([&] { read_png(unreadable); }), "[read_png] /proc/self/mem: cannot be read at byte 0: ");
    checks(error_of([&] { PathfinderFolder(folder.path(), unreadable, 8); }),
           "[pathfinder_folder] /proc/self/mem: cannot be read at byte 0: ");
    checks(error_of([&] { read_safetensors(unreadable); }), "[safetensors] /proc/self/mem: ");
  }
  checks(error_of([&] { read_png(folder.path()); }), folder.path().string() + ": expected a file, found a folder");
  checks(error_of([&] { PathfinderFolder(folder.path(), folder.path(), 8); }),
         folder.path().string() + ": expected a file, found a folder");
  checks(error_of([&] { read_png(folder.path() / "none"); }), "none: cannot be opened: No such file");
  checks(error_of([&] { read_safetensors(folder.path() / "none"); }), "none: expected a file, found none");
  checks(error_of([&] { read_png(folder.path() / std::string(300, 'n')); }),
         "nnn: cannot be opened: File name too long");
  checks(error_of([&] { read_safetensors(folder.path() / std::string(300, 'n')); }),
         "nnn: expected a file, found none");
  write_bytes(folder.path() / "list", "imgs/a.png 0\npictures/b.png 0\n");
  checks(error_of([&] { PathfinderFolder(folder.path(), folder.path() / "list", 8); }),
         "list, line 2: expected a path with a folder imgs/, got 'pictures/b.png'");
  if (::geteuid() != 0) {
    write_bytes(folder.path() / "secret", "x");
    REQUIRE(::chmod((folder.path() / "secret").c_str(), 0) == 0);
    checks(error_of([&] { read_safetensors(folder.path() / "secret"); }),
           "secret: cannot be opened: Permission denied");
  }
}
