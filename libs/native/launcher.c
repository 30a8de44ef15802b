/* Launches the kernels of cuda.cu through CUDA's driver, which is looked for at run time: this builds without CUDA, and
 * loads where there is none. Every call is for a stream and returns at once; 0 is success, else an error of the driver.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include "launch.h"

#ifdef _WIN32
#include <windows.h>
static void *open_library(const char *name) { return (void *)LoadLibraryA(name); }
static void *symbol(void *library, const char *name) { return (void *)GetProcAddress((HMODULE)library, name); }
#else
#include <dlfcn.h>
static void *open_library(const char *name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
static void *symbol(void *library, const char *name) { return dlsym(library, name); }
#endif

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500 };

static struct {
    int (*init)(unsigned);
    int (*count)(int *);
    int (*device)(int *, int);
    int (*attribute)(int *, int, int);
    int (*retain)(void **, int);
    int (*push)(void *);
    int (*pop)(void **);
    int (*load)(void **, const void *);
    int (*function)(void **, void *, const char *);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
    int (*error)(int, const char **);
} driver;

/* Finds the driver in the library of this name: NOT_FOUND where there is none, or it lacks a function. */
int open_driver(const char *name)
{
    void *library = open_library(name);
    if (library == NULL)
        return NOT_FOUND;
    struct { const char *name; void **to; } wanted[] = {
        {"cuInit", (void **)&driver.init},
        {"cuDeviceGetCount", (void **)&driver.count},
        {"cuDeviceGet", (void **)&driver.device},
        {"cuDeviceGetAttribute", (void **)&driver.attribute},
        {"cuDevicePrimaryCtxRetain", (void **)&driver.retain},
        {"cuCtxPushCurrent_v2", (void **)&driver.push},
        {"cuCtxPopCurrent_v2", (void **)&driver.pop},
        {"cuModuleLoadData", (void **)&driver.load},
        {"cuModuleGetFunction", (void **)&driver.function},
        {"cuLaunchKernel", (void **)&driver.launch},
        {"cuGetErrorString", (void **)&driver.error},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if ((*wanted[i].to = symbol(library, wanted[i].name)) == NULL)
            return NOT_FOUND;
    return driver.init(0);
}

/* What an error of the driver means. */
const char *error_text(int error)
{
    const char *text = NULL;
    if (driver.error == NULL || driver.error(error, &text) != SUCCESS || text == NULL)
        return "unknown error";
    return text;
}

/* The compute capabilities, 10 major + minor, of at most `room` devices; returns how many were written. */
int capabilities(int *out, int room)
{
    int count = 0, device, major, minor;
    if (driver.count(&count) != SUCCESS)
        return 0;
    count = count < room ? count : room;
    for (int i = 0; i < count; i++) {
        if (driver.device(&device, i) != SUCCESS || driver.attribute(&major, 75, device) != SUCCESS ||
            driver.attribute(&minor, 76, device) != SUCCESS)
            return i;
        out[i] = 10 * major + minor;
    }
    return count;
}

/* The kernels by number, in the order of their names. */
enum {
    NMS_RANK, NMS_BEGIN, NMS_OVERLAPS, NMS_RESOLVE, ROI_ALIGN, ROI_ALIGN_WIDE = ROI_ALIGN + 3,
    SCATTER = ROI_ALIGN_WIDE + 3, SCATTER_WIDE = SCATTER + 3, GATHER = SCATTER_WIDE + 3, CROP_MASKS = GATHER + 3,
    PASTE_MASKS, KERNELS
};
static const char *const names[KERNELS] = {
    "nms_rank", "nms_begin", "nms_overlaps", "nms_resolve",
    "roi_align_float_1", "roi_align_half_1", "roi_align_bfloat_1",
    "roi_align_float_4", "roi_align_half_8", "roi_align_bfloat_8",
    "roi_align_scatter_float_1", "roi_align_scatter_half_1", "roi_align_scatter_bfloat_1",
    "roi_align_scatter_float_4", "roi_align_scatter_half_4", "roi_align_scatter_bfloat_4",
    "roi_align_gather_float", "roi_align_gather_half", "roi_align_gather_bfloat",
    "crop_masks", "paste_masks",
};

/* The kernels as loaded on one device. */
struct kernels {
    void *context, *functions[KERNELS];
};

/* Loads a cubin on a device, for the life of the process. */
int load_kernels(int number, const void *cubin, struct kernels **out)
{
    void *module, *popped;
    int device, error = SUCCESS;
    struct kernels *kernels = calloc(1, sizeof *kernels);
    if (kernels == NULL)
        return OUT_OF_MEMORY;
    /* The primary context is the one that PyTorch uses. */
    if (!(error = driver.device(&device, number)) && !(error = driver.retain(&kernels->context, device)) &&
        !(error = driver.push(kernels->context))) {
        error = driver.load(&module, cubin);
        for (int i = 0; i < KERNELS && !error; i++)
            error = driver.function(&kernels->functions[i], module, names[i]);
        driver.pop(&popped);
    }
    if (error)
        free(kernels);
    else
        *out = kernels;
    return error;
}

static int launch(const struct kernels *kernels, int which, void *stream, int64_t blocks, int64_t blocks_y,
                  unsigned threads, unsigned threads_y, int64_t shared, void **arguments)
{
    void *popped;
    if (blocks == 0 || blocks_y == 0)
        return SUCCESS;
    int error = driver.push(kernels->context);
    if (error)
        return error;
    error = driver.launch(kernels->functions[which], (unsigned)blocks, (unsigned)blocks_y, 1, threads, threads_y, 1,
                          (unsigned)shared, stream, arguments, NULL);
    driver.pop(&popped);
    return error;
}

/* The largest float that is not above: a float exceeds one exactly where it exceeds the other. */
static float below(double threshold)
{
    float near = (float)threshold;
    return near > threshold ? nextafterf(near, -INFINITY) : near;
}

/* Ranks images x count boxes; `room`, the power of two from count on, is at most 6144: what the shared memory holds. */
int rank(const struct kernels *kernels, void *stream, const float *scores, const uint8_t *valid, int64_t images,
         int count, int room, int64_t *order)
{
    unsigned threads = room < 64 ? 32 : room < 2048 ? room / 2 : 1024;
    void *arguments[] = {&scores, &valid, &count, &room, &order};
    return launch(kernels, NMS_RANK, stream, images, 1, threads, 1, room * 8, arguments);
}

/* images x count boxes; `rows` ranks at a time, as many as `overlapping` has room for, a multiple of 64. */
int nms(const struct kernels *kernels, void *stream, const float *boxes, const int64_t *order, const int64_t *groups,
        const uint8_t *valid, int64_t images, int64_t count, int64_t rows, double threshold, uint64_t *removed,
        uint64_t *overlapping, uint8_t *keep)
{
    int64_t words = (count + 63) / 64;
    float limit = (float)threshold;
    int parts = words < 64 ? (int)words : 64;
    void *begin[] = {&order, &valid, &count, &removed, &keep};
    int error = launch(kernels, NMS_BEGIN, stream, images * words, 1, 64, 1, 0, begin);
    for (int64_t first = 0; first < count && !error; first += rows) {
        int64_t blocks = ((count - first < rows ? count - first : rows) + 63) / 64;
        void *overlaps[] = {&boxes, &order, &groups, &count, &first, &rows, &parts, &limit, &removed, &overlapping};
        error = launch(kernels, NMS_OVERLAPS, stream, images * parts, blocks, 64, 1, 0, overlaps);
        void *resolve[] = {&order, &count, &first, &rows, &removed, &overlapping, &keep};
        if (!error)
            error = launch(kernels, NMS_RESOLVE, stream, images, 1, 512, 1, words * 8, resolve);
    }
    return error;
}

static struct pyramid pyramid_of(void *const *maps, const int64_t *sides, const double *scales, const float *areas,
                                 int levels, int64_t images, int64_t channels)
{
    struct pyramid pyramid = {.levels = levels, .channels = (int)channels, .images = images};
    for (int l = 0; l < levels; l++) {
        pyramid.maps[l] = maps[l];
        pyramid.height[l] = (int)sides[2 * l];
        pyramid.width[l] = (int)sides[2 * l + 1];
        pyramid.scale[l] = (float)scales[l];
        pyramid.area[l] = areas != NULL && l + 1 < levels ? areas[l] : 0;
    }
    return pyramid;
}

/* Blocks of eight warps, one a bin. */
static int64_t bin_blocks(int bins)
{
    int64_t blocks = ((int64_t)bins * bins + 7) / 8;
    return blocks < 65535 ? blocks : 65535;
}

/* type: 0 float, 1 half, 2 bfloat; wide: maps and channels fit accesses of 16 bytes. At most MAX_LEVELS levels; areas
 * may be NULL where level is not. */
int roi_align(const struct kernels *kernels, void *stream, int type, int wide, void *const *maps, const int64_t *sides,
              const double *scales, const float *areas, int levels, int64_t images, int64_t channels,
              const float *boxes, const int64_t *image, const int64_t *level, int64_t count, int bins,
              int sampling_ratio, int aligned, void *pooled)
{
    struct pyramid pyramid = pyramid_of(maps, sides, scales, areas, levels, images, channels);
    struct rois rois = {boxes, image, level, count, bins, sampling_ratio, aligned};
    void *arguments[] = {&pyramid, &rois, &pooled};
    return launch(kernels, (wide ? ROI_ALIGN_WIDE : ROI_ALIGN) + type, stream, count, bin_blocks(bins), 256, 1, 0,
                  arguments);
}

/* grads are float, and zero on entry; type is that of pooled; wide: its channels fit packs of four. */
int roi_align_backward(const struct kernels *kernels, void *stream, int type, int wide, int deterministic, void *const *grads,
                       const int64_t *sides, const double *scales, const float *areas, int levels, int64_t images,
                       int64_t channels, const float *boxes, const int64_t *image, const int64_t *level, int64_t count,
                       int bins, int sampling_ratio, int aligned, const void *pooled)
{
    struct pyramid pyramid = pyramid_of(grads, sides, scales, areas, levels, images, channels);
    struct rois rois = {boxes, image, level, count, bins, sampling_ratio, aligned};
    void *arguments[] = {&pyramid, &rois, &pooled};
    if (!deterministic) {
        int64_t part = wide ? 128 : 32; /* channels that a block takes */
        return launch(kernels, (wide ? SCATTER_WIDE : SCATTER) + type, stream, count, (channels + part - 1) / part, 256,
                      1, 8 * bins * sizeof(float), arguments);
    }
    int64_t tiles = 0;
    for (int l = 0; l < levels; l++)
        tiles += images * sides[2 * l] * ((sides[2 * l + 1] + TILE - 1) / TILE);
    return launch(kernels, GATHER + type, stream, tiles, (channels + 32 * LANE_PART - 1) / (32 * LANE_PART), 32 * TILE,
                  1, 0, arguments);
}

/* pixels[i] is where the masks of image i lie; shapes [3 images]: how many, their height and width. */
int crop_masks(const struct kernels *kernels, void *stream, const uint8_t *const *pixels, const int64_t *shapes,
               int64_t images, const float *boxes, const int64_t *index, const int64_t *image, int64_t count, int bins,
               int sampling_ratio, int aligned, float *out)
{
    struct rois rois = {boxes, image, NULL, count, bins, sampling_ratio, aligned};
    for (int64_t first = 0; first < images; first += MAX_IMAGES) {
        struct masks masks = {.first = first, .all_images = images};
        masks.images = images - first < MAX_IMAGES ? images - first : MAX_IMAGES;
        for (int64_t i = 0; i < masks.images; i++) {
            masks.masks[i] = pixels[first + i];
            masks.count[i] = shapes[3 * (first + i)];
            masks.height[i] = (int)shapes[3 * (first + i) + 1];
            masks.width[i] = (int)shapes[3 * (first + i) + 2];
        }
        void *arguments[] = {&masks, &rois, &index, &out};
        int error = launch(kernels, CROP_MASKS, stream, (count * bins * bins + 255) / 256, 1, 256, 1, 0, arguments);
        if (error)
            return error;
    }
    return SUCCESS;
}

int paste_masks(const struct kernels *kernels, void *stream, const float *grids, int cells, const float *corners,
                int64_t count, int64_t height, int64_t width, double threshold, uint8_t *out)
{
    float limit = below(threshold);
    void *arguments[] = {&grids, &cells, &corners, &height, &width, &limit, &out};
    return launch(kernels, PASTE_MASKS, stream, count, 32, 32, 8, 0, arguments);
}
