#pragma once
#include "settle/core/macros_off.hpp"
#include <zip.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "settle/core/error.hpp"
#include "settle/core/tensor.hpp"
#include "settle/io/atomic_file.hpp"
#include "settle/io/npy.hpp"

namespace settle::inline v0_2 {

namespace detail {

struct DiscardZip {
  void operator()(zip_t* archive) const { ::zip_discard(archive); }
};
using ZipArchive = std::unique_ptr<zip_t, DiscardZip>;

struct FreeZipSource {
  void operator()(zip_source_t* source) const { ::zip_source_free(source); }
};
using ZipSource = std::unique_ptr<zip_source_t, FreeZipSource>;

/// libzip's account of what went wrong.
class ZipError {
 public:
  ZipError() { ::zip_error_init(&error_); }
  ~ZipError() { ::zip_error_fini(&error_); }
  ZipError(const ZipError&) = delete;
  ZipError& operator=(const ZipError&) = delete;
  zip_error_t* get() { return &error_; }
  std::string text() { return ::zip_error_strerror(&error_); }

 private:
  zip_error_t error_;
};

/// Opens an archive of a source, which it takes.
inline ZipArchive open_zip(ZipSource source, int flags, const std::string& name, ZipError& error) {
  if (!source) fail("npz", name, ": ", error.text());
  ZipArchive archive(::zip_open_from_source(source.get(), flags, error.get()));
  if (!archive) fail("npz", name, ": expected a ZIP archive: ", error.text());
  static_cast<void>(source.release());
  return archive;
}

}  // namespace detail

/// The arrays of a .npz file: a ZIP archive (ZIP64 too) of .npy files, stored or deflated. Each is read when it is asked
/// for. Not for several threads at once.
class NpzFile {
 public:
  std::vector<std::string> names;  ///< without ".npy", in the file's order

  /// Throws Error where there is no such file, and where it is no archive.
  explicit NpzFile(const std::filesystem::path& path) : name_(path.string()) {
    detail::ZipError error;
    open(detail::ZipSource(::zip_source_file_create(path.c_str(), 0, 0, error.get())), error);
  }
  /// Of a file's bytes, which must stay as long as this is used.
  NpzFile(std::span<const std::uint8_t> bytes, std::string name) : name_(std::move(name)) {
    detail::ZipError error;
    open(detail::ZipSource(::zip_source_buffer_create(bytes.data(), bytes.size(), 0, error.get())), error);
  }

  bool has(const std::string& name) const { return entries_.contains(name); }

  /// Reads one array. Throws Error where there is none of that name, and where it is damaged.
  NpyArray array(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) {
      std::string all;
      for (std::size_t k = 0; k < std::min<std::size_t>(names.size(), 8); ++k) all += (k ? ", '" : "'") + names[k] + "'";
      fail("npz", name_, ": expected an array '", name, "', found ", names.empty() ? "none" : all,
           names.size() > 8 ? ", ..." : "");
    }
    const auto complain = [&](const char* what) {
      fail("npz", name_, ": '", name, "': ", what, ": ", ::zip_strerror(archive_.get()));
    };
    zip_stat_t about;
    if (::zip_stat_index(archive_.get(), found->second, 0, &about) != 0) complain("cannot be found");
    require((about.valid & ZIP_STAT_SIZE) != 0, "npz", name_, ": '", name, "' has no size");
    struct Close {
      void operator()(zip_file_t* file) const { ::zip_fclose(file); }
    };
    const std::unique_ptr<zip_file_t, Close> file(::zip_fopen_index(archive_.get(), found->second, 0));
    if (!file) complain("cannot be opened");
    // As much memory as there are bytes, whatever the archive says of them.
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(std::min<std::uint64_t>(about.size, 1 << 16)) + 1);
    std::size_t filled = 0;
    while (true) {
      const zip_int64_t got = ::zip_fread(file.get(), bytes.data() + filled, bytes.size() - filled);
      if (got < 0) fail("npz", name_, ": '", name, "' is damaged: ", ::zip_file_strerror(file.get()));
      if (got == 0) break;
      filled += static_cast<std::size_t>(got);
      require(filled <= about.size, "npz", name_, ": '", name, "' is damaged: it has more than the ", about.size,
              " bytes that the archive names");
      if (filled == bytes.size())
        bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(about.size + 1, 2 * std::uint64_t{filled})));
    }
    bytes.resize(filled);
    return {std::move(bytes), name_ + ": '" + name + "'"};
  }

 private:
  void open(detail::ZipSource source, detail::ZipError& error) {
    archive_ = detail::open_zip(std::move(source), ZIP_RDONLY, name_, error);
    const zip_int64_t count = ::zip_get_num_entries(archive_.get(), 0);
    for (zip_int64_t k = 0; k < count; ++k) {
      const char* const raw = ::zip_get_name(archive_.get(), static_cast<zip_uint64_t>(k), ZIP_FL_ENC_GUESS);
      std::string name = raw ? raw : "";
      if (!name.ends_with(".npy")) continue;
      name.resize(name.size() - 4);
      require(entries_.emplace(name, static_cast<zip_uint64_t>(k)).second, "npz", name_, ": '", name, "' occurs twice");
      names.push_back(name);
    }
  }

  std::string name_;
  detail::ZipArchive archive_;
  std::map<std::string, zip_uint64_t> entries_;
};

/// Collects named arrays, and writes them as one .npz file, as numpy.savez and savez_compressed do.
class NpzWriter {
 public:
  /// Adds a tensor of any device, or a list of texts in UTF-8. Throws Error when the name is taken.
  template <Scalar T, class Device>
  void add(const std::string& name, const Tensor<T, Device>& tensor) {
    add_parts(name, detail::npy_parts(to<Cpu>(tensor)));
  }
  void add(const std::string& name, const std::vector<std::string>& texts) {
    add_parts(name, detail::npy_parts(texts));
  }

  /// Writes the file; it appears complete or not at all, and its bytes depend on the arrays alone. It is made in memory
  /// first. Throws Error when it cannot be written.
  void write(const std::filesystem::path& path, bool compressed = false) const {
    const std::string name = path.string();
    detail::ZipError error;
    zip_source_t* const made = ::zip_source_buffer_create(nullptr, 0, 0, error.get());
    detail::ZipSource result(made);
    if (made) ::zip_source_keep(made);  // the archive's and ours
    detail::ZipArchive archive =
        detail::open_zip(detail::ZipSource(made), ZIP_CREATE | ZIP_TRUNCATE, name, error);
    const auto check = [&](bool good) {
      if (!good) fail("npz", name, ": cannot be made: ", ::zip_strerror(archive.get()));
    };
    for (const auto& [array, parts] : arrays_) {
      std::array<zip_buffer_fragment_t, 2> fragments{};
      fragments[0].data = reinterpret_cast<zip_uint8_t*>(const_cast<char*>(parts.head.data()));
      fragments[0].length = parts.head.size();
      fragments[1].data = static_cast<zip_uint8_t*>(const_cast<void*>(parts.data));
      fragments[1].length = parts.bytes;
      detail::ZipSource source(
          ::zip_source_buffer_fragment(archive.get(), fragments.data(), parts.bytes > 0 ? 2 : 1, 0));
      check(source != nullptr);
      const zip_int64_t index = ::zip_file_add(archive.get(), (array + ".npy").c_str(), source.get(), ZIP_FL_ENC_UTF_8);
      check(index >= 0);
      static_cast<void>(source.release());
      const auto entry = static_cast<zip_uint64_t>(index);
      check(::zip_set_file_compression(archive.get(), entry, compressed ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0) == 0);
      check(::zip_file_set_dostime(archive.get(), entry, 0, 33, 0) == 0);  // 1980-01-01
    }
    if (arrays_.empty()) {  // an archive of nothing is the end of its directory alone
      AtomicFile file(path);
      file.write(std::string("PK\5\6") + std::string(18, '\0'));
      return file.commit();
    }
    check(::zip_close(archive.get()) == 0);
    static_cast<void>(archive.release());

    require(::zip_source_open(made) == 0, "npz", name, ": cannot be made");
    AtomicFile file(path);
    std::vector<std::uint8_t> bytes(1 << 20);
    zip_int64_t got = 0;
    while ((got = ::zip_source_read(made, bytes.data(), bytes.size())) > 0)
      file.write(bytes.data(), static_cast<std::size_t>(got));
    ::zip_source_close(made);
    require(got == 0, "npz", name, ": cannot be made");
    file.commit();
  }

 private:
  void add_parts(const std::string& name, detail::NpyParts parts) {
    require(name.find('\0') == std::string::npos, "npz", "a name cannot hold a zero");
    for (const auto& [taken, unused] : arrays_)
      require(taken != name, "npz", "expected distinct names, got '", name, "' twice");
    arrays_.emplace_back(name, std::move(parts));
  }

  std::vector<std::pair<std::string, detail::NpyParts>> arrays_;
};

}  // namespace settle
#include "settle/core/macros_on.hpp"
