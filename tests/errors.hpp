#pragma once
#include <string>

#include "settle/core/error.hpp"

/// The text of the Error that an action throws; "no error" when it throws none.
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const settle::Error& error) {
    return error.what();
  }
  return "no error";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
