/* SPDX-License-Identifier: Apache-2.0 */
/* Prints how many 10^9 8-bit operations a second one thread reaches on registers alone, two per
 * multiply-accumulate, and with which instruction: the bound of every int8 kernel on this CPU.
 *
 *   cc -O2 -march=native tools/int8_peak.c -o int8_peak && ./int8_peak
 */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#if defined(__x86_64__) && defined(__AVX2__)
#define REGISTER "v"
#elif defined(__ARM_FEATURE_DOTPROD)
#define REGISTER "w"
#else
#define REGISTER "r"
#endif

#if defined(__AVX512VNNI__)
#define NAME "avx512vnni"
#define MACS 64
typedef __m512i vector;
#define ZERO() _mm512_setzero_si512()
#define STEP(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
#elif defined(__AVXVNNI__)
#define NAME "avxvnni"
#define MACS 32
typedef __m256i vector;
#define ZERO() _mm256_setzero_si256()
#define STEP(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
#elif defined(__AVX2__)
#define NAME "avx2"
#define MACS 32
typedef __m256i vector;
#define ZERO() _mm256_setzero_si256()
#define STEP(sum, a, b) \
  _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#elif defined(__ARM_FEATURE_DOTPROD)
#define NAME "dotprod"
#define MACS 16
typedef int32x4_t vector;
#define ZERO() vdupq_n_s32(0)
#define STEP(sum, a, b) vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b))
#else
#define NAME "portable"
#define MACS 1
typedef int32_t vector;
#define ZERO() 0
#define STEP(sum, a, b) ((sum) + (int8_t)(a) * (int8_t)(b))
#endif

/* Enough independent sums to hide the latency, few enough to stay in registers. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
enum { SUMS = 12, LOOPS = 100000, TRIES = 400 };

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

int main(void) {
  vector a = ZERO(), b = ZERO();
#define DECLARE(i) vector sum##i = ZERO();
  EACH(DECLARE)
  double best = 0.0;
  for (int attempt = 0; attempt < TRIES; ++attempt) { /* short ones: some are not interrupted */
    double start = now();
    for (int loop = 0; loop < LOOPS; ++loop) {
      /* The compiler may know nothing of operands and sums, or it would compute less. */
#define ADVANCE(i)              \
  sum##i = STEP(sum##i, a, b);  \
  __asm__ volatile("" : "+" REGISTER (a), "+" REGISTER (b), "+" REGISTER (sum##i));
      EACH(ADVANCE)
    }
    double rate = 2e-9 * MACS * SUMS * (double)LOOPS / (now() - start);
    if (rate > best) best = rate;
  }
  printf("%s %.1f\n", NAME, best);
  return 0;
}
