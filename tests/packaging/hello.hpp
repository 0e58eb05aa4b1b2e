#pragma once

/// Prints the fixed point of z -> z / 2 + x at x = 1 and its derivative, both 2, and whether they are.
bool hello();
