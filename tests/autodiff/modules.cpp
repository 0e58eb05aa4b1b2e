#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "errors.hpp"
#include "settle/autodiff/module.hpp"
#include "settle/nn/feed_forward.hpp"
#include "settle/nn/released_models.hpp"

// What check(net) finds.

using namespace settle;

namespace {

Var<double> ones(Index n) { return Tensor<double>(Shape{n}, 1.0); }

struct Good {
  Var<double> w = ones(3), b = ones(2);
  void parameters(auto&& visit) { visit("w", w), visit("b", b); }
};

struct Forgetful {
  Var<double> w = ones(3), b = ones(2);
  void parameters(auto&& visit) { visit("w", w); }
};

struct ForgetfulPart {
  Good first;
  Forgetful second;
  void parameters(auto&& visit) { visit_part("first", first, visit), visit_part("second", second, visit); }
};

struct ForgottenPart {
  Good first, second;
  void parameters(auto&& visit) { visit_part("first", first, visit); }
};

struct List {
  std::vector<Var<double>> layers{ones(2), ones(3), ones(4)};
  std::map<std::string, Tensor<float>> more;
  std::optional<Var<double>> maybe;
  std::size_t visited = 3;
  void parameters(auto&& visit) {
    for (std::size_t k = 0; k < visited; ++k) visit("layer" + std::to_string(k), layers[k]);
  }
};

/// Two parameters of one value, of which one is not visited.
struct Twins {
  Var<double> a = ones(3), b = a;
  bool both = true;
  void parameters(auto&& visit) {
    visit("a", a);
    if (both) visit("b", b);
  }
};

struct WithBuffer {
  Var<double> w = ones(3), mean = ones(3);
  void parameters(auto&& visit) { visit("w", w); }
  void buffers(auto&& visit) { visit("mean", mean); }
};

struct OneName {
  Var<double> a = ones(3), b = ones(3);
  void parameters(auto&& visit) { visit("w", a), visit("w", b); }
};

struct Twice {
  Var<double> a = ones(3);
  void parameters(auto&& visit) { visit("a", a), visit("b", a); }
};

struct Undefined {
  Var<double> a = ones(3), b;
  void parameters(auto&& visit) { visit("a", a), visit("b", b); }
};

struct Pointing {
  std::shared_ptr<Var<double>> a = std::make_shared<Var<double>>(ones(3));
  void parameters(auto&& visit) { visit("a", *a); }
};

struct Empty {
  int n = 0;
  void parameters(auto&&) {}
};

/// Not an aggregate, and what it forgets is private.
class Private {
 public:
  Private() : w_(ones(3)), secret_(Tensor<float>(Shape{5}, 1.0f)) {}
  void parameters(auto&& visit) { visit("w", w_); }

 private:
  Var<double> w_;
  Var<float> secret_;
};

template <class M>
std::string said(const M& module) {
  return error_of([&] { check(module); });
}

}  // namespace

TEST_CASE("check finds a tensor that a module holds and does not visit, wherever it is") {
  CHECK(said(Good{}) == "no error");
  CHECK(said(Empty{}) == "no error");
  CHECK(said(WithBuffer{}) == "no error");
  CHECK(contains(said(Forgetful{}), "neither parameters() nor buffers()"));
  CHECK(contains(said(Forgetful{}), "they visit w"));
  CHECK(contains(said(ForgetfulPart{}), "first.w, first.b, second.w"));
  CHECK(contains(said(ForgottenPart{}), "neither"));
  CHECK(contains(said(Private{}), "neither"));
  CHECK(said(List{}) == "no error");
  CHECK(contains(said(List{{ones(2), ones(3), ones(4)}, {}, {}, 2}), "neither"));
  List list;
  list.more["mask"] = Tensor<float>(Shape{4}, 1.0f);
  CHECK(contains(said(list), "neither"));
  list.more.clear(), list.maybe = ones(1);
  CHECK(contains(said(list), "neither"));
  CHECK(said(Twins{}) == "no error");
  CHECK(contains(said(Twins{.both = false}), "neither"));
  // A tensor that lives elsewhere too is no other.
  const Forgetful one, other = one;
  CHECK(contains(said(other), "neither"));
  const Good kept, copy = kept;
  CHECK(said(copy) == "no error");
  // On a tape as well.
  Tape<double> tape;
  CHECK(said(on_tape(Good{}, tape)) == "no error");
  CHECK(contains(said(on_tape(Forgetful{}, tape)), "neither"));
}

TEST_CASE("check finds names and places that are visited twice, parameters without a value and shared ones") {
  CHECK(contains(said(OneName{}), "two parameters are called 'w'"));
  CHECK(contains(said(Twice{}), "'b' is visited under another name too"));
  CHECK(contains(said(Undefined{}), "'b' has no value"));
  CHECK(contains(said(Pointing{}), "copies of the module share 'a'"));
}

TEST_CASE("the library's own nets forget nothing") {
  CHECK(said(hgru_net<float>({.kernel = 3, .orientations = 2})) == "no error");
  CHECK(said(conv_lstm_net<double>({.kernel = 3, .orientations = 2})) == "no error");
}
