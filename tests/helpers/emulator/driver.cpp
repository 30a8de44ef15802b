/* A stand-in for CUDA's driver that runs the kernels of cuda.cu on the CPU: the tests then see what they compute, and
 * how they are launched, on machines without a GPU.
 *
 * The threads of a block are coroutines that take turns at barriers: from the first to the last, or from the last to the
 * first where `reversed` is set. A kernel that lacks a barrier gives different results in the two orders.
 */

#include <cstdint>
#include <cstring>
#include <functional>
#include <immintrin.h>
#include <map>
#include <string>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

struct index3 {
    unsigned x, y, z;
};
static index3 threadIdx, blockIdx, blockDim, gridDim;

static std::vector<ucontext_t> threads;
static ucontext_t scheduler;
static std::vector<char> finished;
static unsigned running;

static void __syncthreads()
{
    swapcontext(&threads[running], &scheduler);
}

template <class T> static void atomicAdd(T *at, T value)
{
    *at += value;
}
template <class T> static void atomicOr(T *at, T value)
{
    *at |= value;
}
static int __ffs(unsigned bits)
{
    return __builtin_ffs((int)bits);
}
static int __ffsll(unsigned long long bits)
{
    return __builtin_ffsll((long long)bits);
}
static int __popcll(unsigned long long bits)
{
    return __builtin_popcountll(bits);
}
static float bits_to_float(unsigned bits)
{
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
static unsigned float_to_bits(float value)
{
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

#define __global__
#define __device__
#define __constant__
#define __launch_bounds__(...)
#define __shared__ thread_local /* one copy, as blocks run one after the other; what they share is not `extern` */
#define HALF_TO_FLOAT(value, bits) value = _cvtsh_ss(bits)
#define FLOAT_TO_HALF(bits, value) bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)
#define BITS_TO_FLOAT(bits) bits_to_float(bits)
#define FLOAT_TO_BITS(value) float_to_bits(value)
#define SOURCE_HASH "emulated"
thread_local unsigned long long shared[48 * 1024 / 8];
#include "cuda.cu"

typedef std::function<void(void **)> kernel;

template <class... A, size_t... I> static kernel unpacked(void (*function)(A...), std::index_sequence<I...>)
{
    static_assert((sizeof(A) + ... + 0) <= 4096, "more than what can be handed to a kernel");
    return [function](void **arguments) { function(*(A *)arguments[I]...); };
}
template <class... A> static kernel wrap(void (*function)(A...))
{
    return unpacked(function, std::index_sequence_for<A...>{});
}

#define KERNEL(name) {#name, wrap(name)}
static std::map<std::string, kernel> kernels = {
    KERNEL(nms_rank), KERNEL(nms_begin), KERNEL(nms_overlaps), KERNEL(nms_resolve),
    KERNEL(roi_align_float_1), KERNEL(roi_align_half_1), KERNEL(roi_align_bfloat_1), KERNEL(roi_align_float_4), KERNEL(roi_align_half_8), KERNEL(roi_align_bfloat_8),
    KERNEL(roi_align_scatter_float_1), KERNEL(roi_align_scatter_half_1), KERNEL(roi_align_scatter_bfloat_1),
    KERNEL(roi_align_scatter_float_4), KERNEL(roi_align_scatter_half_4), KERNEL(roi_align_scatter_bfloat_4),
    KERNEL(roi_align_gather_float), KERNEL(roi_align_gather_half), KERNEL(roi_align_gather_bfloat),
    KERNEL(crop_masks), KERNEL(paste_masks)};

static const kernel *current;
static void **current_arguments;

static void run_thread()
{
    (*current)(current_arguments);
    finished[running] = 1;
    setcontext(&scheduler);
}

static void run_block(unsigned count, bool backwards)
{
    static std::vector<std::vector<char>> stacks;
    if (stacks.size() < count)
        stacks.resize(count, std::vector<char>(1 << 16));
    threads.resize(count);
    finished.assign(count, 0);
    for (unsigned t = 0; t < count; t++) {
        getcontext(&threads[t]);
        threads[t].uc_stack.ss_sp = stacks[t].data();
        threads[t].uc_stack.ss_size = stacks[t].size();
        threads[t].uc_link = nullptr;
        makecontext(&threads[t], run_thread, 0);
    }
    for (unsigned left = count; left > 0;)
        for (unsigned turn = 0; turn < count; turn++) {
            running = backwards ? count - 1 - turn : turn;
            if (finished[running])
                continue;
            threadIdx = {running % blockDim.x, running / blockDim.x % blockDim.y, running / blockDim.x / blockDim.y};
            swapcontext(&scheduler, &threads[running]);
            left -= finished[running];
        }
}

extern "C" {
int reversed = 0;

int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return number == 0 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int which, int) { *value = which == 75 ? 9 : 0; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { *context = &kernels; return 0; }
int cuCtxPushCurrent_v2(void *) { return 0; }
int cuCtxPopCurrent_v2(void **) { return 0; }
int cuModuleLoadData(void **module, const void *image)
{
    *module = &kernels;
    return std::memcmp(image, "\177ELF", 4) == 0 ? 0 : 200;
}
int cuModuleGetFunction(void **function, void *, const char *name)
{
    auto found = kernels.find(name);
    if (found == kernels.end())
        return 500;
    *function = &found->second;
    return 0;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *, void **arguments, void **)
{
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || shared > 48 * 1024)
        return 1;
    current = (kernel *)function;
    current_arguments = arguments;
    gridDim = {gx, gy, gz};
    blockDim = {bx, by, bz};
    uint64_t count = (uint64_t)gx * gy * gz;
    for (uint64_t turn = 0; turn < count; turn++) {
        uint64_t block = reversed ? count - 1 - turn : turn;
        blockIdx = {(unsigned)(block % gx), (unsigned)(block / gx % gy), (unsigned)(block / gx / gy)};
        run_block(bx * by * bz, reversed);
    }
    return 0;
}
int cuGetErrorString(int error, const char **text)
{
    *text = error == 200 ? "device kernel image is invalid" : "an error of the stand-in";
    return 0;
}
}
