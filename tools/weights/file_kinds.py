"""What a file is, in words, where it cannot be a checkpoint: by how it begins, as its name may say
anything."""

import re
import zipfile
from pathlib import Path

EXPORT = "Convert it with the library that wrote it: save a PyTorch state_dict()"
UNPACK = "Unpack it, and give the file inside"
# How files begin, what these are, and what to do about it.
BEGINNINGS = [
    (b"\x89HDF\r\n\x1a\n", "a file of HDF5, such as Keras, TensorFlow and Matlab write", EXPORT),
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, which stands in for the file",
        "Fetch the file itself: git lfs pull",
    ),
    (
        b"/annex/objects/",
        "a pointer of git-annex, which stands in for the file",
        "Fetch the file itself: git annex get",
    ),
    (b"\x1f\x8b", "packed with gzip", UNPACK),
    (b"BZh", "packed with bzip2", UNPACK),
    (b"\xfd7zXZ", "packed with xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "packed with 7-Zip", UNPACK),
    (b"Rar!", "packed with RAR", UNPACK),
    (b"GGUF", "a language model in GGUF", "Give weights of a Mask R-CNN"),
    (b"\x93NUMPY", "a single array of NumPy", "Give a checkpoint, names and tensors"),
    (b"%PDF", "a PDF", "Give a checkpoint"),
    (b"\x89PNG", "a picture", "Give a checkpoint"),
    (b"\xff\xd8\xff", "a picture", "Give a checkpoint"),
    (b"\x7fELF", "a program", "Give a checkpoint"),
]
# What archives that torch.save did not write hold, and so what they are.
MEMBERS = [
    (
        r"[^/]*/?constants\.pkl|[^/]*/code/.*",
        "a TorchScript program",
        "Save the state_dict() of the model that it was made of",
    ),
    (
        r"(.*/)?archive_format",
        "a program that torch.export wrote",
        "Save the state_dict() of the model that it was made of",
    ),
    (r"model\.weights\.h5|config\.json", "a model of Keras", EXPORT),
    (r".*\.npy", "an archive of NumPy arrays", "Save them with pickle or torch.save"),
]
TABLE = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # how the index of TensorFlow's checkpoints ends


def foreign_kind(path: Path) -> str:
    """What a file is and what to do about it, where it is a kind that is known and not read;
    otherwise ""."""
    if path.is_dir():
        parts = "a model of TensorFlow" if (path / "saved_model.pb").is_file() else "a folder"
        return f"{parts}; give a checkpoint file, such as best.pt of a run folder"
    with open(path, "rb") as file:
        head = file.read(1024)
        file.seek(-min(8, path.stat().st_size), 2)
        tail = file.read(8)
    if not head:
        return "empty: the file was not written or downloaded to its end. Get it again"
    for beginning, kind, cure in BEGINNINGS:
        if head.startswith(beginning):
            return f"{kind}. {cure}"
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", head, re.IGNORECASE):
        return (
            "a web page, as failed downloads are. Open the address in a browser, and download "
            "the file itself"
        )
    if head[257:262] == b"ustar":
        return f"packed with tar. {UNPACK}"
    if tail == TABLE or (b".ckpt" in path.name.encode() and path.suffix in (".index", ".meta")):
        return f"a checkpoint of TensorFlow. {EXPORT}"
    # ONNX is protobuf without a mark of its own: the version of its format, and then who wrote it.
    onnx = rb"\x08[\x01-\x20]\x12.{1,40}(\x1a|\"|:)"
    if path.suffix == ".onnx" or re.match(onnx, head, re.DOTALL):
        return "a model in ONNX. Give the PyTorch checkpoint that it was exported from"
    if head[:1] not in (b"\x80", b"P", b"(") and _is_text(head):
        words = head[:40].decode(errors="replace").splitlines()[0]
        return f"text, which begins {words!r}. Give a checkpoint"
    if head.startswith(b"PK"):
        return _archive_kind(path)
    return ""


def _archive_kind(path: Path) -> str:
    """What a zip archive is, where torch.save did not write it, or nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged one, of which reading it says more
        return ""
    for pattern, kind, cure in MEMBERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return f"{kind}. {cure}"
    for name in names:
        weights = name.endswith((".pt", ".pth", ".pkl", ".safetensors"))
        if weights and not name.endswith("data.pkl"):
            return f"a zip archive with {name!r} in it. {UNPACK}"
    return ""


def _is_text(head: bytes) -> bool:
    """Whether bytes are words of some kind, and no protocol of pickle that is text itself."""
    if len(head) <= 3 or not head.isascii():
        return False
    if not all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return False
    pickled = b"\nI" in head or b"\n." in head or head.startswith((b"c", b"d"))
    return not pickled
