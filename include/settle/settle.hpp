#pragma once
// The library on the CPU, in one include. Files (settle/io, settle/data) and the tools for tests (ops/samples.hpp) are
// included on their own.
#include "settle/autodiff/checkpoint.hpp"
#include "settle/autodiff/grad.hpp"
#include "settle/autodiff/gradcheck.hpp"
#include "settle/autodiff/module.hpp"
#include "settle/autodiff/tape.hpp"
#include "settle/core/error.hpp"
#include "settle/core/memory.hpp"
#include "settle/core/random.hpp"
#include "settle/core/shape.hpp"
#include "settle/core/tensor.hpp"
#include "settle/core/threads.hpp"
#include "settle/ops/all.hpp"
#include "settle/version.hpp"
