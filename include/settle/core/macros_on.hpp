// The last include of a header whose first one is macros_off.hpp: gives the program its macros back.
#pragma pop_macro("complex")
#pragma pop_macro("max")
#pragma pop_macro("min")
