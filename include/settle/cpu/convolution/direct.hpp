#pragma once
#include "settle/core/round_up.hpp"
#include "settle/core/threads.hpp"
#include "settle/cpu/caches.hpp"
#include "settle/cpu/convolution/geometry.hpp"
#include "settle/cpu/unroll.hpp"

// Convolution by its definition, for stride 1. Lanes are neighbouring pixels of a plane. A kernel call keeps a block of
// sums in registers, channels x packets, while it runs over all input channels and taps: each packet of the image then
// serves all channels of the block, each weight all packets. Rows are first copied between zeros, a band at a time that
// stays in the second-level cache, so the kernels know nothing of borders.

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {
namespace detail {

/// The most channels that one block of sums covers.
inline constexpr int most_block_channels = 6;

/// The packets that a block of sums has for each of its channels: what fits in the registers beside the factors.
constexpr int block_packets(int channels) { return std::min(6, (packet_registers - 2) / (channels + 1)); }

/// Channels, or taps, cut in blocks of at most `most`: their sizes differ by at most one, or all but the last are of
/// `most`.
struct ChannelBlocks {
  explicit ChannelBlocks(Index all, Index most_channels = most_block_channels, bool full_blocks = false)
      : channels(all), most(most_channels), count(divide_up(all, most)), full(full_blocks) {}
  Index begin(Index block) const { return full ? std::min(block * most, channels) : channels * block / count; }
  Index size(Index block) const { return begin(block + 1) - begin(block); }

  /// Calls f(std::integral_constant<int, size>) for a block's size, so that the kernel's loops have known lengths.
  template <class F>
  void with_size(Index block, const F& f) const {
    [&]<int... s>(std::integer_sequence<int, s...>) {
      (void)((size(block) == s + 1 && (f(std::integral_constant<int, s + 1>{}), true)) || ...);
    }
    (std::make_integer_sequence<int, most_block_channels>{});
  }

  Index channels, most, count;
  bool full;
};

/// Whether each output pixel depends on one input pixel, the one in its place: a matrix product of the channels.
inline bool mixes_channels(const ConvGeometry& g) {
  return g.taps() == 1 && g.pad_h == 0 && g.pad_w == 0 && g.stride_h == 1 && g.stride_w == 1;
}

/// The convolution, at stride 1, that is the input gradient of g's: from gy to gx with transposed, turned weights.
/// Its padding may be negative, which crops.
inline ConvGeometry transposed(ConvGeometry g) {
  const Index height = g.out_height(), width = g.out_width();
  std::swap(g.in_channels, g.out_channels);
  g.in_height = height;
  g.in_width = width;
  g.pad_h = g.dilation_h * (g.kernel_height - 1) - g.pad_h;
  g.pad_w = g.dilation_w * (g.kernel_width - 1) - g.pad_w;
  return g;
}

/// Copies the window of a plane with rows [first, first + rows) and columns [begin, begin + columns) to rows of length
/// `stride` >= columns. What lies outside the plane or the window is zero; `first` and `begin` may be negative.
template <class T>
void copy_padded(const T* plane, Index height, Index width, Index first, Index begin, Index rows, Index columns,
                 Index stride, T* out) {
  const Index left = std::clamp<Index>(-begin, 0, columns), from = std::max<Index>(begin, 0);
  const Index count = std::clamp<Index>(std::min(width, begin + columns) - from, 0, columns - left);
  constexpr Index lanes = packet_size<T>;
  std::fill_n(out, rows > 0 ? left : 0, T(0));
  for (Index y = first; y < first + rows; ++y, out += stride) {
    const bool inside = y >= 0 && y < height;
    const Index whole = inside ? count / lanes * lanes : 0;
    const Index end = y + 1 < first + rows ? stride + left : stride;  // with the next row's zeros, if there is one
    if (whole == 0) {
      std::fill_n(out + left, end - left, T(0));
      if (inside) std::copy_n(plane + y * width + from, count, out + left);
      continue;
    }
    // Packets of zeros, of which the first may lie under pixels; the last packet of pixels repeats some.
    for (Index i = end; i > left + count; i -= lanes) store(out + i - lanes, Packet<T>{});
    const T* const row = plane + y * width + from;
    for (Index i = 0; i < whole; i += lanes) store(out + left + i, load(row + i));
    if (whole < count) store(out + left + count - lanes, load(row + count - lanes));
  }
}

/// The bytes of a band of padded rows: about half of a second-level cache.
inline constexpr Index band_bytes = 512 * 1024;

/// Weights in the order in which sum_taps reads them: [block of outputs][input][tap][output in the block].
/// The weight of (output, input, tap) stands that many strides behind w. Returns the end of what it wrote.
template <class T>
T* pack_blocks(const T* w, Index outputs, Index output_stride, Index inputs, Index input_stride, Index taps,
               Index tap_stride, T* packed) {
  const ChannelBlocks blocks(outputs);
  for (Index block = 0; block < blocks.count; ++block)
    for (Index i = 0; i < inputs; ++i)
      for (Index tap = 0; tap < taps; ++tap)
        for (Index o = blocks.begin(block); o < blocks.begin(block + 1); ++o)
          *packed++ = w[o * output_stride + i * input_stride + tap * tap_stride];
  return packed;
}

/// All groups' weights for the forward direction.
template <class T>
void pack_weights(const ConvGeometry& g, const T* w, T* packed) {
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups, depth = inputs * g.taps();
  for (Index group = 0; group < g.groups; ++group, w += outputs * depth)
    packed = pack_blocks(w, outputs, depth, inputs, g.taps(), g.taps(), 1, packed);
}

/// All groups' weights for the input gradient at stride 1: inputs and outputs change places, taps turn by 180 degrees.
template <class T>
void pack_weights_turned(const ConvGeometry& g, const T* w, T* packed) {
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups, depth = inputs * g.taps();
  for (Index group = 0; group < g.groups; ++group, w += outputs * depth)
    packed = pack_blocks(w + g.taps() - 1, inputs, g.taps(), outputs, depth, g.taps(), -1, packed);
}

/// The places, relative to an output pixel's, that contribute to it, in the order of the packed weights.
struct TapLoop {
  Index channels, channel_stride, rows, row_stride, columns, column_stride;
  Index taps() const { return channels * rows * columns; }
};

/// Walks over the places of a TapLoop in their order.
class TapCursor {
 public:
  explicit TapCursor(const TapLoop& loop) : loop_(loop) {}
  Index place() const { return place_; }

  void advance() {
    place_ += loop_.column_stride;
    if (++column_ < loop_.columns) return;
    column_ = 0;
    place_ += loop_.row_stride - loop_.columns * loop_.column_stride;
    if (++row_ < loop_.rows) return;
    row_ = 0;
    place_ += loop_.channel_stride - loop_.rows * loop_.row_stride;
  }

 private:
  const TapLoop& loop_;
  Index row_ = 0, column_ = 0, place_ = 0;
};

/// sums[o][p] = the sum over the taps of packed[tap][o] times the packet at x[p] + tap. What the same taps need `ahead`
/// further on is fetched to the first-level cache, unless that is 0.
template <int outputs, int packets, class T>
SETTLE_INLINE void sum_taps(const TapLoop& loop, Index ahead, const T* const (&x)[packets], const T* packed,
                            Packet<T> (&sums)[outputs][packets]) {
  SETTLE_UNROLL for (int o = 0; o < outputs; ++o) SETTLE_UNROLL for (int p = 0; p < packets; ++p) sums[o][p] =
      Packet<T>{};
  Index channel = 0;
  for (Index c = 0; c < loop.channels; ++c, channel += loop.channel_stride) {
    Index row = channel;
    for (Index r = 0; r < loop.rows; ++r, row += loop.row_stride) {
      if (ahead > 0) SETTLE_UNROLL for (int p = 0; p < packets; ++p) fetch_near(x[p] + row + ahead);
      Index tap = row;
      for (Index k = 0; k < loop.columns; ++k, tap += loop.column_stride, packed += outputs) {
        Packet<T> pixels[packets];
        SETTLE_UNROLL for (int p = 0; p < packets; ++p) pixels[p] = held(load(x[p] + tap));
        SETTLE_UNROLL for (int o = 0; o < outputs; ++o) {
          const Packet<T> weight = splat(packed[o]);
          SETTLE_UNROLL for (int p = 0; p < packets; ++p) sums[o][p] = fma(weight, pixels[p], sums[o][p]);
        }
      }
    }
  }
}

/// What a block of channels fetches for the pixels `distance` further on: its outputs, and `inputs` planes of the
/// input, `plane` apart, of which `from` has the first pixel.
template <class T>
struct FetchAhead {
  Index distance = 0;
  const T* from = nullptr;
  Index inputs = 0, plane = 0;
};

/// One block of output channels on a band of `rows` rows of `width` pixels: x has its rows `stride` apart, y is
/// contiguous with its planes `plane` apart. It is written; or, when `add`, added to.
template <int outputs, class T>
void direct_band(const TapLoop& loop, Index rows, Index width, const T* x, Index stride, const T* packed, T* y,
                 Index plane, bool add, const FetchAhead<T>& ahead = {}) {
  constexpr int packets = block_packets(outputs);
  constexpr Index lanes = packet_size<T>;
  const Index next_channel = wide_units() ? loop.channel_stride : 0;
  Index row = 0, column = 0;
  while (row < rows) {
    const T* from[packets];
    T* to[packets] = {};
    int again[packets];  // the pixels at the start of a packet that are not new
    // Packets side by side take few instructions: more than a hundred between two sums would leave the units idle.
    const bool side_by_side = column + packets * lanes <= width;
    if (side_by_side) {
      SETTLE_UNROLL for (int p = 0; p < packets; ++p) from[p] = x + row * stride + column + p * lanes;
      to[0] = y + row * width + column;
      column += packets * lanes;
      if (column == width) ++row, column = 0;
      if (ahead.distance > 0) {
        const T* next = ahead.from + (from[0] - x);
        for (Index c = 0; c < ahead.inputs; ++c, next += ahead.plane)
          SETTLE_UNROLL for (int p = 0; p < packets; ++p) fetch(next + p * lanes, packet_size<T>);
        SETTLE_UNROLL for (int o = 0; o < outputs; ++o) SETTLE_UNROLL for (int p = 0; p < packets; ++p)
            fetch(to[0] + ahead.distance + o * plane + p * lanes, packet_size<T>);
      }
    } else {
      for (int p = 0; p < packets; ++p) {
        // The last packet of a row ends with the row and repeats some of the one before; after the last row, the block
        // repeats its last packet.
        const Index begin = std::max<Index>(0, std::min(column, width - lanes));
        from[p] = row < rows ? x + row * stride + begin : from[p - 1];
        to[p] = row < rows ? y + row * width + begin : to[p - 1];
        again[p] = static_cast<int>(row < rows ? column - begin : lanes);
        column += lanes;
        if (column >= width) ++row, column = 0;
      }
    }
    Packet<T> sums[outputs][packets];
    sum_taps<outputs, packets>(loop, next_channel, from, packed, sums);
    if (side_by_side) {
      SETTLE_UNROLL for (int o = 0; o < outputs; ++o) SETTLE_UNROLL for (int p = 0; p < packets; ++p) {
        T* const out = to[0] + o * plane + p * lanes;
        store(out, add ? load(out) + sums[o][p] : sums[o][p]);
      }
      continue;
    }
    const int whole = static_cast<int>(std::min(width, lanes));
    if (add && (whole < lanes || *std::max_element(again, again + packets) > 0)) {
      T values[outputs * packets * lanes];
      SETTLE_UNROLL for (int o = 0; o < outputs; ++o) SETTLE_UNROLL for (int p = 0; p < packets; ++p)
          store(values + (o * packets + p) * lanes, sums[o][p]);
      for (int o = 0; o < outputs; ++o)
        for (int p = 0; p < packets; ++p)
          for (int l = again[p]; l < whole; ++l) to[p][o * plane + l] += values[(o * packets + p) * lanes + l];
      continue;
    }
    SETTLE_UNROLL for (int o = 0; o < outputs; ++o) SETTLE_UNROLL for (int p = 0; p < packets; ++p) {
      T* const out = to[p] + o * plane;
      if (whole == lanes)
        store(out, add ? load(out) + sums[o][p] : sums[o][p]);
      else
        store_partial(out, sums[o][p], whole);
    }
  }
}

/// The pixels of which all channels of a group, of input and output, take so many bytes.
template <class T>
Index pixels_in(Index bytes, const ConvGeometry& g) {
  return bytes / static_cast<Index>(sizeof(T)) / ((g.in_channels + g.out_channels) / g.groups);
}

/// Calls f(part, image of one group, first pixel, end) for runs of at most about `most` pixels, as many in each of at
/// most `parts` parts. None is shorter than a packet, unless an image is.
template <class T, class F>
void for_each_pixel_run(const ConvGeometry& g, Index most, int parts, const F& f) {
  constexpr Index lanes = packet_size<T>;
  const Index pixels = g.in_pixels(), images = g.batch * g.groups;
  parts = static_cast<int>(std::min<Index>(parts, images * divide_up(pixels, lanes)));
  Index count = divide_up(pixels, most);
  while (images * count % parts != 0) ++count;
  const Index length = round_up(divide_up(pixels, count), lanes);
  const auto begin_of = [&](Index run) {
    const Index begin = run * length;
    return begin > 0 && pixels - begin < lanes ? pixels : begin;
  };
  ThreadPool::instance().split(images * count, parts, [&](int part, Index first_run, Index end_run) {
    for (Index run = first_run; run < end_run; ++run) {
      const Index begin = begin_of(run % count), end = begin_of(run % count + 1);
      if (begin < end) f(part, run / count, begin, end);
    }
  });
}

/// y (+)= the convolution of x with packed weights that mix channels.
template <class T>
void mix_channels(const ConvGeometry& g, const T* x, const T* packed, T* y, bool add) {
  const Index pixels = g.in_pixels(), inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  const ChannelBlocks blocks(outputs);
  constexpr Index fetched_bytes = 4 * 1024 * 1024;  // what is smaller comes fast enough from a third-level cache
  const bool fetches = (g.in_size() + g.out_size()) * static_cast<Index>(sizeof(T)) > fetched_bytes;
  // All channels of a run stay in the second-level cache. Processors with wide units wait for that cache too: of what
  // comes from memory they take runs of few blocks of sums, whose inputs, where they are few, stay in the first-level
  // cache; and copy them, so that no packet lies across two lines, where the outputs that read them are many.
  Index run = std::max<Index>(pixels_in<T>(band_bytes / 2, g), 16 * packet_size<T>);
  const bool few_sums = fetches && wide_units(), copies = few_sums && outputs >= 32;
  if (few_sums) run = (copies ? 4 : 2) * block_packets(static_cast<int>(blocks.size(0))) * packet_size<T>;
  const Index share = copies ? inputs * (run + packet_size<T>) : 0;  // the last run may be a packet longer
  ThreadPool& pool = ThreadPool::instance();
  const int parts = pool.small_parts_for(g.multiply_adds(), thread_grain);
  auto scratch = workspace<T>(pool.threads_for(parts) * share);
  T* const scratch_data = scratch.mutable_data();
  for_each_pixel_run<T>(g, run, parts, [&](int, Index image, Index begin, Index end) {
    const Index length = end - begin, stride = copies ? round_up(length, packet_size<T>) : pixels;
    const T* const x_run = x + image * inputs * pixels + begin;
    const T* from = x_run;
    if (copies) {
      T* const copy = scratch_data + pool.thread() * share;
      copy_padded(x_run, inputs, pixels, 0, 0, inputs, length, stride, copy);
      from = copy;
    }
    const TapLoop loop{1, 0, 1, 0, inputs, stride};  // channels as columns: the innermost loop is the long one
    const T* weights = packed + image % g.groups * inputs * outputs;
    for (Index block = 0; block < blocks.count; ++block) {
      const Index channel = inputs * block / blocks.count, next_channel = inputs * (block + 1) / blocks.count;
      const FetchAhead<T> next_run{fetches ? length : 0, x_run + channel * pixels + length, next_channel - channel,
                                   pixels};
      blocks.with_size(block, [&](auto size) {
        direct_band<size>(loop, 1, length, from, 0, weights,
                          y + (image * outputs + blocks.begin(block)) * pixels + begin, pixels, add, next_run);
      });
      weights += blocks.size(block) * inputs;
    }
  });
}

/// y (+)= the convolution of x with packed weights, for a geometry of stride 1.
template <class T>
void direct_forward(const ConvGeometry& g, const T* x, const T* packed, T* y, bool add) {
  const Index height = g.out_height(), width = g.out_width(), lanes = packet_size<T>;
  const Index images = g.batch * g.groups, inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  if (g.out_size() == 0) return;
  if (mixes_channels(g) && width * height >= lanes) return mix_channels(g, x, packed, y, add);
  const bool in_place = g.pad_h == 0 && g.pad_w == 0 && width >= lanes;
  const Index reach_h = g.dilation_h * (g.kernel_height - 1), reach_w = g.dilation_w * (g.kernel_width - 1);
  const Index stride = in_place ? g.in_width : round_up(std::max(width, lanes) + reach_w, lanes);
  const Index band_budget = band_bytes / static_cast<Index>(sizeof(T)) / (inputs * stride);
  const Index band = std::clamp<Index>(band_budget - reach_h, std::min<Index>(8, height), height);
  const Index share = in_place ? 0 : inputs * (band + reach_h) * stride;

  ThreadPool& pool = ThreadPool::instance();
  const Index all_rows = images * height;
  const Index least_rows = std::max<Index>(16, thread_grain / (g.multiply_adds() / all_rows + 1) + 1);
  const int parts = pool.small_parts_for(all_rows, least_rows);
  auto scratch = workspace<T>(pool.threads_for(parts) * share);
  T* const scratch_data = scratch.mutable_data();
  const ChannelBlocks blocks(outputs);
  pool.split(all_rows, parts, [&](int, Index row, Index end) {
    for (Index rows; row < end; row += rows) {
      const Index image = row / height, first = row % height;
      rows = std::min({band, height - first, end - row});
      const T* from = x + image * inputs * g.in_pixels();
      Index plane = g.in_pixels();
      if (in_place) {
        from += first * stride;
      } else {
        T* padded = scratch_data + pool.thread() * share;
        plane = (rows + reach_h) * stride;
        for (Index i = 0; i < inputs; ++i)
          copy_padded(from + i * g.in_pixels(), g.in_height, g.in_width, first - g.pad_h, -g.pad_w, rows + reach_h,
                      stride, stride, padded + i * plane);
        from = padded;
      }
      const TapLoop loop{inputs, plane, g.kernel_height, g.dilation_h * stride, g.kernel_width, g.dilation_w};
      const T* weights = packed + image % g.groups * inputs * outputs * g.taps();
      for (Index block = 0; block < blocks.count; ++block) {
        T* to = y + (image * outputs + blocks.begin(block)) * height * width + first * width;
        blocks.with_size(block, [&](auto size) {
          direct_band<size>(loop, rows, width, from, stride, weights, to, height * width, add);
        });
        weights += blocks.size(block) * inputs * g.taps();
      }
    }
  });
}

}  // namespace detail
}  // namespace settle::cpu
