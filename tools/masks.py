"""Masks between image pixels and the m x m frame of a box: `crop` and `paste` are inverse to each
other."""

from maskrcnn.libs.ops import crop_masks as crop
from maskrcnn.libs.ops import paste_masks as paste

__all__ = ["crop", "paste"]
