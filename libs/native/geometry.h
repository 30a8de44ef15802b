/* The arithmetic of the operators, which every compiled version shares: it stands here once, so that the tests of one
 * version cover what the others compute. `scalar` is float or double, and DEVICE what a function must be declared with:
 * both are defined by the file that includes this one.
 *
 * Boxes are xyxy with exclusive x2, y2, in pixels. A map's cell i covers [i, i + 1); RoIAlign counts in cell centres.
 */

/* The area that two boxes share. */
DEVICE static inline scalar shared_area(scalar ax1, scalar ay1, scalar ax2, scalar ay2, scalar bx1, scalar by1,
                                        scalar bx2, scalar by2)
{
    scalar width = (ax2 < bx2 ? ax2 : bx2) - (ax1 > bx1 ? ax1 : bx1);
    scalar height = (ay2 < by2 ? ay2 : by2) - (ay1 > by1 ? ay1 : by1);
    return (width > 0 ? width : 0) * (height > 0 ? height : 0);
}

/* Does the IoU of two boxes exceed the threshold? NaN coordinates overlap nothing: every comparison with them is false.
 * The areas are handed in, as they would otherwise be computed anew for every pair. */
DEVICE static inline int overlaps(scalar area_a, scalar area_b, scalar inter, scalar threshold)
{
    return inter / (area_a + area_b - inter) > threshold;
}

/* Below this share of the union, an intersection surely makes no IoU above the threshold, however all that is rounded:
 * a comparison that spares most pairs the division. Nothing is below it where the threshold is not positive. */
DEVICE static inline scalar sure_share(scalar threshold)
{
    return threshold > 0 ? threshold * (scalar)0.99999 : 0;
}

/* The level of a pyramid that a box is pooled from: one further for each of the rising areas that it reaches. A box
 * whose area is no number stays on the finest. */
DEVICE static inline int level_of(const scalar *box, const scalar *areas, int levels)
{
    scalar area = (box[2] - box[0]) * (box[3] - box[1]);
    int level = 0;
    for (int l = 0; l < levels - 1; l++)
        level += area >= areas[l];
    return level;
}

/* Where a RoI begins along one axis and how long it is, in cells. */
DEVICE static inline void roi_extent(scalar from, scalar to, scalar scale, int aligned, scalar *low, scalar *length)
{
    scalar half = aligned ? (scalar)0.5 : (scalar)0;
    *low = from * scale - half;
    *length = (to * scale - half) - *low;
    if (!aligned && *length < 1)
        *length = 1;
}

/* Samples a bin along one axis: as asked for, or as many as the bin has cells, up to MAX_SAMPLES (a box far larger than
 * any map would else take forever). A side that is not finite gets one. */
#define MAX_SAMPLES 1024
DEVICE static inline int sample_count(scalar length, int bins, int sampling_ratio)
{
    if (sampling_ratio > 0)
        return sampling_ratio;
    scalar cells = length / bins;
    if (!(cells > 1) || cells - cells != 0)
        return 1;
    if (cells > MAX_SAMPLES)
        return MAX_SAMPLES;
    int whole = (int)cells;
    return whole + (cells > whole);
}

/* The two cells that a sample lies between, and their weights, which already hold 1 / count. A sample more than one
 * cell outside counts as 0; nearer ones take the value of the border. */
DEVICE static inline void linear(scalar low, scalar length, int bins, int count, int bin, int k, int side, int *lower,
                                 int *upper, scalar *weight_lower, scalar *weight_upper)
{
    scalar size = length / bins;
    scalar at = (low + bin * size) + (k + (scalar)0.5) * (size / count);
    if (!(at >= -1 && at <= side && side > 0)) {
        *lower = *upper = 0;
        *weight_lower = *weight_upper = 0;
        return;
    }
    at = at < 0 ? 0 : at > side - 1 ? side - 1 : at;
    *lower = (int)at;
    *upper = *lower + 1 < side ? *lower + 1 : *lower;
    *weight_upper = (at - *lower) / count;
    *weight_lower = (1 - (at - *lower)) / count;
}

/* The pixels whose centres lie in low..high and in an image of this many pixels: from first_pixel up to, without,
 * last_pixel. None for NaN. */
DEVICE static inline int64_t first_pixel(scalar low, int64_t pixels)
{
    if (!(low < pixels))
        return pixels;
    int64_t i = low > 0 ? (int64_t)low : 0;
    while (!(i + (scalar)0.5 > low))
        i++;
    return i;
}

DEVICE static inline int64_t last_pixel(scalar high, int64_t pixels)
{
    if (!(high > 0))
        return 0;
    int64_t i = high < pixels ? (int64_t)high + 1 : pixels;
    i = i < pixels ? i : pixels;
    while (i > 0 && !(i - (scalar)0.5 < high))
        i--;
    return i;
}

/* Cells a pixel, where so many of them are spread over low..high. */
DEVICE static inline scalar grid_step(scalar low, scalar high, int cells)
{
    return cells / (high - low);
}

/* Between which of these cells a pixel's centre lies, and how far towards the upper one. */
DEVICE static inline void grid_cell(int64_t pixel, scalar low, scalar step, int cells, int *lower, scalar *share)
{
    scalar at = (pixel + (scalar)0.5 - low) * step - (scalar)0.5;
    at = !(at > 0) ? 0 : at > cells - 1 ? cells - 1 : at;
    *lower = (int)at;
    *share = at - *lower;
}
