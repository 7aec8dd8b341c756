// Factors of symmetric matrices.
#pragma once

#include <cstddef>

namespace qp::gemm {

// The upper triangular U with H^-1 = U^T U, for H [n, n] symmetric and positive definite, of which
// the lower triangle is read. H is destroyed; `u` [n, n] is dense, zero below the diagonal, and may
// be h. Both are row-major without gaps.
//
// H with rows and columns reversed is factored, M M^T; the reverse of M^-1 is U. That needs neither
// H^-1 nor a second Cholesky factorization (reference/int4-formats.md 2.2). f32, in recursive
// blocks, with f64 inside the smallest. Parallel; threads change no bit.
// Returns false when H is not positive definite (or not finite) in that arithmetic.
bool inverse_factor(float* h, size_t n, float* u);

}  // namespace qp::gemm
