#pragma once

/// The inline namespace of all that depends on which instructions the compiler may use in this translation unit: files
/// of one program that are compiled for different processors then have functions and caches of their own, where the
/// linker would otherwise keep one of several that are laid out differently.
#if defined(__AVX512F__)
#define SETTLE_INSTRUCTION_SET avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define SETTLE_INSTRUCTION_SET avx2
#elif defined(__AVX__)
#define SETTLE_INSTRUCTION_SET avx
#else
#define SETTLE_INSTRUCTION_SET baseline
#endif
