/* unroll.h - what the compiler must be told. UNROLL goes before a loop of a constant number of turns over vectors that must
 * become registers. */
#ifndef KVF_KERNELS_UNROLL_H
#define KVF_KERNELS_UNROLL_H

#define INLINE      static inline __attribute__((always_inline))
#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif
