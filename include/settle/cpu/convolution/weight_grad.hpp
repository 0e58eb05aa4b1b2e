#pragma once
#include <cmath>

#include "settle/cpu/convolution/direct.hpp"
#include "settle/cpu/transpose.hpp"

// The weight gradient by its definition, for stride 1: the sums over pixels of a channel of gy times a shifted channel
// of x. Output channels that fill packets are lanes: each pixel's packet meets single numbers of x, and nothing is
// summed over lanes. For the output channels that are left, and where channels only mix, lanes are neighbouring pixels.
namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {
namespace detail {

/// The kernel rows, each of one input channel, that one call of correlate_outputs takes; and the most taps along them.
inline constexpr int kernel_rows_at_once = 8;
inline constexpr int most_taps_at_once = 3;

/// The output channels of a group that are lanes in a direct weight gradient: those that fill packets, where the sums
/// of a call fill the registers, and rows are short enough to be added up number by number.
template <class T>
Index outputs_in_lanes(const ConvGeometry& g) {
  const Index kernel_rows = g.in_channels / g.groups * g.kernel_height;
  const bool serves = packet_registers >= 32 && g.kernel_width > 1 && kernel_rows >= 2 * kernel_rows_at_once &&
                      g.out_width() <= 1024;
  return serves ? g.out_channels / g.groups / packet_size<T> * packet_size<T> : 0;
}

/// Adds to sums[(r * row_taps + k) * lanes], for the first `count` of x and each k < taps, the sum over pixels of gy's
/// packet of output channels times x[r] at k pixels further on. Behind each row of gy stand taps - 1 zeros.
template <int taps, class T>
void correlate_outputs(Index rows, Index width, const T* gy, Index gy_stride, const T* const (&x)[kernel_rows_at_once],
                       Index x_stride, Index count, Index row_taps, T* sums) {
  constexpr Index lanes = packet_size<T>;
  Packet<T> block[kernel_rows_at_once * taps];
  SETTLE_UNROLL for (int i = 0; i < kernel_rows_at_once * taps; ++i) block[i] = Packet<T>{};
  const T* from[kernel_rows_at_once];
  SETTLE_UNROLL for (int r = 0; r < kernel_rows_at_once; ++r) from[r] = x[r];
  const Index steps = width + taps - 1, whole = steps / taps * taps;
  for (Index row = 0; row < rows; ++row, gy += gy_stride) {
    Packet<T> pixels[taps];  // of gy: the newest and those before it, in turn
    SETTLE_UNROLL for (int k = 0; k < taps; ++k) pixels[k] = Packet<T>{};
    const auto step = [&]<int newest>(std::integral_constant<int, newest>, Index at) __attribute__((always_inline)) {
      pixels[newest] = held(load(gy + (at + newest) * lanes));
      SETTLE_UNROLL for (int r = 0; r < kernel_rows_at_once; ++r) {
        const Packet<T> value = held(splat(from[r][at + newest]));
        SETTLE_UNROLL for (int k = 0; k < taps; ++k)
          block[r * taps + k] = fma(pixels[(newest - k + taps) % taps], value, block[r * taps + k]);
      }
    };
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
      for (Index at = 0; at < whole; at += taps) (step(std::integral_constant<int, i>{}, at), ...);
      ((whole + i < steps ? step(std::integral_constant<int, i>{}, whole) : void()), ...);
    }
    (std::make_integer_sequence<int, taps>{});
    SETTLE_UNROLL for (int r = 0; r < kernel_rows_at_once; ++r) from[r] += x_stride;
  }
  SETTLE_UNROLL for (int r = 0; r < kernel_rows_at_once; ++r) {
    if (r == count) return;
    SETTLE_UNROLL for (int k = 0; k < taps; ++k) {
      T* const to = sums + (r * row_taps + k) * lanes;
      store(to, load(to) + block[r * taps + k]);
    }
  }
}

/// The sums of the output channels that are lanes:
/// [group][packet of outputs][input][row of the kernel][tap][lane].
template <class T>
class OutputSums {
 public:
  static constexpr Index lanes = packet_size<T>;

  explicit OutputSums(const ConvGeometry& g)
      : g_(g),
        packets_(outputs_in_lanes<T>(g) / lanes),
        inputs_(g.in_channels / g.groups),
        depth_(inputs_ * g.taps()),
        row_blocks_(g.kernel_width, g.dilation_w == 1 ? most_taps_at_once : 1),
        gy_row_((g.out_width() + most_taps_at_once - 1) * lanes) {
    // A lane adds up some rows of pixels before that sum is added to others: about as many pixels as sums, which rounds
    // least, but at least 256, for a sum takes time.
    const double pixels = std::sqrt(static_cast<double>(g.batch * g.out_pixels()));
    rows_at_once_ = std::max<Index>(1, std::max<Index>(256, std::lround(pixels)) / std::max<Index>(1, g.out_width()));
  }

  /// The output channels that there are sums for.
  Index outputs() const { return packets_ * lanes; }
  /// The numbers that all sums take, and those that a row of gy takes for all of its channels.
  Index size() const { return g_.groups * packets_ * depth_ * lanes; }
  Index gy_row() const { return packets_ * gy_row_; }

  /// Packs rows [first, first + rows) of an image of gy: [packet of outputs][row][pixel][lane].
  void pack(const T* gy, Index first, Index rows, T* packed) const {
    const Index width = g_.out_width(), plane = g_.out_pixels(), count = std::min(lanes, width);
    for (Index p = 0; p < packets_; ++p)
      for (Index row = first; row < first + rows; ++row, packed += gy_row_) {
        const T* const from = gy + p * lanes * plane + row * width;
        for (Index x = 0; x < width; x += lanes) {
          const Index begin = std::min(x, width - count);  // the last packet of a row repeats some pixels
          Packet<T> square[lanes];
          for (Index o = 0; o < lanes; ++o) {
            if (count == lanes) {
              square[o] = load(from + o * plane + begin);
            } else {
              T pixels[lanes] = {};
              std::copy_n(from + o * plane, count, pixels);
              square[o] = load(pixels);
            }
          }
          transpose(square);
          for (Index i = 0; i < count; ++i) store(packed + (begin + i) * lanes, square[i]);
        }
        for (Index i = width * lanes; i < gy_row_; i += lanes) store(packed + i, Packet<T>{});
      }
  }

  /// Adds the sums over packed rows, for the input channels [channel, channel + channels), whose padded rows begin at
  /// x.
  void correlate(Index group, Index channel, Index channels, Index rows, const T* packed, const T* x, Index x_plane,
                 Index x_stride, T* sums) const {
    const Index height = g_.kernel_height, width = g_.kernel_width, kernel_rows = channels * height;
    sums += (group * packets_ * inputs_ + channel) * g_.taps() * lanes;
    for (Index p = 0; p < packets_; ++p, packed += rows * gy_row_, sums += depth_ * lanes)
      for (Index begin = 0; begin < kernel_rows; begin += kernel_rows_at_once)
        for (Index block = 0; block < row_blocks_.count; ++block) {
          const Index tap = row_blocks_.begin(block), count = std::min<Index>(kernel_rows_at_once, kernel_rows - begin);
          T* const to = sums + (begin * width + tap) * lanes;
          for (Index row = 0; row < rows; row += rows_at_once_) {
            const T* from[kernel_rows_at_once];
            for (Index r = 0; r < kernel_rows_at_once; ++r) {
              const Index of_kernel = begin + std::min(r, count - 1);
              from[r] = x + of_kernel / height * x_plane + (of_kernel % height * g_.dilation_h + row) * x_stride +
                        tap * g_.dilation_w;
            }
            row_blocks_.with_size(block, [&](auto taps) {
              if constexpr (taps <= most_taps_at_once)
                correlate_outputs<taps>(std::min(rows_at_once_, rows - row), g_.out_width(), packed + row * gy_row_,
                                        gy_row_, from, x_stride, count, width, to);
            });
          }
        }
  }

  /// gw += the sums
  void add_to(const T* sums, T* gw) const {
    const Index others = (g_.out_channels / g_.groups - outputs()) * depth_;
    for (Index group = 0; group < g_.groups; ++group, gw += others)
      for (Index p = 0; p < packets_; ++p, gw += lanes * depth_, sums += depth_ * lanes)
        for (Index at = 0; at < depth_; at += lanes) {
          const Index count = std::min(lanes, depth_ - at);
          Packet<T> square[lanes];
          for (Index i = 0; i < lanes; ++i) square[i] = i < count ? load(sums + (at + i) * lanes) : Packet<T>{};
          transpose(square);
          for (Index o = 0; o < lanes; ++o) {
            T* const to = gw + o * depth_ + at;
            if (count == lanes) {
              store(to, load(to) + square[o]);
            } else {
              T values[lanes];
              store(values, square[o]);
              for (Index i = 0; i < count; ++i) to[i] += values[i];
            }
          }
        }
  }

 private:
  ConvGeometry g_;
  Index packets_, inputs_, depth_;
  ChannelBlocks row_blocks_;  ///< of the taps along a row of the kernel
  Index gy_row_;              ///< the numbers of a packed row of one packet of outputs
  Index rows_at_once_;        ///< the rows of pixels that a call of correlate_outputs takes
};

/// Lane j of the result is the sum of all lanes of v[j], the packets from v[count] on being zero.
template <int count, int begin = 0, int step = 1, class V>
SETTLE_INLINE V sums_of_lanes(const V* v) {
  constexpr int lanes = packet_size<Lane<V>>;
  if constexpr (begin >= count) {
    return V{};
  } else if constexpr (step == lanes) {
    return v[begin];
  } else {
    // Lanes whose number has the bit `step` take from b, the others from a: first what stands there, then what stands
    // in the lane that differs in this bit.
    const V a = sums_of_lanes<count, begin, 2 * step>(v), b = sums_of_lanes<count, begin + step, 2 * step>(v);
    return [&]<int... i>(std::integer_sequence<int, i...>) {
      return __builtin_shufflevector(a, b, ((i & step) ? lanes + i : i)...) +
             __builtin_shufflevector(a, b, ((i & step) ? lanes + (i ^ step) : i ^ step)...);
    }
    (std::make_integer_sequence<int, lanes>{});
  }
}

/// Adds to sums[o * taps + t] the sum over a band of gy's channel o times x at the tap t. Rows have `width` pixels, a
/// multiple of a packet's, and the sums fill up packets.
template <int outputs, int taps, class T>
void correlate_band(Index rows, Index width, const T* gy, Index plane, const T* const (&x)[taps], Index stride,
                    T* sums) {
  constexpr int lanes = packet_size<T>, products = outputs * taps;
  Packet<T> block[products];
  SETTLE_UNROLL for (int i = 0; i < products; ++i) block[i] = Packet<T>{};
  const T* from[taps];
  SETTLE_UNROLL for (int t = 0; t < taps; ++t) from[t] = x[t];
  const Index end = rows * width, skip = stride - width;
  for (Index at = 0, row_end = width; at < end;) {
    Packet<T> pixels[taps];
    SETTLE_UNROLL for (int t = 0; t < taps; ++t) pixels[t] = held(load(from[t] + at));
    SETTLE_UNROLL for (int o = 0; o < outputs; ++o) {
      const Packet<T> g = held(load(gy + o * plane + at));
      SETTLE_UNROLL for (int t = 0; t < taps; ++t) block[o * taps + t] = fma(g, pixels[t], block[o * taps + t]);
    }
    at += lanes;
    if (at != row_end) continue;
    row_end += width;
    SETTLE_UNROLL for (int t = 0; t < taps; ++t) from[t] += skip;
  }
  [&]<int... i>(std::integer_sequence<int, i...>) {
    (store(sums + i * lanes, load(sums + i * lanes) + sums_of_lanes<products, i * lanes>(block)), ...);
  }
  (std::make_integer_sequence<int, divide_up(products, lanes)>{});
}

/// The taps that correlate_band takes at once. Blocks of four channels take four at most: 4 and 4 planes that are
/// multiples of 4 KB apart still find room in the eight or more ways of a first-level cache, which such planes share.
constexpr int block_taps(int outputs) { return std::min(outputs == 4 ? 4 : 6, block_packets(outputs)); }

/// How planes lie in the first-level cache: those that are multiples of 4 KB apart share its ways.
enum class Crowding { none, gy, all };

template <class T>
bool crowded(Index plane) {
  return plane * static_cast<Index>(sizeof(T)) % 4096 == 0;
}

/// The output channels in blocks for correlate_band, so that few products are computed for taps that do not count.
inline ChannelBlocks correlation_blocks(Index outputs, Index taps, Crowding crowding) {
  // What products cost in blocks of more planes than a cache has ways; where only gy's crowd, this decides ties.
  const int ways = wide_units() ? 12 : 8;
  const double crowd = crowding == Crowding::all ? 1.1 : crowding == Crowding::gy ? 1.001 : 1.0;
  const auto cost = [&](const ChannelBlocks& blocks) {
    double products = 0;
    for (Index block = 0; block < blocks.count; ++block) {
      const int size = static_cast<int>(blocks.size(block)), at_once = block_taps(size);
      products += (size + at_once > ways ? crowd : 1.0) * static_cast<double>(size * round_up(taps, at_once));
    }
    return products;
  };
  const auto cheaper = [&](const ChannelBlocks& a, const ChannelBlocks& b) { return cost(b) < cost(a) ? b : a; };
  constexpr Index most = most_block_channels;
  return cheaper(cheaper(ChannelBlocks(outputs), ChannelBlocks(outputs, most, true)), ChannelBlocks(outputs, 4, true));
}

/// The sums of a weight gradient while it is added up:
/// [group][chunk of input channels][block of outputs][block of taps][output][tap], each block of products filled up to
/// packets, so that few instructions add to it.
template <class T>
class CorrelationSums {
 public:
  /// Of each group's last `outputs` output channels, for chunks of `chunk` input channels, of which a group's last may
  /// be smaller.
  CorrelationSums(const ConvGeometry& g, Index outputs, Index chunk, Crowding crowding = Crowding::none)
      : groups_(g.groups),
        all_outputs_(g.out_channels / g.groups),
        outputs_(outputs),
        inputs_(g.in_channels / g.groups),
        taps_(g.taps()),
        chunk_(chunk),
        blocks_(correlation_blocks(outputs_, chunk * taps_, crowding)) {
    for (Index block = 0; block < blocks_.count; ++block) {
      const int size = static_cast<int>(blocks_.size(block)), at_once = block_taps(size);
      chunk_size_ += divide_up(chunk * taps_, at_once) * block_size(size);
    }
  }

  /// The numbers that all sums take.
  Index size() const { return groups_ * chunks() * chunk_size_; }

  /// Adds to the sums of a group's chunk, which begins at `channel`, those over a band of gy's channels times x at the
  /// taps.
  void correlate(Index group, Index channel, Index rows, Index width, const T* gy, Index plane, const T* x,
                 const TapLoop& loop, Index stride, T* sums) const {
    const Index taps = loop.taps();
    sums += (group * chunks() + channel / chunk_) * chunk_size_;
    for (Index block = 0; block < blocks_.count; ++block)
      blocks_.with_size(block, [&](auto size) {
        constexpr int at_once = block_taps(size);
        TapCursor cursor(loop);
        for (Index tap = 0; tap < taps; tap += at_once, sums += block_size(size)) {
          const T* from[at_once];
          for (int t = 0; t < at_once; ++t) {
            from[t] = x + cursor.place();
            if (tap + t + 1 < taps) cursor.advance();
          }
          correlate_band<size, at_once>(rows, width, gy + blocks_.begin(block) * plane, plane, from, stride, sums);
        }
      });
  }

  /// gw += the sums
  void add_to(const T* sums, T* gw) const {
    gw += (all_outputs_ - outputs_) * inputs_ * taps_;
    for (Index group = 0; group < groups_; ++group, gw += all_outputs_ * inputs_ * taps_)
      for (Index channel = 0; channel < inputs_; channel += chunk_, sums += chunk_size_)
        add_chunk(std::min(chunk_, inputs_ - channel) * taps_, sums, gw + channel * taps_);
  }

 private:
  /// The numbers that a block of products takes.
  static constexpr Index block_size(int outputs) { return round_up(outputs * block_taps(outputs), packet_size<T>); }

  Index chunks() const { return divide_up(inputs_, chunk_); }

  void add_chunk(Index taps, const T* sums, T* gw) const {
    for (Index block = 0; block < blocks_.count; ++block)
      blocks_.with_size(block, [&](auto size) {
        constexpr int at_once = block_taps(size);
        for (Index tap = 0; tap < taps; tap += at_once, sums += block_size(size))
          for (int o = 0; o < size; ++o) {
            T* const to = gw + (blocks_.begin(block) + o) * inputs_ * taps_ + tap;
            const T* const from = sums + o * at_once;
            if (taps - tap < at_once) {
              for (Index t = 0; t < taps - tap; ++t) to[t] += from[t];
              continue;
            }
            T all[at_once];  // none is written before all are read, so that an instruction may take several
            SETTLE_UNROLL for (int t = 0; t < at_once; ++t) all[t] = to[t] + from[t];
            SETTLE_UNROLL for (int t = 0; t < at_once; ++t) to[t] = all[t];
          }
      });
  }

  Index groups_, all_outputs_, outputs_, inputs_, taps_, chunk_, chunk_size_ = 0;
  ChannelBlocks blocks_;
};

/// gw = the gradient in weights that mix channels.
template <class T>
void mix_channels_weight_grad(const ConvGeometry& g, const T* x, const T* gy, T* gw) {
  constexpr Index lanes = packet_size<T>;
  const Index pixels = g.in_pixels(), inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  const int parts = ThreadPool::instance().parts_for(g.multiply_adds(), thread_grain);
  const CorrelationSums<T> layout(g, outputs, inputs, crowded<T>(pixels) ? Crowding::all : Crowding::none);
  const Index tail_size = (inputs + outputs) * lanes, share = layout.size() + tail_size;
  auto scratch = workspace<T>(parts * share);
  T* const scratch_data = scratch.mutable_data();
  std::fill_n(scratch_data, parts * share, T(0));
  // A lane adds up to 128 products: enough that sums over lanes cost little, few enough that they round little. All
  // channels of a run stay in the second-level cache. With 64 products a block's channels stay in the first-level cache
  // of processors with wide units, which need that.
  const Index most = wide_units() ? 64 : 128;
  const Index run = std::clamp<Index>(pixels_in<T>(band_bytes, g) / lanes, 32, most) * lanes;
  for_each_pixel_run<T>(g, run, parts, [&](int part, Index image, Index begin, Index end) {
    T* const x_tail = scratch_data + part * share;
    T* const gy_tail = x_tail + inputs * lanes;
    const T* const x_image = x + image * inputs * pixels;
    const T* const gy_image = gy + image * outputs * pixels;
    const Index whole = (end - begin) / lanes * lanes, rest = end - begin - whole;
    const auto correlate = [&](const T* gy_run, Index gy_plane, const T* x_run, Index x_plane, Index length) {
      const TapLoop channels{1, 0, 1, 0, inputs, x_plane};
      layout.correlate(image % g.groups, 0, 1, length, gy_run, gy_plane, x_run, channels, 0, x_tail + tail_size);
    };
    if (whole > 0) correlate(gy_image + begin, pixels, x_image + begin, pixels, whole);
    if (rest == 0) return;
    copy_padded(x_image, inputs, pixels, 0, begin + whole, inputs, rest, lanes, x_tail);
    copy_padded(gy_image, outputs, pixels, 0, begin + whole, outputs, rest, lanes, gy_tail);
    correlate(gy_tail, lanes, x_tail, lanes, lanes);
  });
  for (int part = 0; part < parts; ++part) layout.add_to(scratch_data + part * share + tail_size, gw);
}

/// How a direct weight gradient's operands lie in a part's memory, a band of rows at a time: padded rows of a chunk of
/// x's channels, packed rows of the output channels that are lanes, rows of the other output channels, sums.
template <class T>
struct WeightGradBands {
  explicit WeightGradBands(const ConvGeometry& g)
      : in_lanes(g),
        others(g.out_channels / g.groups - in_lanes.outputs()),
        reach_h(g.dilation_h * (g.kernel_height - 1)),
        reach_w(g.dilation_w * (g.kernel_width - 1)),
        shift(round_up(g.pad_w, lanes) - g.pad_w) {
    const Index height = g.out_height(), width = g.out_width(), inputs = g.in_channels / g.groups;
    joined = others == 0 || width + reach_w < round_up(width, lanes);
    gy_stride = joined ? width + reach_w : round_up(width, lanes);
    x_stride = joined ? gy_stride : round_up(gy_stride + reach_w, lanes);
    in_place = gy_stride == width && !joined;
    // All of gy's channels and some of x's stay in the second-level cache: as many rows as can be, so that sums over
    // lanes are few.
    const Index budget = band_bytes / static_cast<Index>(sizeof(T));
    const Index gy_row = in_lanes.gy_row() + others * gy_stride;
    rows = even_part(height, std::clamp<Index>(budget / 2 / gy_row, std::min<Index>(8, height), height));
    x_plane = round_up((rows + reach_h) * x_stride + reach_w + lanes, lanes);
    chunk = even_part(inputs, std::clamp<Index>((budget - rows * gy_row) / x_plane, 1, inputs));
    gy_plane = in_place ? height * width : round_up(rows * gy_stride, lanes);
    packed_at = lanes + chunk * x_plane;
    gy_at = packed_at + rows * in_lanes.gy_row();
    sums_at = gy_at + (in_place ? 0 : others * gy_plane);
  }

  static constexpr Index lanes = packet_size<T>;

  OutputSums<T> in_lanes;
  Index others;  ///< output channels that are not lanes
  Index reach_h, reach_w;
  Index shift;    ///< of x's rows, so that those of pixels begin with packets
  bool joined;    ///< rows follow each other, reach_w zeros between those of gy: where that takes fewer packets than
                  ///< rows that begin with one, or no pixels are lanes
  bool in_place;  ///< gy's rows of the other channels serve as they stand
  Index gy_stride, x_stride;
  Index rows;   ///< of a band
  Index chunk;  ///< channels of x
  Index x_plane, gy_plane;
  Index packed_at, gy_at, sums_at;  ///< where a part's memory has what is not x's

 private:
  /// The largest part of `all` when it is divided evenly in parts of at most `most`.
  static Index even_part(Index all, Index most) {
    const Index count = divide_up(all, most);
    return divide_up(all, count);
  }
};

/// gw = the gradient in the weights, for a geometry of stride 1.
template <class T>
void direct_weight_grad(const ConvGeometry& g, const T* x, const T* gy, T* gw) {
  const Index height = g.out_height(), width = g.out_width(), lanes = packet_size<T>;
  const Index images = g.batch * g.groups, inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  std::fill_n(gw, g.weight_size(), T(0));
  if (g.out_size() == 0 || inputs == 0) return;
  if (mixes_channels(g)) return mix_channels_weight_grad(g, x, gy, gw);
  const WeightGradBands<T> bands(g);
  const OutputSums<T>& in_lanes = bands.in_lanes;
  const CorrelationSums<T> in_pixels(g, bands.others, bands.chunk,
                                     crowded<T>(bands.gy_plane) ? Crowding::gy : Crowding::none);
  const Index sums_size = in_lanes.size() + in_pixels.size(), share = bands.sums_at + sums_size;

  ThreadPool& pool = ThreadPool::instance();
  const Index all_rows = images * height;
  const int parts = pool.parts_for(all_rows, thread_grain / (g.multiply_adds() / all_rows + 1) + 1);
  auto scratch = workspace<T>(parts * share);
  T* const scratch_data = scratch.mutable_data();
  pool.split(all_rows, parts, [&](int part, Index row, Index end) {
    T* const memory = scratch_data + part * share;
    T *const x_band = memory + bands.shift, *const packed = memory + bands.packed_at;
    T *const gy_band = memory + bands.gy_at, *const sums = memory + bands.sums_at;
    std::fill_n(sums, sums_size, T(0));
    for (Index rows; row < end; row += rows) {
      const Index image = row / height, first = row % height, group = image % g.groups;
      rows = std::min({bands.rows, height - first, end - row});
      // What the sums over pixels run through: all rows at once, or one after the other.
      const Index run = bands.joined ? round_up(rows * bands.gy_stride, lanes) : bands.gy_stride;
      const T* const gy_image = gy + image * outputs * height * width;
      const T* const gy_others = gy_image + in_lanes.outputs() * height * width;
      in_lanes.pack(gy_image, first, rows, packed);
      for (Index o = 0; o < bands.others && !bands.in_place; ++o) {
        T* const plane = gy_band + o * bands.gy_plane;
        copy_padded(gy_others + o * height * width, height, width, first, 0, rows, width, bands.gy_stride, plane);
        if (bands.joined) std::fill_n(plane + rows * bands.gy_stride, run - rows * bands.gy_stride, T(0));
      }
      const T* const gy_rows = bands.in_place ? gy_others + first * width : gy_band;
      for (Index begin = 0; begin < inputs; begin += bands.chunk) {
        const Index channels = std::min(bands.chunk, inputs - begin), x_rows = rows + bands.reach_h;
        for (Index i = 0; i < channels; ++i) {
          T* const plane = x_band + i * bands.x_plane;
          copy_padded(x + (image * inputs + begin + i) * g.in_pixels(), g.in_height, g.in_width, first - g.pad_h,
                      -g.pad_w, x_rows, bands.x_stride, bands.x_stride, plane);
          if (bands.joined) std::fill_n(plane + x_rows * bands.x_stride, bands.reach_w + lanes, T(0));
        }
        in_lanes.correlate(group, begin, channels, rows, packed, x_band, bands.x_plane, bands.x_stride, sums);
        if (bands.others == 0) continue;
        const TapLoop loop{channels, bands.x_plane, g.kernel_height, g.dilation_h * bands.x_stride,
                           g.kernel_width, g.dilation_w};
        in_pixels.correlate(group, begin, bands.joined ? 1 : rows, run, gy_rows, bands.gy_plane, x_band, loop,
                            bands.x_stride, sums + in_lanes.size());
      }
    }
  });
  for (int part = 0; part < parts; ++part) {
    const T* const sums = scratch_data + part * share + bands.sums_at;
    in_lanes.add_to(sums, gw);
    in_pixels.add_to(sums + in_lanes.size(), gw);
  }
}

}  // namespace detail
}  // namespace settle::cpu
