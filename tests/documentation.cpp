#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path);
  REQUIRE_MESSAGE(file.good(), path.string());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The lines without their indentation, and without empty ones: snippets stand indented in the code that compiles them.
std::string without_indentation(const std::string& text) {
  std::istringstream lines(text);
  std::string out, line;
  while (std::getline(lines, line)) {
    const auto first = line.find_first_not_of(" \t");
    if (first != std::string::npos) out += line.substr(first) + '\n';
  }
  return out;
}

/// The contents of a page's ```cpp blocks.
std::vector<std::string> snippets(const std::string& page) {
  std::vector<std::string> out;
  const std::string open = "```cpp\n", close = "\n```";
  for (auto at = page.find(open); at != std::string::npos; at = page.find(open, at)) {
    at += open.size();
    const auto end = page.find(close, at - 1);
    REQUIRE(end != std::string::npos);
    out.push_back(page.substr(at, end + 1 - at));
    at = end + close.size();
  }
  return out;
}

}  // namespace

TEST_CASE("every snippet of the README and the docs is part of a program that is compiled here") {
  const std::filesystem::path root(SETTLE_SOURCE_DIR);
  std::string compiled;
  for (const char* folder : {"tests", "examples"})
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder))
      if (entry.path().extension() == ".cpp") compiled += without_indentation(read(entry.path()));

  std::vector<std::filesystem::path> pages{root / "README.md"};
  for (const auto& entry : std::filesystem::directory_iterator(root / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  std::size_t found = 0;
  for (const auto& page : pages)
    for (const std::string& snippet : snippets(read(page))) {
      CHECK_MESSAGE(compiled.find(without_indentation(snippet)) != std::string::npos, page.string(), ":\n", snippet);
      ++found;
    }
  CHECK(found >= 2);
}

TEST_CASE("the list of all operations is that of the headers") {
  if (std::system("python3 -c '' > /dev/null 2>&1") != 0) {
    MESSAGE("SKIP: there is no python3");
    return;
  }
  CHECK(std::system("python3 '" SETTLE_SOURCE_DIR "/scripts/operations_page.py' --check") == 0);
}

TEST_CASE("the experiments' page is made of their tables") {
  if (std::system("python3 -c '' > /dev/null 2>&1") != 0) {
    MESSAGE("SKIP: there is no python3");
    return;
  }
  CHECK(std::system("python3 '" SETTLE_SOURCE_DIR "/scripts/experiments_page.py' --check") == 0);
}

TEST_CASE("every link of the README and the docs leads to a file") {
  const std::filesystem::path root(SETTLE_SOURCE_DIR);
  std::vector<std::filesystem::path> pages{root / "README.md"};
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root / "docs"))
    if (entry.path().extension() == ".md" && entry.path().parent_path().filename() != "site")
      pages.push_back(entry.path());
  std::size_t found = 0;
  for (const auto& page : pages) {
    const std::string text = read(page), open = "](";
    for (auto at = text.find(open); at != std::string::npos; at = text.find(open, at)) {
      at += open.size();
      std::string target = text.substr(at, text.find(')', at) - at);
      target = target.substr(0, target.find('#'));
      if (target.empty() || target.find_first_of(" \n") != std::string::npos || target.find(':') != std::string::npos)
        continue;  // within the page, code, another site
      CHECK_MESSAGE(std::filesystem::exists(page.parent_path() / target), page.string(), ": ", target);
      ++found;
    }
  }
  CHECK(found >= 50);
}
