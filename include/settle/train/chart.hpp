#pragma once
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace settle::inline v0_2 {

namespace detail {

/// A text in HTML or SVG, between tags or in an attribute.
inline std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  return out;
}

/// Texts and numbers one after the other.
template <class... Parts>
std::string joined(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// A number in the fewest digits that are read back to the same.
inline std::string exact_text(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

/// A number in at most four digits, for people.
inline std::string short_text(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.4g", value);
  return out;
}

/// A coordinate in a picture: tenths are enough.
inline std::string place(double value) {
  char out[32];
  std::snprintf(out, sizeof out, "%.1f", value);
  std::string text = out;
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

}  // namespace detail

/// A curve of a chart: points in the order of x; values that are not finite are gaps.
struct ChartSeries {
  std::string name;
  std::size_t colour = 0;  ///< its number: the page's style sheet says which
  bool dashed = false;
  std::vector<std::pair<double, double>> points;
};

/// A line diagram as SVG, drawn twice, with a linear and a logarithmic axis, and each curve with several smoothings:
/// which are seen is the style sheet's business (classes lin and log; e0, e1 and e2).
struct Chart {
  std::string title = {}, note = {}, x_label = "step";
  bool logarithmic = false;  ///< at first
  bool smooth = false;       ///< whether smoothed curves are drawn beside the points
  std::vector<ChartSeries> series = {};
  std::vector<std::pair<double, std::string>> x_marks = {}, y_marks = {};  ///< lines across the diagram, with a word
  std::optional<std::pair<double, double>> x_range = {};                   ///< shared with other charts
};

/// The exponential moving average with bias correction: sum of decay^(n - k) x_k over sum of decay^(n - k).
inline std::vector<double> exponential_average(const std::vector<double>& values, double decay) {
  std::vector<double> out;
  double sum = 0, weight = 0;
  for (const double value : values) {
    if (std::isfinite(value)) sum = decay * sum + (1 - decay) * value, weight = decay * weight + 1 - decay;
    out.push_back(weight > 0 ? sum / weight : value);
  }
  return out;
}

namespace detail {

inline constexpr double chart_decays[] = {0, 0.9, 0.99};

/// Round numbers between two others, about `count` of them.
inline std::vector<double> round_numbers(double low, double high, int count) {
  const double raw = (high - low) / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1., 2., 5.})
    if (factor * power >= raw) {
      step = factor * power;
      break;
    }
  std::vector<double> out;
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; ++k)
    out.push_back(k * step + 0.0);  // no -0
  return out;
}

/// One axis: from numbers to places.
struct ChartAxis {
  double low = 0, high = 1, from = 0, to = 1;
  bool logarithmic = false;

  double at(double value) const {
    const auto scaled = [&](double v) { return logarithmic ? std::log10(v) : v; };
    return from + (to - from) * (scaled(value) - scaled(low)) / (scaled(high) - scaled(low));
  }
  bool shows(double value) const { return std::isfinite(value) && (!logarithmic || value > 0); }

  std::vector<double> ticks(int count) const {
    if (!logarithmic) return round_numbers(low, high, count);
    std::vector<double> out;
    const int first = static_cast<int>(std::ceil(std::log10(low) - 1e-9));
    const int last = static_cast<int>(std::floor(std::log10(high) + 1e-9));
    const int every = std::max(1, (last - first) / count + 1);
    for (int k = first; k <= last; k += every) out.push_back(std::pow(10.0, k));
    return out.size() < 2 ? round_numbers(low, high, count) : out;
  }
};

/// The values' range without the few that stick out, and with a margin.
inline std::pair<double, double> chart_range(std::vector<double> values, bool logarithmic) {
  std::erase_if(values, [&](double v) { return !std::isfinite(v) || (logarithmic && v <= 0); });
  if (values.empty()) return logarithmic ? std::pair{0.1, 1.0} : std::pair{0.0, 1.0};
  std::sort(values.begin(), values.end());
  const auto spare = static_cast<std::size_t>(0.005 * static_cast<double>(values.size()));
  double low = values[spare], high = values[values.size() - 1 - spare];
  if (logarithmic) {
    if (high < low * 1.2) low /= 1.5, high *= 1.5;
    const double margin = std::pow(high / low, 0.05);
    return {low / margin, high * margin};
  }
  if (high - low < 1e-12 + 1e-6 * std::abs(high))
    low -= 0.5 * std::max(0.1, std::abs(low)), high += 0.5 * std::max(0.1, std::abs(high));
  const double margin = 0.05 * (high - low);
  return {low >= 0 && low < margin ? 0 : low - margin, high + margin};
}

/// At most about 2 `most` of the points, the least and the largest of each stretch (or its last, where they are
/// smooth).
inline std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points, bool smooth,
                                                      std::size_t most = 180) {
  if (points.size() <= 2 * most) return points;
  std::vector<std::pair<double, double>> out;
  for (std::size_t k = 0; k < most; ++k) {
    const std::size_t begin = k * points.size() / most, end = (k + 1) * points.size() / most;
    if (smooth) {
      out.push_back(points[end - 1]);
      continue;
    }
    const auto by_value = [](const auto& a, const auto& b) { return a.second < b.second; };
    const auto first = points.begin() + static_cast<std::ptrdiff_t>(begin);
    auto [least, largest] = std::minmax_element(first, points.begin() + static_cast<std::ptrdiff_t>(end), by_value);
    if (largest < least) std::swap(least, largest);
    out.push_back(*least);
    if (largest != least) out.push_back(*largest);
  }
  return out;
}

inline std::string chart_path(const std::vector<std::pair<double, double>>& points, const ChartAxis& x,
                              const ChartAxis& y) {
  std::string out;
  bool gap = true;
  for (const auto& [a, b] : points) {
    if (!y.shows(b)) {
      gap = true;
      continue;
    }
    out += joined(gap ? "M" : "L", place(x.at(a)), ' ', place(std::clamp(y.at(b), -999., 1999.)));
    gap = false;
  }
  return out;
}

}  // namespace detail

/// The chart as an HTML figure. `id` names it in the page and its file when it is downloaded.
inline std::string chart_figure(const Chart& chart, const std::string& id) {
  using namespace detail;
  constexpr double width = 460, height = 240, left = 52, right = 12, top = 10, bottom = 34;
  std::pair<double, double> x_range = chart.x_range.value_or(std::pair{1e300, -1e300});
  std::vector<std::vector<double>> averages[std::size(chart_decays)];
  std::vector<double> all;
  for (const ChartSeries& series : chart.series) {
    std::vector<double> values;
    for (const auto& [x, y] : series.points) {
      values.push_back(y);
      if (!chart.x_range) x_range = {std::min(x_range.first, x), std::max(x_range.second, x)};
    }
    all.insert(all.end(), values.begin(), values.end());
    for (std::size_t k = 0; k < std::size(chart_decays); ++k)
      averages[k].push_back(exponential_average(values, chart_decays[k]));
  }
  if (!(x_range.first < x_range.second)) x_range = {x_range.first - 0.5, x_range.first + 0.5};
  for (const auto& mark : chart.y_marks) all.push_back(mark.first);
  const ChartAxis x{x_range.first, x_range.second, left, width - right};

  std::string svg =
      joined("<svg viewBox=\"0 0 ", width, ' ', height, "\" role=\"img\" aria-label=\"", escaped(chart.title),
             "\"><clipPath id=\"", id, "-clip\"><rect x=\"", left, "\" y=\"", top, "\" width=\"", width - left - right,
             "\" height=\"", height - top - bottom, "\"/></clipPath>");
  std::string axis;
  for (const double tick : x.ticks(6))
    axis += joined("<text class=\"tick\" text-anchor=\"middle\" x=\"", place(x.at(tick)), "\" y=\"", height - 18, "\">",
                   short_text(tick), "</text>");
  axis += joined("<text class=\"tick\" text-anchor=\"end\" x=\"", width - right, "\" y=\"", height - 4, "\">",
                 escaped(chart.x_label), "</text>");
  svg += axis;
  for (const bool logarithmic : {false, true}) {
    const auto range = chart_range(all, logarithmic);
    const ChartAxis y{range.first, range.second, height - bottom, top, logarithmic};
    svg += joined("<g class=\"", logarithmic ? "log" : "lin", "\" data-low=\"", exact_text(y.low), "\" data-high=\"",
                  exact_text(y.high), "\">");
    for (const double tick : y.ticks(4))
      svg += joined("<path class=\"grid\" d=\"M", left, ' ', place(y.at(tick)), 'H', width - right,
                    "\"/><text class=\"tick\" text-anchor=\"end\" x=\"", left - 6, "\" y=\"", place(y.at(tick) + 4),
                    "\">", short_text(tick), "</text>");
    svg += joined("<g clip-path=\"url(#", id, "-clip)\">");
    for (const auto& [at, word] : chart.x_marks)
      svg += joined("<path class=\"mark\" d=\"M", place(x.at(at)), ' ', top, 'V', height - bottom,
                    "\"/><text class=\"word\" x=\"", place(x.at(at) + 4), "\" y=\"", height - bottom - 6, "\">",
                    escaped(word), "</text>");
    for (const auto& [at, word] : chart.y_marks)
      if (y.shows(at))
        svg += joined("<path class=\"mark\" d=\"M", left, ' ', place(y.at(at)), 'H', width - right,
                      "\"/><text class=\"word\" text-anchor=\"end\" x=\"", width - right - 2, "\" y=\"",
                      place(y.at(at) - 4), "\">", escaped(word), "</text>");
    for (std::size_t s = 0; s < chart.series.size(); ++s) {
      const ChartSeries& series = chart.series[s];
      const std::string dashed = series.dashed ? " dashed" : "";
      for (std::size_t k = 0; k < (chart.smooth ? std::size(chart_decays) : 1); ++k) {
        std::vector<std::pair<double, double>> points = series.points;
        if (k > 0)
          for (std::size_t i = 0; i < points.size(); ++i) points[i].second = averages[k][s][i];
        svg += joined("<path class=\"curve c", series.colour % 6, dashed, chart.smooth ? " e" : " ",
                      chart.smooth ? std::to_string(k) : "", "\" data-name=\"", escaped(series.name), "\" d=\"",
                      chart_path(thinned(points, k > 0), x, y), "\"/>");
      }
    }
    svg += "</g></g>";
  }
  svg += joined("<path class=\"frame\" d=\"M", left, ' ', top, 'V', height - bottom, 'H', width - right,
                "\"/><path class=\"cursor\" d=\"\"/></svg>");

  std::string legend;
  for (const ChartSeries& series : chart.series) {
    double last = std::nan("");
    for (const auto& point : series.points)
      if (std::isfinite(point.second)) last = point.second;
    legend +=
        joined("<span class=\"key\"><i class=\"c", series.colour % 6, series.dashed ? " dashed" : "", "\"></i>",
               escaped(series.name), " <b data-last=\"", exact_text(last), "\">", short_text(last), "</b></span>");
  }
  return joined("<figure class=\"chart ", chart.logarithmic ? "prefers-log" : "prefers-lin", "\" id=\"", id,
                "\" data-low=\"", exact_text(x.low), "\" data-high=\"", exact_text(x.high), "\"><figcaption><strong>",
                escaped(chart.title), "</strong>",
                chart.note.empty() ? "" : " <span>" + escaped(chart.note) + "</span>",
                "<button class=\"save\" data-figure=\"", id, "\" title=\"download as SVG\">SVG</button></figcaption>",
                svg, "<div class=\"legend\">", legend, "</div></figure>\n");
}

}  // namespace settle
