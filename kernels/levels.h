/* levels.h - what each level puts into the table; dispatch.c calls those that the processor can run, lowest first. */
#ifndef KVF_KERNELS_LEVELS_H
#define KVF_KERNELS_LEVELS_H

#include "kernels/kernels.h"

void kvf__kernels_fill_ref(kvf_kernels_t *table);
void kvf__kernels_fill_avx2(kvf_kernels_t *table);
void kvf__kernels_fill_avx512(kvf_kernels_t *table);

#endif
