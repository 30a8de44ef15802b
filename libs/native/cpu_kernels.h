/* The CPU kernels for one scalar type: cpu.c includes this once for float and once for double.
 *
 * Plain C with OpenMP on raw pointers: no header of Python or PyTorch is needed, and one build serves every version of
 * both. Every loop over threads writes to places of its own, so results do not depend on the number of threads.
 */

#define NAME_(op, type) op##_##type
#define NAME(op, type) NAME_(op, type)
#define DEVICE
#define shared_area NAME(shared_area, scalar)
#define overlaps NAME(overlaps, scalar)
#define sure_share NAME(sure_share, scalar)
#define roi_extent NAME(roi_extent, scalar)
#define level_of NAME(level_of, scalar)
#define sample_count NAME(sample_count, scalar)
#define linear NAME(linear, scalar)
#define first_pixel NAME(first_pixel, scalar)
#define last_pixel NAME(last_pixel, scalar)
#define grid_step NAME(grid_step, scalar)
#define grid_cell NAME(grid_cell, scalar)
#include "geometry.h"

/* Greedy suppression within one run of boxes [P, 4] sorted by falling score. keep [P] holds 1 for those that take part
 * on entry and for those that are left on return. `columns` is room for 5 P numbers. */
VECTORISED static void NAME(nms_run, scalar)(const scalar *boxes, int64_t count, scalar threshold, uint8_t *keep,
                                             scalar *columns)
{
    /* By columns, so that the inner loop reads consecutive numbers and the compiler can take many at a time. */
    scalar *restrict x1 = columns, *restrict y1 = x1 + count, *restrict x2 = y1 + count, *restrict y2 = x2 + count;
    scalar *restrict area = y2 + count;
    for (int64_t i = 0; i < count; i++) {
        x1[i] = boxes[4 * i];
        y1[i] = boxes[4 * i + 1];
        x2[i] = boxes[4 * i + 2];
        y2[i] = boxes[4 * i + 3];
        area[i] = (x2[i] - x1[i]) * (y2[i] - y1[i]);
    }
    for (int64_t i = 0; i < count; i++) {
        if (!keep[i])
            continue;
        scalar ax1 = x1[i], ay1 = y1[i], ax2 = x2[i], ay2 = y2[i], area_a = area[i];
        for (int64_t j = i + 1; j < count; j++)
            keep[j] &= !overlaps(area_a, area[j], shared_area(ax1, ay1, ax2, ay2, x1[j], y1[j], x2[j], y2[j]), threshold);
    }
}

/* Runs of boxes, run r from starts[r] to starts[r + 1]; no run touches another. 0, or 1 if there was no memory. */
int NAME(nms, scalar)(const scalar *boxes, const int64_t *starts, int64_t runs, double threshold, uint8_t *keep)
{
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed) if (runs > 1)
    for (int64_t r = 0; r < runs; r++) {
        int64_t count = starts[r + 1] - starts[r];
        if (count < 2)
            continue;
        scalar *columns = malloc(5 * count * sizeof(scalar));
        if (columns == NULL) {
            failed = 1;
            continue;
        }
        NAME(nms_run, scalar)(boxes + 4 * starts[r], count, (scalar)threshold, keep + starts[r], columns);
        free(columns);
    }
    return failed;
}

/* One RoI, channels first..last: adds pooled values to out (forward), or gradients to the map (backward). Cells and
 * bins hold their channels side by side, so that the inner loops run over consecutive numbers. */
VECTORISED static void NAME(pool_roi, scalar)(scalar *restrict map, int side_y, int side_x, int64_t channels,
                                              int64_t first, int64_t last, const scalar *box, scalar scale, int bins,
                                              int sampling_ratio, int aligned, scalar *restrict out, int backward)
{
    scalar low_x, low_y, length_x, length_y;
    roi_extent(box[0], box[2], scale, aligned, &low_x, &length_x);
    roi_extent(box[1], box[3], scale, aligned, &low_y, &length_y);
    int count_x = sample_count(length_x, bins, sampling_ratio), count_y = sample_count(length_y, bins, sampling_ratio);
    for (int i = 0; i < bins; i++)
        for (int ky = 0; ky < count_y; ky++) {
            int y[2];
            scalar wy[2];
            linear(low_y, length_y, bins, count_y, i, ky, side_y, &y[0], &y[1], &wy[0], &wy[1]);
            if (wy[0] == 0 && wy[1] == 0)
                continue;
            for (int j = 0; j < bins; j++)
                for (int kx = 0; kx < count_x; kx++) {
                    int x[2];
                    scalar wx[2];
                    linear(low_x, length_x, bins, count_x, j, kx, side_x, &x[0], &x[1], &wx[0], &wx[1]);
                    if (wx[0] == 0 && wx[1] == 0)
                        continue;
                    scalar w00 = wy[0] * wx[0], w01 = wy[0] * wx[1], w10 = wy[1] * wx[0], w11 = wy[1] * wx[1];
                    scalar *c00 = map + ((int64_t)y[0] * side_x + x[0]) * channels;
                    scalar *c01 = map + ((int64_t)y[0] * side_x + x[1]) * channels;
                    scalar *c10 = map + ((int64_t)y[1] * side_x + x[0]) * channels;
                    scalar *c11 = map + ((int64_t)y[1] * side_x + x[1]) * channels;
                    scalar *bin = out + ((int64_t)i * bins + j) * channels;
                    if (!backward)
                        for (int64_t c = first; c < last; c++)
                            bin[c] += w00 * c00[c] + w01 * c01[c] + w10 * c10[c] + w11 * c11[c];
                    else
                        for (int64_t c = first; c < last; c++) {
                            scalar g = bin[c]; /* the four cells may be one and the same: add one after the other */
                            c00[c] += w00 * g;
                            c01[c] += w01 * g;
                            c10[c] += w10 * g;
                            c11[c] += w11 * g;
                        }
                }
        }
}

/* RoIAlign over a pyramid. maps[l] is [N, sides[2 l], sides[2 l + 1], C], pooled [R, bins, bins, C], zero on entry. Each
 * RoI's level is given, or if level is NULL follows from its area. */
void NAME(roi_align, scalar)(scalar *const *maps, const int64_t *sides, const double *scales,
                             const scalar *areas, int levels, int64_t channels, const scalar *boxes,
                             const int64_t *image, const int64_t *level, int64_t count, int bins, int sampling_ratio,
                             int aligned, scalar *pooled)
{
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t r = 0; r < count; r++) {
        int64_t l = level != NULL ? level[r] : level_of(boxes + 4 * r, areas, levels);
        int64_t height = sides[2 * l], width = sides[2 * l + 1];
        NAME(pool_roi, scalar)(maps[l] + image[r] * height * width * channels, (int)height, (int)width, channels, 0,
                               channels, boxes + 4 * r, (scalar)scales[l], bins, sampling_ratio, aligned,
                               pooled + r * bins * bins * channels, 0);
    }
}

/* Its gradient: grads[l] of the shape of maps[l], zero on entry. RoIs share cells, so threads divide the channels. */
void NAME(roi_align_backward, scalar)(scalar *const *grads, const int64_t *sides, const double *scales,
                                      const scalar *areas, int levels, int64_t channels, const scalar *boxes,
                                      const int64_t *image, const int64_t *level, int64_t count, int bins,
                                      int sampling_ratio, int aligned, scalar *pooled)
{
    int64_t block = 64 / sizeof(scalar) * 4; /* four cache lines: no two threads write to the same one */
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < channels; first += block) {
        int64_t last = first + block < channels ? first + block : channels;
        for (int64_t r = 0; r < count; r++) {
            int64_t l = level != NULL ? level[r] : level_of(boxes + 4 * r, areas, levels);
            int64_t height = sides[2 * l], width = sides[2 * l + 1];
            NAME(pool_roi, scalar)(grads[l] + image[r] * height * width * channels, (int)height, (int)width, channels,
                                   first, last, boxes + 4 * r, (scalar)scales[l], bins, sampling_ratio, aligned,
                                   pooled + r * bins * bins * channels, 1);
        }
    }
}

/* Mask targets: RoIAlign of one mask a RoI, in mask pixels. masks[r] is the mask of RoI r, 0 and 1, of sides[2 r] rows
 * and sides[2 r + 1] columns; out [R, bins, bins]. 0, or 1 if there was no memory. */
int NAME(crop_masks, scalar)(const uint8_t *const *masks, const int64_t *sides, const scalar *boxes, int64_t count,
                             int bins, int sampling_ratio, int aligned, scalar *out)
{
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
    for (int64_t r = 0; r < count; r++) {
        int64_t width = sides[2 * r + 1];
        if (width == 0 || sides[2 * r] == 0)
            continue; /* no pixel to read: its target is zero */
        scalar low_x, low_y, length_x, length_y;
        roi_extent(boxes[4 * r], boxes[4 * r + 2], 1, aligned, &low_x, &length_x);
        roi_extent(boxes[4 * r + 1], boxes[4 * r + 3], 1, aligned, &low_y, &length_y);
        int count_x = sample_count(length_x, bins, sampling_ratio);
        int count_y = sample_count(length_y, bins, sampling_ratio);
        int64_t samples = (int64_t)bins * count_x; /* the same columns serve every row: compute them once */
        int *x = malloc(2 * samples * sizeof(int));
        scalar *wx = malloc(2 * samples * sizeof(scalar));
        if (x == NULL || wx == NULL) {
            failed = 1;
            free(x);
            free(wx);
            continue;
        }
        for (int64_t k = 0; k < samples; k++)
            linear(low_x, length_x, bins, count_x, (int)(k / count_x), (int)(k % count_x), (int)width, &x[2 * k],
                   &x[2 * k + 1], &wx[2 * k], &wx[2 * k + 1]);
        for (int i = 0; i < bins; i++)
            for (int ky = 0; ky < count_y; ky++) {
                int y[2];
                scalar wy[2];
                linear(low_y, length_y, bins, count_y, i, ky, (int)sides[2 * r], &y[0], &y[1], &wy[0], &wy[1]);
                const uint8_t *upper = masks[r] + y[0] * width, *lower = masks[r] + y[1] * width;
                for (int64_t k = 0; k < samples; k++)
                    out[((int64_t)r * bins + i) * bins + k / count_x] +=
                        wy[0] * (wx[2 * k] * upper[x[2 * k]] + wx[2 * k + 1] * upper[x[2 * k + 1]]) +
                        wy[1] * (wx[2 * k] * lower[x[2 * k]] + wx[2 * k + 1] * lower[x[2 * k + 1]]);
            }
        free(x);
        free(wx);
    }
    return failed;
}

/* Stretches m x m probabilities over their boxes (given as low, high corners of the grid with its border of zeros, see
 * tools/masks.py) and sets the pixels above the threshold; out [D, height, width], zero on entry. */
int NAME(paste_masks, scalar)(const scalar *grids, int cells, const scalar *corners, int64_t count, int64_t height,
                              int64_t width, double threshold, uint8_t *out)
{
    int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
    for (int64_t d = 0; d < count; d++) {
        const scalar *grid = grids + d * cells * cells;
        scalar low_x = corners[4 * d], low_y = corners[4 * d + 1], high_x = corners[4 * d + 2];
        scalar high_y = corners[4 * d + 3];
        int64_t first_y = first_pixel(low_y, height), last_y = last_pixel(high_y, height);
        int64_t first_x = first_pixel(low_x, width), last_x = last_pixel(high_x, width);
        if (first_y >= last_y || first_x >= last_x)
            continue;
        int *lower = malloc((last_x - first_x) * sizeof(int));
        scalar *share = malloc((last_x - first_x) * sizeof(scalar)), *row = malloc((cells + 1) * sizeof(scalar));
        if (lower == NULL || share == NULL || row == NULL) {
            failed = 1;
        } else {
            scalar step_x = grid_step(low_x, high_x, cells), step_y = grid_step(low_y, high_y, cells);
            for (int64_t x = first_x; x < last_x; x++)
                grid_cell(x, low_x, step_x, cells, &lower[x - first_x], &share[x - first_x]);
            row[cells] = 0;
            for (int64_t y = first_y; y < last_y; y++) {
                int above;
                scalar part;
                grid_cell(y, low_y, step_y, cells, &above, &part);
                int below = above + 1 < cells ? above + 1 : above;
                for (int g = 0; g < cells; g++)
                    row[g] = (1 - part) * grid[above * cells + g] + part * grid[below * cells + g];
                uint8_t *pixels = out + (d * height + y) * width;
                for (int64_t x = first_x; x < last_x; x++) {
                    int g = lower[x - first_x];
                    scalar w = share[x - first_x];
                    pixels[x] = (1 - w) * row[g] + w * row[g + 1] > threshold;
                }
            }
        }
        free(lower);
        free(share);
        free(row);
    }
    return failed;
}

#undef overlaps
#undef roi_extent
#undef level_of
#undef sample_count
#undef linear
#undef first_pixel
#undef last_pixel
#undef grid_step
#undef grid_cell
#undef DEVICE
#undef NAME
#undef NAME_
