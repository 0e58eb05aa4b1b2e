#pragma once
#include "settle/cpu/convolution/direct.hpp"
#include "settle/cpu/convolution/weight_grad.hpp"

// Convolution as a matrix product, for any geometry. The patches under the kernel are the columns of a matrix with one
// row per (channel, tap) and one column per output pixel; only a tile of columns exists at a time, and the direct
// algorithm's kernels multiply it.

namespace settle::inline v0_2::cpu::inline SETTLE_INSTRUCTION_SET {
namespace detail {

/// How the patch matrix of one group of one image is cut in tiles: some pixels by the rows of some channels.
template <class T>
struct PatchTiles {
  /// Tiles of at least `least` channels; as many more as the second-level cache takes.
  PatchTiles(const ConvGeometry& g, Index least) {
    constexpr Index lanes = packet_size<T>, elements = band_bytes / static_cast<Index>(sizeof(T));
    const Index in_cache = elements / std::max<Index>(least * g.taps(), 1) / lanes * lanes;
    pixels = std::min(std::clamp(in_cache, 4 * lanes, 32 * lanes), g.out_pixels());
    stride = round_up(pixels, lanes);
    channels = std::max(least, std::min(elements / std::max<Index>(g.taps() * stride, 1), g.in_channels / g.groups));
    count = pixels == 0 ? 0 : divide_up(g.out_pixels(), pixels);
  }

  Index pixels;    // columns of a tile
  Index stride;    // the same, in whole packets
  Index channels;  // channels of a tile: it has their taps as its rows
  Index count;     // tiles along the pixels
};

/// Calls f(column, length, pixel) for each run of columns in [begin, end) that one tap reads inside the image:
/// `column` counts from `begin`, `pixel` is the image element that the first reads, the others follow by stride_w.
template <class F>
void for_each_run(const ConvGeometry& g, Index ky, Index kx, Index begin, Index end, const F& f) {
  const Index width = g.out_width(), shift = g.pad_w - kx * g.dilation_w;  // reads x = column * stride_w - shift
  const Index inside_begin = shift <= 0 ? 0 : divide_up(shift, g.stride_w);
  const Index inside_end = g.in_width + shift <= 0 ? 0 : (g.in_width + shift - 1) / g.stride_w + 1;
  for (Index oy = begin / width; oy * width < end; ++oy) {
    const Index y = oy * g.stride_h - g.pad_h + ky * g.dilation_h;
    if (y < 0 || y >= g.in_height) continue;
    const Index first = std::max(begin - oy * width, inside_begin);
    const Index last = std::min({end - oy * width, width, inside_end});
    if (first < last) f(oy * width + first - begin, last - first, y * g.in_width + first * g.stride_w - shift);
  }
}

/// The rows of one channel's taps for the pixels [begin, end), `stride` apart and zero where there is no pixel.
template <class T>
void gather_patches(const ConvGeometry& g, const T* plane, Index begin, Index end, Index stride, T* patches) {
  std::fill_n(patches, g.taps() * stride, T(0));
  for (Index tap = 0; tap < g.taps(); ++tap, patches += stride)
    for_each_run(g, tap / g.kernel_width, tap % g.kernel_width, begin, end,
                 [&](Index column, Index length, Index pixel) {
                   for (Index i = 0; i < length; ++i) patches[column + i] = plane[pixel + i * g.stride_w];
                 });
}

/// The adjoint of gather_patches: adds each entry to the element that it was read from.
template <class T>
void scatter_patches(const ConvGeometry& g, const T* patches, Index begin, Index end, Index stride, T* plane) {
  for (Index tap = 0; tap < g.taps(); ++tap, patches += stride)
    for_each_run(g, tap / g.kernel_width, tap % g.kernel_width, begin, end,
                 [&](Index column, Index length, Index pixel) {
                   for (Index i = 0; i < length; ++i) plane[pixel + i * g.stride_w] += patches[column + i];
                 });
}

/// Weights for gemm_input_grad, where the taps are what the kernel takes for outputs:
/// [group][channel][block of taps][output][tap in the block].
template <class T>
void pack_weights_by_tap(const ConvGeometry& g, const T* w, T* packed) {
  const Index channels = g.in_channels / g.groups, outputs = g.out_channels / g.groups, depth = channels * g.taps();
  for (Index group = 0; group < g.groups; ++group)
    for (Index channel = 0; channel < channels; ++channel)
      packed = pack_blocks(w + group * outputs * depth + channel * g.taps(), g.taps(), 1, outputs, depth, 1, 0, packed);
}

/// y = the convolution of x with weights from pack_weights.
template <class T>
void gemm_forward(const ConvGeometry& g, const T* x, const T* packed, T* y) {
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups, depth = inputs * g.taps();
  const PatchTiles<T> tiles(g, inputs);
  const Index units = g.batch * g.groups * tiles.count, share = depth * tiles.stride;
  if (g.out_size() == 0) return;
  ThreadPool& pool = ThreadPool::instance();
  const int parts = pool.small_parts_for(units, thread_grain / (g.multiply_adds() / units + 1) + 1);
  auto scratch = workspace<T>(pool.threads_for(parts) * share);
  T* const scratch_data = scratch.mutable_data();
  const ChannelBlocks blocks(outputs);
  pool.split(units, parts, [&](int, Index first_unit, Index end_unit) {
    T* const patches = scratch_data + pool.thread() * share;
    for (Index unit = first_unit; unit < end_unit; ++unit) {
      const Index image = unit / tiles.count, group = image % g.groups;  // an image of one group
      const Index begin = unit % tiles.count * tiles.pixels, end = std::min(begin + tiles.pixels, g.out_pixels());
      for (Index i = 0; i < inputs; ++i)
        gather_patches(g, x + (image * inputs + i) * g.in_pixels(), begin, end, tiles.stride,
                       patches + i * g.taps() * tiles.stride);
      const TapLoop loop{1, 0, 1, 0, depth, tiles.stride};
      const T* weights = packed + group * outputs * depth;
      for (Index block = 0; block < blocks.count; ++block) {
        T* to = y + (image * outputs + blocks.begin(block)) * g.out_pixels() + begin;
        blocks.with_size(block, [&](auto size) {
          direct_band<size>(loop, 1, end - begin, patches, 0, weights, to, g.out_pixels(), false);
        });
        weights += blocks.size(block) * depth;
      }
    }
  });
}

/// gx (+)= from gy and weights from pack_weights_by_tap. Each part owns whole planes: no two add to the same element.
template <class T>
void gemm_input_grad(const ConvGeometry& g, const T* gy, const T* packed, T* gx, bool add) {
  const PatchTiles<T> tiles(g, 1);
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  const Index planes = g.batch * g.in_channels, share = (outputs + g.taps()) * tiles.stride;
  if (!add) std::fill_n(gx, g.in_size(), T(0));
  if (planes == 0 || g.out_size() == 0) return;
  ThreadPool& pool = ThreadPool::instance();
  const int parts = pool.small_parts_for(planes, thread_grain / (g.multiply_adds() / planes + 1) + 1);
  auto scratch = workspace<T>(pool.threads_for(parts) * share);
  T* const scratch_data = scratch.mutable_data();
  const ChannelBlocks blocks(g.taps());
  pool.split(planes, parts, [&](int, Index first, Index last) {
    T* const gy_tile = scratch_data + pool.thread() * share;
    T* const patches = gy_tile + outputs * tiles.stride;
    for (Index next; first < last; first = next) {
      next = std::min(last, (first / inputs + 1) * inputs);  // planes of one group of one image
      const Index image = first / inputs, group = image % g.groups;
      for (Index begin = 0; begin < g.out_pixels(); begin += tiles.pixels) {
        const Index end = std::min(begin + tiles.pixels, g.out_pixels());
        copy_padded(gy + image * outputs * g.out_pixels(), outputs, g.out_pixels(), 0, begin, outputs, end - begin,
                    tiles.stride, gy_tile);
        const TapLoop loop{1, 0, 1, 0, outputs, tiles.stride};
        for (Index plane = first; plane < next; ++plane) {
          const T* weights = packed + (group * inputs + plane % inputs) * outputs * g.taps();
          for (Index block = 0; block < blocks.count; ++block) {
            blocks.with_size(block, [&](auto size) {
              direct_band<size>(loop, 1, tiles.stride, gy_tile, 0, weights,
                                patches + blocks.begin(block) * tiles.stride, tiles.stride, false);
            });
            weights += blocks.size(block) * outputs;
          }
          scatter_patches(g, patches, begin, end, tiles.stride, gx + plane * g.in_pixels());
        }
      }
    }
  });
}

/// gw from x and gy: sums of each part's pixels, added in the order of the parts.
template <class T>
void gemm_weight_grad(const ConvGeometry& g, const T* x, const T* gy, T* gw) {
  const PatchTiles<T> tiles(g, 1);
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  const Index units = g.batch * g.groups * tiles.count;
  std::fill_n(gw, g.weight_size(), T(0));
  if (units == 0 || g.weight_size() == 0) return;
  ThreadPool& pool = ThreadPool::instance();
  const int parts = pool.parts_for(units, thread_grain / (g.multiply_adds() / units + 1) + 1);
  const Index tile_share = (tiles.channels * g.taps() + outputs) * tiles.stride;
  const CorrelationSums<T> layout(g, outputs, tiles.channels);
  const Index share = tile_share + layout.size();
  auto scratch = workspace<T>(parts * share);
  T* const scratch_data = scratch.mutable_data();
  pool.split(units, parts, [&](int part, Index first_unit, Index end_unit) {
    T* const patches = scratch_data + part * share;
    T* const gy_tile = patches + tiles.channels * g.taps() * tiles.stride;
    T* const sums = patches + tile_share;
    std::fill_n(sums, layout.size(), T(0));
    for (Index unit = first_unit; unit < end_unit; ++unit) {
      const Index image = unit / tiles.count, group = image % g.groups;  // an image of one group
      const Index begin = unit % tiles.count * tiles.pixels, end = std::min(begin + tiles.pixels, g.out_pixels());
      copy_padded(gy + image * outputs * g.out_pixels(), outputs, g.out_pixels(), 0, begin, outputs, end - begin,
                  tiles.stride, gy_tile);
      for (Index first = 0; first < inputs; first += tiles.channels) {
        const Index channels = std::min(tiles.channels, inputs - first);
        for (Index i = 0; i < channels; ++i)
          gather_patches(g, x + (image * inputs + first + i) * g.in_pixels(), begin, end, tiles.stride,
                         patches + i * g.taps() * tiles.stride);
        const TapLoop rows{1, 0, 1, 0, channels * g.taps(), tiles.stride};
        layout.correlate(group, first, 1, tiles.stride, gy_tile, tiles.stride, patches, rows, 0, sums);
      }
    }
  });
  for (int part = 0; part < parts; ++part) layout.add_to(scratch_data + part * share + tile_share, gw);
}

/// gw from x and gy by the definition, tap by tap, with no product of a padding's zero: what is not finite in x or gy
/// reaches the taps that it belongs to and no other. Slow.
template <class T>
void plain_weight_grad(const ConvGeometry& g, const T* x, const T* gy, T* gw) {
  const Index inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  ThreadPool::instance().parallel_for(g.out_channels * inputs, 1, [&](Index begin, Index end) {
    for (Index pair = begin; pair < end; ++pair) {
      const Index output = pair / inputs, input = output / outputs * inputs + pair % inputs;
      for (Index tap = 0; tap < g.taps(); ++tap) {
        double sum = 0;
        for (Index image = 0; image < g.batch; ++image) {
          const T* const from = x + (image * g.in_channels + input) * g.in_pixels();
          const T* const c = gy + (image * g.out_channels + output) * g.out_pixels();
          for_each_run(g, tap / g.kernel_width, tap % g.kernel_width, 0, g.out_pixels(),
                       [&](Index column, Index length, Index pixel) {
                         for (Index i = 0; i < length; ++i)
                           sum += static_cast<double>(c[column + i]) * static_cast<double>(from[pixel + i * g.stride_w]);
                       });
        }
        gw[pair * g.taps() + tap] = static_cast<T>(sum);
      }
    }
  });
}

}  // namespace detail
}  // namespace settle::cpu
