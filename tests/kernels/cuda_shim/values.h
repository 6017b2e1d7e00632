// What CUDA gives a kernel whichever way its threads run on a host: types, and functions of one thread.

#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __constant__ static const
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct shim_dim { unsigned x, y, z; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct float3 { float x, y, z; };
struct alignas(16) double2 { double x, y; };
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// the same overloads as CUDA's; mixed arguments are ambiguous, where CUDA would convert them
template <typename T> static inline T min(T a, T b) { return b < a ? b : a; }
template <typename T> static inline T max(T a, T b) { return a < b ? b : a; }

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T v) { *p = v; }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
template <typename To, typename From> static inline To shim_bits(From v) {
    static_assert(sizeof(To) == sizeof(From), "bits of another width");
    To to;
    memcpy(&to, &v, sizeof(to));
    return to;
}
static inline double __longlong_as_double(long long v) { return shim_bits<double>(v); }
static inline long long __double_as_longlong(double v) { return shim_bits<long long>(v); }
static inline float __int_as_float(int v) { return shim_bits<float>(v); }
static inline int __float_as_int(float v) { return shim_bits<int>(v); }
static inline unsigned __float_as_uint(float v) { return shim_bits<unsigned>(v); }
static inline float __uint_as_float(unsigned v) { return shim_bits<float>(v); }
// compiled with -ffp-contract=off
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// what CUDA text has as instructions of its own
static inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
static inline float sum_of(float a, float b) { return a + b; }
static inline float product_of(float a, float b) { return a * b; }
typedef const char *shared_place;
static inline shared_place place_in_shared(const void *from) { return (shared_place)from; }
static inline uint4 read_shared(shared_place place) { return *(const uint4 *)place; }
static inline float half_to_float(unsigned short bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
    return bits >> 15 ? -size : size;
}
static inline unsigned short float_to_half(float value) {
    unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    float size = fabsf(value);
    if (size != size) return sign | 0x7fff;
    // halfway beyond the largest
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent = size < 0x1p-14f ? -14 : ilogbf(size);
    // the rounding may carry into the exponent, where it belongs
    int steps = (int)nearbyintf(ldexpf(size, 10 - exponent));
    return sign | (unsigned short)((exponent + 14) * 1024 + steps);
}
