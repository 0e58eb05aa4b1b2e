#pragma once
#include "settle/fixed_point/modulation.hpp"
#include "settle/fixed_point/penalty.hpp"
#include "settle/fixed_point/policies.hpp"
#include "settle/fixed_point/report.hpp"
#include "settle/fixed_point/sequence.hpp"
#include "settle/fixed_point/solve.hpp"
#include "settle/fixed_point/stability.hpp"
