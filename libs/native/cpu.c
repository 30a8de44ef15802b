/* CPU operators: see cpu_kernels.h, which stands here once for each scalar type. */

#include <stdint.h>
#include <stdlib.h>

/* One build, and at run time the widest vectors that the processor has, where the compiler can do that. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && !defined(PLAIN)
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED
#endif

#define scalar float
#include "cpu_kernels.h"
#undef scalar

#define scalar double
#include "cpu_kernels.h"
#undef scalar
