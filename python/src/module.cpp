#include <cstdint>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "arrays.hpp"
#include "cells.hpp"
#include "nets.hpp"
#include "settle/core/threads.hpp"
#include "settle/data/pathfinder.hpp"
#include "settle/version.hpp"

using namespace settle;
using namespace nb::literals;

namespace {

template <class T>
nb::list arrays_of(const std::vector<std::pair<std::string, Tensor<T>>>& named) {
  nb::list out;
  for (const auto& [name, value] : named) out.append(nb::make_tuple(name, array_of(value)));
  return out;
}

/// A cell's functions for one type of number, under names that end in it.
template <class T>
void bind_cells(nb::module_& module, const std::string& type) {
  using Step = CellStep<T>;
  nb::class_<Step>(module, ("CellStep_" + type).c_str(), "One step of a cell, recorded.")
      .def("value", [](const Step& step) { return array_of(step.value()); }, "The next state.")
      .def(
          "pull",
          [](Step& step, const Array<T>& cotangent) {
            const Tensor<T> given = tensor_of(cotangent);
            std::vector<Tensor<T>> pulled;
            {
              const nb::gil_scoped_release others;
              pulled = step.pull(given);
            }
            nb::list out;
            for (Tensor<T>& gradient : pulled) out.append(array_of(std::move(gradient)));
            return out;
          },
          "cotangent"_a, "The gradients in the state, the input and each parameter.");
  module.def(
      ("hgru_parameters_" + type).c_str(),
      [](Index channels, Index kernel, std::uint64_t seed) {
        return arrays_of(hgru_parameters<T>(channels, kernel, seed));
      },
      "channels"_a, "kernel"_a, "seed"_a);
  module.def(
      ("hgru_step_" + type).c_str(),
      [](const Array<T>& state, const Array<T>& input, const std::vector<Array<T>>& parameters) {
        std::vector<Tensor<T>> values;
        for (const auto& parameter : parameters) values.push_back(tensor_of(parameter));
        const Tensor<T> h = tensor_of(state), x = tensor_of(input);
        const nb::gil_scoped_release others;
        return hgru_step<T>(values, h, x);
      },
      "state"_a, "input"_a, "parameters"_a);
}

}  // namespace

NB_MODULE(_settle, module) {
  module.attr("version") = nb::str(settle::version);
  nb::exception<Error>(module, "Error", PyExc_RuntimeError);
  module.def("set_threads", [](int count) { ThreadPool::instance().resize(count); }, "count"_a);

  module.def(
      "address", [](const Array<float>& array) { return reinterpret_cast<std::uintptr_t>(tensor_of(array).data()); },
      "array"_a, "Where C++ sees an array's values: for tests that nothing is copied.");

  nb::class_<Net>(module, "Net")
      .def_prop_ro("kind", &Net::kind)
      .def(
          "logits",
          [](const Net& net, const Array<float>& images, int steps) {
            const Tensor<float> x = tensor_of(images);
            Tensor<float> logits;
            {
              const nb::gil_scoped_release others;
              logits = net.logits(x, steps);
            }
            return array_of(std::move(logits));
          },
          "images"_a, "steps"_a)
      .def("state", [](const Net& net) { return arrays_of(net.state()); })
      .def(
          "set_state",
          [](Net& net, const std::vector<std::pair<std::string, Array<float>>>& state) {
            Net::Named named;
            for (const auto& [name, value] : state) named.emplace_back(name, tensor_of(value));
            net.set_state(named);
          },
          "state"_a);
  module.def("read_net", &read_net, "path"_a);

  bind_cells<float>(module, "float32");
  bind_cells<double>(module, "float64");

  nb::class_<Pathfinder>(module, "Pathfinder")
      .def(
          "__init__",
          [](Pathfinder* self, Index size, Index window, Index contour_length, Index distractors,
             Index distractor_length, double thickness, bool random_flips) {
            new (self) Pathfinder(PathfinderOptions{.size = size,
                                                    .window = window,
                                                    .contour_length = contour_length,
                                                    .distractors = distractors,
                                                    .distractor_length = distractor_length,
                                                    .thickness = thickness,
                                                    .random_flips = random_flips});
          },
          "size"_a, "window"_a, "contour_length"_a, "distractors"_a, "distractor_length"_a, "thickness"_a,
          "random_flips"_a)
      .def(
          "sample",
          [](const Pathfinder& generator, std::uint64_t seed, std::uint64_t index) {
            PathfinderSample sample;
            {
              const nb::gil_scoped_release others;
              sample = generator.sample(seed, index);
            }
            return nb::make_tuple(array_of(std::move(sample.image)), array_of(std::move(sample.target)));
          },
          "seed"_a, "index"_a);
}
