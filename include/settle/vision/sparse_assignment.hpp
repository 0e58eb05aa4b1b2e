#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"

namespace settle::inline v0_2 {

/// What each row of a sparse matrix may be given: for row i the columns `column[k]` at the costs `cost[k]` >= 0, for k
/// from `first[i]` to before `first[i + 1]`.
struct SparseCosts {
  int columns = 0;
  std::vector<std::size_t> first{0};  ///< one more than there are rows
  std::vector<int> column;
  std::vector<std::int64_t> cost;

  int rows() const { return static_cast<int>(first.size()) - 1; }
  void add(int to, std::int64_t price) { column.push_back(to), cost.push_back(price); }
  void end_row() { first.push_back(column.size()); }
};

/// The assignment of rows to columns, each column to one row at most, that is cheapest where a row that stays alone
/// costs `alone`: for each row its column, or -1. Exact: rows are added one by one by a shortest augmenting path in
/// reduced costs (Jonker and Volgenant 1987). Where `alone` is more than any path costs, as many rows as can be are
/// assigned, at the least cost. Throws Error for negative costs and columns that are not there.
inline std::vector<int> sparse_assignment(const SparseCosts& costs, std::int64_t alone) {
  const auto rows = static_cast<std::size_t>(costs.rows()), columns = static_cast<std::size_t>(costs.columns);
  require(alone >= 0 && costs.first.back() == costs.column.size() && costs.column.size() == costs.cost.size(),
          "sparse_assignment", "expected ended rows, a cost for each entry and costs of at least 0");
  for (std::size_t k = 0; k < costs.cost.size(); ++k)
    require(costs.cost[k] >= 0 && costs.column[k] >= 0 && costs.column[k] < costs.columns, "sparse_assignment",
            "expected costs of at least 0 and columns below ", costs.columns, ", got ", costs.cost[k], " for column ",
            costs.column[k]);

  constexpr std::int64_t far = std::numeric_limits<std::int64_t>::max();
  std::vector<int> column_of(rows, -1), row_of(columns, -1), from(columns, -1);
  std::vector<std::int64_t> u(rows), v(columns, 0), distance(columns, far);  // u + v <= cost, equal where assigned
  std::vector<std::uint8_t> done(columns, 0);
  std::vector<std::size_t> seen, passed;
  using Entry = std::pair<std::int64_t, int>;
  const auto at = [](int k) { return static_cast<std::size_t>(k); };

  const auto add_row = [&](std::size_t start) {
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    std::int64_t best_alone = far, end_distance = 0;
    int row = static_cast<int>(start), alone_row = -1, end_column = -1;
    u[start] = alone;
    for (std::size_t k = costs.first[start]; k < costs.first[start + 1]; ++k)
      u[start] = std::min(u[start], costs.cost[k] - v[at(costs.column[k])]);
    for (std::int64_t travelled = 0;;) {
      if (const std::int64_t d = travelled + alone - u[at(row)]; d < best_alone) best_alone = d, alone_row = row;
      for (std::size_t k = costs.first[at(row)]; k < costs.first[at(row) + 1]; ++k) {
        const std::size_t to = at(costs.column[k]);
        const std::int64_t d = travelled + costs.cost[k] - u[at(row)] - v[to];
        if (done[to] || d >= distance[to] || d >= best_alone) continue;
        if (distance[to] == far) seen.push_back(to);
        distance[to] = d, from[to] = row;
        queue.emplace(d, costs.column[k]);
      }
      while (!queue.empty() && (done[at(queue.top().second)] || queue.top().first > distance[at(queue.top().second)]))
        queue.pop();
      if (queue.empty() || queue.top().first >= best_alone) {
        end_distance = best_alone;
        break;
      }
      const auto [d, nearest] = queue.top();
      queue.pop();
      if (row_of[at(nearest)] < 0) {
        end_distance = d, end_column = nearest;
        break;
      }
      done[at(nearest)] = 1, passed.push_back(at(nearest));
      travelled = d, row = row_of[at(nearest)];
    }
    u[start] += end_distance;
    for (const std::size_t column : passed) {
      const std::int64_t rise = end_distance - distance[column];
      v[column] -= rise, u[at(row_of[column])] += rise;
    }
    if (end_column < 0) end_column = std::exchange(column_of[at(alone_row)], -1);  // of a row that now stays alone
    while (end_column >= 0) {
      const int giver = from[at(end_column)];
      row_of[at(end_column)] = giver;
      std::swap(end_column, column_of[at(giver)]);
    }
    for (const std::size_t column : seen) distance[column] = far, done[column] = 0;
    seen.clear(), passed.clear();
  };

  std::vector<std::size_t> left;
  for (std::size_t i = 0; i < rows; ++i) {  // whose nearest column is free needs no search
    u[i] = alone;
    int nearest = -1;
    for (std::size_t k = costs.first[i]; k < costs.first[i + 1]; ++k)
      if (costs.cost[k] < u[i] || (costs.cost[k] == u[i] && nearest >= 0 && row_of[at(nearest)] >= 0))
        u[i] = costs.cost[k], nearest = costs.column[k];
    if (nearest >= 0 && row_of[at(nearest)] < 0)
      column_of[i] = nearest, row_of[at(nearest)] = static_cast<int>(i);
    else
      left.push_back(i);
  }
  for (const std::size_t i : left) add_row(i);
  return column_of;
}

}  // namespace settle
