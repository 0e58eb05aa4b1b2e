#pragma once
#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/tensor.hpp"

namespace settle::inline v0_2 {

/// Data that is missing, damaged or inconsistent.
class DataError : public Error {
 public:
  using Error::Error;
};

/// Throws DataError "[where] parts...".
template <class... Parts>
[[noreturn]] void fail_data(const char* where, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << where << "] ";
  (text << ... << parts);
  throw DataError(text.str());
}

/// An image with a class for each of its pixels.
struct Sample {
  Tensor<float> image;   ///< (C, H, W)
  Tensor<float> target;  ///< (H, W): class numbers
  Tensor<float> ignore;  ///< (H, W): 1 where the target says nothing, else 0; none, shape (0): it says all
};

/// Samples stacked, in a device's memory.
template <class T, class Device = Cpu>
struct BatchOf {
  Tensor<T, Device> image;   ///< (N, C, H, W)
  Tensor<T, Device> target;  ///< (N, H, W)
  Tensor<T, Device> ignore;  ///< (N, H, W), or none where no sample has one
};
using Batch = BatchOf<float>;

/// The same batch on another device.
template <class To, class T, class From>
BatchOf<T, To> to(const BatchOf<T, From>& batch) {
  return {to<To>(batch.image), to<To>(batch.target), to<To>(batch.ignore)};
}

/// A data set is anything with a size and samples. sample(i) is called from several threads at once.
template <class D>
concept SampleSource = requires(const D& data, Index i) {
  { data.size() } -> std::convertible_to<Index>;
  { data.sample(i) } -> std::convertible_to<Sample>;
};

/// A data set of a kind chosen at run time; copies share it.
class DataSet {
 public:
  DataSet() = default;

  template <SampleSource D>
  requires(!std::same_as<D, DataSet>) DataSet(D data)
      : size_(static_cast<Index>(data.size())),
        sample_(
            [shared = std::make_shared<const D>(std::move(data))](Index i) -> Sample { return shared->sample(i); }) {}

  Index size() const { return size_; }

  /// The i-th sample. Throws Error where there is none.
  Sample sample(Index i) const {
    require(i >= 0 && i < size_, "data", "expected a sample number below ", size_, ", got ", i);
    return sample_(i);
  }

  /// The samples of some numbers.
  DataSet subset(std::vector<Index> numbers) const {
    for (const Index i : numbers) require(i >= 0 && i < size_, "data", "there is no sample ", i, " of ", size_);
    DataSet out;
    out.size_ = static_cast<Index>(numbers.size());
    out.sample_ = [from = sample_, numbers = std::move(numbers)](Index i) {
      return from(numbers[static_cast<std::size_t>(i)]);
    };
    return out;
  }

  /// The samples first ... first + count - 1.
  DataSet range(Index first, Index count) const {
    require(first >= 0 && count >= 0 && first + count <= size_, "data", "expected a range within ", size_,
            " samples, got ", count, " from ", first);
    DataSet out;
    out.size_ = count;
    out.sample_ = [from = sample_, first](Index i) { return from(first + i); };
    return out;
  }

 private:
  Index size_ = 0;
  std::function<Sample(Index)> sample_;
};

namespace detail {

/// A data set that keeps the samples it has made until they fill some bytes.
template <class Data, class Kept>
class CachedSource {
 public:
  CachedSource(Data data, std::size_t bytes) : cache_(std::make_shared<Cache>(std::move(data), bytes)) {}

  Index size() const { return cache_->data.size(); }
  auto categories() const requires requires(const Data& d) { d.categories(); } { return cache_->data.categories(); }
  auto extent(Index i) const requires requires(const Data& d) { d.extent(i); } { return cache_->data.extent(i); }

  Kept sample(Index i) const {
    Cache& cache = *cache_;
    {
      const std::lock_guard lock(cache.mutex);
      if (const auto found = cache.samples.find(i); found != cache.samples.end()) return found->second;
    }
    Kept made = cache.data.sample(i);
    const std::size_t size = sample_bytes(made);
    const std::lock_guard lock(cache.mutex);
    if (size <= cache.left && cache.samples.emplace(i, made).second) cache.left -= size;
    return made;
  }

 private:
  struct Cache {
    Data data;
    std::size_t left;
    std::mutex mutex = {};
    std::map<Index, Kept> samples = {};

    Cache(Data d, std::size_t b) : data(std::move(d)), left(b) {}
  };
  std::shared_ptr<Cache> cache_;
};

}  // namespace detail

/// The memory that a sample's pixels take.
inline std::size_t sample_bytes(const Sample& sample) {
  return sample.image.bytes() + sample.target.bytes() + sample.ignore.bytes();
}

/// The same data set, whose samples are kept once they were made, until they fill `bytes`; those that come later are
/// made anew each time.
inline DataSet cached(const DataSet& data, std::size_t bytes) {
  return DataSet(detail::CachedSource<DataSet, Sample>(data, bytes));
}

/// Samples of one shape as a batch. Throws Error for none, and where their shapes differ.
inline Batch stack(const std::vector<Sample>& samples) {
  require(!samples.empty(), "stack", "expected at least 1 sample");
  const Shape& image = samples.front().image.shape();
  require(image.rank() == 3, "stack", "expected images (C, H, W), got ", image);
  const Shape mask{image[1], image[2]};
  bool ignores = false;
  for (const Sample& sample : samples) {
    require(sample.image.shape() == image, "stack", "expected images of one shape, ", image, ", got ",
            sample.image.shape(), " too: crop, pad or resize them, or take batches of 1");
    require(sample.target.shape() == mask, "stack", "expected a target ", mask, ", got ", sample.target.shape());
    require(sample.ignore.size() == 0 || sample.ignore.shape() == mask, "stack", "expected an ignore mask ", mask,
            ", got ", sample.ignore.shape());
    ignores = ignores || sample.ignore.size() > 0;
  }
  const auto count = static_cast<Index>(samples.size());
  const Shape masks{count, image[1], image[2]};
  Batch out{Tensor<float>({count, image[0], image[1], image[2]}), Tensor<float>(masks),
            ignores ? Tensor<float>(masks, 0.f) : Tensor<float>()};
  const auto copy = [](const Tensor<float>& from, Tensor<float>& to, Index k) {
    if (from.size() > 0) std::copy_n(from.data(), from.size(), to.mutable_data() + k * from.size());
  };
  for (Index k = 0; k < count; ++k) {
    const Sample& sample = samples[static_cast<std::size_t>(k)];
    copy(sample.image, out.image, k), copy(sample.target, out.target, k);
    if (ignores) copy(sample.ignore, out.ignore, k);
  }
  return out;
}

}  // namespace settle
