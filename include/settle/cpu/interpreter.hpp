#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "settle/core/tensor.hpp"
#include "settle/cpu/chunk.hpp"
#include "settle/cpu/unroll.hpp"

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {

/// A program that is only known at run time (the derivatives above first order), as steps that each evaluate one
/// instruction for a block of packets. A step hands its value on to the next one in registers; what later steps need is
/// kept in places, which stay in the first-level cache.
template <class T>
class Interpreter {
 public:
  static constexpr std::size_t packets = most_packets;
  static constexpr Index block = packets * packet_size<T>;

  explicit Interpreter(expr::Program lowered) : program_(std::move(lowered)) {}

  static void run(const void* self, const Chunk<T>& chunk) {
    const Index whole = chunk.count / block * block;
    if (whole > 0) static_cast<const Interpreter*>(self)->run_blocks(chunk, whole);
    if (whole < chunk.count) run_rest<T>(&run, self, chunk, whole, block);
  }

 private:
  using P = Packet<T>;
  using Values = std::array<P, packets>;

  /// The block that is evaluated.
  struct State {
    const Chunk<T>& chunk;
    T* places;
    Index at = 0;
    std::array<P, expr::max_operands> total{};
  };

  struct Step {
    /// Its last act is to call the next step's function, which optimisation turns into a jump (clang++: not for
    /// results). Gives the step after the next rest.
    using Function = const Step* (*)(State&, const Step*, P, P, P, P, P, P, P, P);
    Function function;
    std::array<int, 3> operand{};  ///< the places' offsets; or the number of the input or of the result
    int to = -1;                   ///< the offset of the value's place, or none
    double literal = 0;
  };

  /// The steps for one kind of chunk.
  struct Plan {
    std::array<bool, expr::max_operands> dense;
    std::array<bool, expr::max_operands> wanted;  ///< of the results
    std::vector<Step> once, each;                 ///< for a chunk; for each of its blocks
    Index places = 0;
  };

  static SETTLE_INLINE const Step* hand_on(State& state, const Step* s, const Values& v) {
    if (s->to >= 0) {
      T* const to = state.places + s->to;
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) store(to + p * packet_size<T>, v[p]);
    }
    return (s + 1)->function(state, s + 1, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]);
  }

  /// After so many instructions comes a step that returns, or the stack would be deep where calls are not turned into
  /// jumps.
  static constexpr std::size_t until_rest = 32;
  static const Step* rest(State&, const Step* s, P, P, P, P, P, P, P, P) { return s + 1; }

  /// An operation of the interpreter's own: a b + c.
  static constexpr expr::Operation multiply_add{expr::operation_count};
  static constexpr int operation_count = expr::operation_count + 1;

  static constexpr int operand_count(expr::Operation o) {
    using enum expr::Operation;
    return o >= select ? 3 : (o >= add && o <= divide) || (o >= minimum && o <= equal) ? 2 : o == constant ? 0 : 1;
  }

  /// Only frequent operations take the value of the step before from registers, as one of so many first operands, and
  /// have their loops unrolled: the code of all would take long to compile.
  static constexpr int direct_operands(expr::Operation o) {
    using enum expr::Operation;
    if (o == select || o == multiply_add) return 3;
    return o == add || o == multiply || o == divide || o == negate || o == less ? 1 : 0;
  }

  template <expr::Operation operation, int running>
  static SETTLE_INLINE P value_of(const State& state, const Step* s, P before, std::size_t p) {
    constexpr int count = operand_count(operation);
    const auto from_place = [&](std::size_t o) { return load(state.places + s->operand[o] + p * packet_size<T>); };
    P a = before, b = before, c = before;
    if constexpr (count > 0 && running != 0) a = from_place(0);
    if constexpr (count > 1 && running != 1) b = from_place(1);
    if constexpr (count > 2 && running != 2) c = from_place(2);
    if constexpr (operation == multiply_add) return fma(a, b, c);
    else return evaluate<operation, T>(a, b, c, s->literal);
  }

  /// An instruction. Operand 0, 1 or 2 may be the value of the step before: `running`.
  template <expr::Operation operation, int running>
  static const Step* compute(State& state, const Step* s, P v0, P v1, P v2, P v3, P v4, P v5, P v6, P v7) {
    Values v{v0, v1, v2, v3, v4, v5, v6, v7};
    if constexpr (direct_operands(operation) > 0) {
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) v[p] = value_of<operation, running>(state, s, v[p], p);
    } else {
      for (std::size_t p = 0; p < packets; ++p) v[p] = value_of<operation, running>(state, s, v[p], p);
    }
    return hand_on(state, s, v);
  }

  /// An input.
  static const Step* read(State& state, const Step* s, P, P, P, P, P, P, P, P) {
    const auto number = static_cast<std::size_t>(s->operand[0]);
    const T* const from = state.chunk.input[number];
    Values v;
    if (!state.chunk.dense[number]) {
      v.fill(splat<T>(*from));
    } else {
      SETTLE_UNROLL for (std::size_t p = 0; p < packets; ++p) v[p] = load(from + state.at + p * packet_size<T>);
      fetch(from + state.at + packets_ahead * packet_size<T>, block);
    }
    return hand_on(state, s, v);
  }

  /// A result: the value of the step before.
  static const Step* write(State& state, const Step* s, P v0, P v1, P v2, P v3, P v4, P v5, P v6, P v7) {
    const Values v{v0, v1, v2, v3, v4, v5, v6, v7};
    const auto r = static_cast<std::size_t>(s->operand[0]);
    P total{};
    put_packets<packets>(state.chunk.put[r], state.chunk, r, state.at, v, total);
    state.total[r] += total;
    return hand_on(state, s, v);
  }

  static typename Step::Function function_of(expr::Operation operation, int running) {
    using Row = std::array<typename Step::Function, 4>;
    static constexpr auto row = []<int number>(std::integral_constant<int, number>) {
      constexpr expr::Operation o{number};
      return []<int... r>(std::integer_sequence<int, r...>) {
        return Row{&compute<o, r - 1>...};
      }(std::make_integer_sequence<int, direct_operands(o) + 1>{});
    };
    static constexpr auto table = []<int... o>(std::integer_sequence<int, o...>) {
      return std::array{row(std::integral_constant<int, o>{})...};
    }(std::make_integer_sequence<int, operation_count>{});
    return table[static_cast<std::size_t>(operation)][static_cast<std::size_t>(running + 1)];
  }

  static std::array<int, 3> operands(const expr::Instruction& i) { return {i.a, i.b, i.c}; }
  static std::size_t index(int k) { return static_cast<std::size_t>(k); }

  /// A sum with a product that nothing else uses becomes one instruction.
  static void fuse_products(expr::Program& p, const std::vector<char>& varies) {
    std::vector<int> uses(p.code.size(), 0);
    for (int r : p.results) ++uses[index(r)];
    for (const expr::Instruction& i : p.code)
      for (int o : operands(i))
        if (o >= 0) ++uses[index(o)];
    for (expr::Instruction& i : p.code) {
      if (i.operation != expr::Operation::add) continue;
      for (const auto& [product, other] : {std::pair(i.b, i.a), std::pair(i.a, i.b)}) {
        const expr::Instruction& factors = p.code[index(product)];
        if (factors.operation == expr::Operation::multiply && uses[index(product)] == 1 && varies[index(product)]) {
          i = {multiply_add, factors.a, factors.b, other};
          break;
        }
      }
    }
    p = expr::compact(p);
  }

  static std::array<bool, expr::max_operands> wanted_of(const Chunk<T>& chunk) {
    std::array<bool, expr::max_operands> wanted{};
    for (std::size_t r = 0; r < chunk.results; ++r) wanted[r] = chunk.put[r] != Put::skip;
    return wanted;
  }

  Plan make_plan(const Chunk<T>& chunk) const {
    Plan plan{chunk.dense, wanted_of(chunk), {}, {}};
    expr::Program p{program_.inputs, program_.code, {}};
    std::vector<std::size_t> wanted;  // the numbers of p's results
    for (std::size_t r = 0; r < program_.results.size(); ++r)
      if (plan.wanted[r]) p.results.push_back(program_.results[r]), wanted.push_back(r);
    p = expr::compact(p);
    const auto varying = [&] {
      std::vector<char> varies;
      for (const expr::Instruction& i : p.code) {
        bool any = i.operation == expr::Operation::input && chunk.dense[index(i.input_number())];
        for (int o : operands(i)) any = any || (o >= 0 && varies[index(o)]);
        varies.push_back(any);
      }
      return varies;
    };
    fuse_products(p, varying());
    const std::vector<char> varies = varying();
    const std::size_t n = p.code.size();

    // What does not vary is computed once. The rest is ordered depth first: a value is mostly needed by the next step.
    std::vector<int> once, each;
    std::vector<char> seen(n, 0);
    const auto visit = [&](const auto& self, int k) -> void {
      if (std::exchange(seen[index(k)], 1)) return;
      for (int o : operands(p.code[index(k)]))
        if (o >= 0) self(self, o);
      (varies[index(k)] ? each : once).push_back(k);
    };
    for (int r : p.results) visit(visit, r);

    // Which operand is the value of the step before, and the last step that reads a value's place.
    std::vector<int> running(n, -1), last_read(n, -1);
    for (std::size_t s = 0; s < each.size(); ++s) {
      expr::Instruction& i = p.code[index(each[s])];
      const bool commutes = i.operation == expr::Operation::add || i.operation == expr::Operation::multiply;
      if (s > 0 && commutes && i.b == each[s - 1]) std::swap(i.a, i.b);
      const auto all = operands(i);
      for (int o = 0; o < 3; ++o) {
        const int k = all[index(o)];
        if (o < direct_operands(i.operation) && s % until_rest != 0 && k == each[s - 1] &&
            std::count(all.begin(), all.end(), k) == 1)
          running[index(each[s])] = o;
        else if (k >= 0)
          last_read[index(k)] = static_cast<int>(s);
      }
    }

    std::vector<int> offset(n, -1), free_after;  // of each value; of each place: the last step that reads it
    const auto place = [&](int k, int now, int until) {
      auto found = std::find_if(free_after.begin(), free_after.end(), [&](int last) { return last <= now; });
      if (found == free_after.end()) found = free_after.insert(found, 0);
      *found = until;
      offset[index(k)] = static_cast<int>((found - free_after.begin()) * block);
    };
    const auto compute_step = [&](int k) {
      const expr::Instruction& i = p.code[index(k)];
      if (i.operation == expr::Operation::input) return Step{&read, {i.input_number()}, offset[index(k)]};
      Step step{function_of(i.operation, running[index(k)]), {}, offset[index(k)], i.literal};
      for (int o = 0; o < 3; ++o)
        if (const int operand = operands(i)[index(o)]; operand >= 0 && o != running[index(k)])
          step.operand[index(o)] = offset[index(operand)];
      return step;
    };
    const auto add_writes = [&](int k) {
      for (std::size_t r = 0; r < wanted.size(); ++r)
        if (p.results[r] == k) plan.each.push_back({&write, {static_cast<int>(wanted[r])}});
    };
    for (std::size_t s = 0; s < once.size(); ++s) {
      if (s % until_rest == 0) plan.once.push_back({&rest});
      place(once[s], -1, static_cast<int>(n));
      plan.once.push_back(compute_step(once[s]));
    }
    for (std::size_t s = 0; s < each.size(); ++s) {
      if (s % until_rest == 0) plan.each.push_back({&rest});
      const int k = each[s];
      if (last_read[index(k)] >= 0) place(k, static_cast<int>(s), last_read[index(k)]);
      plan.each.push_back(compute_step(k));
      add_writes(k);
    }
    for (int k : once) {
      if (std::find(p.results.begin(), p.results.end(), k) == p.results.end()) continue;
      constexpr auto copy = expr::Operation::input;  // as a function of an operand
      plan.each.push_back({function_of(copy, -1), {offset[index(k)]}});
      add_writes(k);
    }
    plan.once.push_back({&rest});
    plan.each.push_back({&rest});
    plan.places = static_cast<Index>(free_after.size());
    return plan;
  }

  const Plan& plan_for(const Chunk<T>& chunk) const {
    const auto wanted = wanted_of(chunk);
    const std::lock_guard lock(plans_access_);
    for (const auto& plan : plans_)
      if (plan->dense == chunk.dense && plan->wanted == wanted) return *plan;
    return *plans_.emplace_back(std::make_unique<const Plan>(make_plan(chunk)));
  }

  /// For the chunk's first `count` elements, whole blocks.
  void run_blocks(const Chunk<T>& chunk, Index count) const {
    const Plan& plan = plan_for(chunk);
    Tensor<T> places(Shape{plan.places, block});
    State state{chunk, places.mutable_data()};
    const auto follow = [&](const std::vector<Step>& steps) {
      for (const Step* s = steps.data(); s != steps.data() + steps.size();)
        s = s->function(state, s, P{}, P{}, P{}, P{}, P{}, P{}, P{}, P{});
    };
    follow(plan.once);
    for (; state.at < count; state.at += block) follow(plan.each);
    for (std::size_t r = 0; r < program_.results.size(); ++r)
      if (chunk.put[r] == Put::sum) *chunk.total[r] += static_cast<double>(cpu::sum(state.total[r]));
  }

  expr::Program program_;
  mutable std::mutex plans_access_;
  mutable std::vector<std::unique_ptr<const Plan>> plans_;
};

}  // namespace settle::cpu
