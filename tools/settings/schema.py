"""Every setting with its type, its default and what it may be.

Generated from config.ini by `python tools/settings/generate.py`: change that file.
"""

# ruff: noqa: RUF012  # the lists are copied before anybody gets them
from typing import Annotated, Literal

from .constraints import Count, OneOf, Range, Section


class ModelSettings(Section):
    """[model]"""

    pretrained: str = ""
    """
    Load weights before use: nothing, 'imagenet' (torchvision's or timm's weights of the
    trunk), 'coco' (torchvision's maskrcnn_resnet50_fpn, to be used with
    examples/coco/torchvision.ini, or its v2), or the path of a checkpoint: of this library,
    of torchvision's or detectron2's Mask R-CNN, or of a trunk.
    """

    weights_channels: Literal["auto", "bgr", "rgb"] = "auto"
    """
    The order of the channels that detectron2's weights were trained with (its INPUT.FORMAT):
    bgr, its default, or rgb. auto takes what the file says, which older files do, and
    otherwise bgr.
    """


class TransformSettings(Section):
    """[transform]"""

    min_size: Annotated[list[int], Range(1, 20000)] = [800]
    """
    The shorter side of an image is resized to min_size pixels, unless the longer one would
    then exceed max_size. Of several, training draws one for each batch and evaluation takes
    the last.
    """

    max_size: Annotated[int, Range(1, 20000)] = 1333

    scale: Annotated[float, Range(0, 100)] = 0.0
    """
    Where this is not 0, images are enlarged or reduced by this factor instead of to min_size:
    for images of one magnification, such as a microscope's. max_size still holds.
    """

    round_size: bool = False
    """
    Round the sizes that come out to the nearest pixel, as detectron2 does, instead of down,
    as torchvision does.
    """

    antialias: bool = True
    """
    Average over the pixels that merge when an image is made smaller, as Pillow and detectron2
    do. 'no' samples between four neighbours, as torchvision does: fine detail then turns into
    noise.
    """

    mean: Annotated[list[float], Range(0, 1)] = [0.485, 0.456, 0.406]
    """
    Per channel, for images in 0..1, so none is above 1: those of ImageNet. As many numbers as
    images have channels.
    """

    std: Annotated[list[float], Range(0, 1, above=True)] = [0.229, 0.224, 0.225]

    normalize: Literal["fixed", "image"] = "fixed"
    """
    fixed: by these numbers. image: each image by the mean and deviation of its own pixels,
    channel by channel, which makes dark and bright images alike: for microscopes and other
    sources of differing exposure.
    """

    size_divisor: Annotated[int, Range(1, 2048)] = 32
    """
    Height and width of the padded batch are multiples of this; an FPN needs its coarsest
    trunk stride.
    """

    resize_masks: bool = False
    """
    Resample ground-truth masks to the input size before mask targets are cropped from them,
    as torchvision does. 'no' crops the targets from the masks as they are, which keeps
    detail.
    """


class BackboneSettings(Section):
    """[backbone]"""

    name: Annotated[
        str,
        OneOf(
            (
                "resnet10",
                "resnet18",
                "resnet34",
                "resnet50",
                "resnet101",
                "resnet152",
                "resnext50_32x4d",
                "resnext101_32x8d",
                "resnext101_64x4d",
                "wide_resnet50_2",
                "wide_resnet101_2",
                "vgg16",
                "timm/*",
            )
        ),
    ] = "resnet50"
    """
    resnet10, 18, 34, 50, 101, 152, resnext50_32x4d, resnext101_32x8d, resnext101_64x4d,
    wide_resnet50_2, wide_resnet101_2, vgg16, or any model of timm that has feature maps:
    timm/convnext_tiny, timm/vit_base_patch16_224, ... (pip install timm).
    """

    neck: Literal["fpn", "c4", "dc5"] = "fpn"
    """
    What makes a backbone of the trunk: fpn, a pyramid (for a plain vision transformer that of
    ViTDet); c4, the ResNet's stages up to stride 16, with its last one in the heads; dc5, its
    last one dilated to stride 16.
    """

    dilate_first_block: bool = False
    """
    With neck = dc5, dilate the last stage's first block too, as detectron2 does. 'no' dilates
    those behind it, as torchvision does.
    """

    width: Annotated[int, Range(1, 4096)] = 64
    """
    Channels of the stem; every stage scales with it. 64 is the published network, 16 a slim
    one for small data. Models of timm have widths of their own.
    """

    norm: Literal["frozen", "batch", "sync", "group", "layer", "none"] = "frozen"
    """
    frozen (statistics and scale fixed, for pretrained weights), batch, sync (over all
    processes), group, or layer. Models of timm keep their own norms; frozen and sync turn
    batch norms into such. vgg16 has none, unless asked for another than frozen.
    """

    freeze_at: Annotated[int, Range(0, 5)] = 2
    """
    How much of the trunk keeps its weights: 0 trains all, 1 freezes the stem, 2 also the
    first stage, up to 5.
    """

    stride_in_1x1: bool = False
    """
    Stride in the first 1x1 convolution of a block, as in the paper and detectron2's weights,
    instead of in its 3x3.
    """

    drop_path: Annotated[float, Range(0, 1)] = 0.0
    """
    Rate of stochastic depth: the chance that an image skips the last block; for earlier ones
    it is less. ResNets have it, and many models of timm.
    """

    checkpointing: bool = False
    """
    Compute activations anew for the backward pass instead of keeping them: less memory, more
    time.
    """


class FpnSettings(Section):
    """[fpn]"""

    channels: Annotated[int, Range(1, 16384)] = 256
    """Channels of every level of the pyramid."""

    norm: Literal["none", "batch", "sync", "group", "layer"] = "none"
    """Norm behind each convolution of the pyramid: none, batch, sync, group, or layer."""


class RpnSettings(Section):
    """[rpn]"""

    anchor_sizes: Annotated[list[int], Range(1)] = [32, 64, 128, 256, 512]
    """
    Anchors: one size (the root of the area, in input pixels) for each level of the pyramid,
    or all for a single level, times these ratios (h / w).
    """

    anchor_ratios: Annotated[list[float], Range(0, above=True)] = [0.5, 1.0, 2.0]

    anchor_centered: bool = True
    """
    Place anchors at the centre of each cell. 'no' places them at its top left corner, as
    torchvision does.
    """

    anchor_rounded: bool = False
    """
    torchvision's arithmetic: round anchor corners to whole pixels, and take a level's stride
    as (padded size) // (map size) instead of the stride that the backbone declares.
    """

    anchor_stride_measured: bool = False

    convs: Annotated[int, Range(0, 100)] = 1
    """3x3 convolutions before the two outputs."""

    positive_iou: Annotated[float, Range(0, 1)] = 0.7
    """
    An anchor is an object at this IoU or above and background below the second; between them
    it is ignored.
    """

    negative_iou: Annotated[float, Range(0, 1)] = 0.3

    crowd_overlap: Annotated[float, Range(0, 1)] = 0.5
    """Ignored too when this share of its area lies in a crowd region."""

    samples: Annotated[int, Range(1, 1000000)] = 256
    """
    Anchors an image that the loss is computed on, and how many of them at most may be
    objects.
    """

    positive_fraction: Annotated[float, Range(0, 1)] = 0.5

    pre_nms_train: Annotated[int, Range(1, 1000000)] = 2000
    """
    Proposals: the best of each level go into non-maximum suppression (NMS), the best of all
    levels come out.
    """

    pre_nms_test: Annotated[int, Range(1, 1000000)] = 1000

    post_nms_train: Annotated[int, Range(1, 100000)] = 1000

    post_nms_test: Annotated[int, Range(1, 100000)] = 1000

    nms_iou: Annotated[float, Range(0, 1)] = 0.7

    min_size: Annotated[float, Range(0)] = 0.001
    """Proposals narrower or lower than this many input pixels are dropped."""

    smooth_l1_beta: Annotated[float, Range(0)] = 0.1111111111111111
    """Smooth L1 turns from square to linear here; 0 is L1."""


class PoolingSettings(Section):
    """[pooling]"""

    kind: Literal["align", "max"] = "align"
    """align, or max: whole cells, as in Fast R-CNN; sampling_ratio and aligned are RoIAlign's."""

    levels: Annotated[int, Range(1, 100)] = 4
    """
    RoIs are pooled from this many of the finest levels, or all if there are fewer; the
    coarser ones serve the RPN alone.
    """

    canonical_size: Annotated[int, Range(1, 1000000)] = 224
    """
    A RoI of canonical_size pixels is pooled from level canonical_level, where level k has
    stride 2**k (FPN, equation 1).
    """

    canonical_level: Annotated[int, Range(0, 100)] = 4

    sampling_ratio: Annotated[int, Range(0, 100)] = 2
    """Samples a bin and direction; 0 takes as many as the bin has cells."""

    aligned: bool = True
    """Cell centres at (i + 0.5) * stride. 'no' is the first published RoIAlign, half a cell off."""


class BoxSettings(Section):
    """[box]"""

    pool_size: Annotated[int, Range(1, 256)] = 7
    """Side, in bins, of the features that RoIAlign makes of a proposal."""

    layers: Annotated[int, Range(0, 100)] = 2
    """
    Fully connected layers, and their width. Without any, the mean over the bins takes their
    place (as with neck = c4).
    """

    hidden: Annotated[int, Range(1, 65536)] = 1024

    convs: Annotated[int, Range(0, 100)] = 0
    """
    3x3 convolutions before them, their channels, and the norm behind each: none, batch, sync,
    group or layer.
    """

    conv_channels: Annotated[int, Range(1, 16384)] = 256

    norm: Literal["none", "batch", "sync", "group", "layer"] = "none"

    class_agnostic: bool = False
    """One box for all classes, instead of one for each."""

    positive_iou: Annotated[float, Range(0, 1)] = 0.5
    """
    A proposal is an object at this IoU or above and background below the second; between them
    it is ignored.
    """

    negative_iou: Annotated[float, Range(0, 1)] = 0.5

    crowd_overlap: Annotated[float, Range(0, 1)] = 0.5

    samples: Annotated[int, Range(1, 1000000)] = 512
    """
    Proposals an image that the losses are computed on, and how many of them at most may be
    objects.
    """

    positive_fraction: Annotated[float, Range(0, 1)] = 0.25

    delta_weights: Annotated[list[float], Range(0, above=True), Count(4)] = [10.0, 10.0, 5.0, 5.0]
    """
    Box deltas are multiplied by these before the loss, which brings them to about unit
    variance.
    """

    loss: Literal["smooth_l1", "l1", "giou"] = "smooth_l1"
    """
    smooth_l1 of the deltas (turning from square to linear at smooth_l1_beta; 0 is L1), l1 of
    them, or giou of the boxes.
    """

    smooth_l1_beta: Annotated[float, Range(0)] = 0.1111111111111111

    score_threshold: Annotated[float, Range(0, 1)] = 0.05
    """
    Detections: of all pairs of a proposal and a class, the best pre_nms above the score go
    into NMS within each class, and the best of them come out. pre_nms = 0 takes all.
    """

    pre_nms: Annotated[int, Range(0, 100000000)] = 5000

    nms_iou: Annotated[float, Range(0, 1)] = 0.5

    max_detections: Annotated[int, Range(1, 100000)] = 100

    min_size: Annotated[float, Range(0)] = 0.01
    """Detections narrower or lower than this many input pixels are dropped."""


class MaskSettings(Section):
    """[mask]"""

    enabled: bool = True
    """'no' leaves the mask head out: Faster R-CNN."""

    pool_size: Annotated[int, Range(1, 256)] = 14

    convs: Annotated[int, Range(0, 100)] = 4
    """
    Convolutions before the upsampling, and their channels. Masks come out at twice the
    pool_size.
    """

    channels: Annotated[int, Range(1, 16384)] = 256

    norm: Literal["none", "batch", "sync", "group", "layer"] = "none"
    """Norm behind each of the convolutions: none, batch, sync, group or layer."""

    target_sampling_ratio: Annotated[int, Range(0, 100)] = 0
    """
    Samples a bin and direction when mask targets are cropped from ground-truth masks; 0: as
    many as the bin has pixels.
    """

    threshold: Annotated[float, Range(0, 1)] = 0.5
    """A pixel belongs to a mask where its probability exceeds this."""

    whole_pixel_paste: bool = False
    """
    Stretch masks over boxes widened to whole pixels, as torchvision does, instead of over the
    boxes as they are.
    """


class DataSettings(Section):
    """[data]"""

    format: Literal["cst", "coco", "voc", "masks", "via", "labelme"] = "cst"
    """
    cst: the CST-Dataset; training generates it into root if that folder does not exist or is
    empty. coco: images, and annotations in COCO's JSON. voc: PASCAL VOC 2007 or 2012 with
    SegmentationObject. masks: images, and their masks as one PNG for each object or one PNG
    of indices for each image. via, labelme: shapes drawn with the VGG Image Annotator or with
    LabelMe. Where VIA's regions have several attributes, the one that is called class, label,
    name or category is their class.
    """

    root: str = "data/cst-dataset"

    train: list[str] = ["train"]
    """
    What in root each split is. cst: its name. coco: image folder, annotation file. voc: a
    list of ImageSets/Segmentation, or several, such as VOC2007/trainval, VOC2012/train.
    masks, via, labelme: its folder. Without test images val is tested on too: give the same
    for both.
    """

    val: list[str] = ["val"]

    test: list[str] = ["test"]

    classes: list[str] = []
    """
    Names of the classes, in the order of their labels. Nothing takes those of the training
    annotations. masks needs one. They may be some of those that are annotated: objects of
    other classes are left out, and counted.
    """

    masks: bool = True
    """
    coco: whether an object without a mask is broken. no, for models without masks ([mask]
    enabled = no), takes its box for it.
    """

    crowd: Literal["ignore", "objects"] = "ignore"
    """
    How to treat annotations with iscrowd = 1: `ignore` them (they are neither learned nor
    counted, as COCO means it), or take them for ordinary `objects`. CVAT marks every mask
    drawn with its brush or made with SAM as crowd. VOC's difficult objects are treated alike;
    LabelMe's __ignore__ has no class and is ignored in either case.
    """

    value_range: str = "dtype"
    """
    Which pixel values are 0 and 1 of an image. dtype: the limits of the file's type, 0 and
    255 or 65535. image: the lowest and highest value of each image. Two numbers, low and
    high: these values; what lies beyond is cut off. Files with other numbers (of 32 bits, or
    with decimals) need one of the latter. `maskrcnn check` says which values there are.
    """

    orientation: Literal["exif", "stored"] = "exif"
    """
    exif turns images, and mask files, upright as their EXIF orientation says. stored takes
    the pixels as they lie in the file: for masks and annotations made by tools that do not
    turn.
    """

    outside: bool = True
    """
    Whether annotations may name files outside of root, by an absolute path, by ../ or by a
    link that leads there. Folders that the splits name are always allowed, links or not.
    """

    broken: Literal["error", "skip"] = "error"
    """
    What becomes of annotations and images that are broken: error stops and names them, skip
    leaves them out and counts them. An image that turns out to be broken only when it is
    loaded is replaced by a black one without objects, with a warning; where these, or the
    objects or images left out before, come to more than a tenth of a split, training stops
    after all.
    """

    cache: bool = True
    """
    Keep decoded images and masks in the memory of each process that loads them, 0.3 to 0.9 MB
    for a 512 x 512 image: up to 2 GB of each split, after which its other images are decoded
    each time.
    """

    workers: Annotated[int, Range(0, 1024)] = 0
    """
    Processes that load images. 0 loads in the training process, which is fastest with a
    cache.
    """

    group_by_aspect: bool = False
    """Put wide images into batches with wide ones and tall with tall, which leaves less padding."""


class AugmentSettings(Section):
    """[augment]"""

    flip: Annotated[float, Range(0, 1)] = 0.0
    """
    Random changes of training images. Chances that one is mirrored left to right, and upside
    down.
    """

    flip_vertical: Annotated[float, Range(0, 1)] = 0.0

    scale: Annotated[list[float], Range(0, above=True), Count(2)] = [1.0, 1.0]
    """
    Large-scale jitter: an image is scaled by a factor between these two, and then, where crop
    is not 0, cut or padded to crop x crop pixels at a random place. [transform] min_size,
    with several values, is the milder way of other scales; it undoes a scale without crop.
    """

    crop: Annotated[int, Range(0, 20000)] = 0

    rotation: Annotated[float, Range(0)] = 0.0
    """Turned by up to so many degrees in either direction."""

    brightness: Annotated[float, Range(0, 1)] = 0.0
    """
    Brightness, contrast and saturation are changed by factors of up to 1 -/+ this, hue by up
    to -/+ this (at most 0.5).
    """

    contrast: Annotated[float, Range(0, 1)] = 0.0

    saturation: Annotated[float, Range(0, 1)] = 0.0

    hue: Annotated[float, Range(0, 0.5)] = 0.0

    copy_paste: Annotated[float, Range(0, 1)] = 0.0
    """
    Chance that objects of another training image are pasted in (Ghiasi et al., Simple
    Copy-Paste).
    """


class TrainSettings(Section):
    """[train]"""

    output: str = "runs/maskrcnn"
    """
    Folder of the run: configuration, log.jsonl, plots, checkpoints, metrics.json. Where it
    exists, a number is added.
    """

    epochs: Annotated[int, Range(1, 10000000)] = 12
    """With schedule = step a run can be resumed with more of them, also when it has ended."""

    batch_size: Annotated[int, Range(1, 1000000)] = 2
    """
    Images in a step, of all processes together. The learning rate is meant for this many; or
    for base_batch_size where that is not 0: another batch_size then scales it (Goyal et al.,
    linear scaling rule).
    """

    base_batch_size: Annotated[int, Range(0, 1000000)] = 0

    accumulate: Annotated[int, Range(1, 1000000)] = 1
    """
    A step's images go through the model in so many passes, one after the other, which takes
    less memory.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd or adamw"""

    learning_rate: Annotated[float, Range(0, above=True)] = 0.0025

    momentum: Annotated[float, Range(0, 1)] = 0.9
    """Of sgd."""

    weight_decay: Annotated[float, Range(0)] = 0.0001
    """Of weights; biases and the scales of norms do not decay."""

    schedule: Literal["step", "cosine"] = "step"
    """
    step (times gamma at each of the milestones, in epochs) or cosine (down to zero at the
    end).
    """

    milestones: Annotated[list[float], Range(0)] = [8.0, 11.0]

    gamma: Annotated[float, Range(0, 1)] = 0.1

    warmup_epochs: Annotated[float, Range(0)] = 0.1
    """The learning rate rises linearly from start_factor to 1 over this many epochs."""

    warmup_start_factor: Annotated[float, Range(0, 1)] = 0.01

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32, or mixed precision: bf16, or (on GPUs alone) fp16."""

    ema: Annotated[float, Range(0, 1, below=True)] = 0.0
    """
    Evaluate and keep a moving average of the weights, which forgets at this rate a step
    (0.999); 0 does without.
    """

    patience: Annotated[int, Range(0)] = 0
    """Stop when best_metric has not grown for so many epochs; 0 never does."""

    save_steps: Annotated[int, Range(0)] = 0
    """
    Save the state of training, for --resume, after so many steps also within an epoch; 0: at
    the end of each.
    """

    compile: bool = False
    """Compile the backbone with torch.compile: minutes at the start, faster steps after it."""

    channels_last: bool = False
    """Keep the backbone's weights in channels_last layout too, which suits GPUs."""

    tensorboard: bool = False
    """Write TensorBoard files into the run folder (pip install tensorboard)."""

    clip_norm: Annotated[float, Range(0)] = 0.0
    """Gradients are scaled down to this L2 norm; 0 leaves them."""

    seed: Annotated[int, Range(0)] = 0
    """
    Every random choice follows from this: the same seed gives the same weights, on the CPU to
    the bit (on one machine, with one number of threads).
    """

    device: Annotated[str, OneOf(("auto", "cpu", "cuda", "cuda:*", "mps"))] = "auto"
    """
    Of training and evaluation. auto takes a GPU where there is one; or cpu, cuda, cuda:1,
    mps.
    """


class EvaluateSettings(Section):
    """[evaluate]"""

    every: Annotated[int, Range(1, 10000000)] = 1
    """Training validates after every so many epochs, and after the last."""

    batch_size: Annotated[int, Range(1, 1000000)] = 4
    """Images in a pass."""

    metrics: list[Literal["coco", "boundary", "voc07", "voc"]] = ["coco"]
    """
    coco (AP of boxes and masks at IoU 0.50 to 0.95), boundary (AP of the masks' outlines:
    Cheng et al., Boundary IoU), voc07 and voc (AP at IoU 0.5 of 11 recalls, as PASCAL VOC had
    it in 2007, and of the whole area, as since 2010).
    """

    max_detections: Annotated[int, Range(1, 100000)] = 100
    """
    Detections an image that count for the average precision (AP); no more than [box]
    max_detections come out at all.
    """

    best_metric: Annotated[
        str,
        OneOf(
            ("last", "box_AP*", "mask_AP*", "boundary_AP*", "box_AR*", "mask_AR*", "boundary_AR*")
        ),
    ] = "mask_AP"
    """
    What chooses the best checkpoint, on the validation split: mask_AP, box_AP, mask_AP50,
    box_AP75, mask_AP_voc, ... Without a mask head, box_ is read for mask_. last takes the
    last epoch's, as is fair where val is also what is tested on.
    """


class Settings(Section):
    """The whole configuration."""

    model: ModelSettings
    transform: TransformSettings
    backbone: BackboneSettings
    fpn: FpnSettings
    rpn: RpnSettings
    pooling: PoolingSettings
    box: BoxSettings
    mask: MaskSettings
    data: DataSettings
    augment: AugmentSettings
    train: TrainSettings
    evaluate: EvaluateSettings
