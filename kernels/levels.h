/* levels.h - what each family of loops puts into the table at each level: kvf__<family>_fill_<level>. dispatch.c calls those
 * of the levels that the processor can run, lowest first. */
#ifndef KVF_KERNELS_LEVELS_H
#define KVF_KERNELS_LEVELS_H

#include "kernels/kernels.h"

void kvf__copy_hash_fill_ref(kvf_kernels_t *table);
void kvf__copy_hash_fill_avx2(kvf_kernels_t *table);
void kvf__copy_hash_fill_avx512(kvf_kernels_t *table);

void kvf__rans_fill_ref(kvf_kernels_t *table);
void kvf__rans_fill_avx2(kvf_kernels_t *table);
void kvf__rans_fill_avx512(kvf_kernels_t *table);
void kvf__rans_note_fill_ref(kvf_kernels_t *table);
void kvf__rans_note_fill_avx512(kvf_kernels_t *table);
void kvf__rans_encode_fill_avx512(kvf_kernels_t *table);

void kvf__quantise_fill_ref(kvf_kernels_t *table);
void kvf__quantise_fill_avx2(kvf_kernels_t *table);
void kvf__quantise_fill_avx512(kvf_kernels_t *table);

void kvf__transform_fill_ref(kvf_kernels_t *table);
void kvf__transform_fill_avx2(kvf_kernels_t *table);
void kvf__transform_fill_avx512(kvf_kernels_t *table);

void kvf__hamming_fill_ref(kvf_kernels_t *table);
void kvf__hamming_fill_avx2(kvf_kernels_t *table);
void kvf__hamming_fill_avx512(kvf_kernels_t *table);

void kvf__exact_fill_ref(kvf_kernels_t *table);
void kvf__exact_fill_avx2(kvf_kernels_t *table);
void kvf__exact_fill_avx512(kvf_kernels_t *table);

#endif
