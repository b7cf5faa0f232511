// GGUF's blocks to panels of the same numbers, over all threads.
#pragma once

#include <string>

#include "packed.h"

namespace qwen3 {

// Lays out the rows of some panels. blocks_NB are the matrix's rows from row first_panel * 16 on, blocks of
// `block_type` ("Q4_K") without gaps; `to` has the format that holds this type without loss.
//
// False if a scale or, in types of floats, a value is infinite or NaN; the result is then of no use. Throws
// std::invalid_argument for types that have no panels, and for a format that is not theirs.
bool repack(const std::string& block_type, const uint8_t* blocks_NB, const PackedMatrix& to, size_t first_panel,
            size_t num_panels);

}  // namespace qwen3
