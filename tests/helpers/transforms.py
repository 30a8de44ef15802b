"""A transform by plain keywords."""

from maskrcnn.tools.settings.schema import TransformSettings
from maskrcnn.tools.transform import build_transform


def make_transform(min_size, max_size, mean, std, **options):
    settings = {"min_size": min_size, "max_size": max_size, "mean": mean, "std": std, **options}
    return build_transform(TransformSettings(settings))
