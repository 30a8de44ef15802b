/* CUDA operators: one kernel a step, launched by launcher.c, compiled by NVRTC for each architecture.
 *
 * No header of CUDA is needed, so that a compiler library alone can build it. All arithmetic is in float, whatever type
 * features are stored in, and is that of geometry.h: built without fused multiply-add, results are those of the CPU, bit
 * for bit, where the order of sums is the same. No kernel uses shuffles or votes within a warp: barriers of the block
 * are enough, and the tests can run this file on a CPU.
 */

#ifdef __CUDACC_RTC__
typedef long long int64_t;
typedef unsigned char uint8_t;
#endif
typedef unsigned long long word; /* a bit for each of 64 boxes */

#define DEVICE __device__
#define scalar float
#include "geometry.h"
#include "launch.h"

/* Which sources this was built from: a build of others is stale. */
extern "C" __constant__ char source_hash[] = SOURCE_HASH;

/* ---- Numbers in 16 bits: only loaded and stored, so their bits are enough. ---- */

struct half {
    unsigned short bits;
};
struct bfloat {
    unsigned short bits;
};

#ifndef HALF_TO_FLOAT
#define HALF_TO_FLOAT(value, bits) asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits))
#define FLOAT_TO_HALF(bits, value) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value))
#define BITS_TO_FLOAT(bits) __uint_as_float(bits)
#define FLOAT_TO_BITS(value) __float_as_uint(value)
#endif

DEVICE static inline float widen(float value)
{
    return value;
}

DEVICE static inline float widen(half value)
{
    float wide;
    HALF_TO_FLOAT(wide, value.bits);
    return wide;
}

DEVICE static inline float widen(bfloat value)
{
    return BITS_TO_FLOAT((unsigned)value.bits << 16);
}

DEVICE static inline void narrow(float value, float *out)
{
    *out = value;
}

DEVICE static inline void narrow(float value, half *out)
{
    FLOAT_TO_HALF(out->bits, value);
}

/* Rounds to nearest, ties to even. */
DEVICE static inline void narrow(float value, bfloat *out)
{
    unsigned bits = FLOAT_TO_BITS(value);
    out->bits = value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

/* WIDTH neighbouring channels, moved in one instruction. */
template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH) pack {
    T at[WIDTH];
};

extern __shared__ word shared[]; /* what a launch sets the size of */

/* ---- Non-maximum suppression ---- */

/* A number whose order is the opposite of the score's; the box's own number below it keeps ties in their order. */
DEVICE static inline word ranking(float score, unsigned box)
{
    unsigned bits = FLOAT_TO_BITS(score + 0.0f); /* minus zero becomes zero */
    return (word) ~(bits >> 31 ? ~bits : bits | 0x80000000) << 32 | box;
}

/* Ranks the boxes of one image a block by falling score: order [N, count]. Those without a valid score, and of no number,
 * come last. `room`, a power of two, is at least count, and what fits into shared memory: a bitonic sort (Batcher,
 * 1968), in which all comparisons of a step are independent. */
extern "C" __global__ void __launch_bounds__(1024)
    nms_rank(const float *scores, const uint8_t *valid, int count, int room, int64_t *order)
{
    word *keys = shared;
    scores += (int64_t)blockIdx.x * count;
    valid += valid != 0 ? (int64_t)blockIdx.x * count : 0;
    order += (int64_t)blockIdx.x * count;
    for (int i = threadIdx.x; i < room; i += blockDim.x) {
        int counts = i < count && scores[i] == scores[i] && (valid == 0 || valid[i]);
        keys[i] = i < count ? ranking(counts ? scores[i] : BITS_TO_FLOAT(0xff800000), i) : ~(word)0;
    }
    __syncthreads();
    for (int run = 2; run <= room; run *= 2)
        for (int stride = run / 2; stride > 0; stride /= 2) {
            for (int i = threadIdx.x; i < room / 2; i += blockDim.x) {
                int low = 2 * i - (i & (stride - 1)), high = low + stride; /* pairs, stride apart */
                word a = keys[low], b = keys[high];
                if ((a > b) == ((low & run) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncthreads();
        }
    for (int i = threadIdx.x; i < count; i += blockDim.x)
        order[i] = (unsigned)keys[i];
}

/* The ranks that take no part are removed from the start: invalid ones, and those of the last word behind the last box.
 * Boxes are ranked by falling score, order [N, count]; removed [N, words] has a bit a rank. None is kept yet. */
extern "C" __global__ void __launch_bounds__(64)
    nms_begin(const int64_t *order, const uint8_t *valid, int64_t count, word *removed, uint8_t *keep)
{
    __shared__ unsigned out[2];
    int64_t words = (count + 63) / 64, image = blockIdx.x / words, rank = blockIdx.x % words * 64 + threadIdx.x;
    if (threadIdx.x < 2)
        out[threadIdx.x] = 0;
    __syncthreads();
    if (rank >= count || (valid != 0 && !valid[image * count + order[image * count + rank]]))
        atomicOr(&out[threadIdx.x / 32], 1u << threadIdx.x % 32);
    if (rank < count)
        keep[image * count + rank] = 0;
    __syncthreads();
    if (threadIdx.x == 0)
        removed[blockIdx.x] = (word)out[1] << 32 | out[0];
}

/* Which boxes overlap which. Boxes are [N, count, 4], order [N, count] ranks them by falling score, and of the ranks from
 * `first` on, `rows` have room in overlapping [N, rows, words]: bit j of word w in the row of a rank is set where the box
 * of rank 64 w + j comes later and overlaps. `parts` blocks share 64 rows, and compare them with 64 boxes at a time;
 * nothing is written where all of the 64 rows or boxes are removed already. */
extern "C" __global__ void __launch_bounds__(64)
    nms_overlaps(const float *boxes, const int64_t *order, const int64_t *groups, int64_t count, int64_t first,
                 int64_t rows, int parts, float threshold, const word *removed, word *overlapping)
{
    __shared__ pack<float, 4> others[64];
    __shared__ float areas[64];
    __shared__ int64_t group[64];
    int64_t words = (count + 63) / 64, image = blockIdx.x / parts, row = first + blockIdx.y * 64 + threadIdx.x;
    removed += image * words;
    if (removed[row / 64] == ~(word)0)
        return; /* for the whole block: its rows lie in one word */
    order += image * count;
    boxes += image * count * 4;
    groups += groups != 0 ? image * count : 0;
    overlapping += (image * rows + row - first) * words;

    pack<float, 4> own = {};
    int64_t own_group = 0;
    float sure = sure_share(threshold);
    if (row < count) {
        own = *(const pack<float, 4> *)(boxes + 4 * order[row]);
        own_group = groups != 0 ? groups[order[row]] : 0;
    }
    float area = (own.at[2] - own.at[0]) * (own.at[3] - own.at[1]);
    for (int64_t column = row / 64 + blockIdx.x % parts; column < words; column += parts) {
        if (removed[column] == ~(word)0)
            continue;
        int64_t rank = column * 64 + threadIdx.x;
        int last = count - column * 64 < 64 ? (int)(count - column * 64) : 64;
        __syncthreads(); /* the last ones have been read */
        if (rank < count) {
            pack<float, 4> box = *(const pack<float, 4> *)(boxes + 4 * order[rank]);
            others[threadIdx.x] = box;
            areas[threadIdx.x] = (box.at[2] - box.at[0]) * (box.at[3] - box.at[1]);
            group[threadIdx.x] = groups != 0 ? groups[order[rank]] : 0;
        }
        __syncthreads();
        word bits = 0;
        for (int j = column == row / 64 ? threadIdx.x + 1 : 0; j < last; j++) {
            pack<float, 4> box = others[j];
            float inter = shared_area(own.at[0], own.at[1], own.at[2], own.at[3], box.at[0], box.at[1], box.at[2],
                                      box.at[3]);
            if (!(inter < sure * (area + areas[j] - inter)) && group[j] == own_group &&
                overlaps(area, areas[j], inter, threshold))
                bits |= (word)1 << j;
        }
        if (row < count)
            overlapping[column] = bits;
    }
}

/* The greedy pass over these ranks, one block an image: 64 ranks at a time are settled one by one, and all that the kept
 * ones overlap is removed at once. `removed` [N, words] goes from one launch to the next. keep [N, count] is set for
 * the boxes that are kept. */
extern "C" __global__ void __launch_bounds__(512, 1) /* one block has all registers, for eight loads at once */
    nms_resolve(const int64_t *order, int64_t count, int64_t first, int64_t rows, word *removed_before,
                const word *overlapping, uint8_t *keep)
{
    word *removed = shared;
    __shared__ word inside[64], kept;
    __shared__ unsigned contested[2];
    __shared__ unsigned char list[64];
    int64_t words = (count + 63) / 64, image = blockIdx.x, last = first + rows < count ? first + rows : count;
    int thread = threadIdx.x;
    order += image * count;
    keep += image * count;
    removed_before += image * words;
    overlapping += image * rows * words;

    for (int64_t w = thread; w < words; w += blockDim.x)
        removed[w] = removed_before[w];
    if (thread < 64 && first + thread < last)
        inside[thread] = overlapping[thread * words + first / 64];
    __syncthreads();
    for (int64_t start = first; start < last; start += 64, overlapping += 64 * words) {
        int own = (int)(start / 64), later = (int)words - own - 1; /* int: 64 bits take long to divide */
        if (removed[own] == ~(word)0) { /* so are most where many take no part, as those come last */
            if (thread < 64 && start + 64 + thread < last)
                inside[thread] = overlapping[(64 + thread) * words + own + 1];
            continue;
        }
        if (thread < 2)
            contested[thread] = 0;
        __syncthreads();
        word alive = ~removed[own];
        /* Rows of ranks that are not alive hold nothing yet. */
        if (thread < 64 && alive >> thread & 1 && (inside[thread] & alive) != 0)
            atomicOr(&contested[thread / 32], 1u << thread % 32);
        __syncthreads();
        if (thread == 0) { /* one by one, but only those that could remove another */
            word gone = 0;
            for (word left = (word)contested[1] << 32 | contested[0]; left != 0; left &= left - 1) {
                int best = __ffsll(left) - 1;
                gone |= gone >> best & 1 ? 0 : inside[best];
            }
            kept = alive & ~gone;
        }
        __syncthreads();
        int all = __popcll(kept);
        if (thread < 64) {
            if (kept >> thread & 1) {
                list[__popcll(kept & (((word)1 << thread) - 1))] = thread;
                keep[order[start + thread]] = 1;
            }
            if (start + 64 + thread < last) /* under way while the others work */
                inside[thread] = overlapping[(64 + thread) * words + own + 1];
        }
        __syncthreads();
        /* Eight rows at a time, so that their loads are under way together. */
        for (int k = thread; k < (all + 7) / 8 * later; k += blockDim.x) {
            int w = own + 1 + k % later, eight = k / later * 8;
            word bits = 0;
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (eight + j < all)
                    bits |= overlapping[list[eight + j] * words + w];
            if (bits != 0)
                atomicOr(&removed[w], bits);
        }
        __syncthreads();
    }
    for (int64_t w = thread; w < words; w += blockDim.x)
        removed_before[w] = removed[w];
}

/* ---- RoIAlign ---- */

/* One RoI on its level: where its map begins, and where it lies on it. */
struct place {
    int64_t map; /* which of the images' maps; -1 if the indices reach outside */
    int level, height, width, count_x, count_y;
    float low_x, low_y, length_x, length_y;
};

DEVICE static inline place place_of(const pyramid &pyramid, const rois &rois, int64_t r)
{
    place at = {};
    int64_t level = rois.level != 0 ? rois.level[r] : level_of(rois.boxes + 4 * r, pyramid.area, pyramid.levels);
    at.map = rois.image[r];
    if (level < 0 || level >= pyramid.levels || at.map < 0 || at.map >= pyramid.images) {
        at.map = -1;
        return at;
    }
    at.level = (int)level;
    at.height = pyramid.height[at.level];
    at.width = pyramid.width[at.level];
    const float *box = rois.boxes + 4 * r;
    roi_extent(box[0], box[2], pyramid.scale[at.level], rois.aligned, &at.low_x, &at.length_x);
    roi_extent(box[1], box[3], pyramid.scale[at.level], rois.aligned, &at.low_y, &at.length_y);
    at.count_x = sample_count(at.length_x, rois.bins, rois.sampling_ratio);
    at.count_y = sample_count(at.length_y, rois.bins, rois.sampling_ratio);
    return at;
}

/* Where, from the beginning of a map, the four cells around a sample begin, and what share each has in it. */
struct sample {
    int64_t c00, c01, c10, c11;
    float w00, w01, w10, w11;
};

/* Calls visit(sample) for every sample of bin i, j that lies on the map. */
template <class Visit>
DEVICE static inline void each_sample(const place &at, int bins, int i, int j, int64_t channels, Visit visit)
{
    for (int ky = 0; ky < at.count_y; ky++) {
        int y0, y1;
        float wy0, wy1;
        linear(at.low_y, at.length_y, bins, at.count_y, i, ky, at.height, &y0, &y1, &wy0, &wy1);
        if (wy0 == 0 && wy1 == 0)
            continue;
        for (int kx = 0; kx < at.count_x; kx++) {
            int x0, x1;
            float wx0, wx1;
            linear(at.low_x, at.length_x, bins, at.count_x, j, kx, at.width, &x0, &x1, &wx0, &wx1);
            if (wx0 == 0 && wx1 == 0)
                continue;
            int64_t upper = (int64_t)y0 * at.width, lower = (int64_t)y1 * at.width;
            visit(sample{(upper + x0) * channels, (upper + x1) * channels, (lower + x0) * channels,
                         (lower + x1) * channels, wy0 * wx0, wy0 * wx1, wy1 * wx0, wy1 * wx1});
        }
    }
}

/* One bin of one RoI by one warp: its lanes take the channels, WIDTH neighbours in each of PACKS places, so that every
 * access is to consecutive memory. */
template <class T, int WIDTH, int PACKS>
DEVICE static void roi_align_bin(const T *map, int64_t channels, const place &at, int bins, int i, int j, T *pooled)
{
    typedef pack<T, WIDTH> cell;
    for (int64_t first = threadIdx.x % 32 * WIDTH; first < channels; first += 32 * WIDTH * PACKS) {
        float sum[PACKS][WIDTH];
        for (int p = 0; p < PACKS; p++)
            for (int v = 0; v < WIDTH; v++)
                sum[p][v] = at.map < 0 ? BITS_TO_FLOAT(0x7fc00000) : 0;
        each_sample(at, bins, i, j, channels, [&](const sample &s) {
#pragma unroll
            for (int p = 0; p < PACKS; p++) {
                const T *from = map + first + 32 * WIDTH * p;
                if (first + 32 * WIDTH * p >= channels)
                    break;
                cell c00 = *(const cell *)(from + s.c00), c01 = *(const cell *)(from + s.c01);
                cell c10 = *(const cell *)(from + s.c10), c11 = *(const cell *)(from + s.c11);
#pragma unroll
                for (int v = 0; v < WIDTH; v++)
                    sum[p][v] += s.w00 * widen(c00.at[v]) + s.w01 * widen(c01.at[v]) + s.w10 * widen(c10.at[v]) +
                                 s.w11 * widen(c11.at[v]);
            }
        });
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            cell out;
            if (first + 32 * WIDTH * p >= channels)
                break;
            for (int v = 0; v < WIDTH; v++)
                narrow(sum[p][v], &out.at[v]);
            *(cell *)(pooled + first + 32 * WIDTH * p) = out;
        }
    }
}

/* A block takes bins of one RoI, its warps one after the other. An index that reaches outside gives NaN: to stop for it,
 * the host would have to wait for the device. */
template <class T, int WIDTH, int PACKS>
DEVICE static void roi_align(const pyramid &pyramid, const rois &rois, T *pooled)
{
    int bins = rois.bins, bin = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, step = gridDim.y * (blockDim.x / 32);
    int64_t r = blockIdx.x, channels = pyramid.channels;
    place at = place_of(pyramid, rois, r);
    const T *map = (const T *)pyramid.maps[at.level] + at.map * at.height * at.width * channels;

    for (; bin < bins * bins; bin += step)
        roi_align_bin<T, WIDTH, PACKS>(map, channels, at, bins, bin / bins, bin % bins,
                                       pooled + (r * bins * bins + bin) * channels);
}

/* How much of a cell a bin holds, along one axis. */
DEVICE static inline float share_of(int cell, float low, float length, int bins, int count, int bin, int side)
{
    float share = 0;
    for (int k = 0; k < count; k++) {
        int lower, upper;
        float weight_lower, weight_upper;
        linear(low, length, bins, count, bin, k, side, &lower, &upper, &weight_lower, &weight_upper);
        share += (lower == cell ? weight_lower : 0) + (upper == cell ? weight_upper : 0);
    }
    return share;
}

/* Whether samples between low and low + length can touch the cells from..to. Two cells of margin: one for samples
 * outside the map, which count at its border, and one for the neighbour that a sample shares its value with. */
DEVICE static inline int can_touch(float low, float length, int from, int to)
{
    float high = low + length;
    return (low < high ? low : high) - 2 <= to && (low < high ? high : low) + 2 >= from;
}

/* The cells from..to - 1 of a side that samples between low and low + length can touch. */
DEVICE static inline void touched(float low, float length, int side, int *from, int *to)
{
    float high = low + length, least = (low < high ? low : high) - 2, most = (low < high ? high : low) + 2;
    *from = least > 0 ? least < side ? (int)least : side : 0;
    *to = most >= 0 ? most < side ? (int)most + 1 : side : 0;
}

/* Adds to WIDTH neighbouring numbers, on recent architectures in one instruction. */
template <int WIDTH> DEVICE static inline void add(float *at, const float (&sum)[WIDTH])
{
#if __CUDA_ARCH__ >= 900 && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1201
    if (WIDTH == 4) {
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(at), "f"(sum[0]), "f"(sum[1 % WIDTH]),
                     "f"(sum[2 % WIDTH]), "f"(sum[3 % WIDTH])
                     : "memory");
        return;
    }
#endif
    for (int v = 0; v < WIDTH; v++)
        atomicAdd(at + v, sum[v]);
}

/* What of a row of cells is not added yet: the sums of two neighbouring cells. Samples come from left to right, so that
 * most of those that touch a cell follow one another, and it is added to once for all of them. */
template <int WIDTH> struct pending {
    float *row; /* at this lane's channels */
    int64_t channels;
    int width, x;
    float at_x[WIDTH], after[WIDTH];

    DEVICE inline void move_to(int other)
    {
        if (x >= 0) {
            add(row + x * channels, at_x);
            if (other != x + 1 && x + 1 < width)
                add(row + (x + 1) * channels, after);
        }
        for (int v = 0; v < WIDTH; v++) {
            at_x[v] = x >= 0 && other == x + 1 ? after[v] : 0;
            after[v] = 0;
        }
        x = other;
    }
};

/* Gradients by atomic additions, in whatever order they come: fast, and different from run to run in the last digits. A
 * block takes an RoI and 32 WIDTH of the channels, its warps the rows of cells under it, and each cell is added to once
 * for all bins and samples that read it. The maps are float and zero on entry. */
template <class T, int WIDTH>
DEVICE static void roi_align_scatter(const pyramid &pyramid, const rois &rois, const T *pooled)
{
    typedef pack<T, WIDTH> cell;
    int64_t r = blockIdx.x, channels = pyramid.channels;
    int64_t channel = ((int64_t)blockIdx.y * 32 + threadIdx.x % 32) * WIDTH;
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, bins = rois.bins, from, to;
    float *shares = (float *)shared + warp * bins; /* that this warp's row has in each row of bins */
    place at = place_of(pyramid, rois, r);
    if (at.map < 0)
        return; /* for the whole block */
    float *map = (float *)pyramid.maps[at.level] + at.map * at.height * at.width * channels;
    pooled += r * bins * bins * channels + channel;
    touched(at.low_y, at.length_y, at.height, &from, &to);

    for (int start = from; start < to; start += warps) {
        int y = start + warp;
        for (int i = threadIdx.x % 32; i < bins; i += 32)
            shares[i] = y < to ? share_of(y, at.low_y, at.length_y, bins, at.count_y, i, at.height) : 0;
        __syncthreads();
        if (y < to && channel < channels) {
            pending<WIDTH> sums = {map + (int64_t)y * at.width * channels + channel, channels, at.width, -1};
            for (int j = 0; j < bins; j++) {
                float gradient[WIDTH] = {};
                for (int i = 0; i < bins; i++) {
                    if (shares[i] == 0)
                        continue;
                    cell bin = *(const cell *)(pooled + (int64_t)(i * bins + j) * channels);
#pragma unroll
                    for (int v = 0; v < WIDTH; v++)
                        gradient[v] += shares[i] * widen(bin.at[v]);
                }
                for (int k = 0; k < at.count_x; k++) {
                    int x0, x1;
                    float w0, w1;
                    linear(at.low_x, at.length_x, bins, at.count_x, j, k, at.width, &x0, &x1, &w0, &w1);
                    if (w0 == 0 && w1 == 0)
                        continue;
                    if (x0 != sums.x)
                        sums.move_to(x0);
#pragma unroll
                    for (int v = 0; v < WIDTH; v++) {
                        sums.at_x[v] += w0 * gradient[v];
                        sums.after[v] += w1 * gradient[v];
                    }
                }
            }
            sums.move_to(-1);
        }
        __syncthreads();
    }
}

/* The same gradients, gathered: each cell sums what the bins that read it hold, RoI after RoI, so that the order is
 * always the same. A block looks for the RoIs near its cells, 256 at a time, and its warps then sum those. */
template <class T>
DEVICE static void roi_align_gather(const pyramid &pyramid, const rois &rois, const T *pooled)
{
    __shared__ unsigned candidates[TILE];
    int64_t tile = blockIdx.x;
    int level = 0;
    for (;; level++) { /* the blocks of level 0 come first, then those of level 1, ... */
        int64_t tiles = pyramid.images * pyramid.height[level] * ((pyramid.width[level] + TILE - 1) / TILE);
        if (tile < tiles)
            break;
        tile -= tiles;
    }
    int height = pyramid.height[level], width = pyramid.width[level], across = (width + TILE - 1) / TILE;
    int from = tile % across * TILE, y = tile / across % height, x = from + threadIdx.x / 32;
    int64_t image = tile / across / height, channels = pyramid.channels;
    int64_t first = (int64_t)blockIdx.y * 32 * LANE_PART + threadIdx.x % 32;
    float sum[LANE_PART] = {};

    for (int64_t start = 0; start < rois.count; start += blockDim.x) {
        if (threadIdx.x < TILE)
            candidates[threadIdx.x] = 0;
        __syncthreads();
        int64_t r = start + threadIdx.x;
        if (r < rois.count && rois.image[r] == image) {
            place at = place_of(pyramid, rois, r);
            if (at.map >= 0 && at.level == level && can_touch(at.low_y, at.length_y, y, y) &&
                can_touch(at.low_x, at.length_x, from, from + TILE - 1))
                atomicOr(&candidates[threadIdx.x / 32], 1u << threadIdx.x % 32);
        }
        __syncthreads();
        for (int n = 0; n < TILE; n++)
            for (unsigned left = candidates[n]; left != 0; left &= left - 1) {
                r = start + 32 * n + __ffs(left) - 1;
                place at = place_of(pyramid, rois, r);
                if (x >= width || !can_touch(at.low_x, at.length_x, x, x))
                    continue;
                float size_x = at.length_x / rois.bins, size_y = at.length_y / rois.bins;
                for (int i = 0; i < rois.bins; i++) {
                    if (!can_touch(at.low_y + i * size_y, size_y, y, y))
                        continue;
                    float share_y = share_of(y, at.low_y, at.length_y, rois.bins, at.count_y, i, height);
                    for (int j = 0; share_y != 0 && j < rois.bins; j++) {
                        if (!can_touch(at.low_x + j * size_x, size_x, x, x))
                            continue;
                        float share = share_y * share_of(x, at.low_x, at.length_x, rois.bins, at.count_x, j, width);
                        const T *bin = pooled + ((r * rois.bins + i) * rois.bins + j) * channels;
                        if (share != 0)
                            for (int k = 0; k < LANE_PART; k++)
                                if (first + 32 * k < channels)
                                    sum[k] += share * widen(bin[first + 32 * k]);
                    }
                }
            }
        __syncthreads();
    }
    float *cell = (float *)pyramid.maps[level] + ((image * height + y) * width + x) * channels;
    for (int k = 0; x < width && k < LANE_PART; k++)
        if (first + 32 * k < channels)
            cell[first + 32 * k] = sum[k];
}

#define ROI_ALIGN(type, width, packs)                                                                                \
    extern "C" __global__ void roi_align_##type##_##width(const pyramid pyramid, const rois rois, type *pooled)      \
    {                                                                                                                \
        roi_align<type, width, packs>(pyramid, rois, pooled);                                                        \
    }
#define SCATTER(type, width)                                                                                         \
    extern "C" __global__ void roi_align_scatter_##type##_##width(const pyramid pyramid, const rois rois,            \
                                                                  const type *pooled)                                \
    {                                                                                                                \
        roi_align_scatter<type, width>(pyramid, rois, pooled);                                                       \
    }
#define GATHER(type)                                                                                                 \
    extern "C" __global__ void roi_align_gather_##type(const pyramid pyramid, const rois rois, const type *pooled)   \
    {                                                                                                                \
        roi_align_gather(pyramid, rois, pooled);                                                                     \
    }
ROI_ALIGN(float, 1, 4)
ROI_ALIGN(float, 4, 2)
ROI_ALIGN(half, 1, 4)
ROI_ALIGN(half, 8, 1)
ROI_ALIGN(bfloat, 1, 4)
ROI_ALIGN(bfloat, 8, 1)
SCATTER(float, 1)
SCATTER(float, 4)
SCATTER(half, 1)
SCATTER(half, 4)
SCATTER(bfloat, 1)
SCATTER(bfloat, 4)
GATHER(float)
GATHER(half)
GATHER(bfloat)

/* ---- Masks ---- */

/* Mask targets, one thread a number: RoIAlign of one mask a RoI, in mask pixels. RoI r takes mask index[r] of its image;
 * an index that reaches outside gives NaN. out [R, bins, bins]. */
extern "C" __global__ void crop_masks(const masks masks, const rois rois, const int64_t *index, float *out)
{
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= rois.count * rois.bins * rois.bins)
        return;
    int64_t r = at / (rois.bins * rois.bins), image = rois.image[r] - masks.first;
    int i = at / rois.bins % rois.bins, j = at % rois.bins;
    int nowhere = rois.image[r] < 0 || rois.image[r] >= masks.all_images;
    if (!nowhere && (image < 0 || image >= masks.images))
        return; /* another launch has this image */
    if (nowhere || index[r] < 0 || index[r] >= masks.count[image]) {
        out[at] = BITS_TO_FLOAT(0x7fc00000);
        return;
    }
    int height = masks.height[image], width = masks.width[image];
    const uint8_t *mask = masks.masks[image] + index[r] * height * width;
    const float *box = rois.boxes + 4 * r;
    float low_x, low_y, length_x, length_y, sum = 0;
    roi_extent(box[0], box[2], 1, rois.aligned, &low_x, &length_x);
    roi_extent(box[1], box[3], 1, rois.aligned, &low_y, &length_y);
    int count_x = sample_count(length_x, rois.bins, rois.sampling_ratio);
    int count_y = sample_count(length_y, rois.bins, rois.sampling_ratio);
    for (int ky = 0; ky < count_y; ky++) {
        int y0, y1;
        float wy0, wy1;
        linear(low_y, length_y, rois.bins, count_y, i, ky, height, &y0, &y1, &wy0, &wy1);
        if (wy0 == 0 && wy1 == 0)
            continue;
        const uint8_t *upper = mask + (int64_t)y0 * width, *lower = mask + (int64_t)y1 * width;
        for (int kx = 0; kx < count_x; kx++) {
            int x0, x1;
            float wx0, wx1;
            linear(low_x, length_x, rois.bins, count_x, j, kx, width, &x0, &x1, &wx0, &wx1);
            if (wx0 == 0 && wx1 == 0)
                continue;
            sum += wy0 * (wx0 * upper[x0] + wx1 * upper[x1]) + wy1 * (wx0 * lower[x0] + wx1 * lower[x1]);
        }
    }
    out[at] = sum;
}

/* Sets the pixels of mask blockIdx.x, grids [D, cells, cells] stretched over its corners [D, 4], that exceed the
 * threshold; out [D, height, width], zero on entry. The blocks of a mask take its rows in turn. */
extern "C" __global__ void paste_masks(const float *grids, int cells, const float *corners, int64_t height,
                                       int64_t width, float threshold, uint8_t *out)
{
    int64_t mask = blockIdx.x;
    const float *grid = grids + mask * cells * cells, *corner = corners + 4 * mask;
    int64_t first_y = first_pixel(corner[1], height), last_y = last_pixel(corner[3], height);
    int64_t first_x = first_pixel(corner[0], width), last_x = last_pixel(corner[2], width);
    scalar step_y = grid_step(corner[1], corner[3], cells), step_x = grid_step(corner[0], corner[2], cells);
    for (int64_t y = first_y + (int64_t)blockIdx.y * blockDim.y + threadIdx.y; y < last_y;
         y += (int64_t)gridDim.y * blockDim.y) {
        int above;
        float part;
        grid_cell(y, corner[1], step_y, cells, &above, &part);
        const float *upper = grid + above * cells, *lower = above + 1 < cells ? upper + cells : upper;
        uint8_t *pixels = out + (mask * height + y) * width;
        for (int64_t x = first_x + threadIdx.x; x < last_x; x += blockDim.x) {
            int g;
            float w;
            grid_cell(x, corner[0], step_x, cells, &g, &w);
            float left = (1 - part) * upper[g] + part * lower[g];
            float right = g + 1 < cells ? (1 - part) * upper[g + 1] + part * lower[g + 1] : 0;
            pixels[x] = (1 - w) * left + w * right > threshold;
        }
    }
}
