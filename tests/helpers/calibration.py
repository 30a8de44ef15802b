"""Random torchvision detectors whose scores and boxes spread as those of trained ones do, for
comparisons."""

import torch
from torch import nn


def calibrate(model, images):
    """Calibrate a torchvision Mask R-CNN with random weights by one forward pass; returns it in
    evaluation mode.

    As they come, random weights saturate every score and amplify rounding. So each norm gets the
    statistics of its input, and each output layer is rescaled to unit spread (box deltas to 0.3).
    """
    model.eval()
    predictor = model.roi_heads.box_predictor
    spreads = {
        model.rpn.head.cls_logits: 1.0,
        model.rpn.head.bbox_pred: 0.3,
        predictor.cls_score: 1.0,
        predictor.bbox_pred: 0.3,
        model.roi_heads.mask_predictor.mask_fcn_logits: 1.0,
    }
    handles = [
        m.register_forward_pre_hook(_measure)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    seen = set()

    def rescale(layer, inputs, output):
        if layer in seen:  # the RPN's layers run once a level: the first, largest one counts
            return output
        seen.add(layer)
        factor = spreads[layer] / output.std()
        layer.weight.data *= factor
        layer.bias.data *= factor
        return output * factor

    handles += [layer.register_forward_hook(rescale) for layer in spreads]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    if seen != set(spreads):
        raise RuntimeError("an output layer was never reached: no detections came out")
    return model


def _measure(norm, inputs):
    x = inputs[0]
    norm.running_mean.copy_(x.mean(dim=(0, 2, 3)))
    norm.running_var.copy_(x.var(dim=(0, 2, 3)))
