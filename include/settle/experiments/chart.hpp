#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "settle/io/atomic_file.hpp"

namespace settle::inline v0_2::experiments {

/// A line of a chart, with a band around it where `low` and `high` are given. Points that are not finite are left out.
struct Series {
  std::string name;
  std::vector<double> x = {}, y = {}, low = {}, high = {};
  bool dotted = false;
  bool points = false;  ///< marks in place of a line
};

/// A value of the paper's, drawn as a mark in the colour of the series of that name.
struct PaperMark {
  std::string series;
  double x, y;
};

/// A chart of lines over two axes.
struct Chart {
  std::string title, x_label, y_label;
  std::vector<Series> series = {};
  std::vector<PaperMark> marks = {};
  bool log_y = false;
  std::vector<std::pair<double, std::string>> x_ticks = {};  ///< in place of numbers
};

namespace detail {

inline std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  return out;
}

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char out[512];
  std::snprintf(out, sizeof out, format, values...);
  return out;
}

/// About `count` round numbers that cover [low, high].
inline std::vector<double> round_ticks(double low, double high, int count) {
  const double raw = (high - low) / count, power = std::pow(10, std::floor(std::log10(raw)));
  const double unit = raw / power, step = power * (unit > 5 ? 10 : unit > 2 ? 5 : unit > 1 ? 2 : 1);
  std::vector<double> out;
  for (double v = std::ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step)
    out.push_back(std::abs(v) < 1e-9 * step ? 0 : v);
  return out;
}

}  // namespace detail

/// The chart as SVG, without script or font of its own.
inline std::string svg(const Chart& chart) {
  using detail::escaped;
  using detail::formatted;
  // Colours that are told apart without red and green (Okabe and Ito 2008).
  constexpr std::array colours{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f"};
  constexpr double width = 640, height = 400, left = 64, right = 170, top = 36, bottom = 48;
  const double w = width - left - right, h = height - top - bottom;
  const auto scaled = [&](double y) { return chart.log_y ? std::log10(y) : y; };
  const auto shown = [&](double x, double y) {
    return std::isfinite(x) && std::isfinite(y) && (!chart.log_y || y > 0);
  };
  double x0 = std::numeric_limits<double>::infinity(), x1 = -x0, y0 = x0, y1 = -x0;
  const auto include = [&](double x, double y) {
    if (!shown(x, y)) return;
    x0 = std::min(x0, x), x1 = std::max(x1, x);
    y0 = std::min(y0, scaled(y)), y1 = std::max(y1, scaled(y));
  };
  for (const Series& s : chart.series)
    for (std::size_t k = 0; k < s.x.size(); ++k) {
      include(s.x[k], s.y[k]);
      if (k < s.low.size()) include(s.x[k], s.low[k]);
      if (k < s.high.size()) include(s.x[k], s.high[k]);
    }
  for (const PaperMark& m : chart.marks) include(m.x, m.y);
  if (!(x0 <= x1)) x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  if (!chart.log_y) y0 = std::min(y0, 0.0);
  if (x0 == x1) x0 -= 0.5, x1 += 0.5;
  if (y0 == y1) y1 = y0 + 1;
  const auto at_x = [&](double x) { return left + (x - x0) / (x1 - x0) * w; };
  const auto at_y = [&](double y) { return top + h - (scaled(y) - y0) / (y1 - y0) * h; };
  std::string out = formatted(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      width, height);
  const auto text = [&](double x, double y, const char* anchor, const std::string& words, const char* more = "") {
    out += formatted("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, more) + escaped(words) +
           "</text>\n";
  };
  text(left, 20, "start", chart.title, " font-size=\"14\" font-weight=\"bold\"");
  text(left + w / 2, height - 10, "middle", chart.x_label);
  text(0, 0, "middle", chart.y_label, formatted(" transform=\"translate(16 %.1f) rotate(-90)\"", top + h / 2).c_str());
  for (const double tick : detail::round_ticks(y0, y1, 5)) {
    const double y = top + h - (tick - y0) / (y1 - y0) * h;
    out += formatted("<path d=\"M%.1f %.1fH%.1f\" stroke=\"#ddd\"/>\n", left, y, left + w);
    text(left - 6, y + 4, "end", formatted("%.4g", chart.log_y ? std::pow(10, tick) : tick));
  }
  auto x_ticks = chart.x_ticks;
  if (x_ticks.empty())
    for (const double tick : detail::round_ticks(x0, x1, 6)) x_ticks.emplace_back(tick, formatted("%.4g", tick));
  for (const auto& tick : x_ticks) {
    out += formatted("<path d=\"M%.1f %.1fv5\" stroke=\"black\"/>\n", at_x(tick.first), top + h);
    text(at_x(tick.first), top + h + 18, "middle", tick.second);
  }
  out += formatted("<path d=\"M%.1f %.1fV%.1fH%.1f\" fill=\"none\" stroke=\"black\"/>\n", left, top, top + h, left + w);
  for (std::size_t k = 0; k < chart.series.size(); ++k) {
    const Series& s = chart.series[k];
    const char* const colour = colours[k % colours.size()];
    if (s.low.size() == s.x.size() && s.high.size() == s.x.size() && s.x.size() > 1) {
      std::string band, back;
      for (std::size_t i = 0; i < s.x.size(); ++i) {
        if (!shown(s.x[i], s.low[i]) || !shown(s.x[i], s.high[i])) continue;
        band += formatted("%.1f,%.1f ", at_x(s.x[i]), at_y(s.high[i]));
        back = formatted("%.1f,%.1f ", at_x(s.x[i]), at_y(s.low[i])) + back;
      }
      out += "<polygon points=\"" + band + back + formatted("\" fill=\"%s\" fill-opacity=\"0.2\"/>\n", colour);
    }
    std::string line;
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!shown(s.x[i], s.y[i])) continue;
      const double x = at_x(s.x[i]), y = at_y(s.y[i]);
      if (s.points || s.x.size() == 1)
        out +=
            formatted("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n", x, y, s.points ? "2" : "4", colour);
      else
        line += formatted("%.1f,%.1f ", x, y);
    }
    if (!line.empty())
      out += "<polyline points=\"" + line +
             formatted("\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s/>\n", colour,
                       s.dotted ? " stroke-dasharray=\"3 4\"" : "");
    const double y = top + 8 + 18 * static_cast<double>(k);
    out += formatted("<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"4\" fill=\"%s\"/>\n", left + w + 12, y - 2,
                     colour);
    text(left + w + 32, y + 4, "start", s.name);
  }
  for (const PaperMark& m : chart.marks) {
    if (!shown(m.x, m.y)) continue;
    std::size_t k = 0;
    while (k < chart.series.size() && chart.series[k].name != m.series) ++k;
    const char* const colour = colours[k % colours.size()];
    out += formatted("<path d=\"M%.1f %.1fl5 5l5 -5l-5 -5z\" fill=\"white\" stroke=\"%s\" stroke-width=\"1.5\"/>\n",
                     at_x(m.x) - 5, at_y(m.y), colour);
  }
  if (!chart.marks.empty()) {
    const double y = top + 8 + 18 * static_cast<double>(chart.series.size());
    out += formatted("<path d=\"M%.1f %.1fl5 5l5 -5l-5 -5z\" fill=\"white\" stroke=\"black\"/>\n", left + w + 14, y);
    text(left + w + 32, y + 4, "start", "the paper's");
  }
  return out + "</svg>\n";
}

inline void write_svg(const std::filesystem::path& path, const Chart& chart) {
  AtomicFile file(path);
  file.write(svg(chart));
  file.commit();
}

}  // namespace settle::experiments
