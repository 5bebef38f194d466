/* checkkernels.h - what the parts of checkkernels share. One thread. */
#ifndef KVF_TESTS_CHECKKERNELS_H
#define KVF_TESTS_CHECKKERNELS_H

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

/* The next of a fixed sequence of random numbers. */
uint64_t check_draw(void);

/* Counts a difference between `table` and the reference, and prints the first ones. */
__attribute__((format(printf, 3, 4))) void check_fail(const kvf_kernels_t *table, const char *kernel,
                                                      const char *format, ...);

/* The end of `bytes` of memory behind which nothing may be touched: a page without access follows. Never given back. */
uint8_t *check_fence(size_t bytes);

/* Processor time of this thread in seconds: other programs on the machine count little. */
double check_now(void);
enum { CHECK_ROUNDS = 9 };
/* Sorts the rates of CHECK_ROUNDS rounds and returns the median. */
double check_median(double *rates);

void check_rans(const kvf_kernels_t *table);
void bench_rans(void);

void check_rows(const kvf_kernels_t *table);
void bench_rows(void);

#endif
