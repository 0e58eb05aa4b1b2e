#pragma once
#include <doctest/doctest.h>

#include "settle/distributed/sockets.hpp"

/// A port that is free now.
inline int free_port() {
  const settle::distributed::detail::Descriptor socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in here{};
  here.sin_family = AF_INET, here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof here;
  REQUIRE(::bind(socket.get(), reinterpret_cast<sockaddr*>(&here), sizeof here) == 0);
  REQUIRE(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&here), &length) == 0);
  return ntohs(here.sin_port);
}
