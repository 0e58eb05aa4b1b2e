// The page about a run, and the events for TensorBoard.
#include "settle/train/report.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "child_program.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "settle/io/png.hpp"
#include "settle/train/pictures.hpp"
#include "settle/train/tensorboard.hpp"
#include "temporary_folder.hpp"

using namespace settle;
namespace fs = std::filesystem;

namespace {

std::string hexadecimal(const std::string& bytes) {
  std::string out;
  for (const char byte : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(static_cast<unsigned char>(byte)));
    out += digits;
  }
  return out;
}

/// A run's folder as a training leaves it, of 500 steps whose loss at step k is exp(-k / 100) times `scale`.
void make_run(const fs::path& folder, double scale, const std::string& model) {
  fs::create_directories(folder / "report");
  write_bytes(folder / "config.json",
              Json{{"model", {{"kind", model}}}, {"optimiser", {{"rate", 0.01 * scale}}}}.dump());
  std::string lines;
  for (int k = 1; k <= 500; ++k) {
    Json line{{"step", k},
              {"loss", scale * std::exp(-k / 100.0)},
              {"residual", 1.0 / k},
              {"radius", 0.9},
              {"forward", k < 100 ? "max steps" : "steps done"},
              {"adjoint", "converged"},
              {"seconds", 0.01 * k}};
    if (k == 250) line["loss"] = Json();
    lines += line.dump() + '\n';
    if (k % 100 == 0)
      lines += Json{{"step", k}, {"validation", {{"f1", k / 1000.0}}}, {"seconds", 0.01 * k}}.dump() + '\n';
  }
  lines += "{\"step\": 501, \"lo";  // a line that was being written
  write_bytes(folder / "metrics.jsonl", lines);
  write_bytes(folder / "summary.json", Json{{"f1", 0.8125},
                                            {"f1_at_3x_steps", 0.81},
                                            {"held_out_images", 12},
                                            {"training_seconds", 5.0},
                                            {"feedforward", {{"f1", 0.5}}}}
                                           .dump());
  write_bytes(folder / "report" / "training.json",
              Json{{"command", {"settle_train", "--set", "data.folder=a \"b\" <c>"}},
                   {"seed", 7},
                   {"images_per_second", 10.5},
                   {"machine", {{"processor", "a & b"}}},
                   {"memory", {{"peak_bytes", 3000000}, {"tags", {{"forward pass", 2000000}, {"<tag>", 1000}}}}}}
                  .dump());
  Sheet sheet(2, 5, 8);
  sheet.paint(1, 2, blank_image(4, 4, 1, 200));
  write_png(folder / "report" / "held_out.png", sheet.picture());
  write_bytes(folder / "report" / "held_out.json",
              Json{{"training_steps", 2},
                   {"images", 12},
                   {"side", 8},
                   {"frames", {1, 2, 8}},
                   {"samples",
                    {{{"number", 3}, {"f1", 0.9}, {"f1_by_frame", {0.1, 0.9, 0.8}}},
                     {{"number", 5}, {"f1", 0.2}, {"f1_by_frame", {0.1, 0.2, 0.125}}}}},
                   {"profile",
                    {{{"step", 1}, {"f1", 0.4}, {"residual", 0.5}, {"spectral_radius", 0.7}},
                     {{"step", 2}, {"f1", 0.8}, {"residual", 0.05}, {"spectral_radius", 0.8}}}}}
                  .dump());
}

/// Checks that tags close in the order in which they were opened; returns how often each was.
std::map<std::string, int> tags(const std::string& page) {
  std::map<std::string, int> out;
  std::vector<std::string> open;
  for (std::size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1)) {
    const std::size_t end = page.find('>', at);
    REQUIRE(end != std::string::npos);
    const std::string inside = page.substr(at + 1, end - at - 1);
    const std::string name = inside.substr(0, inside.find_first_of(" \n/", 1));
    if (name == "!doctype" || name == "meta" || name == "input" || inside.ends_with('/')) {
      ++out[name];
    } else if (inside.starts_with('/')) {
      REQUIRE(!open.empty());
      CHECK(open.back() == inside.substr(1));
      open.pop_back();
    } else {
      ++out[name], open.push_back(name);
      if (name == "script" || name == "style") at = page.find("</" + name, end) - 1;
    }
  }
  CHECK(open.empty());
  return out;
}

int count_of(const std::string& text, const std::string& part) {
  int out = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++out;
  return out;
}

}  // namespace

TEST_CASE("events for TensorBoard are the bytes that its own writer makes") {
  CHECK(detail::crc32c("123456789") == 0xE3069283u);
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "events.out.tfevents.1.settle";
  {
    TensorBoardWriter writer(path, 1.5);
    writer.add(300, 2.5, {{"training/loss", 0.25}, {"x", -3}});
  }
  // tensorboard 2.21: RecordWriter, event_pb2.Event, summary_pb2.Summary
  CHECK(hexadecimal(bytes_of(path)) ==
        "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c2e00000000000000c5cb57fa090000"
        "00000000044010ac022a200a140a0d747261696e696e672f6c6f7373150000803e0a080a017815000040c06612b4d8");
  CHECK_THROWS_WITH_AS(TensorBoardWriter(folder.path() / "none" / "x", 0),
                       doctest::Contains("cannot be written: No such file or directory"), Error);
}

TEST_CASE("the exponential average is corrected for its start, and passes over what is not finite") {
  for (const double value : exponential_average({3, 3, 3}, 0.9)) CHECK(value == doctest::Approx(3));
  const auto out = exponential_average({1, std::nan(""), 2}, 0.5);
  CHECK(out[0] == doctest::Approx(1));
  CHECK(out[1] == doctest::Approx(1));
  CHECK(out[2] == doctest::Approx((0.5 * 1 + 2) / 1.5));
  CHECK(exponential_average({1, 5}, 0) == std::vector<double>{1, 5});
}

TEST_CASE("the page of a run: whole, of its own files alone, with their numbers, the same each time") {
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "a <b> & 'c'";
  make_run(run, 1, "<script>alert(1)</script>");
  write_report({run}, run / "report.html");
  const std::string page = bytes_of(run / "report.html");
  write_report({run / ""}, run / "report.html");
  CHECK(bytes_of(run / "report.html") == page);

  auto found = tags(page);
  CHECK(found["script"] == 1);
  CHECK(found["h2"] == 7);
  CHECK(found["figure"] == 7);  // loss, validation; residual, radius; three of the profile
  CHECK(found["svg"] == found["figure"]);
  for (const char* outside : {"http://", "https://", "src=", "@import", "<link"}) {
    CAPTURE(outside);
    CHECK_FALSE(contains(page, outside));
  }
  CHECK(count_of(page, "url(data:image/png;base64,") == 1);
  CHECK(contains(page, detail::base64(bytes_of(run / "report" / "held_out.png"))));

  CHECK(contains(page, "a &lt;b&gt; &amp; &#39;c&#39;"));
  CHECK(contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;"));
  CHECK(contains(page, "data.folder=a &quot;b&quot; &lt;c&gt;"));
  CHECK(contains(page, "&lt;tag&gt;"));
  CHECK(contains(page, "href=\"config.json\""));
  CHECK(contains(page, "href=\"report/metrics.csv\""));

  CHECK(contains(page, "data-last=\"" + detail::exact_text(std::exp(-5.0)) + "\""));
  CHECK(contains(page, "data-last=\"0.002\""));  // the residual
  CHECK(contains(page, "title=\"0.8125\">0.8125<"));
  CHECK(contains(page, "0.312 above</b>"));
  CHECK(contains(page, "<b>0.05</b><span>residual, held out</span>"));
  CHECK(contains(page, "it stays</b>"));
  CHECK(contains(page, "max steps 99"));
  CHECK(contains(page, "steps done 401"));
  CHECK(contains(page, "data-frames=\"1,2,8\""));

  const std::string table = bytes_of(run / "report" / "metrics.csv");
  CHECK(table.starts_with("step,loss,residual,radius,forward,adjoint,seconds\n1,"));
  CHECK(contains(table, "\n250,,0.004,0.9,"));
  CHECK(count_of(table, "\n") == 501);
}

TEST_CASE("several runs are on one page, the baseline first, and what differs from it") {
  const TemporaryFolder folder;
  const fs::path a = folder.path() / "x" / "run", b = folder.path() / "y" / "run", c = folder.path() / "third";
  make_run(a, 1, "hgru"), make_run(b, 2, "hgru"), make_run(c, 1, "conv_lstm");
  const fs::path page = folder.path() / "comparison.html";
  write_report({a, b, c}, page, b);
  const std::string html = bytes_of(page);
  tags(html);
  CHECK(html.find("y/run<span>baseline</span>") != std::string::npos);
  CHECK(html.find("class=\"name\">y/run") < html.find("class=\"name\">x/run"));
  CHECK(html.find("class=\"name\">x/run") < html.find("class=\"name\">third"));
  CHECK(contains(html, "<td>optimiser.rate</td><td class=\"\">0.02</td><td class=\"differs\">0.01</td>"));
  CHECK(contains(
      html, "<td>model.kind</td><td class=\"\">hgru</td><td class=\"\">hgru</td><td class=\"differs\">conv_lstm</td>"));
  CHECK(contains(html, "href=\"x/run/metrics.jsonl\""));
  CHECK_FALSE(contains(html, "http://"));
  CHECK(count_of(html, "class=\"verdict ") == 3);
}

TEST_CASE("a run that has only begun has a page, and a folder that is no run has none") {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "metrics.jsonl", "{\"step\": 1, \"loss\": 0.5, \"seconds\": 0.1}\n");
  write_report({folder.path()}, folder.path() / "report.html");
  const std::string page = bytes_of(folder.path() / "report.html");
  tags(page);
  CHECK(contains(page, "it has not ended"));
  CHECK_THROWS_AS(write_report({folder.path() / "none"}, folder.path() / "none.html"), UsageError);
  CHECK_FALSE(fs::exists(folder.path() / "none.html"));
  CHECK_THROWS_AS(write_report({}, folder.path() / "none.html"), UsageError);
  write_bytes(folder.path() / "summary.json", "{");
  CHECK_THROWS_WITH_AS(write_report({folder.path()}, folder.path() / "report.html"), doctest::Contains("summary.json"),
                       Error);
}

TEST_CASE("a browser shows the page, its script runs, and nothing is complained of") {
  fs::path browser;
  for (const char* path : {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"})
    if (browser.empty() && fs::exists(path)) browser = path;
  if (browser.empty()) {
    MESSAGE("SKIP: there is no Chromium");
    return;
  }
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "run";
  make_run(run, 1, "hgru");
  write_report({run}, run / "report.html");
  ChildProgram child(browser,
                     {"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                      "--enable-logging=stderr", "--user-data-dir=" + (folder.path() / "profile").string(),
                      "--virtual-time-budget=2000", "--dump-dom", "file://" + (run / "report.html").string()},
                     folder.path() / "said");
  const int status = child.wait();
  const std::string said = child.output();
  if (status != 0 || !contains(said, "<html")) {
    MESSAGE("SKIP: Chromium does not run here");
    return;
  }
  CHECK(contains(said, "class=\"script\""));
  CHECK(contains(said, "<output>step 2</output>"));
  CHECK(contains(said, ">0.900</b>"));
  CHECK(contains(said, ">0.200</b>"));
  for (const char* complaint : {"CONSOLE", "Uncaught", "Content Security Policy directive"})
    CHECK_FALSE(contains(said, complaint));
}
