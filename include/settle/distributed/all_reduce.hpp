#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "settle/autodiff/tape.hpp"
#include "settle/core/round_up.hpp"
#include "settle/cpu/backend.hpp"
#include "settle/distributed/sums.hpp"

namespace settle::inline v0_2::distributed {

namespace detail {

/// The same as sum_over_ranks for the first `count` numbers of the device's memory, of which `message` has room for
/// as many as parts of equal size for all ranks need. Returns the sums.
template <class T, class D>
Tensor<T, D> summed_on_devices(Tensor<T, D> message, Index count, const Group& group) {
  const Index ranks = group.size(), part = message.size() / ranks;
  constexpr std::size_t each = sizeof(T);
  const auto bytes = [](Index numbers) { return static_cast<std::size_t>(numbers) * each; };
  if (bytes(count * ranks) <= gathered_bytes) {
    Tensor<T, D> all(Shape{count * ranks});
    group.gather_on_device(message.data(), all.mutable_data(), bytes(count));
    Backend<D>::add_in_tree(ranks, count, all.mutable_data());
    return all;
  }
  Tensor<T, D> mine(message.shape());
  group.exchange_on_device(message.data(), mine.mutable_data(), message.bytes());
  Backend<D>::add_in_tree(ranks, part, mine.mutable_data());
  group.gather_on_device(mine.data(), message.mutable_data(), bytes(part));
  return message;
}

/// The sums over the ranks of tensors of the same shapes on all ranks, in one message: by way of the processor's
/// memory, or, to the same bits, where the ranks' devices are connected, by their own.
template <class T, class D>
std::vector<Tensor<T, D>> summed(const std::vector<Var<T, D>>& x, const Group& group) {
  Index all = 0;
  for (const auto& v : x) all += v.size();
  if constexpr (requires(T* terms) { Backend<D>::add_in_tree(Index(), Index(), terms); }) {
    if (group.has_devices()) {
      const MemoryTag tag("workspace");
      Tensor<T, D> message(Shape{round_up(all, static_cast<Index>(group.size()))});
      T* const to = message.mutable_data();
      Index at = 0;
      for (const auto& v : x) {
        if (v.size() > 0) D::copy(to + at, v.value().data(), v.value().bytes());
        at += v.size();
      }
      if (at < message.size()) D::fill(to + at, message.size() - at, T(0));
      const Tensor<T, D> sums = summed_on_devices(std::move(message), all, group);
      std::vector<Tensor<T, D>> out;
      at = 0;
      for (const auto& v : x) {
        out.emplace_back(v.shape());
        if (v.size() > 0) D::copy(out.back().mutable_data(), sums.data() + at, out.back().bytes());
        at += v.size();
      }
      return out;
    }
  }
  const auto count = static_cast<std::size_t>(all);
  std::vector<T> message(count);
  T* to = message.data();
  for (const auto& v : x) {
    const Tensor<T, Cpu> values = settle::to<Cpu>(v.value());
    to = std::copy_n(values.data(), values.size(), to);
  }
  sum_over_ranks(std::span(message), group);
  std::vector<Tensor<T, D>> out;
  const T* from = message.data();
  for (const auto& v : x) {
    Tensor<T, Cpu> values(v.shape());
    std::copy_n(from, values.size(), values.mutable_data());
    from += values.size();
    out.push_back(settle::to<D>(values));
  }
  return out;
}

}  // namespace detail

/// The sums over the ranks of each of several Vars, the same bits on every rank, in one message; each has one shape on
/// all ranks. What is differentiated is the sum of what the ranks differentiate, so the gradient is the sum of the ranks'
/// cotangents: an all_reduce again, at every order. Differentiating an all-reduced loss therefore counts it once for each
/// rank: reduce it as a constant to show it. A group of one records nothing. `known` are the sums where somebody has
/// found them already, on all ranks: then nothing is sent.
template <class T, class D>
std::vector<Var<T, D>> all_reduce(const std::vector<Var<T, D>>& x, const Group& group,
                                  const std::vector<Tensor<T, D>>& known = {}) {
  if (group.size() == 1) return x;
  const std::vector<Tensor<T, D>> sums = known.empty() ? detail::summed(x, group) : known;
  return record_outputs<T, D>(
      "all_reduce", sums, x, [group](std::span<const Var<T, D>> cotangents, Cotangents<T, D>& gradients) {
        std::vector<Var<T, D>> given;
        std::vector<std::size_t> of;
        for (std::size_t k = 0; k < cotangents.size(); ++k)
          if (cotangents[k].defined() && gradients.needs(k)) given.push_back(cotangents[k]), of.push_back(k);
        if (given.empty()) return;
        const auto totals = all_reduce(given, group);
        for (std::size_t k = 0; k < of.size(); ++k) gradients.add(of[k], totals[k]);
      });
}

/// The same of one.
template <class T, class D>
Var<T, D> all_reduce(const Var<T, D>& x, const Group& group) {
  return all_reduce(std::vector<Var<T, D>>{x}, group).front();
}

}  // namespace settle::distributed
