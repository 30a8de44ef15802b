/* What the launcher hands to the CUDA kernels by value: pointers and sizes then travel with the launch itself, and need
 * no copy to the device and no wait for one. */

#define MAX_LEVELS 16
#define MAX_IMAGES 64 /* in one launch: further images take another one */

/* How the gathering backward pass is divided into blocks of 32 TILE threads. */
#define TILE 8      /* cells of a row that one block takes, a warp each */
#define LANE_PART 8 /* channels that a lane sums at a time, 32 apart */

/* Feature maps, or their gradients: map l is [images, height[l], width[l], channels]. */
struct pyramid {
    void *maps[MAX_LEVELS];
    int height[MAX_LEVELS], width[MAX_LEVELS];
    float scale[MAX_LEVELS], area[MAX_LEVELS];
    int levels, channels;
    int64_t images;
};

/* RoIs, of which each lies in one image, and how they are pooled. */
struct rois {
    const float *boxes;
    const int64_t *image, *level; /* level may be NULL: then it follows from the area */
    int64_t count;
    int bins, sampling_ratio, aligned;
};

/* Masks of the images first, first + 1, ...: image i has count[i] of them, of height[i] x width[i] pixels. */
struct masks {
    const uint8_t *masks[MAX_IMAGES];
    int64_t count[MAX_IMAGES];
    int height[MAX_IMAGES], width[MAX_IMAGES];
    int64_t first, images, all_images;
};
