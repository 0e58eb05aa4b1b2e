// The headers in a program that has macros of common names. Those of min, max and complex are forgiven in the headers
// that programs include; the others nowhere occur as names.
#include <bits/stdc++.h>
#include <png.h>

#include <Eigen/Core>
#include <Eigen/QR>
#include <Eigen/SVD>
#include <nlohmann/json.hpp>

// <complex.h>
#define I (__extension__ 1.0iF)
#define complex _Complex
#define imaginary _Imaginary
// <sys/sysmacros.h>
#define major(device) gnu_dev_major(device)
#define minor(device) gnu_dev_minor(device)
#define makedev(a, b) gnu_dev_makedev(a, b)
// <windows.h>
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define near
#define far
#define small char
#define interface struct
#define IN
#define OUT
#define ERROR 0
// Xlib.h
#define None 0L
#define True 1
#define False 0
#define Bool int
#define Status int
#define Success 0
#define Always 2
#define Complex 0
#define Convex 2
#define Above 0
// Compilers, and programs
#define unix 1
#define linux 1
#define PI 3.14159
#define EPS 1e-9

#include "settle/compiled_once.hpp"
#include "settle/data/image.hpp"
#include "settle/data/pathfinder_folder.hpp"
#include "settle/data/prefetch.hpp"
#include "settle/data/resize.hpp"
#include "settle/io/gif.hpp"
#include "settle/io/modules.hpp"
#include "settle/io/png.hpp"
#include "settle/io/safetensors.hpp"

static_assert(max(2, 3) == 3 && min(2, 3) == 2, "the program's macros are its own again");
