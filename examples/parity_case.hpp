#pragma once
#include <filesystem>
#include <string>
#include <vector>

// One training step of the released code, recorded in a safetensors file (data/parity/README.md), computed again by the
// library and compared number by number.
namespace parity {

/// How far one recorded quantity is from ours.
struct Quantity {
  std::string name;
  double error = 0;    ///< max |difference| / max |expected|
  bool judged = true;  ///< whether the bound applies
};

/// A case compared.
struct Comparison {
  double bound = 0;
  std::vector<Quantity> quantities;

  /// The largest error among the quantities that are judged; NaN when one of them is.
  double worst() const;
  bool pass() const { return worst() <= bound; }
};

enum class Precision { float64, float32 };

/// Computes a case again and compares: to 1e-9 in double; in float to 2e-4, where the bound applies to the states, the
/// logits and the losses alone (whether a Neumann term grows may hang on float's rounding).
/// Throws settle::Error when the file is malformed, describes no known model, or lacks a tensor.
Comparison compare(const std::filesystem::path& path, Precision precision = Precision::float64);

}  // namespace parity
