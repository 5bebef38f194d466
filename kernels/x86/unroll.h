/* unroll.h - loops over arrays of vectors that must become registers: UNROLL before a loop of a constant number of turns. */
#ifndef KVF_KERNELS_UNROLL_H
#define KVF_KERNELS_UNROLL_H

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif
