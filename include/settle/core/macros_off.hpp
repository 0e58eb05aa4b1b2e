// The first include of the headers that programs include, whose last one is macros_on.hpp: between the two, min, max and
// complex are names, whatever macros the program has of them. Pairs may stand inside others, so there is no guard.
#pragma push_macro("min")
#pragma push_macro("max")
#pragma push_macro("complex")
#undef min
#undef max
#undef complex
